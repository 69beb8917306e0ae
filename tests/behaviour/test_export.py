"""samplerbench export, Samples.save, Samples.grid and Result.plot: images and charts for other tools."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import samplerbench as sb_
from samplerbench.bench.judge.stored import StoredRun

TOY = str(Path(__file__).parents[1] / "toy.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs: all 70 images are kept, the first 16, of budgets, without images, and a shard."""
    root = tmp_path_factory.mktemp("runs")
    common = {"n": 70, "plugins": [TOY]}
    sb_.run("toy", ["ddim", "heun", "raises"], steps=[2, 3], output=root / "all", **common)
    sb_.run("toy", ["ddim"], steps=[2], keep_images=False, output=root / "few", **common)
    sb_.run("toy", ["heun"], nfe=[5, 7], output=root / "budgets", **common)
    sb_.run("mixture", ["ddim"], steps=[2], n=16, output=root / "states")
    sb_.run("toy", ["ddim"], steps=[2], shard="2/2", output=root / "part", **common)
    return root


def images_in(folder):
    """The images of a folder by name, (H, W)."""
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def test_the_images_of_a_row_are_written_with_their_captions(sb, runs, tmp_path):
    done = sb("export", runs / "all", "--row", "heun@3", "-o", "out")
    assert (done.code, done.out, done.err) == (0, "out: 70 of 70 images of heun@3, with captions\n", "")
    written = images_in(tmp_path / "out")
    assert list(written) == [f"{i:06d}.png" for i in range(70)]
    run = StoredRun(runs / "all")
    (cell,) = (cell for cell in run.record.cells if (cell.sampler, cell.steps) == ("heun", 3))
    stored = np.concatenate([chunk.images for chunk in run.chunks(cell).values()])
    assert np.array_equal(np.stack(list(written.values())), stored[:, 0])
    with (tmp_path / "out" / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"file_name": f"{i:06d}.png", "text": ("left", "right")[i % 2]} for i in range(70)]


def test_what_is_exported_is_image_data(sb, runs, tmp_path):
    sb("export", runs / "all", "--row", "ddim@2", "-n", 66, "-o", "out")
    data = sb_.load_data(f"folder:{tmp_path / 'out'}")
    assert len(data) == 66
    assert [data.captions[i] for i in (0, 1, 65)] == ["left", "right", "right"]


def test_a_row_of_a_run_of_budgets_is_named_by_its_budget(sb, runs):
    done = sb("export", runs / "budgets", "--row", "heun@5", "-n", 2, "-o", "out", "--json")
    assert json.loads(done.out) == {"folder": "out", "row": "heun@5", "images": 2, "drawn": 70, "has_captions": True}


def test_images_of_a_shard_have_the_numbers_of_the_whole_run(sb, runs, tmp_path):
    assert sb("export", runs / "part-2-of-2", "--row", "ddim", "-o", "out").code == 0
    assert list(images_in(tmp_path / "out")) == [f"{i:06d}.png" for i in range(64, 70)]


def test_what_is_not_kept_is_refused_and_what_is_kept_is_counted(sb, runs, tmp_path):
    sb("export", runs / "few", "--row", "ddim@2", "-n", 17, "-o", "out").refused(2, "16 of 70 images", "--keep-images")
    assert not (tmp_path / "out").exists()
    assert sb("export", runs / "few", "--row", "ddim", "-o", "out").out.startswith("out: 16 of 70 images of ddim, ")


@pytest.mark.parametrize(
    ("run", "row", "words"),
    [
        ("all", "dim@2", ("did you mean 'ddim@2'?", "heun@3")),
        ("all", "ddim", ("not in",)),
        ("all", "ddim@4", ("not in",)),
        ("all", "raises@3", ("has no samples of it",)),
        ("states", "ddim@2", ("keeps no images", "a model that makes images")),
    ],
)
def test_what_is_not_there_is_refused_in_a_line(sb, runs, tmp_path, run, row, words):
    sb("export", runs / run, "--row", row, "-o", "out").refused(2, *words)
    assert not (tmp_path / "out").exists()


def test_only_an_empty_folder_is_written_to(sb, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    assert sb("export", runs / "few", "--row", "ddim", "-o", "empty").code == 0
    sb("export", runs / "few", "--row", "ddim", "-o", "empty").refused(2, "is not empty")
    (tmp_path / "file").write_text("")
    sb("export", runs / "few", "--row", "ddim", "-o", "file").refused(2, "file", "a new or empty folder")


def test_samples_are_saved_and_shown_as_one_picture(tmp_path):
    model = sb_.load_model("fashion-mnist")
    samples = sb_.sample(model, "ddim", steps=1, n=3, prompts=["a bag", "a\n coat"])
    folder = samples.save(str(tmp_path / "out"))
    assert folder == tmp_path / "out"
    assert np.array_equal(np.stack(list(images_in(folder).values())), samples.images[:, 0])
    lines = (folder / "metadata.csv").read_text().splitlines()
    assert lines == ["file_name,text", "000000.png,a bag", "000001.png,a coat", "000002.png,a bag"]
    picture = samples.grid(across=3)
    assert picture.width == 3 * picture.height
    assert samples.grid().width == samples.grid().height
    with pytest.raises(sb_.InputError, match="across 4: expected a whole number from 1 to 3"):
        samples.grid(4)
    with pytest.raises(sb_.InputError, match="is not empty"):
        samples.save(folder)


def test_samples_without_images_are_not_saved(tmp_path):
    samples = sb_.sample("mixture", "ddim", steps=1, n=2)
    for show in (samples.grid, lambda: samples.save(tmp_path / "out")):
        with pytest.raises(sb_.InputError, match="the samples have none"):
            show()
    assert not (tmp_path / "out").exists()


def test_a_result_is_plotted(runs):
    result = sb_.run("toy", ["ddim", "heun", "raises"], steps=[2, 3], n=70, output=runs / "all", plugins=[TOY])
    picture = result.plot()
    assert picture.width > 400
    assert picture.height > 200
    with pytest.raises(sb_.InputError, match=r"metric 'fidd'.*did you mean 'fid'\?"):
        result.plot("fidd")
    with pytest.raises(sb_.InputError, match="expected nfe or seconds"):
        result.plot(against="steps")


@pytest.mark.slow
@pytest.mark.further
def test_each_metric_and_axis_is_another_plot(runs):
    result = sb_.run("toy", ["ddim", "heun", "raises"], steps=[2, 3], n=70, output=runs / "all", plugins=[TOY])
    pictures = [result.plot(), result.plot("ode_error"), result.plot(against="seconds")]
    assert all(picture.width > 400 and picture.height > 200 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert result.plot("fid").tobytes() == pictures[0].tobytes()

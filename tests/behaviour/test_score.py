"""`score`: every metric of one set of images against another, what is left out, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import samplerbench as sb
from samplerbench.bench import score as scoring
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.equipment import model_for
from samplerbench.bench.score import score_to_sheet
from samplerbench.plugins.extractors.pixels import extract
from samplerbench.samplers.registry import load_registry

PLUGIN = '''
"""Extractors of quadrants and of captions, which need no weights."""
import numpy as np
import torch
import samplerbench as sb
from samplerbench import hookimpl

def quadrants(images, prompts):
    return torch.nn.functional.avg_pool2d(images.float() / 255, 4).flatten(1).numpy()

def halves(images, prompts):
    return torch.nn.functional.avg_pool2d(images.float() / 255, (4, 8)).flatten(1).numpy()

def lengths(images, prompts):
    return np.array([[len(prompt)] for prompt in prompts], dtype=np.float32)

def refuse(prompts):
    if "too long" in prompts:
        raise sb.InputError("prompt 'too long': 99 tokens")

def make():
    network = lambda x, t, condition=None: x
    return sb.wrap_network(network, sb.vp_linear(), (3, 8, 8), fingerprint="1")

@hookimpl
def samplerbench_extractors():
    return {
        "quadrants": lambda _: {
            "features": sb.Extractor("quadrants", quadrants, fingerprint="q", frechet="FD-Q", note="four of them"),
        },
        "halves": lambda _: {"features": sb.Extractor("halves", halves, fingerprint="h")},
        "lengths": lambda _: {"clip": sb.Extractor("lengths", lengths, fingerprint="l", check=refuse)},
    }
'''


class Noise(sb.ImageData):
    """Random images, brighter by `shift`."""

    notes = ()

    def __init__(self, n, shift=0, captions=None):
        self.n, self.shift, self.captions, self.name = n, shift, captions, f"noise {n} {shift}"
        self.read = 0

    @property
    def fingerprint(self):
        return f"{self.name} {self.captions}"

    def __len__(self):
        return self.n

    def image(self, i):
        self.read += 1
        generator = torch.Generator().manual_seed(1000 * self.shift + i)
        return torch.randint(self.shift, 200 + self.shift, (3, 8, 8), dtype=torch.uint8, generator=generator)

    def caption(self, i):
        return self.captions[i] if self.captions else None


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The plugin's file."""
    path = tmp_path_factory.mktemp("plugin") / "quadrants.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path):
    """Without any weights, and with an empty folder of kept rows."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAMPLERBENCH_ALLOW_DOWNLOAD", "0")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def save(folder, data, captions=()):
    """The images of a set as PNG files, with captions in text files beside them."""
    folder.mkdir()
    for i in range(len(data)):
        Image.fromarray(data.image(i).permute(1, 2, 0).numpy()).save(folder / f"{i:03}.png")
    for i, caption in enumerate(captions):
        (folder / f"{i:03}.txt").write_text(caption)
    return str(folder)


def values(made):
    """The table by metric and extractor."""
    return {(row["metric"], row["extractor"]): row for row in made.table.to_dict("records")}


def features(data):
    """The quadrants of all images."""
    images = torch.stack([data.image(i) for i in range(len(data))])
    return torch.nn.functional.avg_pool2d(images.float() / 255, 4).flatten(1).numpy()


def test_every_metric_is_that_of_the_rows_with_the_plain_interval(plugin):
    a, b = Noise(100), Noise(90, 20)
    made = sb.score(a, b, extractor="quadrants", plugins=[plugin])
    metrics = load_registry().metrics.things
    expected = {name for name, kind in metrics.items() if kind.extractor == "features"}
    assert {row["metric"] for row in made.table.to_dict("records")} == expected
    for name in expected:
        metric = metrics[name]()
        estimate, row = metric.estimate(features(a), metric.prepare(features(b))), values(made)[name, "quadrants"]
        assert (row["value"], row["low"], row["high"]) == (estimate.value, estimate.low, estimate.high)
        assert (row["better"], row["images"]) == (metric.better, 100)
        assert row["low"] < row["value"] < row["high"]


def test_folders_files_and_objects_give_the_same_numbers(plugin, tmp_path):
    a, b = Noise(30), Noise(40, 20)
    array = np.stack([a.image(i).permute(1, 2, 0).numpy() for i in range(30)])
    np.savez(tmp_path / "a.npz", arr_0=array)
    tables = [
        sb.score(one, other, extractor=["quadrants"], metric=["fid", "kid"], plugins=[plugin]).table
        for one, other in ((a, b), (save(tmp_path / "a", a), save(tmp_path / "b", b)), (tmp_path / "a.npz", b))
    ]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_images_are_read_once_whatever_the_number_of_metrics_and_extractors(plugin):
    a, b = Noise(70), Noise(40, 20)
    sb.score(a, b, extractor=["quadrants", "halves", "pixels"], plugins=[plugin])
    assert a.read == 70 + 1  # the first tells the size


def test_several_extractors_have_a_row_each(plugin):
    made = sb.score(Noise(30), Noise(40, 20), extractor=["quadrants", "halves"], metric="fid", plugins=[plugin])
    assert list(values(made)) == [("fid", "quadrants"), ("fid", "halves")]
    assert [row[0].whole.split(" ±")[0] for row in score_to_sheet(made).rows] == ["FD-Q", "FID [halves]"]
    assert "FD-Q: four of them; compared with 40 images of noise 40 20 at 8x8." in str(made)


def test_fewer_than_20_images_have_a_value_and_no_interval(plugin):
    made = sb.score(Noise(40), Noise(40, 20), extractor="quadrants", metric="kid", samples=19, plugins=[plugin])
    (row,) = made.table.to_dict("records")
    assert np.isfinite(row["value"])
    assert np.isnan([row["low"], row["high"]]).all()
    assert "±" not in str(made)
    assert "19 images of noise 40 0 at 8x8; fewer than 20 images have no interval." in str(made)
    assert "±" in str(sb.score(Noise(20), Noise(40, 20), extractor="quadrants", metric="kid", plugins=[plugin]))


def test_the_same_images_have_a_distance_of_zero(plugin):
    made = values(sb.score(Noise(50), Noise(50), extractor=["quadrants", "pixels"], plugins=[plugin]))
    assert made["fid", "quadrants"]["value"] == pytest.approx(0, abs=1e-9)
    assert made["sliced_wasserstein", "pixels"]["value"] == 0
    assert made["precision", "quadrants"]["value"] == 1


# What is left out, and what is refused


def test_by_default_each_role_has_the_first_extractor_that_is_here(plugin, monkeypatch):
    monkeypatch.setattr(scoring, "OFFLINE", {**scoring.OFFLINE, "features": ("quadrants",), "logits": ()})
    made = sb.score(Noise(30), Noise(40, 20), plugins=[plugin])
    assert {row["extractor"] for row in made.table.to_dict("records")} == {"quadrants", "pixels"}
    assert len(set(made.notes)) == len(made.notes)
    notes = "\n".join(made.notes)
    for words in ("extractor 'inception': no file", "extractor 'clip:openai/clip-vit-large-patch14': is not on this"):
        assert notes.count(words) == 1
    assert "fid_unbiased': samples 30; expected at least 48, 4 for each of the 12 features" in notes
    assert "clip_score, cmmd, fd_clip, inception_score: no extractor here reads clip, clip_image, logits" in notes


def test_only_the_extractors_of_the_named_metrics_are_looked_for(plugin, monkeypatch):
    monkeypatch.setattr(scoring, "OFFLINE", {"features": ("quadrants",), "state": ("pixels",)})
    assert sb.score(Noise(30), Noise(40), metric="sliced_wasserstein", plugins=[plugin]).notes == ()
    (note,) = sb.score(Noise(30), Noise(40), metric="fid", plugins=[plugin]).notes
    assert note.startswith("extractor 'inception'")


def test_captions_go_to_the_extractor_that_reads_them(plugin):
    captions = ["a" * (i % 7 + 1) for i in range(80)]
    made = sb.score(Noise(80, captions=captions), Noise(40), extractor="lengths", plugins=[plugin])
    (row,) = made.table.to_dict("records")
    assert row["metric"] == "clip_score"
    assert row["value"] == pytest.approx(100 * np.mean([len(text) for text in captions]))


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        ([*["a"] * 12, None, *["a"] * 17], "image 12 has no caption"),
        (["too long"] * 30, "prompt 'too long': 99 tokens"),
    ],
)
def test_without_good_captions_the_clip_score_is_left_out_or_refused(plugin, captions, words):
    a = Noise(30, captions=captions)
    made = sb.score(a, Noise(40), extractor=["lengths", "pixels"], plugins=[plugin])
    assert list(values(made)) == [("sliced_wasserstein", "pixels")]
    assert sum(words in note for note in made.notes) == 1
    with pytest.raises(sb.InputError, match=words):
        sb.score(a, Noise(40), extractor="lengths", metric="clip_score", plugins=[plugin])


def test_moments_serve_the_frechet_distance(plugin, tmp_path):
    rows = features(Noise(50, 20)).astype(np.float64)
    np.savez(tmp_path / "m.npz", mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    made = sb.score(Noise(60), tmp_path / "m.npz", extractor="quadrants", plugins=[plugin])
    whole = values(sb.score(Noise(60), Noise(50, 20), extractor="quadrants", plugins=[plugin]))
    assert {name for name, _ in values(made)} == {"fid", "fid_unbiased"}
    assert values(made)["fid", "quadrants"]["value"] == pytest.approx(whole["fid", "quadrants"]["value"], rel=1e-6)
    assert sum("needs the features" in note for note in made.notes) == 5
    with pytest.raises(sb.InputError, match="kid: needs the features"):
        sb.score(Noise(60), tmp_path / "m.npz", extractor="quadrants", metric="kid", plugins=[plugin])


def test_what_was_named_is_never_left_out(plugin):
    for settings, words in (
        ({"extractor": "quadrants", "metric": ["fid", "cmmd"]}, "cmmd: no extractor here reads clip_image"),
        ({"extractor": "quadrants", "metric": "fid_unbiased"}, "samples 30; expected at least 48"),
        ({"metric": "cmmd"}, "extractor 'clip:openai/clip-vit-large-patch14': is not on this machine"),
        ({"extractor": "inception"}, "extractor 'inception': no file"),
        ({"metric": "fdi"}, "unknown metric 'fdi'"),
    ):
        with pytest.raises((sb.InputError, sb.ModelError), match=words):
            sb.score(Noise(30), Noise(40), **settings, plugins=[plugin])


def test_where_nothing_can_be_measured_the_error_says_why(plugin):
    with pytest.raises(sb.InputError, match=r"no metric can be measured; .*a reference of 1 image"):
        sb.score(Noise(30), Noise(1), extractor="quadrants", plugins=[plugin])


class Mixed(Noise):
    """One image is larger."""

    def image(self, i):
        return super().image(i) if i != 2 else torch.zeros(3, 8, 9, dtype=torch.uint8)


def test_images_of_several_sizes_need_one_to_be_named(plugin):
    settings = {"extractor": "quadrants", "metric": "fid", "plugins": [plugin]}
    with pytest.raises(sb.InputError, match=r"^images noise 30 0: image 2 is 9x8, the first 8x8; .* --size$"):
        sb.score(Mixed(30), Noise(40), **settings)
    assert "30 images of noise 30 0 at 16x12" in str(sb.score(Mixed(30), Noise(40), size="16x12", **settings))


# The extractor of pixels


def test_pixels_are_rows_from_minus_1_to_1():
    images = torch.randint(0, 256, (3, 1, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(extract(images, ()), images.flatten(1).numpy() / 127.5 - 1, atol=1e-6)


def test_large_images_are_averaged_in_their_proportions():
    images = torch.zeros(2, 3, 64, 128, dtype=torch.uint8)
    images[1, :, :, :64] = 255
    rows = extract(images, ()).reshape(2, 3, 16, 32)
    assert (rows[0] == -1).all()
    assert (rows[1, ..., :16] == 1).all()
    assert (rows[1, ..., 16:] == -1).all()


def test_a_run_measures_the_distance_of_pixels_too(plugin):
    config = Config(
        model=f"{plugin}:make", sampler=("ddim",), steps=(2,), samples=8, metric=("sliced_wasserstein",),
        extractor=("pixels",), reference="scenes",
    )  # fmt: skip
    extractor = model_for(config, load_registry([plugin])).extractors["state"]
    assert "scenes" in extractor.note
    with pytest.raises(sb.InputError, match="takes no argument"):
        load_registry().extractors_of("pixels:8")


# The command


@pytest.fixture
def folders(tmp_path):
    """Images to be scored, with captions, and a reference."""
    return save(tmp_path / "a", Noise(30), ["a cat"] * 30), save(tmp_path / "b", Noise(40, 20))


def test_the_command_prints_a_table_and_what_is_left_out(sb, plugin, folders):
    done = sb("score", *folders, "--extractor", "quadrants", "--extractor", "lengths", "--plugin", plugin)
    assert done.code == 0, done.err
    assert "| FD-Q | " in done.out
    assert "| CLIP score [lengths] | 500 | higher |" in done.out
    assert "30 images of a at 8x8; ± is the 95 % interval of the value at this number of images" in done.out
    assert "Left out: metric 'fid_unbiased'" in done.err
    assert "Left out: " not in done.out


def test_the_command_prints_json(sb, plugin, folders):
    done = sb(
        "score", *folders, "--extractor", "quadrants", "--metric", "kid", "-n", "25", "--json", "--plugin", plugin
    )
    said = json.loads(done.out)
    (row,) = said["table"]
    assert (row["metric"], row["extractor"], row["images"]) == ("kid", "quadrants", 25)
    assert row["low"] < row["value"] < row["high"]
    assert said["images"] == "25 images of a at 8x8"
    assert said["left_out"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere", "b"], 2, ["images 'nowhere'", "no such file"]),
        (["a", "nowhere"], 2, ["reference 'nowhere'", "no such file"]),
        (["a"], 2, ["REFERENCE", "usage: samplerbench score"]),
        (["a", "b", "-n", "31"], 4, ["30 images, 31 asked for"]),
        (["a", "b", "--size", "0"], 2, ["size '0'"]),
        (["a", "b", "--extractor", "inception"], 4, ["96 MB", "--allow-download"]),
    ],
)
def test_the_command_refuses_in_one_line(sb, folders, arguments, code, words):
    sb("score", *arguments).refused(code, *words)

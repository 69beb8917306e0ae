"""samplerbench report --figures: charts and pictures for print, with the numbers and the names of the page."""

import base64
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import samplerbench as sb_
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.show import figures
from samplerbench.bench.show.charts import ROWS
from samplerbench.bench.show.view import view_of

TOY = str(Path(__file__).parents[1] / "toy.py")
SAMPLERS = ["ddim", "ddpm", "dpm-solver:order=2", "raises"]
CHARTS = [f"{metric}-{kind}" for metric in ("fid", "fid_unbiased", "ode_error") for kind in ("nfe", "front")]
INCHES = 3.25


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "run"
    settings = {"prompts": ["left", "right"], "metrics": ["fid"]}
    sb_.run("toy", SAMPLERS, [2, 4], n=100, plugins=[TOY], output=folder, **settings)
    return folder


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "new" / "figures"
    return figures.write_figures(StoredRun(run), folder)


@pytest.fixture
def svg_alone(monkeypatch):
    """Draw no PDF and no PNG of a chart, which take longer and show the same: their files are empty."""
    for kind in ("pdf", "png"):
        monkeypatch.setattr(figures.vl_convert, f"vegalite_to_{kind}", lambda *_, **__: b"")


def of_kind(written, kind):
    return [path for path in written if path.suffix == f".{kind}"]


def test_every_metric_has_its_figures_in_each_format(written):
    expected = {f"{name}.{kind}" for name in CHARTS for kind in ("svg", "pdf", "png")}
    assert {path.name for path in written} == expected | {"samples.svg", "samples.pdf", "samples.png"}
    assert {path.name for path in written[0].parent.iterdir()} == {path.name for path in written}


def test_an_svg_is_xml_with_the_names_of_what_is_drawn(written):
    for path in (path for path in of_kind(written, "svg") if path.stem != "samples"):
        root = ET.parse(path).getroot()
        texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
        drawn = {"ddim", "ddpm", "dpm-solver:order=2"} - ({"ddpm"} if "ode" in path.name else set())
        assert drawn <= texts
        assert "raises" not in texts
        assert root.get("width") == f"{INCHES:.4f}in"
        assert root.get("viewBox").split()[2] == "234"
        assert "var(" not in path.read_text()


def test_the_samples_as_svg_are_the_picture(written):
    by_name = {path.name: path for path in written}
    root = ET.parse(by_name["samples.svg"]).getroot()
    (image,) = root.iter("{http://www.w3.org/2000/svg}image")
    assert base64.b64decode(image.get("href").partition(",")[2]) == by_name["samples.png"].read_bytes()
    with Image.open(by_name["samples.png"]) as picture:
        assert root.get("viewBox") == f"0 0 {picture.width} {picture.height}"
    assert root.get("width") == f"{INCHES:.4f}in"


def test_a_pdf_and_a_png_are_as_wide_as_a_column(written):
    for path in of_kind(written, "pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF")
        width = float(re.search(rb"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)", content)[1])
        assert width / 72 == pytest.approx(INCHES, abs=0.01)
    for path in of_kind(written, "png"):
        with Image.open(path) as picture:
            assert abs(picture.width - 975) <= 1
            assert picture.info["dpi"] == pytest.approx((300, 300), rel=1e-3)


def test_the_numbers_are_those_of_the_table(run):
    table = pd.read_csv(run / "table.csv")
    specs = figures.charts_by_name(StoredRun(run), view_of(StoredRun(run)))
    assert list(specs) == CHARTS
    for spec in specs.values():
        for row, cell in zip(spec["datasets"][ROWS], table.to_dict("records"), strict=True):
            assert row["m0"] == cell["fid"] or (row["m0"] is None and pd.isna(cell["fid"]))
            assert row["short"] == cell["sampler"]
        for layer in spec["layer"]:
            scales = [
                layer["encoding"][channel]["scale"] for channel in ("color", "shape") if channel in layer["encoding"]
            ]
            assert all(scale["domain"] == SAMPLERS for scale in scales)
    calculated = {t["as"]: t["calculate"] for t in specs["fid-nfe"]["transform"]}
    assert (calculated["x"], calculated["y"]) == ("datum.nfe", "datum.m0")


def test_colours_are_those_of_the_light_page():
    colours = figures.light_colours()
    assert {f"c{i}" for i in range(7)} | {"ink", "rule", "paper"} <= set(colours)
    assert figures.with_colours({"a": ["var(--c0)", "var(--c0) x", 1]}, {"c0": "#123456"}) == {
        "a": ["#123456", "var(--c0) x", 1]
    }
    with pytest.raises(KeyError):
        figures.with_colours("var(--unknown)", colours)


@pytest.mark.usefixtures("svg_alone")
def test_a_name_is_a_text_and_a_file_stays_in_its_folder(run, stored_as, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    table = StoredRun(run).table
    name = "</text><script>x</script>&\x1b\u202e"
    table["sampler"] = table["sampler"].replace("ddim", name)
    table = table.rename(columns={"fid": "../fid", "fid_low": "../fid_low", "fid_high": "../fid_high"})
    stored_as(tmp_path / "run", table.assign(fid=float("nan"), fid_low=float("nan"), fid_high=float("nan")))
    written = figures.write_figures(StoredRun(tmp_path / "run"), tmp_path / "figures")
    assert {path.parent for path in written} == {tmp_path / "figures"}
    assert "---fid-nfe.svg" in {path.name for path in written}
    for path in (path for path in of_kind(written, "svg") if path.stem != "samples"):
        texts = [element.text or "" for element in ET.parse(path).getroot().iter()]
        assert any("</text><script>x</script>&" in text for text in texts)
        assert "<script" not in path.read_text()


def test_a_link_that_is_there_stays_a_link(run, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "figures", lambda path, view: [("fid-nfe.svg", b"drawn")])
    (tmp_path / "fid-nfe.svg").symlink_to("mine.svg")
    figures.write_figures(StoredRun(run), tmp_path)
    assert (tmp_path / "fid-nfe.svg").is_symlink()
    assert (tmp_path / "mine.svg").read_bytes() == b"drawn"


@pytest.mark.usefixtures("svg_alone")
def test_samples_that_are_no_images_have_no_picture(tmp_path):
    sb_.run("mixture", ["ddim", "ddpm"], [2, 4], n=16, output=tmp_path / "run")
    names = {path.name for path in figures.write_figures(StoredRun(tmp_path / "run"), tmp_path / "figures")}
    assert names == {f"ode_error-{kind}.{end}" for kind in ("nfe", "front") for end in ("svg", "pdf", "png")}


def test_a_legend_has_as_many_columns_as_fit():
    assert figures.legend_columns(["ddim"]) == 1
    assert figures.legend_columns(["ddim"] * 20) == 6
    assert figures.legend_columns(["x" * 200, "y"]) == 1


def test_long_names_leave_room_for_the_samples():
    assert figures.wrap_label("dpm-solver++:order=2,lower_order_final=true").count("\n") >= 2
    assert max(map(len, figures.wrap_label("x" * 90).split("\n"))) == figures.LABEL_LETTERS


@pytest.mark.usefixtures("svg_alone")
def test_the_command_prints_the_paths(sb, run, tmp_path):
    before = (run / "report.html").stat().st_mtime_ns
    done = sb("report", run, "--figures", "out", "--plugin", TOY)
    assert done.code == 0, done.err
    assert set(done.out.split()) == {f"out/{path.name}" for path in (tmp_path / "out").iterdir()}
    assert (run / "report.html").stat().st_mtime_ns == before


def test_a_folder_that_cannot_be_is_refused_and_nothing_is_left(sb, run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("precious")
    sb("report", run, "--figures", "file").refused(5, "figures file", "is a file", "folder")
    sb("report", run, "--figures", "file/below").refused(5, "figures file/below", "cannot be written")
    sb("report", "nowhere", "--figures", "out").refused(2, "nowhere")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "write_named", full)
    sb("report", run, "--figures", "full").refused(5, "figures full", "No space left")
    assert (tmp_path / "file").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full"]

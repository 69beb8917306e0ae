"""What a notebook shows of a result and of samples."""

import builtins
import importlib.machinery
import io
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import samplerbench as sb
from samplerbench.bench.run import Result
from samplerbench.bench.show.sheet import table_to_cells

HOSTILE = "<script>alert('&')</script>"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return sb.run("mixture", ["ddim", "ddpm"], steps=[2], n=8, output=tmp_path_factory.mktemp("run") / "here")


def test_a_result_is_shown_as_the_cells_of_the_table(result):
    html = result._repr_html_()
    headings, rows = table_to_cells(result.table, result.labels)

    def texts(kind):
        return [re.sub("<.*?>", "", cell) for cell in re.findall(rf"<{kind}.*?>(.*?)</{kind}>", html)]

    assert texts("th") == headings
    assert texts("td") == [text for row in rows for text in row]
    assert html.count("<tr>") == 1 + len(rows)


def test_names_are_text_and_never_markup(result):
    table = result.table.assign(sampler=HOSTILE, model=HOSTILE, status=f"failed: {HOSTILE}", fid=1.0)
    html = Result(Path("x"), table, {"fid": {"label": HOSTILE, "note": HOSTILE}})._repr_html_()
    assert "<script" not in html
    # In two rows the sampler and the note; the metric's label above; below, the model, and the metric's label and note.
    assert html.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;") == 2 * 2 + 4


def test_a_result_is_one_line_of_text(result):
    assert repr(result) == f"Result('{result.folder}': 2 rows)"
    failed = Result(Path("x"), result.table.assign(status=["ok", "failed: why"]), {})
    assert repr(failed) == "Result('x': 2 rows, 1 failed)"


class Widget:
    """An output of a notebook, which counts what is drawn in it."""

    made: list["Widget"] = []

    def __init__(self):
        self.made.append(self)
        self.cleared, self.closed = 0, False

    def clear_output(self, wait):
        assert wait
        self.cleared += 1

    def close(self):
        self.closed = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.fixture
def notebook(monkeypatch):
    """What is shown in a notebook: this process looks like one, with widgets."""
    shown = []

    def module(name, **things):
        made = types.ModuleType(name)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(made).update(things)
        monkeypatch.setitem(sys.modules, name, made)

    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setattr(Widget, "made", [])
    module("IPython")
    module("IPython.display", display=shown.append)
    module("ipywidgets", Output=Widget)
    return shown


def drawn(shown):
    """The texts that were displayed, widgets left out."""
    return [thing.text for thing in shown if not isinstance(thing, Widget)]


def test_a_notebook_shows_how_far_a_run_is_and_is_left_clean(notebook, tmp_path, capsys):
    sb.run("mixture", ["ddim", "ddpm"], steps=[2], n=8, output=tmp_path / "run")
    (widget,) = Widget.made
    assert notebook[0] is widget
    assert widget.cleared >= 1
    assert widget.closed
    assert "0 of 2 chunks" in drawn(notebook)[0]
    assert capsys.readouterr() == ("", "")


def test_a_notebook_without_widgets_gets_lines(notebook, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipywidgets")
    sb.run("mixture", ["ddim"], steps=[2], n=8, output=tmp_path / "run")
    assert drawn(notebook)[0].startswith("1 cell x 8 samples")


def test_plain_python_is_silent(tmp_path, capfd):
    sb.run("mixture", ["ddim"], steps=[2], n=8, output=tmp_path / "run")
    assert capfd.readouterr() == ("", "")


def test_samples_are_shown_as_their_pictures():
    samples = sb.sample(sb.wrap_network(lambda x, t: x, sb.vp_linear(), (3, 30, 40)), "ddim", steps=2, n=5)
    with Image.open(io.BytesIO(samples._repr_png_())) as picture:
        pixels = np.asarray(picture)
    # Three across and two down, enlarged by two; the place of the sixth stays white.
    assert pixels.shape == (2 * 2 * 30, 2 * 3 * 40, 3)
    images = samples.images.numpy()
    np.testing.assert_array_equal(pixels[60::2, 80:160:2], np.moveaxis(images[4], 0, -1))
    assert (pixels[60:, 160:] == 255).all()
    assert repr(samples).startswith("Samples(5 of 3 x 30 x 40, mean ")
    assert "\n" not in repr(samples)


def test_a_notebook_shows_64_images_at_the_most():
    samples = sb.sample(sb.wrap_network(lambda x, t: x, sb.vp_linear(), (1, 28, 28)), "ddim", steps=1, n=100)
    with Image.open(io.BytesIO(samples._repr_png_())) as picture:
        assert picture.size == (8 * 28, 8 * 28)


def test_samples_that_are_no_images_are_shown_as_numbers():
    samples = sb.sample("mixture", "ddim", steps=2, n=8)
    assert samples._repr_png_() is None
    mean, deviation = samples.x.double().mean(), samples.x.double().std(correction=0)
    shape = " x ".join(map(str, samples.x.shape[1:]))
    assert repr(samples).startswith(f"Samples(8 of {shape}, mean {mean:.3g}, deviation {deviation:.3g}, NFE 2, ")

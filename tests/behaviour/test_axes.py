"""The axes of `samplerbench grid`: ranges, the names of other tools, options of samplers, pages."""

import json
from pathlib import Path

import pytest
from PIL import Image

import samplerbench as sb_
from samplerbench.bench.cli import cli
from samplerbench.bench.show.axes import AXES, MOST_VALUES, parse_axis
from samplerbench.bench.show.grid_plot import Page, caption_of, draw_cell, loader, pages_to_html, plot_for, requests_for
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
TOY_GRID = ("grid", "--plugin", TOY, "--model", "toy", "-o", "it.png")

SIZED = (
    "import samplerbench as sb\n"
    "def load(argument, *, size=None, clip_skip=None):\n"
    "    width, height = map(int, (size or '8x8').split('x'))\n"
    "    return sb.wrap_network(lambda x, t: x * (clip_skip or 1), sb.vp_linear(), (1, height, width))\n"
    "@sb.hookimpl\n"
    "def samplerbench_models():\n"
    "    return {'sized': load}\n"
)


@pytest.fixture(scope="module")
def registry():
    return load_registry([TOY])


# Ranges


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("steps=1-5", (1, 2, 3, 4, 5)),
        ("steps=5-25 (+5)", (5, 10, 15, 20, 25)),
        ("steps=5-24(+5)", (5, 10, 15, 20)),
        ("steps=1-10 [5]", (1, 3, 5, 7, 10)),
        ("steps=1-3, 10 ,20-40 (+10)", (1, 2, 3, 10, 20, 30, 40)),
        ("steps=1-5,5-25 (+5)", (1, 2, 3, 4, 5, 10, 15, 20, 25)),
        ("steps=3-1 (-1)", (3, 2, 1)),
        ("steps=4-4", (4,)),
        ("seed=10 - 12", (10, 11, 12)),
        ("clip_skip=1-2", (1, 2)),
        ("cfg=1-10 [5]", (1.0, 3.25, 5.5, 7.75, 10.0)),
        ("CFG Scale=1-2 (+0.5);4", (1.0, 1.5, 2.0, 4.0)),
        ("guidance=1,1e-3", (1.0, 0.001)),
        ("guidance_rescale=0-0.6 (+0.2)", (0.0, 0.2, 0.4, 0.6)),
        ("eta=0-1 (+0.1)", ("0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1")),
        ("eta=0-1 [4]", ("0", "0.333333", "0.666667", "1")),
        ("order=1-3", ("1", "2", "3")),
        ("variance=small,large", ("small", "large")),
        ("guidance_interval=0.2,5", ((0.2, 5.0),)),
        ("guidance_interval=all;0.2,5;1,3", (None, (0.2, 5.0), (1.0, 3.0))),
        ("size=28x28,1216x512", ("28x28", "1216x512")),
        ("negative=dark, blurred;bright", ("dark, blurred", "bright")),
    ],
)
def test_ranges_and_lists_are_read_as_image_tools_do(text, values):
    axis = parse_axis("-x", text)
    assert axis.values == values
    assert parse_axis("-x", axis.spec) == axis


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cfg", "guidance"), ("CFG Scale", "guidance"), ("Sampler", "sampler"), ("sampler_name", "sampler"),
        ("Schedule type", "grid"), ("scheduler", "grid"), ("Clip skip", "clip_skip"), ("clip-skip", "clip_skip"),
        ("guidance-interval", "guidance_interval"), ("prompts", "prompt"), ("Negative prompt", "negative"),
        ("STEPS", "steps"), ("width", "size"), ("eta", "eta"), ("Eta", "eta"), ("Sigma churn", "churn"),
        ("s_tmin", "s_tmin"),
    ],
)  # fmt: skip
def test_names_of_other_tools_are_axes(given, name):
    value = {"size": "8x8", "clip_skip": "1", "guidance_interval": "1,2"}.get(name, "1")
    assert parse_axis("-x", f"{given}={value}").name == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps=5-1", ["-x steps '5-1'", "leads away from 1", "5-1 (-1)"]),
        ("steps=1-5 (-1)", ["leads away from 5", "1-5 (+1)"]),
        ("steps=1-5 (+0)", ["the step is 0"]),
        ("steps=1-5 [1]", ["at least [2]"]),
        ("steps=1-5 [0]", ["at least [2]"]),
        ("steps=5-25 (5", ["expected a range as in 1-5, 5-25 (+5) or 0-1 [5]"]),
        ("steps=5-25 +5", ["expected a range as in"]),
        ("steps=5-25 [x]", ["expected a range as in"]),
        ("steps=1-100000", ["100,000 values", f"at most {MOST_VALUES}"]),
        ("seed=0-10000000000000000000", ["values; expected at most"]),
        ("steps=1-" + "9" * 5000, ["far too many values"]),
        ("cfg=0-1 [999999999]", ["999,999,999 values"]),
        ("steps=1.5-3", ["whole numbers"]),
        ("steps=5-", ["whole numbers"]),
        ("cfg=0-2", ["guidance 0"]),
        ("clip_skip=1.5", ["clip_skip '1.5'"]),
        ("guidance_interval=1,x", ["two numbers", "separated by ;"]),
        ("steps=1-3,,5", ["a value is empty"]),
    ],
)
def test_bad_ranges_get_one_line(sb, text, words):
    sb(*TOY_GRID, "-x", text, "-s", "ddim").refused(2, *words)


# Options of samplers


def test_an_option_of_the_sampler_is_an_axis(sb, tmp_path, registry):
    done = sb(*TOY_GRID, "-x", "eta=0-1 [3]", "-y", "sampler=ddim;dpm-solver++-single:order=2", "--steps", 3)
    assert done.code == 0, done.err
    plot = plot_for({"model": "toy", "x": "eta=0-1 [3]", "y": "sampler=ddim;Euler a", "steps": "3"}, [TOY])
    for row, spec in zip(requests_for(plot, registry), ("ddim", "euler-a"), strict=True):
        for request, eta in zip(row, ("0", "0.5", "1"), strict=True):
            alone = sb_.sample(registry.model("toy"), f"{spec}:eta={eta}", steps=3, n=1, batch_size=1)
            assert (draw_cell(plot, request).states[-1] == alone.images.numpy()).all()
    with Image.open(tmp_path / "it.png") as picture:
        about = json.loads(picture.text["samplerbench"])
    assert about["x"] == {"name": "eta", "values": ["0", "0.5", "1"]}
    assert "-x eta=0,0.5,1" in about["command"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-x", "eta=0,1", "-s", "heun"], ["-x eta: sampler 'heun' has no option 'eta'", "have it: ddim, "]),
        (["-x", "eta=0,1", "-y", "sampler=ddim,ddpm"], ["sampler 'ddpm' has no option 'eta'"]),
        (["-x", "eta=0,1", "-s", "ddim:eta=1"], ["sampler 'ddim:eta=1': says its eta, which is an axis too"]),
        (["-x", "eta=x,y", "-s", "ddim"], ["option eta 'x': expected a finite number"]),
        (["-x", "etta=0,1"], ["unknown axis 'etta' (did you mean 'eta'?)", "axes: sampler, ", "option of a sampler: "]),
        (["-x", "a b=0,1"], ["unknown axis 'a b'"]),
        (["-x", "eta=0,1", "-z", "eta=0,1"], ["-x and -z: both are eta"]),
        (["-y", "cfg=1,2", "-z", "guidance=1,2"], ["-y and -z: both are guidance"]),
        (["-x", "eta=1,1.0", "-s", "ddim"], ["-x 'eta=1,1.0': a value is given twice"]),
        (["-x", "steps=1-256", "-y", "seed=1-256", "-z", "cfg=1-256"], ["-x, -y, -z: 16,777,216 cells; expected at"]),
        (["-z", "seed=0,1", "--seed", "2"], ["seed: is an axis and given as an option too"]),
    ],
)
def test_axes_that_do_not_fit_get_one_line(sb, tmp_path, arguments, words):
    sb(*TOY_GRID, *arguments).refused(2, *words)
    assert not list(tmp_path.iterdir())


# Settings of the model, and the interval


def test_size_and_clip_skip_are_axes_and_each_model_is_loaded_once(tmp_path):
    plugin = tmp_path / "sized.py"
    plugin.write_text(SIZED)
    registry = load_registry([str(plugin)])
    plot = plot_for({"model": "sized", "x": "size=8x8,32x16", "y": "clip skip=1-2", "z": "seed=0,1", "steps": "1"}, ())
    load = loader(registry)
    requests = [request for page in plot.pages() for row in requests_for(page, registry, load) for request in row]
    assert [request.model.shape for request in requests] == [(1, 8, 8), (1, 16, 32)] * 4
    assert len({id(request.model) for request in requests}) == 4


def test_an_interval_and_its_absence_stand_beside_each_other(registry):
    plot = plot_for({"model": "toy", "x": "guidance_interval=all;0.2,5", "guidance": 2.0, "steps": "2"}, [TOY])
    (row,) = requests_for(plot, registry)
    assert [request.guidance_interval for request in row] == [None, (0.2, 5.0)]
    assert plot.x.labels == ("guidance interval all", "guidance interval 0.2,5")


# Pages


def test_a_third_axis_makes_a_picture_for_each_value(sb, tmp_path):
    command = (*TOY_GRID, "-x", "steps=1-2", "-y", "seed=1,2", "-z", "sampler=ddim,Euler a")
    done = sb(*command)
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["it-ddim.png", "it-euler-a.png"]
    first, second = ((tmp_path / name).read_bytes() for name in done.out.splitlines())
    assert first != second
    with Image.open(tmp_path / "it-euler-a.png") as picture:
        texts = dict(picture.text)
    about = json.loads(texts["samplerbench"])
    assert (about["page"], about["z"]) == ("Euler a", {"name": "sampler", "values": ["ddim", "Euler a"]})
    assert "Sampler: Euler a" in texts["parameters"]
    assert 'Z Type: Sampler, Z Values: "ddim,Euler a"' in texts["parameters"]
    assert done.err.endswith(f"again: {about['command']}\n")
    assert "-z 'sampler=ddim,Euler a'" in about["command"]


def test_a_page_is_the_picture_of_its_value_and_says_which(registry):
    plot = plot_for({"model": "toy", "x": "steps=1,2", "z": "guidance=1,2", "sampler": "ddim"}, [TOY])
    one, two = plot.pages()
    assert [caption_of(page) for page in (one, two)] == [
        "guidance 1, toy, ddim, seed 0", "guidance 2, toy, ddim, seed 0",
    ]  # fmt: skip
    alone = plot_for({"model": "toy", "x": "steps=1,2", "guidance": 2.0, "sampler": "ddim"}, [TOY])
    for page, other in zip(requests_for(two, registry)[0], requests_for(alone, registry)[0], strict=True):
        assert (page.guidance, page.levels) == (other.guidance, other.levels)
        assert (draw_cell(two, page).states[-1] == draw_cell(alone, other).states[-1]).all()


def test_pages_alone_have_the_usual_axes():
    plot = plot_for({"model": "toy", "z": "guidance=1,2"}, [TOY])
    assert (plot.x.name, plot.y.name) == ("steps", "sampler")
    by_option = plot_for({"model": "toy", "z": "eta=0,1"}, [TOY])
    assert (by_option.x.name, by_option.y) == ("steps", None)
    assert plot_for({"model": "toy", "z": "sampler=ddim,ddpm"}, [TOY]).y is None


def test_pages_in_one_file_of_html(sb, tmp_path):
    done = sb(*TOY_GRID[:-1], "it.html", "-x", "steps=1,2", "-s", "ddim", "-z", "prompt=left;right", "--quiet")
    assert (done.code, done.out, done.err) == (0, "it.html\n", "")
    page = (tmp_path / "it.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["it.html"]
    assert page.count("data:image/png;base64,") == page.count("<section ") == 2
    assert "<h2>left</h2>" in page
    assert 'href="#page-2"' in page
    assert "samplerbench grid --model toy -x steps=1,2" in page
    assert sb(*TOY_GRID[:-1], "film.html", "-x", "steps=1", "-s", "ddim", "--trajectory").code == 0
    assert "data:image/webp;base64," in (tmp_path / "film.html").read_text()


def test_a_page_of_html_holds_no_element_of_a_name():
    page = pages_to_html([Page('<b> & "c"', b"", ".png")] * 2, "grid '<i>'")
    assert "<b>" not in page
    assert "<i>" not in page
    assert page.count("&lt;b&gt; &amp; &quot;c&quot;") == 6


def test_a_page_whose_cells_all_fail_is_left_out(sb, tmp_path):
    done = sb(*TOY_GRID, "-x", "steps=2,3", "-z", "sampler=raises,ddim")
    assert (done.code, done.out) == (1, "it-ddim.png\n")
    assert "Error: raises, steps 2: ZeroDivisionError" in done.err
    sb(*TOY_GRID, "-x", "steps=2", "-z", "sampler=raises;raises:", "-o", "no.png").refused(1, "every cell failed")


def test_pages_of_like_names_have_files_of_their_own():
    plot = plot_for({"model": "toy", "x": "steps=1", "z": "prompt=a, b;a b;c"}, [TOY])
    assert [file.name for file in plot.files(Path("x/it.png"))] == ["it-1-a-b.png", "it-2-a-b.png", "it-c.png"]
    plot = plot_for({"model": "toy", "x": "steps=1", "z": "prompt=2 cats;cats;cats!"}, [TOY])
    assert len(set(plot.files(Path("it.png")))) == 3


def test_a_folder_at_the_place_of_a_page_is_refused(sb, tmp_path):
    (tmp_path / "it-seed-1.png").mkdir()
    sb(*TOY_GRID, "-x", "steps=1", "-z", "seed=0,1").refused(2, "it-seed-1.png", "is a folder")


# The command


def test_the_help_lists_every_axis(sb):
    (option,) = (param for param in cli.commands["grid"].params if param.name == "x")
    assert set(AXES) == {
        "sampler", "steps", "seed", "grid", "guidance", "guidance_interval", "guidance_rescale", "prompt", "negative",
        "size", "clip_skip",
    }  # fmt: skip
    assert all(f"{name}," in option.help for name in AXES)


def test_quiet_leaves_the_path_and_what_went_wrong(sb):
    done = sb(*TOY_GRID, "-x", "steps=1,2", "-s", "ddim", "--quiet")
    assert (done.code, done.out, done.err) == (0, "it.png\n", "")
    failed = sb(*TOY_GRID, "-x", "steps=2", "-y", "sampler=ddim,raises", "--quiet")
    assert (failed.code, failed.err.startswith("Error: raises, steps 2"), failed.err.count("\n")) == (1, True, 1)

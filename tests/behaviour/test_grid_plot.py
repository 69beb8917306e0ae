"""`samplerbench grid`: axes, cells that are what `sample` draws, labels, metadata, animation, refusals."""

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import samplerbench as sb
from samplerbench.bench.cli import cli
from samplerbench.bench.show import picture
from samplerbench.bench.show.axes import AXES, parse_axis
from samplerbench.bench.show.grid_plot import (
    MOST_FRAMES,
    batch_size_for,
    caption_of,
    check_target,
    draw_cell,
    parameters,
    places,
    plot_for,
    requests_for,
    to_png,
)
from samplerbench.bench.show.picture import LABEL_WIDTH, MARGIN, labelled_grid, text_width, wrap
from samplerbench.samplers.acceleration import Accelerated, Acceleration
from samplerbench.samplers.files.tiles import mosaic
from samplerbench.samplers.model import to_images
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
TOY_RUN = ("run", "--plugin", TOY, "--model", "toy", "--steps", "2")
TOY_GRID = ("grid", "--plugin", TOY, "--model", "toy", "-o", "it.png")
SIDE, GAP = 112, 8
"""A toy image is enlarged to 112 pixels."""


@pytest.fixture(scope="module")
def registry():
    return load_registry([TOY])


def plot_of(**options):
    """A plot on the toy model."""
    return plot_for({"model": "toy", **options}, [TOY])


def states_of(plot, registry):
    """The images of each cell, the last state of each."""
    return [[draw_cell(plot, request).states[-1] for request in row] for row in requests_for(plot, registry)]


def opened(path):
    """A picture, loaded."""
    with Image.open(path) as picture:
        picture.load()
        return picture


# Axes


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("steps=5,10,20", (5, 10, 20)),
        (" steps = 5 , 10 ", (5, 10)),
        ("sampler=ddim,euler-a:eta=0.5", ("ddim", "euler-a:eta=0.5")),
        ("sampler=dpm-solver:order=3,grid=logsnr;ddim", ("dpm-solver:order=3,grid=logsnr", "ddim")),
        ("sampler=dpm-solver:order=3,grid=logsnr;", ("dpm-solver:order=3,grid=logsnr",)),
        ("sampler=dpm-solver:order=3, grid=logsnr,ddim", ("dpm-solver:order=3,grid=logsnr", "ddim")),
        (
            "sampler=ddim,DPM++ 2M Karras,unipc:order=3,variant=bh1",
            ("ddim", "DPM++ 2M Karras", "unipc:order=3,variant=bh1"),
        ),
        ("grid=beta:alpha=0.5,beta=0.7,karras,900/500", ("beta:alpha=0.5,beta=0.7", "karras", "900/500")),
        ("guidance=1,2.5", (1.0, 2.5)),
        ("grid=karras:rho=5,karras", ("karras:rho=5", "karras")),
        ("seed=0,3", (0, 3)),
        ("prompt=a bag, dark;a coat", (("a bag, dark",), ("a coat",))),
        ("prompt=a = b", (("a = b",),)),
        ("prompt=a bag, dark, on a table", (("a bag, dark, on a table",),)),
        ("prompt=a bag, dark;", (("a bag, dark",),)),
        ("prompt=a=1,b=2", (("a=1,b=2",),)),
    ],
)
def test_an_axis_is_read(text, values):
    axis = parse_axis("-x", text)
    assert axis.values == values
    assert parse_axis("-x", axis.spec) == axis


def test_a_comma_does_not_cut_a_prompt(sb, tmp_path):
    """A caption is one prompt; who meant two is told how to say that."""
    done = sb("grid", "-s", "ddim", "--steps", "1", "-y", "prompt=a bag, dark", "-o", "it.png")
    assert done.code == 0
    assert done.err.startswith("Note: prompt 'a bag, dark' is one prompt; several are separated by ';'\n")
    assert json.loads(opened(tmp_path / "it.png").text["samplerbench"])["y"]["values"] == ["a bag, dark"]
    two = sb(*TOY_GRID, "-s", "ddim", "--steps", "1", "-y", "prompt=left;right")
    assert (two.code, "is one prompt" in two.err) == (0, False)


def test_a_display_name_labels_the_pictures_of_its_sampler(sb, tmp_path):
    one = plot_of(sampler="ours=ddim:eta=0.5", x="steps=1,2")
    assert caption_of(one).startswith("toy, ours, ")
    assert {cell.spec for row in one.cells() for cell in row} == {"ddim:eta=0.5"}
    axis = parse_axis("-y", "sampler=ours=ddim:eta=0.5,grid=karras;theirs=ddpm;euler")
    assert axis.labels == ("ours", "theirs", "euler")
    assert parse_axis("-y", axis.spec) == axis
    single = parse_axis("-y", "sampler=ours=ddim")
    assert parse_axis("-y", single.spec) == single
    command = (*TOY_GRID, "--steps", "1")
    done = sb(*command, "-y", "sampler=ours=ddim:eta=0.5;euler")
    assert done.code == 0, done.err
    text = opened(tmp_path / "it.png").text
    assert json.loads(text["samplerbench"])["y"]["values"] == ["ours=ddim:eta=0.5", "euler"]
    assert "Sampler: ddim:eta=0.5" in text["parameters"].replace('"', "")
    named = (tmp_path / "it.png").read_bytes()
    assert sb(*shlex.split(json.loads(text["samplerbench"])["command"])[1:], "-o", "it.png").code == 0
    assert (tmp_path / "it.png").read_bytes() == named


def test_no_axes_are_steps_and_the_default_samplers():
    plot = plot_of(guidance=2.0)
    assert (plot.x.name, plot.x.values) == ("steps", (5, 10, 20, 40))
    assert (plot.y.name, plot.y.values) == ("sampler", ("ddpm", "ddim", "dpm-solver", "euler-a"))
    only_samplers = plot_of(steps="7")
    assert only_samplers.x is None
    assert only_samplers.y == plot.y
    assert plot_of(sampler="ddim").y is None
    assert plot_of(grid="999/500").x is None
    assert (plot_of(x="seed=1,2").x.name, plot_of(x="seed=1,2").y) == ("seed", None)


REFUSED = [
    (["-x", "stepz=5"], ["-x", "unknown axis 'stepz'", "did you mean 'steps'", *AXES]),
    (["-y", "steps"], ["-y", "'steps'", "NAME=VALUE"]),
    (["-x", "steps="], ["a value is empty"]),
    (["-x", "steps=5,,10"], ["a value is empty"]),
    (["-x", "steps=5,5"], ["twice"]),
    (["-x", "guidance=1,1.0"], ["twice"]),
    (["-x", "steps=5.5"], ["steps", "'5.5'", "whole numbers"]),
    (["-x", "seed=-1"], ["seed -1", "from 0"]),
    (["-x", "seed=x"], ["seed 'x'"]),
    (["-x", "guidance=nan"], ["guidance nan"]),
    (["-x", "steps=5,10", "-y", "steps=2"], ["-x and -y: both are steps"]),
    (["-x", "steps=5,10", "--steps", "5"], ["steps", "is an axis and given as an option too"]),
    (["-x", "sampler=ddim", "-s", "ddpm"], ["sampler", "is an axis and given as an option too"]),
    (["-x", "prompt=left", "--prompt", "right"], ["prompt", "is an axis and given as an option too"]),
    (["--steps", "5,10"], ["steps '5,10'", "-x steps=5,10"]),
    (["-x", "sampler=ddim,ddpmm"], ["unknown sampler 'ddpmm'", "did you mean 'ddpm'"]),
    (["-x", "sampler=ddim,grid=logsnr"], ["grid=logsnr'", "options follow a colon, as in ddim:eta=0.5,grid=karras"]),
    (["-x", "sampler=a=ddim,b=ddpm"], ["samplers with names are separated by ;, as in ours=ddim:eta=0.5;euler"]),
    (["-x", "sampler=a=ddim;a=ddpm"], ["the name 'a' is taken by 'ddim'"]),
    (["-x", "sampler=ddpm=ddim;euler"], ["the name 'ddpm' is that of another sampler"]),
    (["-x", "sampler=ddim;a=ddim"], ["'ddim' is given twice"]),
    (["-s", "=ddim"], ["the name is empty"]),
    (["-x", "model=a,b"], ["model is the same in all of a picture; give --model, and draw a picture for each value"]),
    (["-x", "device=cpu,cuda"], ["device is the same in all of a picture; give --device"]),
    (["-x", "prompt="], ["a value is empty; expected prompt=A;B"]),
    (["-x", "prompt=left;;right"], ["a value is empty; expected prompt=A;B"]),
    (["-x", "prompt=;"], ["a value is empty; expected prompt=A;B"]),
    (["-x", "grid=karas"], ["unknown grid 'karas'", "did you mean 'karras'"]),
    (["-x", "grid=karras,logsnr", "-s", "ddim:grid=logsnr"], ["names a grid of its own", "axis"]),
    (["-x", "seed=0,1", "-n", "0"], ["samples 0"]),
    (["--prompt", "left", "--prompts", "x.txt"], ["--prompts and --prompt"]),
    (["--guidance", "-1"], ["guidance -1"]),
    (["here", "-x", "seed=1"], ["here", "drawn again", "leave out --model, -x"]),
    (["-x", "seed=1", "-o", "it.jpg"], ["it.jpg", ".png"]),
    (["-x", "seed=1", "--trajectory"], ["it.png", ".webp"]),
    (["-x", "seed=1", "-o", "file/it.png"], ["file is a file"]),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=lambda a: " ".join(a)[:50])
def test_what_cannot_be_is_refused_and_nothing_is_written(sb, tmp_path, arguments, words):
    (tmp_path / "file").write_text("")
    sb(*TOY_GRID, *arguments).refused(2, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_model_without_images_is_refused_by_name(sb, tmp_path):
    sb("grid", "--model", "mixture", "-x", "steps=2,3").refused(2, "'mixture'", "no images but 2 numbers")
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(sb.InputError, match="is a folder"):
        check_target(tmp_path / "a.png", ".png")


def test_a_picture_that_no_machine_would_hold_is_refused(sb, tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "MOST_PIXELS", 2 * SIDE * SIDE)
    command = (*TOY_GRID, "-s", "ddim", "-y", "steps=2,3")
    assert sb(*command).code == 0
    (tmp_path / "it.png").unlink()
    sb(*command, "-x", "seed=0,1").refused(2, f"{2 * SIDE} x {2 * SIDE} pixels", "fewer values")
    sb(*command, "--trajectory", "-o", "it.webp").refused(2, "in 4 frames", "fewer values")
    assert not list(tmp_path.iterdir())


# Cells


def test_a_cell_is_what_sample_draws(registry):
    plot = plot_of(x="steps=2,5", y="sampler=ddpm,ddim", samples=4, seed=7, guidance=2.0, negative="left")
    cells = states_of(plot, registry)
    model = registry.model("toy")
    for row, name in zip(cells, ("ddpm", "ddim"), strict=True):
        for images, steps in zip(row, (2, 5), strict=True):
            expected = sb.sample(model, name, steps=steps, n=4, seed=7, guidance=2.0, negative="left", batch_size=4)
            np.testing.assert_array_equal(images, expected.images.numpy())


def test_cells_start_from_the_same_noise_unless_the_seed_is_an_axis(registry):
    plot = plot_of(x="steps=2,5", y="sampler=ddpm,ddim", trajectory=True, seed=3)
    starts = [draw_cell(plot, request).states[0] for row in requests_for(plot, registry) for request in row]
    assert all((start == starts[0]).all() for start in starts)
    seeds = states_of(plot_of(x="seed=3,4", y="steps=2,5"), registry)
    alone = states_of(plot_of(y="steps=2,5", seed=4), registry)
    np.testing.assert_array_equal(seeds[0][1], alone[0][0])
    np.testing.assert_array_equal(seeds[1][1], alone[1][0])
    assert (seeds[0][0] != seeds[0][1]).any()


def test_a_prompt_axis_gives_each_cell_one_prompt(registry):
    model = registry.model("toy")
    cells = states_of(plot_of(x="prompt=left;right", samples=3), registry)
    for images, prompt in zip(cells[0], ("left", "right"), strict=True):
        expected = sb.sample(model, "ddim", steps=20, n=3, prompts=[prompt], batch_size=4)
        np.testing.assert_array_equal(images, expected.images.numpy())


def test_a_grid_axis_and_a_grid_of_levels(registry):
    model = registry.model("toy")
    cells = states_of(plot_of(x="grid=karras;999/500/20", steps="3"), registry)
    for images, grid in zip(cells[0], ("karras", [999, 500, 20]), strict=True):
        expected = sb.sample(model, "ddim", steps=3, n=1, grid=grid, batch_size=1)
        np.testing.assert_array_equal(images, expected.images.numpy())
    (request,) = requests_for(plot_of(grid="999/20", sampler="ddim"), registry)[0]
    assert len(request.levels) - 1 == 2


def test_a_samplers_own_grid_goes_before_the_fixed_one(registry):
    cells = states_of(plot_of(x="sampler=ddim;ddim:grid=logsnr", steps="3", grid="karras"), registry)
    for images, grid in zip(cells[0], ("karras", "logsnr"), strict=True):
        expected = sb.sample(registry.model("toy"), "ddim", steps=3, n=1, grid=grid, batch_size=1)
        np.testing.assert_array_equal(images, expected.images.numpy())


def test_a_batch_is_no_larger_than_it_need_be(registry):
    model = registry.model("toy")
    assert [batch_size_for(n, model) for n in (1, 2, 3, 5, 32, 33, 64, 100)] == [1, 2, 4, 8, 32, 64, 64, 64]
    assert batch_size_for(5, dataclasses.replace(model, batch_size=1)) == 1
    (request,) = requests_for(plot_of(sampler="ddim", steps="2", samples=3, batch_size=16), registry)[0]
    assert request.batch_size == 16


# The picture


def test_the_picture_shows_the_cells_in_their_places(sb, tmp_path, registry):
    done = sb(*TOY_GRID, "-x", "steps=2,5", "-y", "seed=0,1,2", "-n", 4)
    assert done.code == 0, done.err
    assert done.out == "it.png\n"
    pixels = np.asarray(opened(tmp_path / "it.png"))
    cells = states_of(plot_of(x="steps=2,5", y="seed=0,1,2", samples=4), registry)
    width = pixels.shape[1]
    for i, row in enumerate(cells):
        for j, images in enumerate(row):
            x = width - MARGIN - (2 - j) * (SIDE + GAP) + GAP
            y = MARGIN + 20 + GAP + i * (SIDE + GAP)
            np.testing.assert_array_equal(pixels[y : y + SIDE, x : x + SIDE], np.asarray(mosaic(images)))
    assert (pixels[:MARGIN] == 255).all()
    assert (pixels[-MARGIN:] == 255).all()
    assert (pixels[:, : MARGIN - 2] == 255).all()
    assert (pixels[:, -MARGIN:] == 255).all()


def test_the_same_command_makes_the_same_bytes(sb, tmp_path):
    command = (*TOY_GRID, "-x", "guidance=1,2", "-y", "sampler=ddpm;ddim", "--steps", 3)
    sb(*command)
    first = (tmp_path / "it.png").read_bytes()
    sb(*command)
    assert (tmp_path / "it.png").read_bytes() == first


def test_the_picture_knows_its_settings_and_its_command(sb, tmp_path):
    done = sb(*TOY_GRID, "-x", "steps=2,5", "-y", "sampler=Euler a;dpm-solver:order=3,grid=logsnr", "--prompt", "left",
              "--guidance", 2, "--negative", "right", "--seed", 9)  # fmt: skip
    assert done.code == 0, done.err
    texts = opened(tmp_path / "it.png").text
    prompt, negative, line = texts["parameters"].split("\n")
    assert (prompt, negative) == ("left", "Negative prompt: right")
    assert line.startswith(
        "Steps: 2, Sampler: Euler a, CFG scale: 2, Seed: 9, Size: 8x8, Model: toy, Script: X/Y/Z plot"
    )
    assert 'X Values: "2,5"' in line
    assert 'Y Values: "Euler a;dpm-solver:order=3,grid=logsnr"' in line
    about = json.loads(texts["samplerbench"])
    assert about["settings"]["negative"] == "right"
    assert about["steps"] == [[2, 5], [2, 5]]
    assert about["y"]["values"] == ["Euler a", "dpm-solver:order=3,grid=logsnr"]
    assert done.err.endswith(f"again: {about['command']}\n")
    first = (tmp_path / "it.png").read_bytes()
    again = sb(*shlex.split(about["command"])[1:], "-o", "again.png")
    assert again.code == 0, again.err
    assert (tmp_path / "again.png").read_bytes() == first


def test_the_size_is_that_of_the_image_and_not_of_the_latent_state(registry):
    def twice(x):
        return to_images(x).repeat_interleave(4, 2).repeat_interleave(2, 3)

    plot = plot_of(x="steps=2,5", y="sampler=ddim")
    request = requests_for(plot, registry)[0][0]
    for shape, size in (((1, 32, 16), "Size: 16x32, "), (None, "")):
        latent = dataclasses.replace(request.model, decode=twice, image_shape=shape)
        line = parameters(plot, dataclasses.replace(request, model=latent), registry)
        assert f"Seed: 0, {size}Model: toy" in line


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"x": "steps=5,10"},
        {"y": "sampler=ddim:eta=0.5,grid=karras;", "samples": 3, "guidance": 2.5, "seed": 3},
        {"x": "prompt=left, here;right", "y": "guidance=1,1e-3", "negative": "it's", "dtype": "float64"},
        {"sampler": "ddim", "steps": "5", "prompt": ("left", "right"), "samples": 2, "trajectory": True},
        {"grid": "999/500", "sampler": "ddpm", "guidance": 2.0, "guidance_rescale": 0.5, "batch_size": 8},
    ],
)
def test_the_command_of_a_plot_is_the_plot(options):
    from samplerbench.bench.cli import cli

    plot = plot_of(**options)
    words = shlex.split(plot.command)[2:]
    given = cli.commands["grid"].make_context("grid", words).params
    given.pop("run_folder"), given.pop("output")
    plugins = given.pop("plugin")
    kept = {name: value for name, value in given.items() if not (value is None or value is False or value == ())}
    assert plot_for(kept, plugins) == plot


def test_texts_beyond_ascii_are_kept(tmp_path):
    (tmp_path / "a.png").write_bytes(to_png(Image.new("RGB", (2, 2)), {"parameters": "é 你", "samplerbench": "plain"}))
    assert opened(tmp_path / "a.png").text == {"parameters": "é 你", "samplerbench": "plain"}


def test_a_failed_cell_says_so_and_the_others_are_drawn(sb, tmp_path):
    done = sb(*TOY_GRID, "-x", "steps=2,3", "-y", "sampler=raises,ddim")
    assert done.code == 1
    assert done.out == "it.png\n"
    errors = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert [line.split(":")[1] for line in errors] == [" raises, steps 2", " raises, steps 3"]
    assert all("ZeroDivisionError: one | two" in line for line in errors)
    assert "\x1b" not in done.err
    assert list(json.loads(opened(tmp_path / "it.png").text["samplerbench"])["failed"]) == [
        "raises, steps 2", "raises, steps 3",
    ]  # fmt: skip


def test_where_every_cell_fails_there_is_no_picture(sb, tmp_path):
    sb(*TOY_GRID, "-x", "steps=2,3", "-s", "raises").refused(1, "every cell failed", "ZeroDivisionError")
    assert not list(tmp_path.iterdir())


def test_the_default_output_is_named_for_the_settings(sb, tmp_path):
    one, two = (sb("grid", "--plugin", TOY, "--model", "toy", "-x", f"seed={s}", "--steps", 2).out for s in "12")
    assert one != two
    assert one.startswith("results/toy-grid-")
    assert opened(tmp_path / one.strip()).size == opened(tmp_path / two.strip()).size


# Animation


def test_the_animation_ends_with_the_picture(sb, tmp_path):
    command = ("grid", "--plugin", TOY, "--model", "toy", "-x", "steps=2,6", "-y", "sampler=ddpm,ddim")
    assert sb(*command, "--trajectory", "-o", "it.webp").code == 0
    assert sb(*command, "-o", "it.png").code == 0
    still = np.asarray(opened(tmp_path / "it.png").convert("RGB"))
    with Image.open(tmp_path / "it.webp") as film:
        assert film.n_frames == 1 + 6
        durations, frames = [], []
        for i in range(film.n_frames):
            film.seek(i)
            film.load()
            durations.append(film.info["duration"])
            frames.append(np.asarray(film.convert("RGB")))
        comment = film.getexif().get_ifd(0x8769)[0x9286]
    np.testing.assert_array_equal(frames[-1], still)
    assert durations == [400] * 6 + [2000]
    assert (frames[0] != still).any()
    left = still.shape[1] - MARGIN - 2 * (SIDE + GAP) + GAP
    arrived = np.s_[:, left : left + SIDE]  # the column of two steps waits for the other
    np.testing.assert_array_equal(frames[2][arrived], still[arrived])
    assert (frames[1][arrived] != still[arrived]).any()
    assert comment.startswith(b"UNICODE\0")
    assert "samplerbench grid --model toy" in comment[8:].decode("utf-16-be")


def test_long_ways_are_shown_by_evenly_picked_states():
    shown = places([[range(1001), range(3)]])
    assert len(shown) == 1 + MOST_FRAMES
    assert (shown[0], shown[-1]) == (0, 1000)
    assert max(np.diff(shown)) - min(np.diff(shown)) <= 1
    assert places([[range(1)]]) == [0]
    assert places([[range(4)]]) == [0, 1, 2, 3]


# Runs


def test_a_run_is_drawn_again_from_its_images(sb, tmp_path):
    assert sb(*TOY_RUN, "-s", "ddim", "-s", "raises", "-n", 70, "-o", "results/one").code == 1
    first = (tmp_path / "results" / "one" / "grid.png").read_bytes()
    (tmp_path / "results" / "one" / "grid.png").unlink()
    done = sb("grid")
    assert (done.code, done.out) == (0, "results/one/grid.png\n")
    assert (tmp_path / "results" / "one" / "grid.png").read_bytes() == first
    assert sb("grid", "results/one", "-o", "copy.png").out == "copy.png\n"
    assert (tmp_path / "copy.png").read_bytes() == first


def test_a_run_without_images_or_no_run_at_all_is_refused(sb, tmp_path):
    sb("grid").refused(2, "no run in results")
    assert sb("run", "--model", "mixture", "-s", "ddim", "--steps", 2, "-n", 8, "-o", "run").code == 0
    sb("grid", "run").refused(2, "run: no images are kept")
    assert not (tmp_path / "run" / "grid.png").exists()


# Labels


@pytest.mark.parametrize(
    "text",
    ["ddim", "dpm-solver++:order=3,grid=logsnr", "a photo of " * 30, "x" * 3000, "a\nb", "你好 " * 40, "é\N{EN DASH}"],
)
@pytest.mark.parametrize(("width", "most"), [(60, 1), (112, 4), (LABEL_WIDTH, 5)])
def test_labels_fit_their_place(text, width, most):
    lines = wrap(text, 16, width, most)
    assert 1 <= len(lines) <= most
    assert all(text_width(line, 16) <= width for line in lines)
    whole = "".join("".join(lines).split()) == "".join(text.split())
    assert whole or lines[-1].endswith("…") or not text.isascii()


def test_a_label_is_shortened_only_where_it_must_be():
    assert wrap("dpm-solver:order=3,grid=logsnr", 16, LABEL_WIDTH, 5) == ["dpm-solver:order=3,", "grid=logsnr"]
    assert wrap("one two", 16, 500, 1) == ["one two"]
    assert wrap("", 16, 100, 3) == []
    assert wrap("é \N{EN DASH} 2\N{MULTIPLICATION SIGN}", 16, 100, 3) == ["e - 2x"]


def test_long_labels_stay_off_the_tiles():
    tile = Image.new("RGB", (SIDE, SIDE), (0, 0, 255))
    tiles = [[tile, "failed: " + "why " * 100], [tile, tile]]
    long = "a-very-long-name " * 40
    pixels = np.asarray(labelled_grid(tiles, [long, "b"], [long, long], long)).astype(int)
    blue = (pixels == (0, 0, 255)).all(-1)
    assert blue.sum() == 3 * SIDE * SIDE
    height, width = blue.shape
    frame = np.ones((height, width), dtype=bool)
    frame[MARGIN : height - MARGIN, MARGIN - 2 : width - MARGIN] = False  # letters may begin a pixel early
    assert (pixels[frame] == 255).all()
    left, last = np.flatnonzero(blue.any(0))[0], np.flatnonzero(blue.any(1))[-1]
    assert (pixels[: last + 1, left - MARGIN + 2 : left] == 255).all()


def test_settings_that_are_a_model_s_own_reach_it(tmp_path):
    plugin = tmp_path / "sized.py"
    plugin.write_text(
        "import dataclasses, samplerbench as sb\n"
        "def load(argument, *, size=None):\n"
        "    side = int(size or 8)\n"
        "    return sb.wrap_network(lambda x, t: x, sb.vp_linear(), (1, side, side))\n"
        "@sb.hookimpl\n"
        "def samplerbench_models():\n"
        "    return {'sized': load}\n"
    )
    arguments = ["grid", "--plugin", str(plugin), "--model", "sized", "-x", "steps=1,2"]
    for size, expected in (("8", 8), ("32", 32)):
        path = tmp_path / f"{size}.png"
        done = CliRunner().invoke(cli, [*arguments, "--size", size, "-o", str(path)])
        assert done.exit_code == 0, done.output
        with Image.open(path) as image:
            assert f"--size {size}" in json.loads(image.text["samplerbench"])["command"]
        [[request, *_], *_] = requests_for(plot_for({"model": "sized", "size": size}, ()), load_registry([str(plugin)]))
        assert request.model.shape == (1, expected, expected)
    with pytest.raises(sb.InputError, match=r"model 'sized': has no clip_skip; settings of this model: size"):
        cli.main([*arguments, "--clip-skip", "2"], standalone_mode=False)
    with pytest.raises(sb.InputError, match="size 'big': expected width x height"):
        cli.main([*arguments, "--size", "big"], standalone_mode=False)


def test_a_switch_of_the_network_takes_no_value(sb):
    done = sb("grid", "--tf32", "-x", "steps=2", "-s", "ddim", "-o", "g.png")
    done.refused(2, "--tf32", "is of CUDA")


def test_a_faster_network_is_what_the_cells_are_drawn_with(registry):
    plot = plot_of(x="steps=2,3", channels_last=True)
    (row,) = requests_for(plot, registry)
    assert {request.model.network.how for request in row} == {Acceleration(channels_last=True)}
    assert len({id(request.model) for request in row}) == 1  # compiled once, were it compiled
    assert " --channels-last --plugin " in plot.command
    (plain,) = requests_for(plot_of(x="steps=2,3"), registry)
    assert not isinstance(plain[0].model.network, Accelerated)

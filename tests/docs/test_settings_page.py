"""The pictures of docs/ are those that the commands above them make, and these commands run."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.core import ParameterSource
from PIL import Image

from samplerbench.bench.cli import CONTEXT, cli
from samplerbench.bench.show.grid_plot import EXIF_IFD, USER_COMMENT, Plot, plot_for

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "docs" / "settings.md"
PAGES = [SETTINGS, ROOT / "docs" / "gallery.md", ROOT / "README.md"]
DRAWN = re.compile(r"```sh\n(?:pip install .*\n)?(samplerbench grid [^`]*?)```\n\n!\[[^\]]*\]\(([^)]+)\)")
SCENES = "scenes"
PLUGIN = ROOT / "models" / "scenes" / "samplerbench_scenes" / "__init__.py"
FEWER = {"steps=1,2,5,10,20,40": "steps=1,2", "steps=5,10,20": "steps=1,2", "--steps 20": "--steps 2"}


def pictures_of(page: Path) -> list[tuple[str, Path]]:
    """The commands of a page that have a picture below them, each with that picture."""
    found = DRAWN.findall(page.read_text(encoding="utf-8"))
    return [(command.replace("\\\n", " ").strip(), page.parent / picture) for command, picture in found]


ALL = [(command, picture) for page in PAGES for command, picture in pictures_of(page)]


def plot_of(command: str) -> Plot:
    """What a command draws."""
    # A command keeps the help option of the first context that it is asked in.
    words, names = shlex.split(command)[2:], CONTEXT["help_option_names"]
    context = cli.commands["grid"].make_context("grid", words, help_option_names=names)
    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and name != "output"
    }
    return plot_for(given, ())


def recorded(picture: Path) -> dict:
    """What a picture says of itself."""
    with Image.open(picture) as image:
        if picture.suffix == ".png":
            return json.loads(image.text["samplerbench"])
        comment = image.getexif().get_ifd(EXIF_IFD)[USER_COMMENT]
    return json.loads(comment.removeprefix(b"UNICODE\0").decode("utf-16-be").splitlines()[-1])


def test_every_setting_has_a_picture_in_colour():
    axes = set()
    for command, _ in pictures_of(SETTINGS):
        assert "--model scenes " in command
        axes |= {axis.name for axis in plot_of(command).sides.values()}
    assert axes >= {"steps", "sampler", "guidance", "negative", "seed", "grid", "size", "clip_skip"}


@pytest.mark.parametrize(("command", "picture"), ALL, ids=lambda value: getattr(value, "stem", ""))
def test_the_picture_was_made_by_the_command_above_it(command, picture):
    about = recorded(picture)
    assert about["command"] == plot_of(command).command
    assert about["failed"] == {}


def test_the_pictures_are_of_the_weights_that_were_measured():
    measured = json.loads((ROOT / "results" / SCENES / "run.json").read_text())["model"]["fingerprint"]
    of_scenes = [about for _, picture in ALL if (about := recorded(picture))["model"]["name"] == SCENES]
    # Of another size or layer the model is another one.
    plain = [about for about in of_scenes if {"size", "clip_skip"}.isdisjoint(about[side]["name"] for side in "xy")]
    assert len(plain) > 5
    assert {about["model"]["fingerprint"] for about in plain} == {measured}


@pytest.mark.slow
@pytest.mark.parametrize("command", dict.fromkeys(command for command, _ in ALL), ids=lambda text: text.split()[-1])
def test_the_command_draws(command, sb):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    for text, less in FEWER.items():
        command = command.replace(text, less)
    words = shlex.split(command)[1:]
    # As a file, whether or not the package is installed.
    done = sb(*words, "--no-plugins", "--plugin", PLUGIN, "--quiet")
    assert done.code == 0, done.err
    assert done.out.strip() == words[words.index("-o") + 1]

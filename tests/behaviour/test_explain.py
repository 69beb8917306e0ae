"""`explain`: captions as tools write them, files of strangers, the command that draws so; completion; --quiet."""

import json
import os
import shlex
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import samplerbench as sb_
from samplerbench.bench.cli import CONTEXT, cli, explain
from samplerbench.bench.plan.caption import parse_caption
from samplerbench.samplers.files.png_text import MOST_TEXT, SIGNATURE, png_texts

STUDENTS = "Steps: 40, Sampler: Euler a, CFG scale: 13, Seed: 353263948, Size: 1216x512, Clip skip: 2"
WHOLE = f'a cat, 4k: sharp\nNegative prompt: blurry, steps\n{STUDENTS}, Model: "a, b", Foo: 1'


def png(path, **texts):
    """A small PNG file with texts."""
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("L", (4, 4)).save(path, pnginfo=info)
    return path


def chunk(kind, body):
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_caption_has_three_parts():
    caption = parse_caption(WHOLE)
    assert (caption.prompt, caption.negative) == ("a cat, 4k: sharp", "blurry, steps")
    assert caption.fields["Model"] == "a, b"
    assert list(caption.fields)[:2] == ["Steps", "Sampler"]
    assert caption.get("cfg scale") == "13"
    assert parse_caption(" ".join(WHOLE.split("\n"))).negative == "blurry, steps"
    assert parse_caption("Sampler: DDIM, Seed: 1").fields == {"Sampler": "DDIM", "Seed": "1"}


def test_the_caption_is_explained_and_its_command_draws(sb):
    done = sb("explain", STUDENTS)
    assert done.code == 0
    for word in (
        "40 calls of the model",
        "multiplied by 13",
        "353263948",
        "0.62 megapixels",
        "the one before the last",
    ):
        assert word in " ".join(done.out.split())
    about = json.loads(sb("explain", WHOLE, "--json").out)
    assert about["command"] == "samplerbench grid --steps 40 -s euler-a --guidance 13 --seed 353263948"
    folder = shlex.split(about["command_for_folder"])
    for option, value in (("--prompt", "a cat, 4k: sharp"), ("--negative", "blurry, steps"), ("--size", "1216x512"),
                          ("--clip-skip", "2")):  # fmt: skip
        assert folder[folder.index(option) + 1] == value
    name, *words = shlex.split(about["command_for_folder"])[1:]
    # Raises for an option that is not there. A command keeps the help option of the first context that it is asked in.
    cli.commands[name].make_context("grid", words, help_option_names=CONTEXT["help_option_names"])
    assert [row["setting"] for row in about["settings"]][-2:] == ["Model", "Foo"]


def test_what_the_embedded_model_does_not_take_is_named(sb):
    assert "On the embedded model, without --size, --clip-skip (see" in sb("explain", STUDENTS).out
    assert "On the embedded model (see" in sb("explain", "Steps: 4").out
    assert "On the embedded model (see" in sb("explain", "Steps: 4, Size: 28x28, Model: fashion-mnist").out


@pytest.mark.parametrize(
    ("model", "options", "where"),
    [
        ("mixture", "--prompt 'a cat' --model mixture", "On the model that drew it (see"),
        ("diffusers:a b", "--prompt 'a cat' --size 64x32 --model 'diffusers:a b'", "On the model that drew it (see"),
        ("fashion-mnist", "--prompt 'a cat'", "On the embedded model (see"),
        ("v1-5-pruned", "", "On the embedded model, without --prompt, --size (see"),
        ("own.py:make", "", "If own.py:make is yours: --model own.py:make."),
        ("diffusers:os:system", "", "On the embedded model, without"),
    ],
)
def test_the_model_that_drew_it_is_in_the_command(sb, model, options, where):
    caption = f'a cat\nSteps: 4, Sampler: DDIM, Size: 64x32, Model: "{model}"'
    done = sb("explain", caption)
    assert where in " ".join(done.out.split())
    expected = {"samplerbench", "grid", "--steps", "4", "-s", "ddim", *shlex.split(options)}
    assert set(shlex.split(json.loads(sb("explain", caption, "--json").out)["command"])) == expected


def test_words_without_quotes_are_a_caption_too(sb):
    assert "-s euler-a" in sb("explain", "Steps:", "4,", "Sampler:", "Euler", "a").out


@pytest.mark.parametrize(
    ("caption", "options"),
    [
        ("Steps: 20, Sampler: DPM++ 2M Karras", "--steps 20 -s dpm-solver++:grid=karras"),
        ("Steps: 20, Sampler: DPM++ 2M, Schedule type: SGM Uniform", "--steps 20 -s dpm-solver++:grid=trailing"),
        ("Steps: 20, Sampler: VQDiffusionScheduler", "--steps 20 -s ddim"),
        ("Steps: 20, CFG scale: 0, Seed: -1", "--steps 20 -s ddim"),
    ],
)
def test_what_other_tools_call_otherwise(sb, caption, options):
    assert json.loads(sb("explain", caption, "--json").out)["command"] == f"samplerbench grid {options}"


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a cat", "no settings in it"), ("Steps: many", "Steps 'many'"), ("Steps: 0", "Steps 0"),
        ("Steps: 5, Seed: 1.5", "Seed '1.5'"), ("Steps: 5, CFG scale: -3", "guidance -3"),
        ("Steps: 5, Size: huge", "size 'huge'"), ("nowhere.png", "no such file"),
        ("Steps: 5, Clip skip: 0", "Clip skip"),
    ],
)  # fmt: skip
def test_a_caption_that_cannot_be_is_one_line(sb, caption, words):
    sb("explain", caption).refused(2, words)


def test_the_settings_in_a_png_file_are_read(sb, tmp_path):
    path = png(tmp_path / "a.png", parameters=WHOLE)
    assert json.loads(sb("explain", path, "--json").out) == json.loads(sb("explain", WHOLE, "--json").out)
    (tmp_path / "a.txt").write_text(WHOLE)
    assert "353263948" in sb("explain", tmp_path / "a.txt").out
    packed = tmp_path / "z.png"
    body = b"parameters\0\0" + zlib.compress(STUDENTS.encode())
    packed.write_bytes(SIGNATURE + chunk(b"zTXt", body) + chunk(b"IEND", b""))
    assert png_texts(packed) == {"parameters": STUDENTS}
    unicode = png(tmp_path / "u.png", parameters=f"ein Gürtel λ\n{STUDENTS}")
    assert png_texts(unicode)["parameters"].startswith("ein Gürtel λ")


def test_a_picture_of_a_folder_names_it(sb, tmp_path):
    (tmp_path / "mine").mkdir()
    about = json.loads(sb("explain", "Steps: 4, Model: mine", "--json").out)
    assert about["command"] == "samplerbench grid --steps 4 --model mine -s ddim"


def test_what_a_grid_writes_is_explained(sb):
    assert sb("grid", "-s", "ddim", "--steps", "1", "-o", "a.png").code == 0
    about = json.loads(sb("explain", "a.png", "--json").out)
    assert about["command"].startswith("samplerbench grid --steps 1 -s ddim")
    assert "--model" not in about["command"]
    toy = ("--plugin", str(Path(__file__).parents[1] / "toy.py"))
    assert sb("grid", *toy, "--model", "toy", "-s", "ddim", "--steps", "1", "-o", "b.png").code == 0
    about = json.loads(sb("explain", *toy, "b.png", "--json").out)
    assert "--model toy" in about["command"]
    assert sb(*shlex.split(about["command"])[1:], *toy, "-o", "c.png").code == 0
    assert Path("c.png").read_bytes() == Path("b.png").read_bytes()


DAMAGED = {
    "cut": lambda data: data[:60],
    "flipped": lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
    "endless": lambda data: data[: len(SIGNATURE)] + struct.pack(">I4s", 2**31 - 1, b"tEXt"),
    "bomb": lambda data: SIGNATURE + chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * (MOST_TEXT + 9))),
    "unpackable": lambda data: SIGNATURE + chunk(b"zTXt", b"parameters\0\0nothing") + chunk(b"IEND", b""),
    "binary": lambda data: b"\0" * 100,
    "no text": lambda data: SIGNATURE + chunk(b"IEND", b""),
    "workflow": lambda data: SIGNATURE + chunk(b"tEXt", b"workflow\0{}") + chunk(b"IEND", b""),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_file_of_a_stranger_is_refused_in_one_line(sb, tmp_path, fault):
    data = png(tmp_path / "good.png", parameters=WHOLE).read_bytes()
    (tmp_path / "bad.png").write_bytes(DAMAGED[fault](data))
    sb("explain", "bad.png").refused(4, "bad.png")
    with pytest.raises(sb_.ModelError):
        os.mkfifo(tmp_path / "pipe.png") or png_texts(tmp_path / "pipe.png")


@pytest.mark.parametrize("shell", explain.SHELLS)
def test_a_shell_gets_what_it_needs_to_complete(sb, shell):
    done = sb("completion", shell)
    assert done.code == 0
    assert f"{explain.COMPLETE}={shell}_complete" in done.out
    assert not done.err


@pytest.mark.parametrize(
    ("shell", "words", "cword", "expected"),
    [("bash", "samplerbench expl", "1", "plain,explain"), ("zsh", "samplerbench expl", "1", "explain"),
     ("fish", "samplerbench expl", "expl", "plain,explain"), ("bash", "samplerbench run --guid", "2", "--guidance")],
)  # fmt: skip
def test_words_are_completed(sb, shell, words, cword, expected):
    done = sb(env={explain.COMPLETE: f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": cword})
    assert done.code == 0
    assert expected in done.out


def test_an_unknown_shell_is_refused(sb):
    sb("completion", "tcsh").refused(2, "unknown shell 'tcsh'; shells: bash, zsh, fish")


def test_the_script_of_bash_is_bash(sb, tmp_path):
    (tmp_path / "c.sh").write_text(sb("completion", "bash").out)
    subprocess.run(["bash", "-n", str(tmp_path / "c.sh")], check=True)


def test_quiet_prints_the_table_alone(sb):
    done = sb("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "8", "--quiet")
    assert done.code == 0
    assert done.out.startswith("| sampler")
    assert done.err == ""
    assert next(Path("results").iterdir()).is_dir()


def test_a_picture_of_the_embedded_model_is_explained_with_its_prompt(sb, tmp_path):
    """As `grid` stores it: its axes are known, and the prompt belongs to the command here."""
    stored = PngInfo()
    stored.add_text(
        "parameters",
        "a dark ankle boot\nSteps: 20, Sampler: DDIM, CFG scale: 1, Seed: 0, Size: 28x28, Model: fashion-mnist, "
        'Script: X/Y/Z plot, X Type: Guidance, X Values: "1,2,4,8,13", Y Type: Prompt, '
        "Y Values: a dark ankle boot;a bright dress",
    )
    picture = tmp_path / "guidance.png"
    Image.new("L", (28, 28)).save(picture, pnginfo=stored)
    about = json.loads(sb("explain", picture, "--json").out)
    assert about["command"] == "samplerbench grid --steps 20 -s ddim --guidance 1 --seed 0 --prompt 'a dark ankle boot'"
    told = {row["setting"]: row["what it is"] for row in about["settings"]}
    assert not any("nothing that corresponds" in text for text in told.values())
    assert "784 of them" in told["Size"]
    assert "folder of diffusers" not in sb("explain", picture).out

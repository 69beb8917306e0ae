"""The command line: exit codes, one-line errors, precedence of settings, signals, clean stdout."""

import errno
import importlib.metadata
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pandas as pd
import pytest
import torch

from cases import FURTHER, thinned
from samplerbench.bench import run as harness
from samplerbench.bench.draw.store import RunFolder
from samplerbench.samplers.files.lock import LOCK_FILE
from samplerbench.samplers.text import roughly

TOY = str(Path(__file__).parents[1] / "toy.py")
MIXTURE = ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "8")
TOY_RUN = ("run", "--plugin", TOY, "--model", "toy", "--steps", "2")


def program(*arguments, cwd, env=None, **settings):
    """Run the program as a user does."""
    command = [sys.executable, "-c", "from samplerbench.bench.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, **settings)


def files(folder):
    """Everything below a folder."""
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*"))


def write(path, text):
    """Write a text file; returns its path as text."""
    path.write_text(textwrap.dedent(text))
    return str(path)


# The main job


def test_a_run_prints_the_table_and_says_where_it_is(sb, tmp_path):
    done = sb(*TOY_RUN, "-s", "ddim", "-s", "ddpm", "-n", 70)
    assert done.code == 0
    assert "FID [toy quadrants]" in done.out.splitlines()[0]
    assert [line.split("|")[1].strip() for line in done.out.splitlines()[2:4]] == ["ddim", "ddpm"]
    (folder,) = (tmp_path / "results").iterdir()
    assert folder.name.startswith("toy-")
    assert len(folder.name) == len("toy-") + 8
    assert done.out == (folder / "table.md").read_text()
    assert "grid.png, report.html, run.json, table.csv, table.md, table.seal" in done.err
    assert re.fullmatch(r"done in (\d+ s|\d+:\d\d)", done.err.splitlines()[-1])


def test_json_is_the_table(sb, tmp_path):
    done = sb(*TOY_RUN, "-s", "ddpm", "-n", 70, "-o", "here", "--json")
    content = json.loads(done.out)
    assert content["folder"] == "here"
    same_rows(content["table"], tmp_path / "here" / "table.csv")
    assert content["table"][0]["ode_error"] is None
    assert content["table"][0]["same_as"] is None


def same_rows(rows, path):
    """Assert that rows read from JSON are those of a table.csv."""
    stored = pd.read_csv(path)
    assert [list(row) for row in rows] == [list(stored.columns)] * len(stored)
    for row, expected in zip(rows, stored.to_dict("records"), strict=True):
        for name, value in expected.items():
            if pd.isna(value):
                assert row[name] is None
            elif isinstance(value, str):
                assert row[name] == value
            else:
                assert row[name] == pytest.approx(value, rel=1e-9), name


def test_table_prints_a_run_again(sb, tmp_path):
    first = sb(*TOY_RUN, "-s", "ddpm", "-n", 70)
    assert sb("table").out == first.out
    other = sb(*TOY_RUN, "-s", "ddim", "-n", 8, "-o", "results/other")
    os.utime(tmp_path / "results" / "other" / "run.json", (2e9, 2e9))
    assert sb("table").out == other.out
    (folder,) = (p for p in (tmp_path / "results").iterdir() if p.name != "other")
    assert sb("table", folder).out == first.out
    as_json = json.loads(sb("table", folder, "--json").out)
    same_rows(as_json["table"], folder / "table.csv")


def test_the_same_command_again_resumes(sb, tmp_path):
    command = (*TOY_RUN, "-s", "ddpm", "-n", 70, "--json")
    first = sb(*command)
    again = sb(*command)
    assert again.code == 0
    assert " 0 network evaluations to make" in again.err
    assert json.loads(again.out) == json.loads(first.out)
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_a_failed_cell_is_shown_and_is_exit_code_1(sb):
    done = sb(*TOY_RUN, "-s", "raises", "-s", "ddpm", "-n", 8)
    assert done.code == 1
    rows = [line for line in done.out.splitlines() if line.startswith("|")]
    assert "failed: ZeroDivisionError: one \\| two three" in rows[2]
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    assert "\x1b" not in done.out + done.err


def test_a_sampler_that_exits_fails_its_cell_alone(sb):
    done = sb(*TOY_RUN, "-s", "exits", "-s", "ddpm", "-n", 8)
    assert done.code == 1
    assert "SystemExit" in done.out
    assert "| ddpm | 2 | 2 |" in done.out


def test_what_a_plugin_prints_is_not_part_of_the_json(sb):
    done = sb(*TOY_RUN, "-s", "prints", "-n", 8, "--json")
    assert done.code == 0
    assert json.loads(done.out)["table"][0]["sampler"] == "prints"


def test_prompts_are_read_from_a_file(sb, tmp_path):
    write(tmp_path / "prompts.txt", "left\n\n  right  \nleft\n")
    done = sb(*TOY_RUN, "-s", "ddpm", "-n", 8, "--prompts", "prompts.txt", "-o", "here")
    assert done.code == 0
    about = json.loads((tmp_path / "here" / "run.json").read_text())
    assert about["config"]["prompts"] == ["left", "right", "left"]


def test_guidance_and_a_negative_prompt_can_be_given(sb):
    done = sb(*TOY_RUN, "-s", "ddpm", "-n", 8, "--guidance", 2, "--negative", "left", "--json")
    row = json.loads(done.out)["table"][0]
    assert (row["guidance"], row["nfe"], row["network_evaluations"]) == (2, 2, 4)


def test_guidance_rescale_is_an_option_and_stands_in_the_run_file(sb, tmp_path):
    done = sb(*TOY_RUN, "-s", "ddpm", "-n", 8, "--guidance", 3, "--guidance-rescale", 0.7, "-o", "here")
    assert done.code == 0
    config = json.loads((tmp_path / "here" / "run.json").read_text())["config"]
    assert (config["guidance"], config["guidance_rescale"]) == (3, 0.7)


# What must be known of a row's levels


WHOLE = """
import dataclasses, sys
sys.path.insert(0, {tests!r})
from toy import toy
from samplerbench import vp_cosine
def make():
    return dataclasses.replace(toy(), schedule=vp_cosine(), timesteps="integer")
"""


def test_a_list_that_starts_low_is_said_on_stderr_in_the_table_and_in_the_report(sb, tmp_path):
    command = (*TOY_RUN[:-2], "-s", "ddim", "-s", "ddpm", "-n", 8, "--grid", "200/100/50", "-o", "here")
    note = "starts from noise only, where a sample has alpha/sigma 1.4 (up to 0.02 goes unnoticed)"
    fix = "start near 999, or from Python give x_init = alpha x0 + sigma eps, with alpha 0.8102 and sigma 0.5862"
    planned = sb(*command, "--dry-run", "--json")
    assert [cell["warning"] for cell in json.loads(planned.out)["cells"]] == [note, note]
    done = sb(*command)
    assert done.code == 0
    for err in (planned.err, done.err):
        assert err.startswith(f"Warning: ddim, 3 steps and 1 other cell: the grid {note}; {fix}\n")
        assert err.count("Warning") == 1
    assert done.out.count(f"| {note} |") == 2
    assert (tmp_path / "here" / "table.md").read_text() == done.out
    assert sb("table", "here").out == done.out
    assert [row["warning"] for row in json.loads(sb("table", "here", "--json").out)["table"]] == [note, note]
    assert sb("table", "here", "--pivot", "fid").out.count(f"{note}.") == 2
    assert note in (tmp_path / "here" / "report.html").read_text()
    assert pd.read_csv(tmp_path / "here" / "table.csv").columns[-1] == "warning"
    plain = sb(*TOY_RUN, "-s", "ddim", "-n", 8, "-o", "there", "--json")
    assert "Warning" not in plain.err
    assert json.loads(plain.out)["table"][0]["warning"] is None


def test_a_grid_that_whole_timesteps_move_is_said(sb, tmp_path):
    write(tmp_path / "whole.py", WHOLE.format(tests=str(Path(__file__).parents[1])))
    done = sb("run", "--model", "whole.py:make", "-s", "DPM++ 2M Karras", "-s", "ddim", "--steps", 20, "-n", 8)
    note = "was moved to whole timesteps: sigma/alpha 213.89 where the grid has 7101.4"
    assert f"Warning: DPM++ 2M Karras, 20 steps: the grid {note}\n" in done.err
    rows = done.out.splitlines()[2:4]
    assert [note in row for row in rows] == [True, False]


def test_a_picture_of_a_list_that_starts_low_says_so(sb, tmp_path):
    done = sb("grid", "--plugin", TOY, "--model", "toy", "-x", "grid=999/500/20,200/100/50", "-o", "a.png")
    assert done.code == 0
    assert done.err.startswith("Warning: the grid starts from noise only, where a sample has alpha/sigma 1.4 ")
    assert done.err.count("Warning") == 1


def test_a_run_from_python_warns(tmp_path):
    import samplerbench

    with pytest.warns(UserWarning, match="ddim, 2 steps: the grid starts from noise only"):
        samplerbench.run("mixture", "ddim", steps=2, n=8, grid="200/100", output=tmp_path / "here")


# Dry run


def test_a_dry_run_counts_the_evaluations_and_writes_nothing(sb, tmp_path):
    command = ("run", "--model", "mixture", "-s", "ddim", "-s", "dpm-solver:order=3", "-s", "ddpm",
               "--steps", "4,10", "-n", "100", "--dry-run")  # fmt: skip
    done = sb(*command, "--json")
    assert done.code == 0
    about = json.loads(done.out)
    cells = [(c["sampler"], c["steps"], c["nfe"]) for c in about["cells"]]
    assert cells == [("ddim", 4, 4), ("ddim", 10, 10), ("dpm-solver:order=3", 4, 10),
                     ("dpm-solver:order=3", 10, 28), ("ddpm", 4, 4), ("ddpm", 10, 10)]  # fmt: skip
    assert about["network_evaluations"] == (4 + 10 + 10 + 28 + 4 + 10) * 100 + 25 * 101
    assert about["estimated_seconds"] >= 0
    assert "9,125 network evaluations" in sb(*command).out
    one = sb("run", "--model", "mixture", "-s", "ddim", "--steps", "1", "--dry-run")
    assert "ddim  uniform grid, 1 step, 1 model call a sample\n" in one.out
    assert files(tmp_path) == []


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "0 s"), (119, "119 s"), (120, "2 minutes"), (7199, "120 minutes"), (7200, "2 hours"), (39464, "11 hours"),
])  # fmt: skip
def test_a_dry_run_says_its_time_in_a_unit_to_plan_with(seconds, text):
    assert roughly(seconds) == text


def test_what_a_terminal_would_obey_is_not_printed(sb):
    done = sb(*MIXTURE, "--dry-run", "-o", "out\x1b[31m")
    assert done.code == 0
    assert "output: out\\x1b[31m" in done.out
    assert "\x1b" not in done.out + done.err


def test_a_dry_run_counts_guidance_and_leaves_out_a_reference_that_no_cell_needs(sb, tmp_path):
    done = sb(*TOY_RUN, "-s", "ddpm", "-n", 10, "--guidance", 3, "--dry-run", "--json")
    assert json.loads(done.out)["network_evaluations"] == 2 * 2 * 10
    assert files(tmp_path) == []


def test_a_dry_run_makes_a_short_trial_whatever_the_number_of_steps(sb, monkeypatch):
    from samplerbench.bench.draw import chunk

    made = []
    inner = chunk.draw
    monkeypatch.setattr(chunk, "draw", lambda *a, **settings: made.append(inner(*a, **settings)) or made[-1])
    assert sb("run", "--model", "gaussian", "-s", "ddim", "--steps", "1000", "--dry-run").code == 0
    assert 0 < sum(samples.nfe for samples in made) <= 50


@pytest.mark.parametrize("sampler", ["raises", "exits", "nans", "forgets"])
def test_a_dry_run_of_a_failing_sampler_says_so_in_one_line(sb, sampler, tmp_path):
    done = sb(*TOY_RUN, "-s", sampler, "-s", "ddpm", "-n", 8, "--dry-run")
    assert done.code == 0
    assert done.err.count("\n") <= 1
    assert f"{sampler}  uniform grid, 2 steps" in done.out
    assert "Traceback" not in done.out + done.err
    assert files(tmp_path) == []


# Bad input: nothing is written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-s", "ddimm"], ["unknown sampler 'ddimm'", "did you mean 'ddim'", "ddpm", "euler-a"]),
        (["-s", "ddim:etta=1"], ["unknown option 'etta'", "did you mean 'eta'", "options: eta"]),
        (["-s", "ddim:eta=two"], ["eta", "'two'", "number"]),
        (["-s", "ddim:eta=2"], ["eta", "2", "0 to 1"]),
        (["-s", "dpm-solver:order=4"], ["order", "'4'", "1, 2, 3"]),
        (["-s", "ddim:eta"], ["'eta'", "option=value"]),
        (["-s", ""], ["name"]),
        (["-s", "\x1b[31mddim"], ["unknown sampler"]),
        (["--model", "misture"], ["unknown model 'misture'", "did you mean 'mixture'", "fashion-mnist"]),
        (["--model", "mixture:vq"], ["'vq'", "vp, edm, flow"][1:]),
        (["--grid", "karas"], ["unknown grid 'karas'", "did you mean 'karras'", "uniform"]),
        (["--grid", "karras:rho=-1"], ["rho", "-1", "positive"]),
        (["--metric", "fd"], ["unknown metric 'fd'", "did you mean 'fid'", "clip_score"]),
        (["--nfe", "10"], ["steps and nfe", "one of them"]),
        (["-n", "0"], ["samples 0", "from 1"]),
        (["-n", "-5"], ["samples -5"]),
        (["-n", "1.5"], ["samples '1.5': expected a whole number"]),
        (["-n", "many"], ["Error: samples 'many': expected a whole number"]),
        (["--guidance", "abc"], ["Error: guidance 'abc': expected a number above 0, as in 2.5"]),
        (["--steps", "[]"], ["Error: steps '[]': expected whole numbers from 1"]),
        (["--steps", "5,[]"], ["Error: steps '5,[]': '[]'; expected whole numbers from 1"]),
        (["--gpus", "2"], ["Error: unknown option '--gpus'; samplerbench run --help lists them"]),
        (["--seed", "-1"], ["seed -1", "2^63 - 1"]),
        (["--seed", str(2**63)], [f"seed {2**63}"]),
        (["--seed", "1e3"], ["seed", "'1e3'"]),
        (["--guidance", "nan"], ["guidance nan"]),
        (["--guidance", "inf"], ["guidance inf"]),
        (["--guidance", "-1"], ["guidance -1"]),
        (["--guidance-rescale", "1.5"], ["guidance_rescale 1.5", "from 0 to 1"]),
        (["--guidance", "2"], ["guidance 2", "unconditional"]),
        (["--negative", "bag"], ["negative 'bag'", "unconditional"]),
        (["-b", "7"], ["batch_size 7", "64"]),
        (["-b", "0"], ["batch_size 0"]),
        (["--threads", "0"], ["threads 0", "from 1"]),
        (["--threads", "-2"], ["threads -2"]),
        (["--dtype", "int8"], ["dtype 'int8'", "float32", "bfloat16"]),
        (["--device", "cuda:77"], ["device 'cuda:77'", "cpu"]),
        (["--device", "toaster"], ["device 'toaster'", "cpu, cuda"]),
        (["--device", "meta"], ["device 'meta'", "cpu, cuda"]),
        (["--prompts", "nowhere.txt"], ["prompts nowhere.txt"]),
        (["--prompts", "\x00"], ["prompts"]),
        (["--config", "nowhere.toml"], ["config nowhere.toml"]),
        (["--stepz", "3"], ["unknown option '--stepz' (did you mean '--steps'?)"]),
        (["--steps"], ["--steps", "argument", "expected --steps N,N,...: Step counts"]),
        (["-m", "x"], ["unknown option '-m'", "samplerbench run --help"]),
        (["surplus"], ["unexpected argument (surplus); usage: samplerbench run [OPTIONS]"]),
        (["-s", "ddim,eta=0.5"], ["unknown sampler 'ddim,eta=0.5' (options follow a colon, as in ddim:eta=0.5"]),
        (["-s", "ddim,ddpm"], ["unknown sampler 'ddim,ddpm'", "one sampler each"]),
        (["--metric", "fid,kid"], ["unknown metric 'fid,kid' (one name, not a list); there are: "]),
        (["--grid", "999,500,20"], ["grid '999,500,20': expected a name, or a list", "as in 999/500/20"]),
        (["--grid", "999"], ["grid '999': expected a name, or a list of at least two levels as in 999/500/20"]),
        (["--grid", "999/x"], ["grid '999/x': expected a name, or a list of levels as in 999/500/20"]),
        (["--model", "a/b"], ["unknown model 'a/b' (and no such file or folder); there are: "]),
        (["-o", "file"], ["output file", "is a file", "folder"]),
        (["-o", "busy"], ["output busy", "holds other files"]),
        (["-o", "x" * 300], ["output"]),
    ],
    ids=lambda value: " ".join(value)[:40].replace("\x1b", "ESC").replace("\x00", "NUL"),
)
def test_bad_input_is_one_line_and_nothing_is_written(sb, tmp_path, arguments, words):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "precious").write_text("precious")
    before = files(tmp_path)
    given = [a for a in MIXTURE if a not in ("-s", "ddim")] if arguments[0] == "-s" else MIXTURE
    sb(*given, *arguments).refused(2, *words)
    assert files(tmp_path) == before
    assert (tmp_path / "file").read_text() == (tmp_path / "busy" / "precious").read_text() == "precious"


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "1.5", "10,,20", "1e12", "1e3", "010", "true", "nan", "", ",", "5,", "5 10", "5,0", "10001",
     str(10**12), "9" * 5000, "٣", "²", "0x10", "5,5", "[]", "+5"],
    ids=lambda text: text[:8] or "empty",
)  # fmt: skip
@pytest.mark.parametrize("name", ["steps", "nfe"])
def test_step_counts_that_cannot_be_are_refused(sb, tmp_path, name, text):
    sb("run", "--model", "mixture", "-s", "ddim", f"--{name}", text).refused(2, name)
    assert files(tmp_path) == []


def test_steps_may_have_spaces_after_commas(sb):
    assert sb(*MIXTURE, "--steps", "2, 3", "--dry-run").code == 0


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00bag"])
def test_a_prompt_file_with_nothing_to_read_is_refused(sb, tmp_path, content):
    (tmp_path / "prompts.txt").write_bytes(content)
    sb(*TOY_RUN, "-s", "ddim", "--prompts", "prompts.txt").refused(2, "prompts prompts.txt")
    assert files(tmp_path) == ["prompts.txt"]


def test_a_prompt_that_the_model_cannot_read_is_refused(sb, tmp_path):
    write(tmp_path / "prompts.txt", "bag\na red dres\n")
    done = sb("run", "-s", "ddim", "--steps", "1", "--prompts", "prompts.txt")
    done.refused(2, "'a red dres'", "'red'", "this model knows")
    assert files(tmp_path) == ["prompts.txt"]


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("steps = ", ["config c.toml", "cannot be read as TOML"]),
        ("steps = 5\nsteps = 6\n", ["cannot be read as TOML", "line 2"]),
        ("stepz = '5'", ["unknown setting 'stepz'", "did you mean 'steps'", "samples"]),
        ("[run]\nsteps = '5'", ["config c.toml: unknown setting 'run'"]),
        ("config = 'x.toml'", ["unknown setting 'config'"]),
        ("steps = true", ["steps"]),
        ("steps = 1.5", ["steps", "1.5"]),
        ("steps = 0", ["steps 0"]),
        ("steps = []", ["steps"]),
        ("steps = [[5]]", ["steps"]),
        ("steps = {a = 1}", ["steps"]),
        ("steps = 1979-05-27", ["steps = 1979-05-27; expected a number or a list of numbers"]),
        ("samples = true", ["config c.toml: samples = true; expected a whole number"]),
        ("seed = 1\n\nsamples = true", ["config c.toml: samples = true; expected a whole number"]),
        ("samples = -4", ["config c.toml: samples -4: expected a whole number from 1"]),
        ("guidance = 'abc'", ["config c.toml: guidance 'abc': expected a number above 0, as in 2.5"]),
        ("negative = \"\"\"\nseed = 1\n\"\"\"\nseed = -1", ["config c.toml: seed -1"]),
        ("seed = 1\nsampler = 'ddmi'", ["config c.toml: unknown sampler 'ddmi'"]),
        ("seed = " + "1" * 5000, ["config c.toml: cannot be read as TOML: Exceeds the limit"]),
        ("seed = 0x" + "f" * 5000, ["config c.toml: seed: Exceeds the limit"]),
        ("seed = [0x" + "f" * 5000 + "]", ["config c.toml: seed: Exceeds the limit"]),
        ("steps = [0x" + "f" * 5000 + "]", ["config c.toml: steps: Exceeds the limit"]),
        ("seed = 0\nx = " + "[" * 5000, ["config c.toml: cannot be read as TOML: maximum recursion depth exceeded"]),
        ("\"seed\" = -1", ["config c.toml: seed -1"]),
        ("\"s\\u0065ed\" = -1", ["config c.toml: seed -1"]),
        ("samples = 1.5", ["samples", "1.5"]),
        ("samples = [1, 2]", ["samples"]),
        ("samples = 'many'", ["config c.toml: samples 'many': expected a whole number"]),
        ("seed = true", ["seed"]),
        ("guidance = true", ["guidance"]),
        ("guidance = nan", ["guidance nan"]),
        ("sampler = ['ddmi']", ["unknown sampler 'ddmi'"]),
        ("sampler = [5]", ["unknown sampler '5'"]),
        ("sampler = [[]]", ["sampler"]),
        ("model = 5", ["unknown model '5'"]),
        ("model = ['mixture', 'gaussian']", ["model"]),
        ("dry-run = 'perhaps'", ["dry-run"]),
        ("output = \"a\\u0000b\"", ["output"]),
        ("prompts = \"a\\u0000b\"", ["prompts"]),
    ],
)  # fmt: skip
def test_a_bad_config_is_one_line_and_nothing_is_written(sb, tmp_path, toml, words):
    write(tmp_path / "c.toml", toml)
    others = {"model": ("-n", 8), "samples": ("--model", "mixture")}
    base = others.get(toml.split()[0], ("--model", "mixture", "-n", 8))
    sb("run", *base, "--config", "c.toml").refused(2, *words)
    assert files(tmp_path) == ["c.toml"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"steps = '\x00'", b"a" + b"=[" * 5000])
def test_a_config_that_is_no_toml_is_refused(sb, tmp_path, content):
    (tmp_path / "c.toml").write_bytes(content)
    sb("run", "--model", "mixture", "--config", "c.toml").refused(2, "config c.toml")
    assert files(tmp_path) == ["c.toml"]


def test_a_byte_that_is_no_utf_8_is_told_with_its_line(sb, tmp_path):
    (tmp_path / "c.toml").write_bytes("seed = 1\n\n# Größe".encode("latin-1"))
    words = "c.toml, line 3: byte 0xf6 is not UTF-8; save the file as UTF-8"
    sb("run", "--config", "c.toml").refused(2, f"Error: config {words}")
    sb("run", "--prompts", "c.toml").refused(2, f"Error: prompts {words}")


@pytest.mark.parametrize("option", ["config", "prompts"])
def test_what_would_keep_a_reader_waiting_is_refused(sb, tmp_path, option):
    os.mkfifo(tmp_path / "pipe")
    sb(*MIXTURE, f"--{option}", "pipe").refused(2, f"{option} pipe: a pipe with nothing in it that nobody writes to")
    sb(*MIXTURE, f"--{option}", "/dev/zero").refused(2, f"{option} /dev/zero: a folder or device; expected a file")
    sb(*MIXTURE, f"--{option}", tmp_path).refused(2, f"{option} {tmp_path}: a folder or device; expected a file")
    assert files(tmp_path) == ["pipe"]


@pytest.mark.parametrize("late", [False, True])
def test_a_pipe_with_a_writer_is_read_to_its_end(late):
    from samplerbench.bench.plan.given_files import read_prompts

    reading, writing = os.pipe()

    def write_it():
        for line in (b"left\n", b"right\n"):
            os.write(writing, line)
        os.close(writing)

    writer = threading.Thread(target=write_it)
    if late:
        threading.Timer(0.05, writer.start).start()  # the reader finds a pipe with a writer and nothing in it
    else:
        writer.start()
        writer.join()
    assert read_prompts(Path(f"/dev/fd/{reading}")) == ("left", "right")
    os.close(reading)


def test_texts_with_a_byte_order_mark_are_the_texts_without(sb, tmp_path):
    from samplerbench.bench.plan.given_files import read_prompts

    toml = f'model = "toy"\nplugin = ["{TOY}"]\nsteps = [3]\nsampler = "ddim"\n'
    for name, text in {"prompts.txt": "left\nright\n", "c.toml": toml}.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_prompts(tmp_path / "prompts.txt") == ("left", "right")
    done = sb("run", "--prompts", "prompts.txt", "--config", "c.toml", "--dry-run", "--json")
    assert done.code == 0
    assert [(cell["sampler"], cell["steps"]) for cell in json.loads(done.out)["cells"]] == [("ddim", 3)]
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfa\nb\xff\n")
    sb("run", "--prompts", "prompts.txt", "--dry-run").refused(2, "prompts.txt, line 2: byte 0xff is not UTF-8")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RUN_SAMPLES", "abc", "samples 'abc': expected a whole number"),
        ("RUN_SAMPLES", "-4", "samples -4: expected a whole number from 1"),
        ("RUN_SAMPLER", "ddimm", "unknown sampler 'ddimm' (did you mean 'ddim'?)"),
        ("RUN_DRY_RUN", "perhaps", "dry_run: 'perhaps' is not a valid boolean"),
        ("NO_PLUGINS", "perhaps", "no_plugins: 'perhaps' is not a valid boolean"),
    ],
)
def test_a_wrong_environment_variable_is_named(sb, tmp_path, name, value, words):
    done = sb("run", "--model", "mixture", "--steps", 2, env={f"SAMPLERBENCH_{name}": value})
    done.refused(2, f"Error: environment variable SAMPLERBENCH_{name}: {words}")
    assert files(tmp_path) == []


def test_what_is_typed_is_not_blamed_on_the_config(sb, tmp_path):
    write(tmp_path / "c.toml", "model = 'mixture'\nsamples = 5\n")
    assert sb("run", "--config", "c.toml", "-n", -4).err.startswith("Error: samples -4: ")


def test_a_config_that_is_a_folder_is_refused(sb, tmp_path):
    sb("run", "--model", "mixture", "--config", tmp_path).refused(2, "config")


def test_other_settings_in_a_run_folder_are_refused(sb, tmp_path):
    sb(*MIXTURE, "-o", "here")
    before = {p: p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()}
    sb(*MIXTURE, "-o", "here", "--seed", 4).refused(2, "output here", "seed: 0 -> 4", "--fresh")
    assert {p: p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()} == before
    assert sb(*MIXTURE, "-o", "here", "--seed", 4, "--fresh").code == 0


def test_a_damaged_chunk_is_exit_code_5(sb, tmp_path):
    sb(*MIXTURE, "-o", "here")
    chunk = next(p for p in (tmp_path / "here" / "chunks").rglob("0*.safetensors"))
    chunk.write_bytes(chunk.read_bytes()[:50])
    done = sb(*MIXTURE, "-o", "here")
    assert done.code == 5
    assert done.err.splitlines()[-1].startswith("Error: ")
    assert chunk.name in done.err


def test_a_damaged_weights_file_is_exit_code_4(sb, tmp_path):
    (tmp_path / "weights").mkdir()
    for name in ("unet", "clip", "features", "reference"):
        (tmp_path / "weights" / f"{name}.safetensors").write_bytes(b"<!DOCTYPE html>")
    before = files(tmp_path)
    sb("run", "--model", "fashion-mnist:weights").refused(4, "safetensors", "weights")
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "content", thinned([b"", b"garbage", b"\xff\xfe\x00", b"model,sampler\n1,2,3,4\n", b"a,b\n"], b"", b"garbage")
)
def test_a_damaged_table_is_exit_code_5(sb, tmp_path, content):
    sb(*MIXTURE, "-o", "here")
    (tmp_path / "here" / "table.csv").write_bytes(content)
    sb("table", "here").refused(5, "table.csv")


def test_table_without_a_run_is_refused(sb, tmp_path):
    sb("table").refused(2, "no run in results", "samplerbench run")
    sb("table", "nowhere").refused(2, "nowhere")
    (tmp_path / "file").touch()
    sb("table", "file").refused(2, "file")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "lsit",
            "unknown command 'lsit' (did you mean 'list'?); there are: run, list, new-plugin, check, table, report",
        ),
        ("zzz", "unknown command 'zzz'; there are: run, list"),
        ("--foo", "unknown option '--foo'; samplerbench --help lists them"),
        ("verify", "RUN: not given; usage: samplerbench verify [OPTIONS] RUN"),
        ("new-plugin", "NAME: not given; usage: samplerbench new-plugin [OPTIONS] NAME"),
        ("train", "--output: not given; expected --output DIR: Where weights, log and checkpoints go"),
        ("reference .", "--extractor: not given; expected --extractor NAME: What reads the images"),
        ("reference . --extractor clip -n 0", "samples 0: expected a whole number from 1, as in 8"),
        ("reference . --extractor clip -n x", "samples 'x': expected a whole number from 1, as in 8"),
        ("verify r --chunks 0", "chunks 0: expected a whole number from 1"),
        ("verify r --chunks all", "chunks 'all': expected a whole number from 1"),
        ("verify r --chunk 1", "unknown option '--chunk' (did you mean '--chunks'?); samplerbench verify --help"),
        ("check ddim --steps 5", "unknown option '--steps'; samplerbench check --help lists them"),
        ("table r --format xml", "--format: 'xml' is not one of 'md', 'csv', 'latex', 'html', 'json', 'parquet'"),
        ("table r --format", "Option '--format' requires an argument; expected --format [md|csv|"),
        ("table r --compare ddim", "requires 2 arguments; expected --compare A B: Two samplers of the run"),
        ("table --merge", "--merge: 0 runs; expected two or more"),
        ("table r --merge", "--merge: 1 run; expected two or more"),
        ("doctor now", "unexpected argument (now); usage: samplerbench doctor [OPTIONS]"),
        ("doctor now then", "unexpected arguments (now then); usage: samplerbench doctor [OPTIONS]"),
        ("train --data nowhere -o t", "unknown data 'nowhere' (and no such file or folder); there are: cifar10"),
    ],
)
def test_a_slip_is_answered_with_what_is_accepted(sb, tmp_path, line, message):
    sb(*line.split()).refused(2, message)
    assert files(tmp_path) == []


def test_a_variable_in_the_name_of_an_argument_is_refused(sb):
    """Arguments are not read from variables, so one that was meant to be is not passed over."""
    sb("list", env={"SAMPLERBENCH_LIST_KIND": "grids"}).refused(2, "variable SAMPLERBENCH_LIST_KIND: no option of")


def test_train_refuses_what_it_cannot_do(sb, tmp_path):
    sb("train", "mixture", "-o", "out").refused(2, "model 'mixture'", "cannot be trained")
    sb("train", "misture", "-o", "out").refused(2, "unknown model 'misture'", "did you mean 'mixture'")
    sb("train").refused(2, "output")
    sb("train", "-o", "out", "--data", "nowhere").refused(2, "data", "nowhere")
    sb("train", "fashion-mnist", "-o", "out", "--data", ".").refused(4, "train-images-idx3-ubyte.gz", "four files")
    sb("train", "-o", "out", "--data", ".").refused(4, "no image")
    (tmp_path / "file").touch()
    sb("train", "-o", "file").refused(2, "output file", "is a file")
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 5, "out: cannot be written (No space left on device)"),
        (PermissionError(errno.EACCES, "denied", "out/log.csv"), 5, "out: cannot be written (denied)"),
        (FileNotFoundError(errno.ENOENT, "gone", "/images"), 4, "/images: cannot be read (gone)"),
    ],
)
def test_a_training_tells_a_disk_that_refuses_from_data_that_cannot_be_read(sb, monkeypatch, fault, code, words):
    from samplerbench.bench.cli import train

    def learn(**_):
        raise fault

    monkeypatch.setattr(train, "lesson", lambda *_: learn)
    sb("train", "fashion-mnist", "-o", "out").refused(code, words)


# Plugins


BROKEN = {
    "missing": None,
    "syntax": "def f(:\n",
    "import": "import no_such_module_anywhere\n",
    "raises": "raise RuntimeError('at import\\nsecond line')\n",
    "exits": "import sys\nsys.exit(0)\n",
    "registers nothing": "x = 1\n",
    "unknown hook": "from samplerbench import hookimpl\n@hookimpl\ndef samplerbench_sampler():\n    return {}\n",
    "hook raises": "from samplerbench import hookimpl\n@hookimpl\ndef samplerbench_samplers():\n    1 / 0\n",
    "takes a name": "from samplerbench import hookimpl\nfrom samplerbench.plugins.samplers.ddim import DDIM\n"
    "@hookimpl\ndef samplerbench_samplers():\n    return {'ddim': DDIM}\n",
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("command", ["run", "list"])
def test_a_plugin_that_is_asked_for_and_broken_is_exit_code_3(sb, tmp_path, command, fault):
    if BROKEN[fault] is not None:
        write(tmp_path / "mine.py", BROKEN[fault])
    before = files(tmp_path)
    sb(command, "--plugin", "mine.py").refused(3, "plugin mine.py")
    assert [f for f in files(tmp_path) if "__pycache__" not in f] == before


def test_a_plugin_of_a_name_that_no_file_can_have_is_exit_code_3(sb):
    sb("list", "--plugin", "a" * 300).refused(3, "plugin aaa")


def test_an_adaptive_sampler_cannot_be_planned_for_a_budget(sb):
    run = ("run", "--model", "mixture", "-s", "ddim", "-s", "dpm-solver-adaptive", "--nfe", 10)
    sb(*run).refused(2, "sampler 'dpm-solver-adaptive': nfe 10: it is adaptive, with no step count", "use --steps")


def test_a_network_that_cannot_be_asked_is_one_line(sb, tmp_path):
    made = "schedule=sb.vp_linear(), shape=(1, 4, 4), predicts='eps'"
    write(
        tmp_path / "m.py", f"import samplerbench as sb\ndef make():\n    return sb.wrap_network(lambda x: x, {made})\n"
    )
    done = sb("run", "--model", "m.py:make", "-s", "ddim", "--steps", 2, "-n", 4, "-o", "r")
    assert done.code == 4
    assert done.err.splitlines()[-1].startswith("Error: network: TypeError: ")
    assert done.err.splitlines()[-1].endswith("it was asked with x (64, 1, 4, 4) float32, t (64,) float32")


def test_a_list_of_levels_says_how_many_steps_there_are(sb):
    plan = json.loads(sb("run", "--model", "mixture", "-s", "ddim", "--grid", "9/4/0", "--dry-run", "--json").out)
    assert [cell["steps"] for cell in plan["cells"]] == [3]


def test_a_variable_that_is_no_option_is_refused(sb, monkeypatch):
    monkeypatch.setenv("SAMPLERBENCH_RUN_STEP", "5")
    sb("run", "--dry-run").refused(
        2, "environment variable SAMPLERBENCH_RUN_STEP", "did you mean", "RUN_STEPS", "unset"
    )
    assert sb("list", "samplers").code == 0


def test_a_path_that_is_no_model_is_told_from_an_unknown_name(sb, tmp_path):
    write(tmp_path / "mine.py", "")
    (tmp_path / "photos").mkdir()
    sb("run", "--model", "mine.py").refused(2, "model 'mine.py': which function of it?", "mine.py:make")
    sb("run", "--model", "photos").refused(2, "model 'photos': a folder that none of ddpm, diffusers")
    sb("train", "--data", "mine.py", "-o", "m").refused(2, "data 'mine.py': a file that none of cifar10")
    sb("run", "--model", "photo").refused(2, "unknown model 'photo'")


COSTLY = """
from samplerbench import hookimpl
from samplerbench.plugins.samplers.ddim import DDIM


class Costly(DDIM):
    def nfe(self, steps):
        return 3 * steps


@hookimpl
def samplerbench_samplers():
    return {"costly": Costly}
"""


def test_a_budget_under_the_calls_of_a_step_is_refused_by_name(sb, tmp_path):
    write(tmp_path / "mine.py", COSTLY)
    run = ("run", "--model", "mixture", "--plugin", "mine.py", "-s", "ddim", "-s", "costly", "--nfe", "2")
    sb(*run).refused(2, "sampler 'costly': nfe 2: expected at least 3, the calls of one step")


def test_a_broken_entry_point_is_named_and_the_others_work(sb, broken_plugin):
    broken_plugin("no good")
    listed = sb("list")
    assert listed.code == 0
    assert "broken_by_test" in listed.err
    assert "RuntimeError: no good" in listed.err
    assert listed.err.count("\n") == 1
    assert "dpm-solver" in listed.out
    as_json = json.loads(sb("list", "--json").out)
    assert as_json["broken"] == [{"origin": "broken_by_test", "reason": "RuntimeError: no good"}]
    done = sb(*MIXTURE)
    assert done.code == 0
    assert "broken_by_test" in done.err


LISTED = {
    "samplers": ["ddim", "ddpm", "dpm-solver", "euler-a", "NFE", "2 steps - 1", "stochastic", "eta=0.0"],
    "grids": ["uniform", "karras", "rho=7.0"],
    "models": ["fashion-mnist", "gaussian", "mixture"],
    "metrics": ["fid", "clip_score", "features", "lower"],
    "data": ["folder:PATH", "npz:FILE", "parquet:FILE", "webdataset:FILE", "cifar10:SPLIT", "170 MB"],
}


@pytest.mark.parametrize("kind", LISTED)
def test_list_shows_what_is_registered_and_where_it_is_from(sb, kind):
    done = sb("list", kind)
    assert done.code == 0
    for word in (*LISTED[kind], "samplerbench.plugins"):
        assert word in done.out
    assert "raises" not in done.out
    rows = json.loads(sb("list", kind, "--json").out)[kind]
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    assert all(row["origin"] for row in rows)


def test_list_shows_a_plugin_s_too(sb):
    for kind, name in (("samplers", "calls-twice"), ("models", "toy"), ("metrics", "brightness")):
        done = sb("list", kind, "--plugin", TOY)
        assert name in done.out
        assert "toy.py" in done.out


@pytest.mark.parametrize("kind", ["extractors", "data", "engines"])
def test_list_says_of_everything_built_in_what_it_is(sb, kind):
    assert [row["name"] for row in json.loads(sb("list", kind, "--json").out)[kind] if not row["what it is"]] == []


def test_list_says_of_factories_what_their_docstrings_say(sb):
    code = (
        "from samplerbench import hookimpl\n\n"
        'def mine(argument):\n    """My images.\n\n    More of them.\n    """\n\n'
        "def bare(argument):\n    pass\n\n"
        "@hookimpl\ndef samplerbench_{kind}():\n    return {{'mine': mine, 'bare': bare}}\n"
    )
    for kind in ("data", "extractors"):
        Path("mine.py").write_text(code.format(kind=kind))
        rows = {row["name"]: row for row in json.loads(sb("list", kind, "--plugin", "mine.py", "--json").out)[kind]}
        assert rows["mine"] == {"name": "mine", "what it is": "My images.", "origin": "mine.py"}
        assert rows["bare"]["what it is"] == ""


def test_list_refuses_an_unknown_kind(sb):
    sb("list", "sampler").refused(
        2, "unknown kind 'sampler' (did you mean 'samplers'?); kinds: samplers, grids, models"
    )


def test_list_survives_a_sampler_that_cannot_be_asked(sb, tmp_path):
    write(
        tmp_path / "mine.py",
        """
        from dataclasses import dataclass
        from samplerbench import hookimpl
        from samplerbench.plugins.samplers.ddim import DDIM

        @dataclass(frozen=True)
        class Mine(DDIM):
            def nfe(self, steps):
                raise RuntimeError("no idea")

        @hookimpl
        def samplerbench_samplers():
            return {"mine": Mine}
        """,
    )
    done = sb("list", "--plugin", "mine.py", "--json")
    assert done.code == 0
    rows = {row["name"]: row for row in json.loads(done.out)["samplers"]}
    assert rows["mine"]["NFE"] == "raises RuntimeError"
    assert rows["ddim"]["NFE"] == "steps"
    sb(*MIXTURE, "-s", "mine", "--plugin", "mine.py").refused(3, "sampler 'mine'", "RuntimeError: no idea")


def test_a_budget_for_a_sampler_whose_cost_never_grows_is_refused_and_ends(sb, tmp_path):
    write(
        tmp_path / "mine.py",
        """
        from dataclasses import dataclass
        from samplerbench import hookimpl
        from samplerbench.plugins.samplers.ddim import DDIM

        asked = []

        @dataclass(frozen=True)
        class Mine(DDIM):
            def nfe(self, steps):
                asked.append(steps)
                assert len(asked) < 100_000, "asked without end"
                return 1

        @hookimpl
        def samplerbench_samplers():
            return {"mine": Mine}
        """,
    )
    done = sb("run", "--model", "mixture", "-s", "mine", "--plugin", "mine.py", "--nfe", "10", "--dry-run")
    done.refused(2, "steps", "1000")
    assert "asked without end" not in done.err


def test_a_metric_cannot_take_the_name_of_a_column(sb, tmp_path):
    write(
        tmp_path / "mine.py",
        """
        from samplerbench import hookimpl
        from samplerbench.plugins.metrics.clip_score import CLIPScore

        @hookimpl
        def samplerbench_metrics():
            return {"status": CLIPScore}
        """,
    )
    done = sb(*TOY_RUN, "-s", "ddpm", "-n", "8", "--plugin", "mine.py", "--metric", "status")
    done.refused(2, "metric 'status'", "register another name")


def test_plugins_that_take_long_to_load_are_spoken_of_meanwhile(sb, tmp_path, monkeypatch):
    from samplerbench.bench.cli import loading

    write(
        tmp_path / "mine.py",
        """
        import threading
        from samplerbench import hookimpl
        from samplerbench.plugins.samplers.ddim import DDIM

        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()  # goes on when the note is written

        class Mine(DDIM):
            pass

        @hookimpl
        def samplerbench_samplers():
            return {"mine": Mine}
        """,
    )
    monkeypatch.setattr(loading, "PATIENCE", 0)
    for command in (["list"], [*MIXTURE, "--dry-run"]):
        done = sb(*command, "--plugin", "mine.py")
        assert done.code == 0
        assert done.err.startswith("Note: plugins are still loading (0 s); Ctrl-C stops and names the slow one, --no-")


def test_what_is_done_in_time_is_not_spoken_of(capsys):
    from samplerbench.bench.cli.loading import note_after

    with note_after(600, "slow") as waiting:
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()
    assert capsys.readouterr().err == ""


# Where settings come from


def settings_of(sb, tmp_path, *arguments, env=None):
    """The configuration that a run stores."""
    done = sb("run", "-o", "here", "--fresh", *arguments, env=env)
    assert done.code == 0, done.err
    return json.loads((tmp_path / "here" / "run.json").read_text())["config"]


def test_defaults_then_toml_then_environment_then_command_line(sb, tmp_path):
    write(
        tmp_path / "c.toml",
        """
        model = "mixture"
        sampler = ["ddim", "ddpm"]
        steps = [2, 3]
        samples = 5
        seed = 1
        batch-size = 8
        keep_images = false
        """,
    )
    env = {"SAMPLERBENCH_RUN_SAMPLES": "6", "SAMPLERBENCH_RUN_SEED": "2"}
    from_toml = settings_of(sb, tmp_path, "--config", "c.toml")
    assert from_toml["model"] == "mixture"
    assert from_toml["sampler"] == ["ddim", "ddpm"]
    assert from_toml["steps"] == [2, 3]
    assert (from_toml["samples"], from_toml["seed"], from_toml["batch_size"]) == (5, 1, 8)
    assert from_toml["keep_images"] is False
    assert from_toml["guidance"] == 1.0

    from_env = settings_of(sb, tmp_path, "--config", "c.toml", env=env)
    assert (from_env["samples"], from_env["seed"], from_env["batch_size"]) == (6, 2, 8)

    from_all = settings_of(sb, tmp_path, "--config", "c.toml", "-n", 7, "-s", "euler-a", env=env)
    assert (from_all["samples"], from_all["seed"], from_all["batch_size"]) == (7, 2, 8)
    assert from_all["sampler"] == ["euler-a"]


def test_a_config_may_be_named_by_the_environment(sb, tmp_path):
    write(tmp_path / "c.toml", "model = 'mixture'\nsampler = ['ddim']\nsteps = '2'\nsamples = 3\n")
    assert settings_of(sb, tmp_path, env={"SAMPLERBENCH_RUN_CONFIG": "c.toml"})["samples"] == 3


@pytest.mark.parametrize(
    "toml", thinned(["steps = 2", "steps = '2'", "steps = [2]", "nfe = [2]"], "steps = 2", "nfe = [2]")
)
def test_step_counts_may_be_a_number_a_text_or_a_list(sb, tmp_path, toml):
    write(tmp_path / "c.toml", f"model = 'mixture'\nsampler = ['ddim']\nsamples = 3\n{toml}\n")
    config = settings_of(sb, tmp_path, "--config", "c.toml")
    assert config["steps"] + config["nfe"] == [2]


def test_one_sampler_may_be_a_text(sb, tmp_path):
    write(tmp_path / "c.toml", "model = 'mixture'\nsampler = 'ddim'\nsteps = 2\nsamples = 3\n")
    assert settings_of(sb, tmp_path, "--config", "c.toml")["sampler"] == ["ddim"]


def test_config_keys_are_the_names_of_the_long_options(sb, tmp_path):
    write(
        tmp_path / "c.toml",
        "model = 'mixture'\nsampler = ['ddim']\nsteps = 2\nsamples = 3\njson = true\ndry-run = true\n",
    )
    assert json.loads(sb("run", "--config", "c.toml").out)["samples"] == 3


def test_threads_are_set_and_stored(sb, tmp_path):
    settings = settings_of(sb, tmp_path, *MIXTURE[1:], "--threads", 2)
    assert settings["threads"] == 2
    assert torch.get_num_threads() == 2


# As a program of its own


def test_help_and_version(sb, tmp_path):
    done = program("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("run", "list", "table", "train"):
        assert f"\n  {command} " in done.stdout
    for command in ("run", "list", "table", "train"):
        assert "--help" in sb(command, "-h").out
    assert importlib.metadata.version("samplerbench") in sb("--version").out


def test_help_does_not_import_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "from samplerbench.bench.cli import main; main()", "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not {"torch", "pandas", "numpy", "rich", "pluggy"} & imported


@pytest.mark.slow
def test_a_run_leaves_nothing_on_stdout_but_the_table(tmp_path):
    done = program(*MIXTURE, "--json", cwd=tmp_path, env={"LC_ALL": "C"})
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["table"]) == 1
    assert "1 cell x 8 samples" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.further
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_leaves_a_usable_table_and_says_how_to_go_on(tmp_path, name, code):
    number = int(getattr(signal, name))
    command = [*TOY_RUN, "-s", "ddpm", "-s", f"signals:number={number}", "-n", "70", "-o", "here", "--json"]
    done = program(*command, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    rows = json.loads(done.stdout)["table"]
    assert [row["samples"] for row in rows] == [64, 64]
    assert [row["status"] for row in rows] == ["partial", "partial"]
    assert all(row["fid"] > 0 for row in rows)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("stopped; go on with: samplerbench run ")
    assert shlex.split(last.partition(": ")[2])[1:] == command
    for file in ("run.json", "table.csv", "table.md", "grid.png"):
        assert (tmp_path / "here" / file).is_file()


@pytest.mark.parametrize(("first", "second", "code"), [
    (signal.SIGTERM, signal.SIGINT, 143), (None, signal.SIGINT, 130),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [
        (signal.SIGTERM, signal.SIGTERM, 143), (signal.SIGINT, signal.SIGINT, 130), (None, signal.SIGTERM, 143),
    ]),
])  # fmt: skip
@pytest.mark.parametrize("where", ["write_table", pytest.param("write_report", marks=FURTHER), "close"])
def test_a_second_signal_says_how_to_go_on_and_leaves_no_lock(sb, tmp_path, monkeypatch, first, second, code, where):
    """It comes while the table or the page is made, or while the lock is given back; a third one is not heard."""
    sent, handlers = [], [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupted(inner):
        def call(*arguments, **named):
            sent.append(second)
            os.kill(os.getpid(), second)
            return inner(*arguments, **named)

        return call

    samplers = ["-s", "ddpm", *(["-s", f"signals:number={int(first)}"] if first else [])]
    command = [*TOY_RUN, *samplers, "-n", "70", "-o", "here"]
    place = RunFolder if where == "close" else harness
    with monkeypatch.context() as patch:
        patch.setattr(place, where, interrupted(getattr(place, where)))
        done = sb(*command)
    assert done.code == code, done.err
    assert done.err.splitlines()[-1] == f"stopped; go on with: samplerbench {shlex.join(command)}"
    assert "Traceback" not in done.err
    assert len(sent) == (3 if where == "close" else 1)  # by `conclude`, by who called it, and at the end
    assert not (tmp_path / "here" / LOCK_FILE).exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert len(list(tmp_path.glob("here/chunks/*/00000000-0064.safetensors"))) == (2 if first else 1)
    if first is None:
        assert sb(*command).code == 0


@pytest.mark.slow
def test_a_terminal_of_plain_ascii_is_no_traceback(tmp_path):
    done = program(*MIXTURE, "-o", "h\u00e9r", cwd=tmp_path, env={"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "95 %" in done.stdout


def test_fresh_touches_nothing_outside_the_run_folder(sb, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("precious")
    assert sb(*MIXTURE, "-o", "here").code == 0
    shutil.rmtree(tmp_path / "here" / "chunks")
    (tmp_path / "here" / "chunks").symlink_to(elsewhere)
    done = sb(*MIXTURE, "-o", "here", "--fresh")
    done.refused(5, "here")
    assert (elsewhere / "precious").read_text() == "precious"


def test_the_program_alone_shows_its_help(sb):
    done = sb()
    assert "Usage: " in done.out + done.err
    assert "\n  run " in done.out + done.err


@pytest.mark.slow
def test_a_path_that_is_no_utf_8_is_no_traceback(tmp_path):
    done = program(*MIXTURE, "--dry-run", "-o", os.fsdecode(b"\xff"), cwd=tmp_path,
                   env={"PYTHONIOENCODING": "utf-8:strict"})  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode == 0
    assert "output: \\udcff" in done.stdout
    assert files(tmp_path) == []


# Standard streams


class Refusing(io.StringIO):
    """A stream of which each write fails."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


FULL, GONE = errno.ENOSPC, errno.EPIPE


@pytest.mark.parametrize(
    "command",
    thinned(
        [["--version"], ["--help"], ["list", "-h"], ["list"], ["list", "--json"], ["list", "--markdown"], ["doctor"],
         MIXTURE, [*MIXTURE, "--json"], [*MIXTURE, "--dry-run"]],
        lambda command: command not in (["list", "--json"], ["list", "--markdown"], ["doctor"], [*MIXTURE, "--json"]),
    ),
    ids=" ".join,
)  # fmt: skip
def test_a_full_disk_under_stdout_is_one_line_and_exit_code_5(sb, monkeypatch, command):
    monkeypatch.setattr(sys, "stdout", Refusing(FULL))
    done = sb(*command)
    assert done.code == 5
    said = "standard output: cannot be written (No space left on device); what a run stored is intact"
    assert done.err.splitlines()[-1] == f"Error: {said}"


@pytest.mark.parametrize("command", [["--version"], ["list"], ["list", "--json"], MIXTURE], ids=" ".join)
def test_a_reader_of_stdout_that_goes_away_is_no_error(sb, monkeypatch, command):
    monkeypatch.setattr(sys, "stdout", Refusing(GONE))
    done = sb(*command)
    assert done.code == 0
    assert "Error" not in done.err


@pytest.mark.parametrize("number", [FULL, GONE])
def test_a_run_goes_on_when_nobody_reads_its_messages(sb, tmp_path, monkeypatch, number):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Refusing(number))
        done = sb(*TOY_RUN, "-s", "prints", "-s", "raises", "-n", 70, "-o", "here")
    assert done.code == 1
    assert "failed: ZeroDivisionError" in done.out
    assert done.out == (tmp_path / "here" / "table.md").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Refusing(number))
        assert sb("list", "sampler").code == 2


def test_a_heading_has_nothing_in_it_that_a_terminal_would_obey(capsys):
    from samplerbench.bench.show.console import print_rows

    print_rows([{"FID [\x1b]0;title\x07]": "1", "b": "\x1b[31m"}, {"FID [\x1b]0;title\x07]": "2", "b": "\u202e"}])
    first, *rows = capsys.readouterr().out.splitlines()
    assert first == r"FID [\x1b]0;title\x07]  b"
    assert rows == [f"{1:<22}  \\x1b[31m", f"{2:<22}  \\u202e"]
    print_rows([])
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "env", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["utf-8", "ascii"]
)
def test_a_program_on_a_full_disk_says_so(tmp_path, env):
    assert shell("--version > /dev/full", tmp_path, env) == (
        5, "", "Error: standard output: cannot be written (No space left on device); what a run stored is intact\n"
    )  # fmt: skip
    assert shell("list sampler 2> /dev/full", tmp_path, env) == (2, "", "")


def test_a_stream_that_is_closed_keeps_nothing(tmp_path):
    assert shell("--version >&-", tmp_path) == (0, "", "")
    code, out, err = shell("--version 2>&- <&-", tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith("samplerbench")
    assert shell("list sampler 2>&-", tmp_path) == (2, "", "")


@pytest.mark.slow
def test_a_run_whose_messages_are_cut_off_makes_its_table(tmp_path):
    run = shlex.join([*MIXTURE, "--steps", "2,3", "-s", "heun", "-o", "here"])
    code, out, err = shell(f"{run} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (code, err) == (0, "")
    assert out == "4 cells x 8 samples, 808 network evaluations to make\n" or out.count("\n") == 1
    assert {"table.csv", "table.md", "grid.png"} & set(files(tmp_path / "here")) >= {"table.csv", "table.md"}
    code, _, err = shell(f"{run} 2>&- >&-", tmp_path)
    assert (code, err) == (0, "")
    code, out, err = shell("list samplers | head -1; exit ${PIPESTATUS[0]}", tmp_path)
    assert (code, out.split()[0], err) == (0, "name", "")


def shell(line, cwd, env=None):
    """Exit code, stdout and stderr of the program as a line of bash."""
    main = "from samplerbench.bench.cli import main; main()"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(main)} {line}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    done = subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr

"""Mutated command lines and config files: always an exit code, never a traceback or a hang, no file where refused."""

import functools
import os
import random
import shutil
import signal
import sys
from collections import Counter
from contextlib import contextmanager

import click
import pytest
import torch

import samplerbench as sb
import samplerbench.bench.run  # it binds the loader of the registry before a test replaces that
from cases import thinned
from samplerbench.bench import cli
from samplerbench.bench.cli import diagnosis as doctor
from samplerbench.bench.conformance import check
from samplerbench.bench.show import figures, grid_plot
from samplerbench.bench.show import page as report
from samplerbench.samplers import registry
from samplerbench.samplers.errors import Stop
from samplerbench.samplers.variables import ALLOW_DOWNLOAD, NO_PLUGINS

ODD = [
    "", " ", "0", "-1", "1", "2", "1.5", "1e12", "1e3", "010", "nan", "inf", "-inf", "true", "None", "[]", "{}",
    "9" * 30, str(2**63), str(2**63 - 1), "٣", "½", "é", "\x1b[31m", "\u202e", "a" * 300, "a/b", "../x",
    "/dev/null", "/", ".", "~", "-", "--", "=", ":", ",", ",,", "a=b", "'", '"', "\\", "%s", "$HOME", "=1+1", "\n",
    "\t", "ddim", "ddpm", "euler-a", "dpm-solver", "ddim:eta=0.5", "ddim:eta=", "ddim:eta=1,eta=1", "ddim:grid=x",
    "dpm-solver:order=2", "dpm-solver:order=9", "karras", "karras:rho=0", "logsnr", "leading", "gaussian",
    "gaussian:edm", "gaussian:flow", "mixture:x", "gaussian:", ":x", "fid", "clip_score", "cpu", "cuda", "cpu:1",
    "float64", "bfloat16", "float16", "5,10", "5,,10", "5,5", "1,2,3", "9/4/0", "200/100/50", "9/", "\udcff\udcfe",
    "DPM++ 2M Karras", "dpm++ sde", "LCM", "seed=0,1", "grid=karras,9/4/0", "prompt=a, b;c", "guidance=1;2",
    "sampler=ddim:eta=1,grid=karras,ddpm", "sampler=eta=1",
]  # fmt: skip
RUN, PIPE, CONFIG = "../made", "../pipe", "../fuzz.toml"
"""A run, a pipe that nobody writes to, and the config file of a command line."""
ODD += [RUN, PIPE, "/dev/zero"]
RIGHT = {
    "run": ["--model", "gaussian", "--dry-run"], "grid": ["-x", "steps=2,3"], "table": [RUN],
    "report": [RUN], "verify": [RUN], "check": ["ddim", "--quick"], "new-plugin": ["mine"], "list": ["grids"],
    "train": ["fashion-mnist", "--data", ".", "-o", "out"], "reference": [".", "--extractor", "inception"],
    "score": [".", "."], "doctor": [], "explain": ["Steps: 20, Sampler: Euler a"], "completion": ["bash"],
    "export": [RUN, "--row", "heun@2", "-o", "out"],
}  # fmt: skip
"""The shortest command lines of each command that need no network."""
OPTIONS = {
    name: [
        (option, parameter.is_flag)
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name not in ("allow_download", "dry_run")
        for option in (*parameter.opts, *parameter.secondary_opts)
    ]
    for name, command in cli.cli.commands.items()
}
"""Every option of every command, and whether it is a flag; no fuzz of a run draws it, none fetches anything."""
SETTINGS = [option.lstrip("-") for option, _ in OPTIONS["run"] if option.startswith("--")] + ["dry-run", "x"]
GOOD = [
    ("-s", "ddim"), ("-s", "euler-a:eta=0.5"), ("--steps", "3"), ("--steps", "2,4"), ("-n", "8"), ("--seed", "3"),
    ("-b", "16"), ("--grid", "karras"), ("--dtype", "float64"),
]  # fmt: skip
TOML = ["true", "false", "5", "-5", "0", "1.5", "nan", "inf", "[]", "[5, 10]", "[true]", "['ddim']", "['ddim', 5]",
        "{}", "{a = 1}", "1979-05-27", "'ddim'", "''", '"\\u0000"', '"\\u001b"', "[[1]]", "0x10", "1_000", "=", "'",
        "'karras'", "'cpu'", "'float32'", "999999999999999999999", "'5,10'"]  # fmt: skip
LOADED, EXAMINED = functools.cache(registry.load_registry), functools.cache(doctor.examine)
FEW_STEPS = 100
"""More steps than this are refused or only slow, and are tried elsewhere."""


def mutated(rng, name):
    """A line of a command that is right but for a few changes, the text of its config file, if it has one, and the
    variables that it finds."""
    arguments, toml = mutated_line(rng, name)
    if rng.random() > 0.1:
        return arguments, toml, {}
    option = rng.choice([option.lstrip("-") for option, _ in OPTIONS[name]] or ["x"]).upper().replace("-", "_")
    command = name.upper().replace("-", "_")
    return arguments, toml, {f"SAMPLERBENCH_{command}_{option}": rng.choice(ODD)}


def mutated_line(rng, name):
    """Words, and the text of a config file."""
    arguments = [name, *RIGHT[name]]
    kept = len(arguments) if name == "run" else 1
    if name == "run":
        for pair in rng.sample(GOOD, rng.randint(0, 3)):
            arguments += pair
    for _ in range(rng.randint(0, 3)):
        match rng.randint(0, 4):
            case 0 | 1 | 2 if OPTIONS[name]:
                option, is_flag = rng.choice([*OPTIONS[name], ("--unknown", True), ("-h", True)])
                arguments += [option] if is_flag else [option, rng.choice(ODD)]
            case 3:
                arguments.insert(rng.randint(1, len(arguments)), rng.choice(ODD))
            case _:
                if len(arguments) > kept:
                    i = rng.randrange(kept, len(arguments))
                    text = arguments[i]
                    at = rng.randint(0, len(text))
                    arguments[i] = text[:at] + rng.choice([*"0-=,:.x", "\x1b", "é"]) + text[at + rng.randint(0, 1) :]
    if name == "run" and rng.random() < 0.3:
        lines = [f"{rng.choice(SETTINGS)} = {rng.choice(TOML)}" for _ in range(rng.randint(0, 3))]
        text = "\n".join(lines)
        if rng.random() < 0.3:
            at = rng.randint(0, len(text))
            text = text[:at] + rng.choice(["\x00", "=", "[", '"', "\n", "é", "#"]) + text[at:]
        return [*arguments, "--config", CONFIG], text
    return arguments, None


@pytest.fixture
def outcome(monkeypatch, tmp_path, capsys):
    """Run a command line in an empty folder; returns its exit code, and fails on anything but an exit code.

    What takes long is left out: the work of check, grid, doctor, report and train.
    """
    for name in (NO_PLUGINS, ALLOW_DOWNLOAD):
        monkeypatch.setenv(name, "")  # a line that is refused leaves what its flags set, as its process would end
    monkeypatch.setattr(registry, "load_registry", LOADED)
    monkeypatch.setattr(check, "check", lambda *_, **__: [])
    requests_for = grid_plot.requests_for
    monkeypatch.setattr(grid_plot, "make_grid", lambda plot, found, path, _: ([path], requests_for(plot, found) and {}))
    monkeypatch.setattr(doctor, "examine", EXAMINED)
    monkeypatch.setattr(report, "write_report", lambda run, _: run.path / "report.html")
    monkeypatch.setattr(figures, "write_figures", lambda folder, *_: [folder])
    lesson = cli.train.lesson
    monkeypatch.setattr(cli.train, "lesson", lambda *a: lesson(*a) and (lambda **_: ()))
    folder, config, threads = tmp_path / "empty", tmp_path / "fuzz.toml", torch.get_num_threads()
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(folder)

    def run(arguments, toml, env):
        if toml is not None:
            config.write_bytes(toml.encode("utf-8", "surrogatepass"))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["samplerbench", *arguments])
            for variable, value in env.items():
                patch.setenv(variable, value)
            with ended_by_alarm(), pytest.raises(SystemExit) as stopped:
                cli.main()
        out, err = capsys.readouterr()
        code, written = stopped.value.code, list(folder.iterdir())
        assert code in ((0, 1, 2, 3, 4, 5) if arguments[0] != "run" else (0, 2, 3, 4, 5))
        if code > 1:
            assert out == ""
            assert "Error: " in err
        else:
            assert out
        assert "\x1b" not in out + err
        if code > 1 or arguments[0] == "run":
            assert written == []
        for path in written:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return code

    yield run
    torch.set_num_threads(threads)


class Hangs(Stop):
    """A minute is over; nothing that forgives a plugin forgives this."""


@contextmanager
def ended_by_alarm():
    """What hangs meanwhile is ended, so that the command line is told."""

    def ring(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def too_slow(arguments, toml, env):
    """Whether it would draw many steps for its estimate of time."""
    numbers = [
        part for text in (*arguments, *(toml or "").split(), *env.values()) for part in text.strip("[]',").split(",")
    ]
    return any(n.strip().isdecimal() and FEW_STEPS < int(n) <= 10_000 for n in numbers)


def fuzz(outcome, names, count, seed):
    """How often each exit code came, by command; the first failure tells its command line."""
    rng = random.Random(seed)
    codes = {name: Counter() for name in names}
    for name, counts in codes.items():
        while counts.total() < count:
            arguments, toml, env = mutated(rng, name)
            if too_slow(arguments, toml, env):
                continue
            try:
                counts[outcome(arguments, toml, env)] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                error.add_note(f"command line: {arguments!r}\nconfig: {toml!r}\nvariables: {env!r}")
                raise
    return codes


def test_every_command_has_a_line_to_mutate():
    assert RIGHT.keys() == OPTIONS.keys()


def test_mutated_command_lines_of_run_end_with_an_exit_code(outcome):
    codes = fuzz(outcome, ["run"], 160, seed=1)["run"]
    assert min(codes[0], codes[2]) > 15, codes


@pytest.mark.parametrize("count", thinned([5, 8], 5))
def test_mutated_lines_of_every_command_end_with_an_exit_code(outcome, count):
    codes = fuzz(outcome, RIGHT, count, seed=1)
    assert all(counts[2] for counts in codes.values()), codes


@pytest.mark.slow
def test_20000_mutated_command_lines_end_with_an_exit_code(outcome, figure):
    sb.run("mixture", ["ddim"], steps=[2], n=8, output=RUN)
    codes = fuzz(outcome, ["run"], 16_000, seed=2) | fuzz(outcome, [n for n in RIGHT if n != "run"], 400, seed=2)
    total = sum(counts.total() for counts in codes.values())
    name = "mutated command lines and config files: tracebacks, hangs, files written"
    figure(name, f"0, 0, 0 of {total:,}")
    assert min(codes["run"][0], codes["run"][2]) > 1000, codes

"""Mutated command lines and config files: always an exit code, never a traceback, never a file."""

import functools
import random
import sys

import pytest

from samplerbench.bench import cli
from samplerbench.samplers import registry

ODD = [
    "", " ", "0", "-1", "1", "2", "1.5", "1e12", "1e3", "010", "nan", "inf", "-inf", "true", "None", "[]", "{}",
    "9" * 30, str(2**63), str(2**63 - 1), "٣", "½", "é", "\x1b[31m", "\u202e", "a" * 300, "a/b", "../x",
    "/dev/null", "/", ".", "~", "-", "--", "=", ":", ",", ",,", "a=b", "'", '"', "\\", "%s", "$HOME", "=1+1", "\n",
    "\t", "ddim", "ddpm", "euler-a", "dpm-solver", "ddim:eta=0.5", "ddim:eta=", "ddim:eta=1,eta=1", "ddim:grid=x",
    "dpm-solver:order=2", "dpm-solver:order=9", "karras", "karras:rho=0", "logsnr", "leading", "gaussian",
    "gaussian:edm", "gaussian:flow", "mixture:x", "gaussian:", ":x", "fid", "clip_score", "cpu", "cuda", "cpu:1",
    "float64", "bfloat16", "float16", "5,10", "5,,10", "5,5", "1,2,3",
]  # fmt: skip
TEXT = [
    "-s", "--sampler", "--steps", "--nfe", "-n", "--samples", "--seed", "-b", "--batch-size", "--grid",
    "--guidance", "--guidance-rescale", "--prompts", "--negative", "--metric", "--device", "--dtype", "-o", "--output",
    "--config",
]  # fmt: skip
FLAGS = ["--keep-images", "--no-keep-images", "--json", "--fresh", "--dry-run", "--unknown", "-x", "-h"]
SETTINGS = [name.lstrip("-") for name in TEXT if name.startswith("--")] + ["keep-images", "json", "threads", "x"]
GOOD = [
    ("-s", "ddim"), ("-s", "euler-a:eta=0.5"), ("--steps", "3"), ("--steps", "2,4"), ("-n", "8"), ("--seed", "3"),
    ("-b", "16"), ("--grid", "karras"), ("--dtype", "float64"),
]  # fmt: skip
TOML = ["true", "false", "5", "-5", "0", "1.5", "nan", "inf", "[]", "[5, 10]", "[true]", "['ddim']", "['ddim', 5]",
        "{}", "{a = 1}", "1979-05-27", "'ddim'", "''", '"\\u0000"', '"\\u001b"', "[[1]]", "0x10", "1_000", "=", "'",
        "'karras'", "'cpu'", "'float32'", "999999999999999999999", "'5,10'"]  # fmt: skip
FEW_STEPS = 100
"""More steps than this are refused or only slow, and are tried elsewhere."""


def mutated(rng):
    """A command line that is right but for a few changes, and the text of its config file, if it has one."""
    arguments = ["run", "--model", "gaussian", "--dry-run"]
    for pair in rng.sample(GOOD, rng.randint(0, 3)):
        arguments += pair
    for _ in range(rng.randint(1, 3)):
        match rng.randint(0, 4):
            case 0 | 1:
                arguments += [rng.choice(TEXT), rng.choice(ODD)]
            case 2:
                arguments.append(rng.choice(FLAGS))
            case 3:
                arguments.insert(rng.randint(1, len(arguments)), rng.choice(ODD))
            case _:
                i = rng.randrange(4, len(arguments)) if len(arguments) > 4 else None
                if i is not None:
                    text = arguments[i]
                    at = rng.randint(0, len(text))
                    arguments[i] = text[:at] + rng.choice([*"0-=,:.x", "\x1b", "é"]) + text[at + rng.randint(0, 1) :]
    if rng.random() < 0.3:
        lines = [f"{rng.choice(SETTINGS)} = {rng.choice(TOML)}" for _ in range(rng.randint(0, 3))]
        text = "\n".join(lines)
        if rng.random() < 0.3:
            at = rng.randint(0, len(text))
            text = text[:at] + rng.choice(["\x00", "=", "[", '"', "\n", "é", "#"]) + text[at:]
        return [*arguments, "--config", "fuzz.toml"], text
    return arguments, None


@pytest.fixture
def outcome(monkeypatch, tmp_path, capsys):
    """Run a command line in an empty folder; returns its exit code, and fails on anything but an exit code."""
    monkeypatch.setattr(registry, "load_registry", functools.cache(registry.load_registry))
    folder, config = tmp_path / "empty", tmp_path / "fuzz.toml"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(arguments, toml):
        arguments = [str(config) if a == "fuzz.toml" else a for a in arguments]
        if toml is not None:
            config.write_bytes(toml.encode("utf-8", "surrogatepass"))
        monkeypatch.setattr(sys, "argv", ["samplerbench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        assert list(folder.iterdir()) == []
        assert stopped.value.code in (0, 2)
        if stopped.value.code:
            assert out == ""
            assert "Error: " in err
        else:
            assert out
        assert "\x1b" not in out + err
        return stopped.value.code

    return run


def too_slow(arguments, toml):
    """Whether it would draw many steps for its estimate of time."""
    numbers = [part for text in (*arguments, *(toml or "").split()) for part in text.strip("[]',").split(",")]
    return any(n.strip().isdecimal() and FEW_STEPS < int(n) <= 10_000 for n in numbers)


def fuzz(outcome, count, seed):
    """How often each exit code came; the first failure tells its command line."""
    rng = random.Random(seed)
    codes = {0: 0, 2: 0}
    while sum(codes.values()) < count:
        arguments, toml = mutated(rng)
        if too_slow(arguments, toml):
            continue
        try:
            codes[outcome(arguments, toml)] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            error.add_note(f"command line: {arguments!r}\nconfig: {toml!r}")
            raise
    return codes


def test_2000_mutated_command_lines_end_with_an_exit_code(outcome):
    codes = fuzz(outcome, 2000, seed=1)
    assert min(codes.values()) > 200, codes


@pytest.mark.slow
def test_20000_mutated_command_lines_end_with_an_exit_code(outcome, figure):
    codes = fuzz(outcome, 20_000, seed=2)
    name = "mutated command lines and config files: tracebacks, hangs, files written"
    figure(name, f"0, 0, 0 of {sum(codes.values()):,}")
    assert min(codes.values()) > 2000, codes

"""Run folders as accidents and strangers leave them: every command ends with an exit code and one line, soon."""

import contextlib
import functools
import hashlib
import io
import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import fuzz
import samplerbench as sb
from samplerbench.bench import cli
from samplerbench.bench.draw.chunk_file import arrays_to_bytes, bytes_to_arrays
from samplerbench.bench.draw.sealed_file import seal_json
from samplerbench.samplers import registry

TOY = str(Path(__file__).parents[1] / "toy.py")
LOADED = functools.cache(registry.load_registry)
READERS = [
    ("table",), ("table", "--json"), ("table", "--format", "csv"), ("table", "--format", "html"),
    ("table", "--pivot", "fid", "--sort", "-3"), ("table", "--nfe", "2,3"), ("table", "--seconds", "0.1"),
    ("table", "--compare", "ddim", "ddpm"), ("table", "--pareto"), ("table", "--merge", "{whole}"), ("report",),
    ("verify", "--chunks", "1"), ("grid",),
]  # fmt: skip
"""Every command that reads a run."""
SLOW_READERS = {"report", "verify"}
PLUGIN = ("table", "report", "verify")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with every kind of file."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    sb.run("toy", ["ddim", "ddpm", "late"], steps=[2, 3], n=70, plugins=[TOY], output=folder, repeats=2)
    assert said(("report", str(folder), "--plugin", TOY))[0] == 0
    return folder


def said(arguments):
    """Exit code and what is printed of a command line; any exception but an exit is a traceback."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(registry, "load_registry", LOADED)
        patch.setattr(sys, "argv", ["samplerbench", *arguments])
        code = cli.exit_code()
    return code, out.getvalue(), err.getvalue()


def resealed(text):
    """JSON with the seal of a run folder's files, whatever it is; text that is no object stays as it is."""
    return seal_json(text) if text.endswith("}") else text.encode()


def opened(path):
    """A sealed JSON object without its seal."""
    value = json.loads(path.read_text())
    value.pop("sha256", None)
    return value


def damaged_json(rng, path):
    """Sealed JSON with another value somewhere."""
    path.write_bytes(resealed(fuzz.mutated_json(rng, opened(path))))


def damaged_bytes(rng, path):
    """What a disk or a transfer makes of a file."""
    path.write_bytes(fuzz.mutated_bytes(rng, path.read_bytes()))


def damaged_table(rng, path):
    """table.csv with other fields, now and then with a seal that fits."""
    path.write_text(fuzz.mutated_csv(rng, path.read_text()), encoding="utf-8", errors="surrogatepass", newline="")
    if rng.random() < 0.8:
        seal = opened(path.with_name("table.seal"))
        seal["tables"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name("table.seal").write_bytes(seal_json(json.dumps(seal)))


def damaged_arrays(rng, path):
    """Arrays and texts of a chunk with others in their place, and a hash that fits."""
    arrays, about = bytes_to_arrays(path.read_bytes())
    name = rng.choice([*arrays, *about])
    if name in arrays:
        array = arrays[name]
        odd = [np.full(array.shape, value, "float32") for value in (np.nan, np.inf, 1e30, 0.0)]
        kinds = [array.astype("float64"), array.astype("int64"), array.astype(bool)]
        arrays[name] = rng.choice([array[:0], array[1:], array.reshape(-1), array[None], array.T, *odd, *kinds])
        if rng.random() < 0.1:
            del arrays[name]
    elif name in ("timing", "noise"):
        about[name] = fuzz.mutated_json(rng, json.loads(about[name]))
    else:
        about[name] = str(rng.choice(fuzz.ODD_CELLS))
    path.write_bytes(arrays_to_bytes(arrays, about))


DAMAGES = [
    ("run.json", damaged_json, 10), ("run.json", damaged_bytes, 1), ("table.csv", damaged_table, 8),
    ("table.csv", damaged_bytes, 1), ("table.seal", damaged_json, 2), ("table.seal", damaged_bytes, 1),
    ("chunks/*/*.safetensors", damaged_bytes, 1), ("chunks/*/*.safetensors", damaged_arrays, 5),
    ("chunks/*/*.timing", damaged_arrays, 2), ("chunks/ode-reference.safetensors", damaged_arrays, 1),
    ("chunks/paths/*.safetensors", damaged_arrays, 1), ("chunks/answers.json", damaged_json, 2),
    ("chunks/fronts.json", damaged_json, 1), ("chunks/*.failed.json", damaged_json, 1),
]  # fmt: skip
"""Which files are damaged, how, and how often beside the others."""


def fuzzed(whole, tmp_path, count, seed, readers=READERS):
    """How often each exit code came by the kind of file; the first failure tells its seed, file and command."""
    bounds, codes = fuzz.Bounds(), Counter()
    folder = tmp_path / "run"
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        pattern, damage, _ = rng.choices(DAMAGES, [weight for *_, weight in DAMAGES])[0]
        path = rng.choice(sorted(folder.glob(pattern)))
        damage(rng, path)
        name, *options = rng.choice(readers)
        arguments = [name, str(folder), *(option.format(whole=whole) for option in options)]
        arguments += ["--plugin", TOY] if name in PLUGIN else []
        try:
            with bounds.held():
                code, out, err = said(arguments)
            assert code in (0, 1, 2, 4, 5), (code, err)
            if code > 1 and name != "verify":  # which says of each chunk what is wrong with it
                assert out == ""
                assert sum(line.startswith("Error: ") for line in err.splitlines()) == 1, err
                assert err.splitlines()[-1].startswith("Error: "), err
        except BaseException as error:
            error.add_note(f"damage {seed} {number} of {path.relative_to(folder)}, then {arguments}")
            raise
        codes[path.name if path.parent == folder else "chunks", code] += 1
    return codes, bounds


def test_damaged_run_folders_end_with_an_exit_code(whole, tmp_path):
    quick = [reader for reader in READERS if reader[0] not in SLOW_READERS]
    codes, _ = fuzzed(whole, tmp_path, 50, seed=1, readers=quick)
    assert codes["run.json", 5] > 5
    assert codes["table.csv", 5] > 2
    assert sum(count for (_, code), count in codes.items() if code == 0) > 5


@pytest.mark.slow
def test_5000_damaged_run_folders_end_with_an_exit_code(whole, tmp_path, figure):
    codes, bounds = fuzzed(whole, tmp_path, 5000, seed=2)
    name = "damaged run folders: tracebacks, over 2 s, over 1 GB"
    figure(name, f"0, 0, 0 of {codes.total():,} (at most {bounds.most_seconds:.2f} s)")
    assert min(codes["run.json", 5], codes["table.csv", 5], codes["chunks", 5]) > 100, codes

"""Looks at a run that grows, families of verdicts, and what a run could have shown."""

import json
import math
import shutil
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

import samplerbench as sb
from samplerbench.bench import cli
from samplerbench.bench.draw import chunk
from samplerbench.bench.draw import clock as timing
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.judge.budget import budgets
from samplerbench.bench.judge.compare import NOT_SHOWN, SAME, compare, holm
from samplerbench.bench.judge.looks import EXTENSIONS, FIRST, LOOKS, Look, look_at, looks_taken
from samplerbench.bench.judge.pareto import pareto
from samplerbench.bench.judge.power import errors_needed, images_for, power, whole_blocks
from samplerbench.bench.judge.ranking import answers_from
from samplerbench.bench.judge.run_metrics import ready_metrics
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.judge.verdict_files import FRONTS, fronts_of
from samplerbench.bench.show.verdicts import power_to_rows
from samplerbench.samplers.registry import load_registry
from samplerbench.samplers.student import LEVEL, student_p, student_t

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])
SPECS = ["ddim", "ddpm", "dpm-solver++-sde"]
SETTINGS = {"model": "toy", "samplers": SPECS, "steps": [2, 3], "plugins": [TOY], "seed": 4, "metrics": ["fid"]}


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A run of 100 images that was extended to 260, and the table that it had before."""
    folder = tmp_path_factory.mktemp("grown") / "run"
    before = sb.run(**SETTINGS, n=100, output=folder).table
    shutil.copytree(folder, folder.parent / "small")
    sb.run(samplers="ddim", n=260, output=folder, plugins=[TOY], add=True)
    return folder, folder.parent / "small", before


def test_all_looks_together_are_wrong_in_5_percent():
    levels = [Look(number).level for number in range(1, 60)]
    assert levels[:3] == [FIRST, EXTENSIONS / 2, EXTENSIONS / 4]
    assert sum(levels) == pytest.approx(LEVEL, rel=1e-12)
    assert Look(1).weight == pytest.approx(1.25)
    assert holm([0.01, 0.3], Look(2).weight) == pytest.approx([0.2, 1.0])


def test_more_images_are_a_look_and_the_same_again_are_none(tmp_path):
    folder = tmp_path / "run"
    (folder / "chunks").mkdir(parents=True)
    numbers = [look_at(StoredRun(folder), n).number for n in (64, 64, 256, 64, 256, 512)]
    assert numbers == [1, 1, 2, 1, 2, 3]
    assert looks_taken(StoredRun(folder)) == [64, 256, 512]
    (folder / LOOKS).write_bytes((folder / LOOKS).read_bytes().replace(b"512", b"999"))
    assert looks_taken(StoredRun(folder)) == []  # edited: its seal is another's


def test_a_finished_run_is_looked_at_and_an_extension_again(grown):
    folder, small, _ = grown
    assert looks_taken(StoredRun(small)) == [100]
    assert looks_taken(StoredRun(folder)) == [100, 260]
    for found in (
        compare(StoredRun(folder), "ddim", "ddpm", REGISTRY), budgets(StoredRun(folder), REGISTRY, "nfe", [2], None),
        pareto(StoredRun(folder), REGISTRY, None, "nfe"),
    ):  # fmt: skip
        assert set(found["look"]) == {2}
    assert set(compare(StoredRun(small), "ddim", "ddpm", REGISTRY)["look"]) == {1}
    assert looks_taken(StoredRun(folder)) == [100, 260]


def test_an_extended_run_is_the_run_that_had_as_many_images_from_the_start(grown, tmp_path):
    folder, _, before = grown
    whole = sb.run(**SETTINGS, n=260, output=tmp_path / "whole")
    table = pd.read_csv(folder / "table.csv").drop(columns=[*timing.COLUMNS])
    expected = pd.read_csv(tmp_path / "whole" / "table.csv").drop(columns=[*timing.COLUMNS])
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert set(before["samples"]) == {100}
    record = read_run(folder)
    assert (record.plan, record.config.samples) == (read_run(whole.folder).plan, 260)
    assert [one.samples for one in record.extended] == [100]
    assert (
        "The run had 100 images a row before; verdicts are corrected for every look at it."
        in (folder / "table.md").read_text()
    )


def test_only_what_is_new_is_drawn(grown, tmp_path, monkeypatch):
    """The block that was cut, the blocks behind it, and where distances are missing those of the first 65 images."""
    _, small, _ = grown
    folder, drawn, inner = tmp_path / "run", [], chunk.draw
    shutil.copytree(small, folder)

    def counted(request, first, n, **settings):
        drawn.append((type(request.sampler).__name__, len(request.levels) - 1, first, n))
        return inner(request, first, n, **settings)

    monkeypatch.setattr(chunk, "draw", counted)
    sb.run(samplers="ddim", n=260, output=folder, plugins=[TOY], add=True)
    blocks = {(name, first, n) for name, steps, first, n in drawn if steps == 2 and n > 1}
    behind = {(64, 64), (128, 64), (192, 64), (256, 4)}
    assert blocks == {("DDIM", 0, 64), *(("DDIM", *b) for b in behind), *(("DDPM", *b) for b in behind),
                      *(("DPMSolverPPSDE", *b) for b in behind)}  # fmt: skip
    solutions = [(first, n) for _, steps, first, n in drawn if steps > 50]
    assert solutions == [(25, 40)]  # 25 were there


def test_fewer_images_are_refused_and_a_larger_n_names_the_way(grown):
    folder, small, _ = grown
    with pytest.raises(sb.InputError, match="add: samples 64; the run has 260 images a cell: give more"):
        sb.run(samplers="ddim", n=64, output=folder, plugins=[TOY], add=True)
    with pytest.raises(sb.InputError, match=r"samples: 100 -> 260\); give --add to add to it"):
        sb.run(**SETTINGS, n=260, output=small)


def test_p_of_a_comparison_is_corrected_for_all_pairs_and_the_look(grown):
    folder, *_ = grown
    pairs = [("ddim", "ddpm"), ("ddim", SPECS[2]), ("ddpm", SPECS[2])]
    found = pd.concat([compare(StoredRun(folder), *pair, REGISTRY) for pair in pairs])
    of_fid = found[found["metric"] == "fid_unbiased"]
    assert "fid" not in set(found["metric"])
    assert set(of_fid["family"]) == {5}  # three pairs at two counts, of which one has the same samples
    of_fid = of_fid[of_fid["verdict"] != SAME]
    half = (of_fid["high"] - of_fid["low"]) / 2
    plain = [student_p(t, 259) for t in of_fid["difference"] / (half / student_t(259))]
    assert list(of_fid["p"]) == pytest.approx(
        holm(plain, LEVEL / 0.005), rel=1e-3, abs=1e-12
    )  # but for the degrees of freedom


@pytest.mark.parametrize("content", [None, "{", '{"looks": ["x"]}'])
def test_a_run_without_its_looks_counts_those_that_it_was_extended_from(grown, tmp_path, content):
    folder = tmp_path / "run"
    shutil.copytree(grown[0], folder)
    (folder / LOOKS).unlink()
    if content:
        (folder / LOOKS).write_text(content)
    assert looks_taken(StoredRun(folder)) == [100]
    assert look_at(StoredRun(folder), 260).number == 2


@pytest.mark.parametrize("status", ["partial", "pending"])
def test_an_unfinished_run_is_not_looked_at(grown, tmp_path, status):
    _, small, _ = grown
    folder = tmp_path / "run"
    shutil.copytree(small, folder)
    for file in (LOOKS, FRONTS):
        (folder / file).unlink(missing_ok=True)
    run = StoredRun(folder)
    run.table.loc[0, "status"] = status
    assert answers_from(run, {}, {}) == []
    assert fronts_of(run, ["fid"], lambda: ready_metrics(run, REGISTRY)) == {}
    assert looks_taken(run) == []


# Power


def test_the_difference_that_is_found_is_that_of_the_test(grown):
    """By simulation: of normal differences of that size, 80 % are shown."""
    needed = errors_needed(Look(1), 6)
    z = np.random.default_rng(0).standard_normal(20_000) + needed
    p = np.array([2 * NormalDist().cdf(-abs(one)) for one in z])
    assert np.mean(p * 6 * Look(1).weight < LEVEL) == pytest.approx(0.8, abs=0.01)
    assert errors_needed(Look(2), 6) > needed > errors_needed(Look(1), 1)
    assert errors_needed(Look(1), 6, -0.2) == errors_needed(Look(1), 6, 0.2) > needed + 0.5  # the side of the tail
    assert (whole_blocks(1), whole_blocks(64), whole_blocks(65)) == (64, 64, 128)
    _, small, _ = grown
    found = power(StoredRun(small), REGISTRY, None)
    assert set(found["verdict"]) <= {NOT_SHOWN}
    compared = pareto(StoredRun(small), REGISTRY, None, "nfe")
    assert len(compared) == 6
    assert (found["half_needs"] >= 4 * found["samples"]).all()


def test_half_of_an_ode_error_needs_images_of_the_run_not_of_those_compared():
    assert [images_for(name, 100) for name in ("fid", "ode_error", "ode_distance")] == [128, 448, 448]
    assert images_for("ode_error", 256) == 1024
    assert math.isnan(images_for("ode_error", 257))
    row = {
        "metric": "ode_error", "a": "ddim", "b": "heun", "difference": 0.1, "low": -0.1, "high": 0.3, "found": 0.3,
    }  # fmt: skip
    found = pd.DataFrame([row | {"half_needs": images_for("ode_error", needed)} for needed in (100, 257)])
    assert [one["half of it"] for one in power_to_rows(found, {})] == ["-n 448", "-"]


def test_power_is_printed(grown, monkeypatch, capsys):
    _, small, _ = grown
    monkeypatch.setattr("sys.argv", ["samplerbench", "table", str(small), "--plugin", TOY, "--power"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    found = power(StoredRun(small), REGISTRY, None)
    if len(found):
        assert "found in 80 %" in out
        assert f"-n {found['half_needs'].iloc[0]}" in out
        assert "for look 1 at the run" in out.splitlines()[-1]
        assert "Found in 80 %: a true difference this large would have been shown" in out
        assert "p is corrected" not in out
    else:
        assert out.startswith("every pair of samplers")
    monkeypatch.setattr("sys.argv", ["samplerbench", "table", str(small), "--plugin", TOY, "--power", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    assert len(json.loads(capsys.readouterr().out)["table"]) == len(found)

"""run --metric none: samples, times, pictures and the ODE error, without any metric or its weights."""

import json
from pathlib import Path

import pandas as pd

import samplerbench as sb_
from samplerbench.bench.judge.stored import StoredRun

TOY = str(Path(__file__).parents[1] / "toy.py")
RUN = ("run", "--model", "toy", "--plugin", TOY, "-s", "ddim", "-s", "heun", "--steps", "2,3", "-n", "16", "-o", "out")


def test_a_run_without_metrics_has_times_pictures_and_the_ode_error(sb, tmp_path):
    done = sb(*RUN, "--metric", "none")
    assert done.code == 0, done.err
    table = StoredRun(tmp_path / "out").table
    assert table["fid"].isna().all()
    assert table["clip_score"].isna().all()
    assert table["ode_error"].notna().all()
    assert table["seconds_per_image"].notna().all()
    assert "ODE error" in done.out
    assert "FID" not in done.out
    assert {"grid.png", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert StoredRun(tmp_path / "out").record.config.metric == ()


def test_it_resumes_and_is_asked_about_as_any_run(sb):
    sb(*RUN, "--metric", "none")
    again = sb(*RUN, "--metric", "none")
    assert again.code == 0
    assert "0 network evaluations to make" in again.err
    found = sb("table", "out", "--nfe", "3", "--metric", "ode_error", "--plugin", TOY, "--json")
    assert [row["metric"] for row in json.loads(found.out)["table"]] == ["ode_error"] * 2
    assert sb("table", "out", "--nfe", "3", "--plugin", TOY, "--json").out == found.out
    for question in ("--pareto", "--power"):
        done = sb("table", "out", question, "--plugin", TOY)
        assert done.code == 0
        assert question == "--power" or "ODE error" in done.out
    assert sb("report", "out", "--plugin", TOY).code == 0


def test_without_an_ode_error_too_there_is_nothing_to_rank(sb):
    assert sb(*RUN[:5], "-s", "ddpm", "--steps", "2", "-n", "16", "-o", "noisy", "--metric", "none").code == 0
    sb("table", "noisy", "--pareto", "--plugin", TOY).refused(2, "no row has an ODE error; there is nothing to rank")


def test_it_is_one_in_python_in_a_file_and_as_an_empty_list(sb, tmp_path):
    settings = {"steps": [2], "n": 8, "plugins": [TOY]}
    tables = [
        sb_.run("toy", ["ddim"], metrics=metrics, output=tmp_path / name, **settings).table
        for name, metrics in (("a", "none"), ("b", ["none"]), ("c", []))
    ]
    for other in tables[1:]:
        pd.testing.assert_series_equal(other["ode_error"], tables[0]["ode_error"])
    keys = {StoredRun(tmp_path / name).record.plan for name in "abc"}
    assert len(keys) == 1
    (tmp_path / "c.toml").write_text('metric = ["none"]\n')
    assert sb(*RUN, "--config", "c.toml").code == 0
    assert StoredRun(tmp_path / "out").record.config.metric == ()


LACKING = '''
import samplerbench as sb
import torch

def missing(argument):
    """An extractor without its weights."""
    raise sb.ModelError("weights of it are not on this machine")

@sb.hookimpl
def samplerbench_extractors():
    """What this file adds."""
    return {"missing": missing}

def make():
    """A model with prompts and no extractor of its own."""
    return sb.wrap_network(
        lambda x, t, condition: 0 * x, schedule=sb.vp_linear(), shape=(1, 8, 8), clip=(-1, 1), name="own",
        encode=lambda texts: torch.zeros(len(texts), 1),
    )
'''


def test_weights_of_a_metric_are_not_asked_for(sb, tmp_path, monkeypatch):
    monkeypatch.setattr("samplerbench.bench.plan.equipment.DEFAULTS", {"clip": "missing"})
    own = tmp_path / "own.py"
    own.write_text(LACKING)
    (tmp_path / "prompts.txt").write_text("left\n")
    run = ("run", "--model", f"{own}:make", "--plugin", own, "--prompts", "prompts.txt", "--steps", "2", "-n", "4")
    missing = "weights of it are not on this machine", "by --metric (none for only times and pictures)"
    sb(*run, "-s", "ddim", "--metric", "clip_score").refused(4, *missing)
    done = sb(*run, "-s", "ddim", "--metric", "none")
    assert done.code == 0, done.err
    assert "ODE error" in done.out
    # The default metrics are no wish: the run draws, and one line says what is missing and what to do.
    done = sb(*run, "-s", "ddim", "-o", "out")
    assert done.code == 0, done.err
    (note,) = (line for line in done.err.splitlines() if line.startswith("Note: clip_score left out: "))
    assert all(words in note for words in missing)
    assert done.err.count("Note: fid left out: it compares with real images; --reference names") == 1
    assert "ODE error" in done.out
    assert "CLIP" not in done.out
    assert sb(*run, "-s", "ddim", "-o", "out").code == 0  # resumes
    assert sb("table", "out", "--model", f"{own}:make", "--plugin", own).code == 0


def test_none_beside_a_metric_and_with_a_reference_is_refused(sb, tmp_path):
    sb(*RUN, "--metric", "none", "--metric", "fid").refused(2, "metric none, fid", "give it alone")
    (tmp_path / "photos").mkdir()
    sb(*RUN, "--metric", "none", "--reference", "photos").refused(2, "no metric compares with it", "--metric fid")

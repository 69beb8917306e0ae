"""Several guidances in one run, and an interval of levels with guidance: rows, keys, and what they are called."""

import json
from pathlib import Path

import pandas as pd
import pytest

import samplerbench as sb
from samplerbench.bench.draw.chunk import ode_solution
from samplerbench.bench.judge.baseline import against_baseline
from samplerbench.bench.judge.budget import budgets
from samplerbench.bench.judge.compare import compare
from samplerbench.bench.judge.merge import IDENTITY, merge
from samplerbench.bench.judge.pareto import pareto
from samplerbench.bench.judge.power import power
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.show.picture import redraw
from samplerbench.bench.show.provenance import call_of, provenance_of
from samplerbench.bench.show.verdicts import budgets_to_rows, pareto_to_rows
from samplerbench.bench.show.view import view_of
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
STRENGTHS = (1.0, 2.0, 4.0)
INTERVAL = (0.5, 20.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """ddim and heun at two step counts and three guidances, guided at some levels."""
    output = tmp_path_factory.mktemp("axis") / "run"
    result = drawn(output)
    return StoredRun(output), result.table


def drawn(output, samplers=("ddim", "heun"), **settings):
    given = {"steps": [3, 5], "n": 8, "guidance": [1, 2, 4], "guidance_interval": INTERVAL, **settings}
    return sb.run("toy", list(samplers), plugins=[TOY], output=output, **given)


def planned(**settings):
    settings = {"sampler": ("ddim", "heun"), "steps": (3, 5), "samples": 8, **settings}
    return plan_for(Config(model="toy", **settings), load_registry([TOY]))


# ---- Rows and keys ----


def test_each_sampler_has_a_row_at_each_guidance_and_count(run):
    table = run[1]
    places = list(zip(table["sampler"], table["guidance"], table["steps"], strict=True))
    assert places == [(name, w, steps) for name in ("ddim", "heun") for w in STRENGTHS for steps in (3, 5)]
    assert set(table["status"]) == {"ok"}
    assert not table[[name for name in IDENTITY if name in table]].duplicated().any()


def test_the_interval_stands_behind_the_fixed_columns_where_there_is_guidance(run):
    table = run[1]
    columns = list(table.columns)
    assert columns[columns.index("status") + 1 :][:2] == ["guidance_low", "guidance_high"]
    guided = table["guidance"] != 1
    assert set(table.loc[guided, "guidance_low"]) == {0.5}
    assert set(table.loc[guided, "guidance_high"]) == {20.0}
    assert table.loc[~guided, ["guidance_low", "guidance_high"]].isna().all(axis=None)


def test_spared_passes_are_not_counted(run):
    table = run[1]
    nfe, made = table["nfe"], table["network_evaluations"]
    assert (made[table["guidance"] == 1] == nfe[table["guidance"] == 1]).all()
    guided = table["guidance"] != 1
    assert (nfe[guided] < made[guided]).all()
    assert (made[guided] < 2 * nfe[guided]).all()


def test_a_cell_has_the_key_that_it_has_in_a_run_of_its_guidance_alone():
    several = planned(guidance=STRENGTHS, guidance_interval=INTERVAL)
    for w in STRENGTHS:
        alone = planned(guidance=w, **({"guidance_interval": INTERVAL} if w != 1 else {}))
        assert [cell.key for cell in several.cells if cell.request.guidance == w] == [c.key for c in alone.cells]
    assert planned(guidance=(2.0,)).key == planned(guidance=2).key != planned(guidance=(2, 3)).key


def test_what_has_no_effect_at_guidance_1_is_left_out_there_alone():
    plan = planned(guidance=(1, 3), negative="left", guidance_rescale=0.5)
    by_guidance = {cell.request.guidance: cell.request for cell in plan.cells}
    assert (by_guidance[1.0].negative, by_guidance[1.0].guidance_rescale) == (None, 0.0)
    assert (by_guidance[3.0].negative, by_guidance[3.0].guidance_rescale) == ("left", 0.5)
    with pytest.raises(sb.InputError, match="has no effect at guidance 1"):
        planned(guidance=1, negative="left")


def test_each_guidance_has_its_own_ode_solution(run):
    table, plan = run[1], planned(guidance=STRENGTHS, guidance_interval=INTERVAL)
    solution = ode_solution(plan.references, 2)
    assert solution.shape[:2] == (2, 3)
    assert plan.reference_evaluations == 2 * sum(101 * passes for passes in (1, 2, 2))
    for i, w in enumerate(STRENGTHS):
        x = sb.sample(plan.model, "heun", 5, n=2, guidance=w, guidance_interval=INTERVAL if w != 1 else None).x
        error = float((x.double() - solution[:, i].double()).square().mean(dim=(1, 2, 3)).mean().sqrt())
        row = table[(table["sampler"] == "heun") & (table["steps"] == 5) & (table["guidance"] == w)]
        assert row["ode_error"].item() == pytest.approx(error, rel=1e-5)


def test_the_run_resumes_and_takes_another_sampler(tmp_path):
    first = drawn(tmp_path / "run", ("ddim",)).table
    more = drawn(tmp_path / "run", ("heun",), add=True).table
    assert len(more) == 2 * len(first) == 12
    pd.testing.assert_series_equal(more["fid"][:6], first["fid"], check_names=False)
    record = StoredRun(tmp_path / "run").record
    assert [cell.guidance for cell in record.cells] == [w for _ in range(2) for w in STRENGTHS for _ in range(2)]
    alone = json.loads((drawn(tmp_path / "one", guidance=2.0).folder / "run.json").read_text())
    assert "guidance" not in alone["cells"][0]
    assert alone["config"]["guidance"] == 2.0


# ---- What reads a run ----


def test_runs_with_and_without_an_interval_merge_into_rows_of_their_own(run, tmp_path):
    drawn(tmp_path / "all", ("ddim",), guidance=[1, 2], guidance_interval=None)
    merged = merge([run[0], StoredRun(tmp_path / "all")]).table
    assert len(merged) == 12 + 2  # guidance 1 is one cell in both
    assert merged["guidance_low"].isna().sum() == 4 + 2


def test_verdicts_tell_guidances_apart(run):
    registry = load_registry([TOY])
    by_budget = budgets(run[0], registry, "nfe", [5.0], "fid")
    assert {"ddim", "heun"} == set(by_budget["sampler"])
    assert sorted(by_budget["guidance"]) == sorted([*STRENGTHS, *STRENGTHS])
    front = pareto(run[0], registry, "fid", "nfe")
    for rows in (budgets_to_rows(by_budget, run[0].labels), pareto_to_rows(front, run[0].labels)):
        assert {row["guidance"] for row in rows} == {"1", "2", "4"}
        assert list(rows[0]).index("guidance") == list(rows[0]).index("sampler") + 1
    alone = pareto_to_rows(front[front["guidance"] == 2], run[0].labels)
    assert "guidance" not in alone[0]
    assert sorted(front["guidance"]) == sorted(run[1]["guidance"])
    names = power(run[0], registry, "fid")
    assert all(a.split(", ")[1] == b.split(", ")[1] for a, b in zip(names["a"], names["b"], strict=True))
    compared = compare(run[0], "ddim", "heun", registry)
    assert compared["a"].str.contains("guidance 4").any()


def test_every_rendering_names_the_guidance(run):
    stored = run[0]
    text = (stored.path / "table.md").read_text()
    heading = text.splitlines()[0]
    assert [name in heading for name in ("guidance", "guidance_low", "guidance_high")] == [True] * 3
    assert heading.count("guidance |") == 1
    view = view_of(stored)
    assert [row["name"] for row in view.series] == [
        f"{name}, guidance {w:g}" for name in ("ddim", "heun") for w in STRENGTHS
    ]
    assert view.summary.startswith("2 samplers, 12 cells, 8 images each")
    assert "guidance 1, 2, 4" in view.summary
    assert dict(provenance_of(stored))["Guidance"] == "1, 2, 4, at sigma / alpha above 0.5 up to 20"
    call = call_of(stored.record)
    assert "guidance=[1.0, 2.0, 4.0]" in call
    assert "guidance_interval=[0.5, 20.0]" in call
    assert redraw(stored).height > 6 * 16


def test_a_single_interval_is_said_once_above_the_table(tmp_path):
    text = (drawn(tmp_path / "run", ("ddim",), guidance=2.0).folder / "table.md").read_text()
    assert "guidance_low" not in text
    assert "guidance 2 at sigma/alpha 0.5 to 20" in text


# ---- The command line ----


@pytest.fixture
def command(sb):
    """The program, as `sb` runs it; that name is the package here."""
    return sb


RUN = ("run", "--model", "toy", "--plugin", TOY, "-s", "ddim", "--steps", "2", "-n", 4)


def test_the_command_takes_several_guidances_and_an_interval(command, tmp_path):
    asked = (*RUN, "--guidance", "1,2.5", "--guidance-interval", "0.5,20", "-o", tmp_path / "run")
    plan = json.loads(command(*asked, "--dry-run", "--json").out)
    assert [cell["guidance"] for cell in plan["cells"]] == [1.0, 2.5]
    assert command(*asked).code == 0
    table = StoredRun(tmp_path / "run").table
    assert list(table["guidance"]) == [1.0, 2.5]
    assert table["guidance_high"].iloc[1] == 20.0
    pivot = command("table", tmp_path / "run", "--pivot", "fid").out
    assert "guidance" in pivot


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--guidance", "1,x"), "guidance '1,x': expected a number above 0"),
        (("--guidance", "2,2"), "guidance 2.0,2.0: a number is given twice"),
        (("--guidance", "1,0"), "guidance 0: expected a number above 0"),
        (("--guidance", "2", "--guidance-interval", "5"), "guidance_interval"),
        (("--guidance", "2", "--guidance-interval", "5,1"), "0 <= low < high"),
        (("--guidance-interval", "0.2,5"), "has no effect at guidance 1"),
    ],
)
def test_what_cannot_be_a_guidance_is_refused(command, tmp_path, options, message):
    command(*RUN, *options, "-o", tmp_path / "run").refused(2, message)


def test_a_picture_has_the_interval_as_a_setting_and_as_an_axis(command, tmp_path):
    picture = ("grid", "--model", "toy", "--plugin", TOY, "-s", "ddim", "--steps", "3", "--prompt", "left")
    made = command(
        *picture, "-x", "guidance_interval=0,1;1,99", "--guidance", "3", "-o", tmp_path / "a.png"
    )  # fmt: skip
    assert made.code == 0, made.err
    command(*picture, "-x", "seed=1,2", "--guidance", "1,2", "-o", tmp_path / "b.png").refused(2, "several are an axis")


@pytest.mark.parametrize(
    "setting", [("--guidance-interval", "0.3,5"), ("--guidance-rescale", "0.5"), ("--negative", "right")]
)
def test_a_picture_of_several_guidances_leaves_out_at_1_what_has_no_effect_there(command, tmp_path, setting):
    picture = ("grid", "--model", "toy", "--plugin", TOY, "-s", "ddim", "--steps", "3", "--prompt", "left", *setting)
    made = command(*picture, "-x", "guidance=1,3", "-o", tmp_path / "a.png")
    assert made.code == 0, made.err
    command(*picture, "-x", "guidance=1", "-o", tmp_path / "b.png").refused(2, "has no effect at guidance 1")


def test_a_config_file_gives_lists(command, tmp_path):
    (tmp_path / "c.toml").write_text("guidance = [1, 2]\nguidance-interval = [0.5, 20]\n")
    out = command(*RUN, "--config", tmp_path / "c.toml", "--dry-run", "--json", "-o", tmp_path / "run").out
    assert [cell["guidance"] for cell in json.loads(out)["cells"]] == [1.0, 2.0]


def test_guidance_1_of_several_keeps_the_negative_prompt_where_the_sampler_needs_it():
    """CFG++ renoises with that part at any guidance; for others it has no effect there, and is not in the key."""
    settings = {"prompts": ("left", "right"), "negative": "right", "steps": (3,)}
    for sampler, needs in (("euler-cfg++", True), ("ddim", False)):
        (alone,) = planned(
            sampler=(sampler,), guidance=1.0, **(settings if needs else settings | {"negative": None})
        ).cells
        one, two = planned(sampler=(sampler,), guidance=(1.0, 2.0), **settings).cells
        assert (one.key, one.request.negative) == (alone.key, "right" if needs else None)
        assert two.request.negative == "right"


def test_guidances_that_rows_would_name_alike_are_refused():
    with pytest.raises(sb.InputError, match="given twice, in its first six digits"):
        planned(guidance=(2.5, 2.5000001))


def test_rows_that_meet_two_budgets_in_as_many_steps_are_told_apart(tmp_path):
    """Of `plan=fast`, 5, 6 and 7 calls are 3 steps with other orders; a baseline or a merge takes each for itself."""
    for name, nfe in (("all", [5, 6, 7]), ("last", [7])):
        sb.run("toy", "dpm-solver:plan=fast", nfe=nfe, n=20, plugins=[TOY], output=tmp_path / name)
    whole, last = StoredRun(tmp_path / "all"), StoredRun(tmp_path / "last")
    assert set(whole.table["steps"]) == {3}
    registry = load_registry([TOY])
    same = against_baseline(whole, whole, registry)
    assert set(same.table.groupby("metric").size()) == {3}
    against = against_baseline(whole, last, registry)
    assert set(against.table["verdict"]) == {"same samples"}
    assert len(against.left_out) == 2
    assert merge([whole, last]).table["nfe"].tolist() == [5, 6, 7]


def test_a_row_at_guidance_1_is_the_same_with_and_without_an_interval(tmp_path):
    drawn(tmp_path / "with", ["ddim"], n=20, steps=[3])
    drawn(tmp_path / "without", ["ddim"], n=20, steps=[3], guidance=1, guidance_interval=None)
    one, other = StoredRun(tmp_path / "with"), StoredRun(tmp_path / "without")
    found = against_baseline(one, other, load_registry([TOY]))
    assert set(found.table["verdict"]) == {"same samples"}
    assert len(found.left_out) == 2

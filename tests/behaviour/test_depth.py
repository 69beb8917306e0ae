"""depth, the calls one after the other: where it is a column, a front against it, and chunks that do not say it."""

import dataclasses
import json
from pathlib import Path

import pytest

import samplerbench as sb
from samplerbench.bench.draw.chunk_file import timing_from_json
from samplerbench.bench.draw.clock import Timing
from samplerbench.bench.judge.pareto import pareto
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.judge.table import COLUMNS, GUIDED_COLUMNS, check_metric_names
from samplerbench.bench.verify import chunk_differences
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run with a sampler whose depth is less than its calls."""
    folder = tmp_path_factory.mktemp("depth") / "run"
    return sb.run("toy", ["ddim", "paradigms", "epd"], steps=[5, 9], n=64, plugins=[TOY], output=folder)


def test_depth_is_a_column_behind_the_fixed_ones_where_it_says_more_than_nfe(drawn, tmp_path):
    table = drawn.table
    assert list(table.columns[: len(COLUMNS) + 3]) == [*COLUMNS, *GUIDED_COLUMNS, "depth"]
    assert table[["sampler", "nfe", "depth"]].values.tolist() == [
        ["ddim", 5, 5], ["ddim", 9, 9], ["paradigms", 11, 5], ["paradigms", 27, 5], ["epd", 13, 9], ["epd", 25, 17],
    ]  # fmt: skip
    assert "| NFE | depth |" in (drawn.folder / "table.md").read_text()
    plain = sb.run("toy", ["ddim"], steps=[5], n=64, plugins=[TOY], output=tmp_path / "plain")
    assert "depth" not in plain.table.columns
    assert "depth" not in (plain.folder / "table.md").read_text().splitlines()[0]


def test_a_stored_table_has_it_again(drawn):
    assert StoredRun(drawn.folder).table["depth"].tolist() == [5, 9, 5, 5, 9, 17]


def test_a_front_against_depth(drawn, sb):
    run, registry = StoredRun(drawn.folder), load_registry([TOY])
    found = pareto(run, registry, against="depth").set_index(["sampler", "steps"])
    assert found["cost"].to_dict() == {
        ("ddim", 5): 5, ("ddim", 9): 9, ("paradigms", 5): 5, ("paradigms", 9): 5, ("epd", 5): 9, ("epd", 9): 17,
    }  # fmt: skip
    rows = json.loads(sb("table", drawn.folder, "--plugin", TOY, "--pareto", "--against", "depth", "--json").out)[
        "table"
    ]
    assert {row["against"] for row in rows} == {"depth"}


def test_against_depth_is_against_nfe_where_all_is_asked_in_turn(tmp_path):
    done = sb.run("toy", ["ddim", "heun"], steps=[3, 5], n=64, plugins=[TOY], output=tmp_path / "run")
    run, registry = StoredRun(done.folder), load_registry([TOY])
    by_depth, by_nfe = (pareto(run, registry, against=cost) for cost in ("depth", "nfe"))
    assert by_depth["cost"].tolist() == by_nfe["cost"].tolist() == [3, 5, 5, 9]


def test_chunks_of_earlier_versions_say_no_depth(drawn):
    timing = timing_from_json('{"nfe": 5, "network_evaluations": 5, "seconds": 1.0, "model_seconds": 0.5}')
    assert timing == Timing(5, 5, 1.0, 0.5)
    assert timing.depth is None
    run = StoredRun(drawn.folder)
    chunk = next(iter(run.chunks(run.record.cells[2]).values()))
    assert chunk.timing.depth == 5
    older, other = (
        dataclasses.replace(chunk, timing=dataclasses.replace(chunk.timing, depth=depth)) for depth in (None, 6)
    )
    assert list(chunk_differences(chunk, older)) == []
    assert list(chunk_differences(chunk, other)) == ["depth 5 -> 6"]


def test_no_metric_may_take_its_name():
    with pytest.raises(sb.InputError, match="metric 'depth': the table has a column 'depth' of its own"):
        check_metric_names(["depth"])


def test_guided_parts_of_a_run_are_counted_and_have_no_ode_error(tmp_path):
    told = {"steps": 3, "n": 64, "plugins": [TOY], "metrics": []}
    table = sb.run("toy", ["euler-cfg++", "ddim"], guidance=1.0, output=tmp_path / "one", **told).table
    assert table["network_evaluations"].tolist() == [6, 3]
    assert table["ode_error"].notna().tolist() == [False, True]
    plain = sb.run("mixture", ["euler-cfg++"], steps=3, n=64, metrics=[], output=tmp_path / "two").table
    assert plain["network_evaluations"].tolist() == [3]
    assert plain["ode_error"].notna().all()

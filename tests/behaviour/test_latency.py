"""Latency: draws of a few images at once, for their time alone; their files, columns and words."""

import dataclasses
import json
from pathlib import Path
from statistics import median

import pytest

import samplerbench as sb
from samplerbench.bench.draw import chunk as chunks
from samplerbench.bench.draw.clock import Repeat, Timing
from samplerbench.bench.draw.folder import is_own, names_below
from samplerbench.bench.draw.latency import DRAWS_FOR_P99, LEAST_DRAWS, columns_among, latencies, parse_rows, rows_of
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.table import check_metric_names
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.run import Manner, begin
from samplerbench.bench.show.provenance import latency_to_text
from samplerbench.bench.show.sheet import sheet_of
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])
PLAN = plan_for(Config(model="toy", sampler=("ddim", "ddpm"), steps=(2,), samples=64), REGISTRY)


def toy_run(output, **settings):
    return sb.run("toy", ["ddim", "ddpm"], steps=[2], n=64, plugins=[TOY], output=output, **settings)


def draws(folder):
    """How many draws each cell has, by images at once."""
    store = RunFolder(folder)
    keys = [cell["key"] for cell in json.loads((folder / "run.json").read_text())["cells"]]
    return [{rows: len(found) for rows, found in store.latencies_of(key).items()} for key in keys]


def timings(*seconds, n=1, **about):
    return [Repeat(n, Timing(2, 2, one, 0.0, machine="a", **about)) for one in seconds]


# What is drawn


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A run that has latencies, and what was drawn for them: (rows of a network call, images)."""
    seen, draw = [], chunks.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            chunks, "draw", lambda request, first, n, **how: seen.append((request.batch_size, first, n))
            or draw(request, first, n, **how),
        )  # fmt: skip
        result = toy_run(tmp_path_factory.mktemp("runs") / "run", latency=[3, 1])
    return result, seen


def test_each_cell_is_drawn_20_times_with_each_number_of_rows_after_a_trial_of_that_size(timed):
    result, seen = timed
    assert draws(result.folder) == [{1: 20, 3: 20}] * 2
    at_once = [one for one in seen if one[0] < 64]
    # State and network calls have as many rows as there are images; the trial counts one of its rows.
    assert set(at_once) == {(1, 0, 1), (3, 0, 1), (3, 0, 3)}
    assert [at_once.count(one) for one in ((1, 0, 1), (3, 0, 1), (3, 0, 3))] == [80, 40, 40]
    assert at_once[:8] == [(1, 0, 1)] * 4 + [(3, 0, 1), (3, 0, 3)] * 2


def test_the_table_has_the_median_and_the_90th_percentile_behind_the_columns_of_the_clock(timed):
    result, _ = timed
    assert list(result.table.columns)[-5:] == [
        "seconds_at_1", "seconds_at_1_p90", "seconds_at_3", "seconds_at_3_p90", "warning",
    ]  # fmt: skip
    one, slow = result.table["seconds_at_1"], result.table["seconds_at_1_p90"]
    assert ((one > 0) & (slow >= one)).all()
    stored = RunFolder(result.folder).latencies_of(PLAN.cells[0].key)[1]
    assert one[0] == median(repeat.timing.seconds for repeat in stored)


def test_draws_for_the_latency_count_neither_as_repeats_nor_as_a_stage_of_the_run(timed):
    result, _ = timed
    store = RunFolder(result.folder)
    for cell, row in zip(PLAN.cells, result.table.to_dict("records"), strict=True):
        (stored,) = store.chunks_of(cell.key).values()
        assert (row["repeats"], row["draw_seconds"]) == (1, stored.timing.seconds)
        assert store.repeats_of(cell.key) == []


def test_repeats_count_for_no_stage_of_the_run(tmp_path):
    table = toy_run(tmp_path / "run", repeats=3).table
    for cell, seconds in zip(PLAN.cells, table["draw_seconds"], strict=True):
        (stored,) = RunFolder(tmp_path / "run").chunks_of(cell.key).values()
        assert seconds == stored.timing.seconds


def test_what_a_latency_writes_is_the_runs_own_and_no_part_of_a_key(timed, tmp_path):
    result, _ = timed
    names = [name for name in names_below(result.folder) if name.endswith(".latency")]
    assert len(names) == 80
    assert all(map(is_own, names))
    again = toy_run(tmp_path / "run")
    assert not [name for name in again.table.columns if "seconds_at" in name]
    a, b = (json.loads((one.folder / "run.json").read_text()) for one in (result, again))
    assert (a["plan"], a["config"], a["cells"]) == (b["plan"], b["config"], b["cells"])


def test_only_what_is_missing_is_drawn_when_a_run_goes_on(timed):
    result, _ = timed
    before = {path: path.read_bytes() for path in result.folder.glob("chunks/*/*.latency")}
    victim = sorted(before)[0]
    victim.unlink()
    told = Told()
    begin(PLAN, REGISTRY, result.folder, Manner(latency=(1, 3))).work(told)
    after = {path: path.read_bytes() for path in result.folder.glob("chunks/*/*.latency")}
    assert after.keys() == before.keys()
    assert [path for path in after if after[path] != before[path]] == [victim]
    assert told.announced == told.done == 2 * int(victim.name.split("-")[0])
    assert list(toy_run(result.folder).table["seconds_at_3"].notna()) == [True, True]


class Told(Watch):
    """What a run says of its work."""

    def __init__(self):
        self.announced, self.done, self.failures = 0, 0, []

    def started(self, plan, todo):
        self.announced = todo

    def advanced(self, evaluations):
        self.done += evaluations

    def failed(self, cell, reason, evaluations):
        self.failures.append((cell.sampler, reason))
        self.done += evaluations


def test_a_size_that_fails_leaves_the_cell_and_the_other_sizes_as_they_are(tmp_path, monkeypatch):
    draw = chunks.draw

    def refuses(request, first, n, **how):
        if request.batch_size == 3:
            raise RuntimeError("no room for 3")
        return draw(request, first, n, **how)

    monkeypatch.setattr(chunks, "draw", refuses)
    told = Told()
    session = begin(PLAN, REGISTRY, tmp_path / "run", Manner(latency=(1, 3)))
    session.work(told)
    table = session.conclude().table
    reason = "latency at 3: RuntimeError: no room for 3"
    assert told.failures == [("ddim", reason), ("ddpm", reason)]
    assert told.announced == told.done
    assert list(table["status"]) == ["ok", "ok"]
    assert table["seconds_at_1"].notna().all()
    assert "seconds_at_3" not in table.columns


def test_repeats_above_20_are_draws_of_the_latency_too():
    assert [Manner(repeats=n, latency=4).timed_at_once.draws for n in (0, 5, 21, 500)] == [20, 20, 21, 500]


@pytest.mark.slow
def test_another_process_draws_for_the_latency_as_this_one_does(tmp_path):
    result = sb.run(
        "toy", ["ddim"], steps=[2], n=64, plugins=[TOY], output=tmp_path / "run", latency=2, workers=1
    )  # fmt: skip
    assert draws(result.folder) == [{2: 20}]
    assert result.table["seconds_at_2"].notna().all()


def test_a_file_that_was_copied_is_refused(timed, tmp_path):
    result, _ = timed
    store = RunFolder(result.folder)
    for victim, target in (("1-0000", "1-0020"), ("1-0000", "3-0020")):
        copy = store.cell_path(PLAN.cells[0].key) / f"{target}.latency"
        copy.write_bytes((copy.parent / f"{victim}.latency").read_bytes())
        with pytest.raises(sb.StoreError, match=r"its number( of samples)? is [01], and (20|3) belongs here"):
            store.latencies_of(PLAN.cells[0].key)
        copy.unlink()


# Numbers and words


def test_there_is_no_latency_from_few_draws_or_of_two_machines_or_beside_others():
    assert latencies({1: timings(*[0.5] * 19)}) == {}
    assert latencies({1: timings(*[0.5] * 20)}) == {"seconds_at_1": 0.5, "seconds_at_1_p90": 0.5}
    beside = timings(*[9.0] * 20, alone=False)
    assert latencies({1: beside}) == {}
    assert latencies({1: [*timings(*[0.5] * 20), *beside]}) == {"seconds_at_1": 0.5, "seconds_at_1_p90": 0.5}
    other = [dataclasses.replace(r, timing=dataclasses.replace(r.timing, machine="b")) for r in timings(0.5)]
    assert latencies({1: [*timings(*[0.5] * 20), *other]}) == {}


def test_the_99th_percentile_needs_500_draws():
    seconds = [i + 1.0 for i in range(500)]
    assert latencies({4: timings(*seconds[1:])}).keys() == {"seconds_at_4", "seconds_at_4_p90"}
    found = latencies({4: timings(*seconds)})
    assert found == pytest.approx({"seconds_at_4": 250.5, "seconds_at_4_p90": 450.1, "seconds_at_4_p99": 495.01})


def test_columns_are_in_the_order_of_their_rows():
    names = ["seconds_at_16_p90", "fid", "seconds_at_2", "seconds_at_16", "seconds_at_x", "seconds_at_016"]
    assert columns_among(names) == ["seconds_at_2", "seconds_at_16", "seconds_at_16_p90"]
    assert [rows_of(name) for name in names] == [None, None, 2, 16, None, None]


@pytest.mark.parametrize("given", [0, -1, "0", "1,", "1.5", "x", [1, 0], [True], [1.5], 10**7, {"a": 1}])
def test_an_invalid_latency_is_refused_in_one_line(given):
    with pytest.raises(sb.InputError, match=r"^latency .*expected [^\n]*$"):
        Manner(latency=given)


def test_rows_are_read_from_an_option_and_from_an_argument():
    assert parse_rows("16,1,16") == parse_rows([16, 1]) == (1, 16)
    assert parse_rows(8) == (8,)
    assert parse_rows(None) == parse_rows(()) == ()


def test_a_shard_has_no_latency():
    with pytest.raises(sb.InputError, match="shard 1/2: is neither clocked nor added to"):
        Manner(shard="1/2", latency=1)


def test_the_sheet_and_the_report_say_what_a_latency_is(timed):
    result, _ = timed
    sheet = sheet_of(result.table, result.labels)
    headings = [column.heading for column in sheet.columns]
    assert headings[headings.index("ms/image") + 1 :][:2] == ["ms at 1", "ms at 3"]
    entry = sheet.rows[0][headings.index("ms at 1")]
    row = result.table.iloc[0]
    assert entry.whole == f"{1000 * row['seconds_at_1']:.3g} ({1000 * row['seconds_at_1_p90']:.3g})"
    assert "ms at N is the median time of drawing N images, and no others, in brackets the 90th" in sheet.caption
    words = "at least 20 draws of 1 and 3 images at a time"
    assert latency_to_text(result.table) == words
    assert words in (result.folder / "report.html").read_text()
    assert latency_to_text(result.table[["seconds_at_1"]]) == "at least 20 draws of 1 image at a time"
    assert latency_to_text(result.table[["fid"]]) == ""


def test_the_page_on_the_clock_says_what_a_latency_is_made_of():
    page = (Path(__file__).parents[2] / "docs" / "clock.md").read_text()
    assert f"{LEAST_DRAWS} times, or `--repeats` times where that is more" in page
    assert f"from {LEAST_DRAWS} draws on" in page
    assert f"from {DRAWS_FOR_P99} draws on: `--latency 1 --repeats {DRAWS_FOR_P99}`" in page


def test_a_metric_may_not_be_called_like_a_latency():
    with pytest.raises(sb.InputError, match="the table has a column 'seconds_at_4' of its own"):
        check_metric_names(["seconds_at_4"])

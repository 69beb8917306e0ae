"""The harness: what the table holds, resuming, refusals, failing samplers, damaged chunks."""

import dataclasses
import importlib.metadata
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import samplerbench as sb
from cases import FURTHER
from samplerbench.bench.draw import chunk as harness
from samplerbench.bench.draw import clock as timing
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.run import begin
from samplerbench.plugins.metrics.fid import FID
from samplerbench.samplers.registry import load_registry
from samplerbench.samplers.sample import draw

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])
COLUMNS = [
    "model", "sampler", "grid", "steps", "nfe", "network_evaluations", "guidance", "samples",
    "fid", "fid_low", "fid_high", "clip_score", "clip_low", "clip_high",
    "seconds_per_image", "seconds_low", "seconds_high", "model_seconds_per_image", "overhead",
    "ode_error", "same_as", "status",
]  # fmt: skip
UNBIASED = ("fid_unbiased", "fid_unbiased_low", "fid_unbiased_high")
DISTANCE = ("ode_distance", "ode_distance_low", "ode_distance_high")
GUIDED = ["guidance_low", "guidance_high"]
ODE_COLUMNS = ["ode_error_low", "ode_error_high"]
CLOCK_COLUMNS = [
    "timing", "repeats", "seconds_per_call", "peak_memory_mb", "load_per_core", "encode_seconds", "draw_seconds",
    "decode_seconds", "extract_seconds", "hash_seconds", "store_seconds",
]  # fmt: skip
LAST_COLUMNS = [*CLOCK_COLUMNS, "warning"]
CLOCKED = list(timing.COLUMNS)  # fmt: skip
MEASURED = ["fid", "fid_low", "fid_high", "clip_score", "clip_low", "clip_high", "ode_error", *ODE_COLUMNS]


def toy_run(samplers, output, **settings):
    """sb.run on the toy model."""
    return sb.run("toy", samplers, plugins=[TOY], output=output, **{"steps": [2], "n": 100, **settings})


def toy_session(output, samplers=("ddim", "ddpm"), **settings):
    """A run of the toy model that has not begun to work."""
    config = Config(model="toy", sampler=tuple(samplers), **{"steps": (2, 3), "samples": 150, **settings})
    return begin(plan_for(config, REGISTRY), REGISTRY, Path(output))


def unclocked(table):
    """A table without what a clock said."""
    return table.drop(columns=CLOCKED)


def same_table(a, b):
    """Assert that two tables differ in seconds at most."""
    pd.testing.assert_frame_equal(unclocked(a), unclocked(b), check_exact=True)


def snapshot(folder):
    """Every file below a folder with its bytes and its time."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
    }


class Stop(Watch):
    """Ctrl-C after so many chunks."""

    def __init__(self, after):
        self.left = after

    def stored(self, cell, block):
        """Count down."""
        self.left -= 1

    def advanced(self, evaluations):
        """Stop, while the ODE is solved if no chunk is to be stored."""
        if self.left <= 0:
            raise KeyboardInterrupt


@pytest.fixture
def draws(monkeypatch):
    """(sampler, first, n) of every draw that the harness makes."""
    made = []
    inner = harness.draw

    def counted(request, first, n, **settings):
        made.append((type(request.sampler).__name__, first, n))
        return inner(request, first, n, **settings)

    monkeypatch.setattr(harness, "draw", counted)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of the toy model with all that a table can show."""
    samplers = ["ddpm", "ddim", "ddim:eta=0", "euler-a", "dpm-solver", "ddim:eta=1", "ddim:grid=karras"]
    return toy_run(samplers, tmp_path_factory.mktemp("whole") / "run", steps=[2, 5], n=150)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A finished run of one cell, for tests that only look at it."""
    return toy_run(["ddpm"], tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture
def copy(plain, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(plain.folder, tmp_path / "run")


def row(result, sampler, steps):
    """One row of a result."""
    rows = result.table.query("sampler == @sampler and steps == @steps")
    assert len(rows) == 1
    return rows.iloc[0]


# The table


def test_the_columns_are_the_fixed_ones_in_order(whole):
    assert list(whole.table.columns) == [*COLUMNS, *GUIDED, *ODE_COLUMNS, *UNBIASED, *DISTANCE, *LAST_COLUMNS]
    assert (whole.folder / "table.csv").read_text().splitlines()[0].split(",") == [
        *COLUMNS,
        *GUIDED,
        *ODE_COLUMNS,
        *UNBIASED,
        *DISTANCE,
        *LAST_COLUMNS,
    ]


def test_there_is_a_row_for_each_sampler_and_step_count_with_equal_n(whole):
    assert len(whole.table) == 7 * 2
    assert set(whole.table["samples"]) == {150}
    assert set(whole.table["status"]) == {"ok"}
    assert whole.failed == 0
    assert whole.table["steps"].tolist() == [2, 5] * 7
    assert whole.table["sampler"].tolist()[::2] == [
        "ddpm", "ddim", "ddim:eta=0", "euler-a", "dpm-solver", "ddim:eta=1", "ddim:grid=karras",
    ]  # fmt: skip


def test_the_run_folder_has_what_it_should(whole):
    assert {p.name for p in whole.folder.iterdir()} == {
        "run.json", "table.csv", "table.seal", "table.md", "grid.png", "report.html", "chunks",
    }  # fmt: skip
    about = json.loads((whole.folder / "run.json").read_text())
    assert about["config"]["samples"] == 150
    assert about["config"]["seed"] == 0
    assert about["environment"]["versions"]["torch"] == importlib.metadata.version("torch")
    assert about["extractors"]["fid"]["label"] == "toy quadrants"


def test_table_csv_is_the_table(whole):
    stored = pd.read_csv(whole.folder / "table.csv")
    table = whole.table.astype({"warning": float})  # there is none, which a file cannot tell from a missing number
    pd.testing.assert_frame_equal(stored, table, check_dtype=False, rtol=1e-14)


def test_nfe_and_evaluations_are_counted(whole):
    assert row(whole, "ddim", 5)[["nfe", "network_evaluations"]].tolist() == [5, 5]
    assert row(whole, "dpm-solver", 5)[["nfe", "network_evaluations"]].tolist() == [9, 9]
    assert row(whole, "dpm-solver", 2)["nfe"] == 3


def test_samplers_that_give_the_same_samples_are_named(whole):
    same = {name: row(whole, name, 5)["same_as"] for name in whole.table["sampler"].unique()}
    assert same.pop("euler-a") == "ddpm"
    assert same.pop("ddim:eta=1") == "ddpm"
    assert same.pop("ddim:eta=0") == "ddim"
    assert pd.isna(list(same.values())).all()
    numbers = [c for c in MEASURED if not c.startswith("ode_error")]
    for steps in (2, 5):
        assert row(whole, "ddim", steps)[numbers].equals(row(whole, "ddim:eta=0", steps)[numbers])


def test_ode_error_falls_with_steps_and_is_empty_for_stochastic_samplers(whole):
    for name in ("ddim", "dpm-solver", "ddim:grid=karras"):
        coarse, fine = (row(whole, name, steps)["ode_error"] for steps in (2, 5))
        assert row(whole, name, 5)["ode_error_low"] < fine < row(whole, name, 5)["ode_error_high"]
        assert coarse > 1.2 * fine > 0
    for name in ("ddpm", "euler-a", "ddim:eta=1"):
        assert np.isnan(row(whole, name, 2)["ode_error"])
        assert np.isnan(row(whole, name, 5)["ode_error"])


def test_ode_error_is_the_rms_distance_to_the_converged_solution(whole):
    settings = {"steps": 101, "n": 37, "guidance": 1.0}
    model = REGISTRY.model("toy")
    converged = sb.sample(model, "dpm-solver++:order=2", grid="logsnr", **settings).x.double()
    x = sb.sample(model, "ddim", **{**settings, "steps": 5}).x.double()
    expected = (x - converged).square().mean().sqrt().item()
    assert row(whole, "ddim", 5)["ode_error"] == pytest.approx(expected, rel=1e-9)


def chunks_of(result, sampler, steps):
    """The chunks of a cell, in order, as files."""
    about = json.loads((result.folder / "run.json").read_text())
    (cell,) = (c for c in about["cells"] if (c["sampler"], c["steps"]) == (sampler, steps))
    return sorted((result.folder / "chunks" / cell["key"][:16]).iterdir())


def test_fid_and_clip_score_are_those_of_the_stored_rows(whole):
    reference = REGISTRY.model("toy").extractors["features"].reference()
    for name in ("ddpm", "dpm-solver"):
        stored = [load_file(path) for path in chunks_of(whole, name, 5)]
        features = np.concatenate([arrays["rows.features"] for arrays in stored])
        cosines = np.concatenate([arrays["rows.clip"] for arrays in stored]).astype(np.float64)
        assert (features.shape, cosines.shape) == ((150, 4), (150, 1))
        found = row(whole, name, 5)
        strata = np.arange(150) % len(REGISTRY.model("toy").prompts)
        expected = dataclasses.replace(FID().estimate(features, FID().prepare(reference)), strata=strata)
        assert found["fid"] == pytest.approx(expected.value, rel=1e-12)
        assert found["fid_low"] == pytest.approx(expected.low, rel=1e-12)
        assert found["fid_high"] == pytest.approx(expected.high, rel=1e-12)
        assert found["clip_score"] == pytest.approx(100 * cosines.mean(), rel=1e-9)
        assert found["clip_low"] < found["clip_score"] < found["clip_high"]


def test_stored_rows_are_those_of_the_samples(whole):
    model = REGISTRY.model("toy")
    samples = sb.sample(model, "ddpm", steps=5, n=150)
    features = np.concatenate([load_file(p)["rows.features"] for p in chunks_of(whole, "ddpm", 5)])
    images = np.concatenate([load_file(p)["images"] for p in chunks_of(whole, "ddpm", 5)])
    np.testing.assert_array_equal(features, model.extractors["features"].extract(samples.images, []))
    np.testing.assert_array_equal(images, samples.images.numpy())


def test_the_picture_has_a_tile_for_each_cell(whole):
    with Image.open(whole.folder / "grid.png") as picture:
        picture.load()
        width, height = picture.size
        pixels = np.asarray(picture.convert("L"))
    # 7 rows and 2 columns of tiles of 5 x 2 images of 8 x 8, seven times as large; a caption below.
    assert height == 16 + 20 + 8 + 7 * (112 + 8) + 16 + 16
    assert width > 16 + 2 * (280 + 8) + 8
    tile = pixels[44 : 44 + 112, width - 16 - 280 : width - 16]
    assert tile.std() > 20


@pytest.mark.usefixtures("functions_watched")
def test_the_tables_of_two_fresh_runs_are_the_same(whole, tmp_path):
    samplers = list(whole.table["sampler"].unique())
    same_table(toy_run(samplers, tmp_path / "run", steps=[2, 5], n=150).table, whole.table)


def test_the_order_of_the_samplers_changes_no_number(whole, tmp_path):
    turned = toy_run(["dpm-solver", "ddpm", "ddim"], tmp_path / "run", steps=[5, 2], n=150)
    for name in ("ddpm", "ddim", "dpm-solver"):
        for steps in (2, 5):
            a, b = row(turned, name, steps)[MEASURED], row(whole, name, steps)[MEASURED]
            pd.testing.assert_series_equal(a, b, check_names=False, check_exact=True)


def test_guidance_counts_both_passes(tmp_path):
    result = toy_run(["ddim"], tmp_path / "run", guidance=2.0, n=64)
    assert result.table[["nfe", "network_evaluations", "guidance"]].values.tolist() == [[2, 4, 2.0]]


def test_guidance_rescale_is_part_of_a_cell_and_changes_its_images(tmp_path):
    def cell(**settings):
        config = Config(model="toy", sampler=("ddim",), steps=(3,), samples=4, guidance=3.0, **settings)
        return plan_for(config, REGISTRY).cells[0]

    plain, half = cell(), cell(guidance_rescale=0.5)
    assert plain.key == cell(guidance_rescale=0.0).key != half.key
    assert plain.network_evaluations == half.network_evaluations
    a, b = (draw(c.request, 0, 4).x for c in (plain, half))
    assert float((a - b).abs().max()) > 0.01


def test_a_budget_of_calls_takes_the_most_steps_that_fit(tmp_path):
    table = toy_run(["ddim", "dpm-solver:order=3"], tmp_path / "run", nfe=[8], steps=()).table
    assert table[["steps", "nfe"]].values.tolist() == [[8, 8], [3, 7]]


def test_a_metric_of_the_default_that_needs_more_samples_is_left_out_with_a_word(tmp_path):
    result = toy_run(["ddpm"], tmp_path / "run", n=1)
    words = "FID is left out: it needs 2 images a row, not 1."
    for text in (*(p.read_text() for p in (tmp_path / "run" / name for name in ("table.md", "report.html"))),
                 result._repr_html_()):  # fmt: skip
        assert words in text
    assert "FID" not in (tmp_path / "run" / "table.md").read_text().splitlines()[0]
    toy_run(["ddpm"], tmp_path / "two", n=2)
    text = (tmp_path / "two" / "table.md").read_text()
    assert "unbiased FID is left out: it needs 16 images a row, 4 for each of the 4 features, not 2." in text
    assert text.count("left out") == 1
    refused(tmp_path, lambda: toy_run(["ddpm"], tmp_path / "three", n=1, metrics="fid"), "samples 1", "give -n 2")


@pytest.mark.parametrize("n", [1, 64, 65, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 63))])
def test_any_number_of_samples_can_be_asked_for(tmp_path, n):
    result = toy_run(["ddpm", "ddim"], tmp_path / "run", n=n)
    assert set(result.table["samples"]) == {n}
    assert set(result.table["status"]) == {"ok"}
    assert result.table["fid"].notna().all() == (n > 1)
    assert result.table["ode_error"].notna().tolist() == [False, True]


def test_a_model_without_images_has_no_scores_and_no_picture(tmp_path):
    result = sb.run("mixture", ["ddim", "ddpm"], steps=[2, 8], n=100, output=tmp_path / "run")
    assert list(result.table.columns) == [*COLUMNS, *GUIDED, *ODE_COLUMNS, *DISTANCE, *LAST_COLUMNS]
    assert result.table[["fid", "clip_score"]].isna().all(axis=None)
    assert (result.table["seconds_per_image"] > 0).all()
    assert result.table["ode_error"].notna().tolist() == [True, True, False, False]
    assert not (result.folder / "grid.png").exists()


def test_shares_of_time_are_shares(whole):
    assert whole.table["overhead"].between(0, 1).all()
    assert (whole.table["model_seconds_per_image"] <= whole.table["seconds_per_image"]).all()
    assert set(whole.table["timing"]) == {"2 repeats"}
    assert whole.table[["seconds_low", "seconds_high"]].isna().all(axis=None)


@pytest.mark.parametrize(("keep", "kept"), [(None, 100), (True, 100), (False, 16)])
def test_images_are_kept_as_asked(tmp_path, keep, kept):
    result = toy_run(["ddpm"], tmp_path / "run", keep_images=keep)
    stored = [load_file(path) for path in chunks_of(result, "ddpm", 2)]
    assert sum(len(arrays.get("images", ())) for arrays in stored) == kept
    assert sum(len(arrays["hashes"]) for arrays in stored) == 100


def test_a_further_metric_has_columns_of_its_own_at_the_end(tmp_path):
    result = toy_run(["raises", "ddpm"], tmp_path / "run", metrics=["brightness", "fid"])
    assert list(result.table.columns) == [
        *COLUMNS, *GUIDED, *ODE_COLUMNS, "brightness", "brightness_low", "brightness_high", *UNBIASED, *DISTANCE,
        *LAST_COLUMNS,
    ]  # fmt: skip
    found = row(result, "ddpm", 2)
    assert found["brightness_low"] < found["brightness"] < found["brightness_high"]
    assert np.isnan(row(result, "raises", 2)["brightness"])
    assert result.table["clip_score"].isna().all()


def test_a_model_of_one_s_own_without_reference_features_has_no_fid(tmp_path):
    toy = REGISTRY.model("toy")
    blind = dataclasses.replace(toy.extractors["features"], reference=None)
    model = dataclasses.replace(toy, extractors={**toy.extractors, "features": blind})
    table = sb.run(model, ["ddpm"], steps=[2], n=64, output=tmp_path / "run").table
    assert table["fid"].isna().all()
    assert table["clip_score"].notna().all()


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (lambda rows: np.where(np.arange(len(rows))[:, None] == 3, np.nan, rows), "NaN or infinity for sample 3"),
        (lambda rows: rows[1:], r"returned shape \(63, 4\); expected \(64, d\)"),
        (lambda rows: rows[:, 0], r"returned shape \(64,\); expected \(64, d\)"),
    ],
)
def test_what_an_extractor_may_not_return_fails_the_cell(tmp_path, spoilt, reason):
    toy = REGISTRY.model("toy")
    whole = toy.extractors["features"]
    faulty = dataclasses.replace(whole, extract=lambda images, prompts: spoilt(whole.extract(images, prompts)))
    model = dataclasses.replace(toy, extractors={**toy.extractors, "features": faulty})
    table = sb.run(model, ["ddpm"], steps=[2], n=64, output=tmp_path / "run").table
    assert table["status"].str.contains(rf"failed: extractor 'features' \(toy quadrants\): .*{reason}").all()


def test_extractors_see_the_states_of_a_model_that_makes_no_images(tmp_path):
    model = dataclasses.replace(
        sb.load_model("mixture"), extractors={"features": sb.Extractor("states", lambda x, prompts: x.numpy())}
    )
    output = tmp_path / "run"
    result = sb.run(model, ["ddim"], steps=[3], n=70, metrics=["brightness"], output=output, plugins=[TOY])
    expected = sb.sample(model, "ddim", steps=3, n=70).x.mean()
    assert result.table["brightness"][0] == pytest.approx(float(expected), rel=1e-5)


def test_a_network_of_few_whole_timesteps_can_be_run(tmp_path):
    def network(x, t):
        assert t.dtype == torch.int64
        return 0.9 * x

    model = sb.wrap_network(
        network, schedule=sb.vp_linear(50), shape=(1, 4, 4), timesteps="integer", fingerprint="0.9 x"
    )
    table = sb.run(model, ["ddim"], steps=[5], n=4, metrics=[], output=tmp_path / "run").table
    assert table["status"].tolist() == ["ok"]
    assert table["ode_error"].notna().all()


def test_a_network_in_bfloat16_is_asked_at_timesteps_that_it_knows(tmp_path):
    # Rounded to bfloat16, 999 is 1000, which no schedule of 1000 timesteps has.
    table = sb.run("mixture", ["ddim"], steps=[2], n=8, dtype="bfloat16", output=tmp_path / "run").table
    assert table["status"].tolist() == ["ok"]


# The embedded model


@pytest.mark.usefixtures("functions_watched")
def test_the_embedded_model_runs(tmp_path):
    result = sb.run("fashion-mnist", ["ddpm", "euler-a"], steps=[2], n=16, batch_size=16, output=tmp_path / "run")
    table = result.table
    assert table["status"].tolist() == ["ok"] * 2
    assert table["same_as"].tolist()[1:] == ["ddpm"]
    assert table[["fid", "clip_score"]].notna().all(axis=None)
    markdown = (result.folder / "table.md").read_text()
    assert "FID [fashion-mnist CNN]" in markdown
    assert "this CLIP also conditions the model" in markdown
    with Image.open(result.folder / "grid.png") as picture:
        assert picture.size[1] == 44 + 2 * (2 * 56 + 8) + 16 + 16


# Resuming


def test_the_same_call_again_draws_nothing_and_changes_no_chunk(tmp_path, draws):
    first = toy_run(["ddim", "ddpm"], tmp_path / "run")
    assert len([d for d in draws if d[2] > 1]) == 1 + 2 * 2  # the ODE reference, and two chunks a cell
    before = snapshot(tmp_path / "run" / "chunks")
    draws.clear()
    again = toy_run(["ddim", "ddpm"], tmp_path / "run")
    assert [d for d in draws if d[2] > 1] == []
    assert snapshot(tmp_path / "run" / "chunks") == before
    pd.testing.assert_frame_equal(again.table, first.table, check_exact=True)


def test_a_deleted_chunk_alone_is_made_again(tmp_path, draws):
    first = toy_run(["ddim", "ddpm"], tmp_path / "run")
    victim = chunks_of(first, "ddpm", 2)[1]
    before = load_file(victim)
    victim.unlink()
    draws.clear()
    again = toy_run(["ddim", "ddpm"], tmp_path / "run")
    assert [d for d in draws if d[2] > 1] == [("DDPM", 64, 36)]
    after = load_file(victim)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])
    same_table(again.table, first.table)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The table of a run of four cells and three blocks that nothing interrupts."""
    session = toy_session(tmp_path_factory.mktemp("unbroken") / "run")
    session.work(Watch())
    return session.conclude().table


SLOW = [pytest.param(chunks, marks=pytest.mark.slow) for chunks in (1, 3, 7, 11, 12)]


@pytest.mark.parametrize("chunks", [0, 4, *SLOW])
def test_an_interrupted_run_gives_a_usable_table_and_resumes_to_the_unbroken_one(tmp_path, unbroken, chunks):
    session = toy_session(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        session.work(Stop(after=chunks))  # the ODE reference is the first to be reported
    assert len(list((tmp_path / "run" / "chunks").glob("*/*.safetensors"))) == chunks
    partial = session.conclude()
    assert (partial.folder / "table.md").is_file()
    assert partial.failed == 0
    whole_blocks = chunks // 4
    if whole_blocks:
        assert partial.table["samples"].tolist() == [min(64 * whole_blocks, 150)] * 4
        assert set(partial.table["status"]) == {"ok" if whole_blocks == 3 else "partial"}
        assert partial.table["fid"].notna().all()
    else:
        assert sorted(partial.table["samples"]) == [0] * (4 - chunks) + [64] * chunks
        assert (partial.table["status"] == "pending").sum() == 4 - chunks

    resumed = toy_session(tmp_path / "run")
    resumed.work(Watch())
    same_table(resumed.conclude().table, unbroken)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_work_announced_is_the_work_planned_and_the_work_done(tmp_path, guidance):
    class Count(Watch):
        announced = done = 0

        def started(self, plan, todo):
            self.announced = todo

        def advanced(self, evaluations):
            self.done += evaluations

    session, count = toy_session(tmp_path / "run", guidance=guidance), Count()
    session.work(count)
    passes = 1 if guidance == 1 else 2
    by_hand = passes * (2 * (2 + 3) * 150 + 37 * 101)
    assert session.plan.network_evaluations == by_hand
    assert count.announced == by_hand
    assert count.done == by_hand


def test_a_run_stopped_while_its_folder_was_made_can_go_on(tmp_path):
    (tmp_path / "run" / "chunks").mkdir(parents=True)
    (tmp_path / "run" / ".run.json.tmp").write_bytes(b'{"format"')
    assert toy_run(["ddpm"], tmp_path / "run").table["status"].tolist() == ["ok"]


def test_a_half_written_chunk_is_not_taken_for_one(plain, copy):
    chunk = copy / chunks_of(plain, "ddpm", 2)[0].relative_to(plain.folder)
    chunk.with_name(f".{chunk.name}.tmp").write_bytes(chunk.read_bytes()[:100])
    chunk.unlink()
    same_table(toy_run(["ddpm"], copy).table, plain.table)


# Refusals


def refused(folder, run, *words):
    """The run is an InputError with these words, and no file of the folder is touched."""
    before = snapshot(folder)
    with pytest.raises(sb.InputError) as caught:
        run()
    for word in words:
        assert word in str(caught.value)
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"n": 128}, ["samples: 100 -> 128"]),
        ({"seed": 1}, ["seed: 0 -> 1"]),
        ({"steps": [2, 3]}, ["steps: [2] -> [2, 3]"]),
        ({"guidance": 2.0}, ["guidance: 1.0 -> 2.0"]),
        ({"guidance": 2.0, "guidance_rescale": 0.5}, ["guidance_rescale: 0.0 -> 0.5"]),
        ({"prompts": ["left"]}, ["prompts: None -> ['left']"]),
        ({"dtype": "float64"}, ["dtype: 'float32' -> 'float64'"]),
        ({"n": 50, "batch_size": 8}, ["samples: 100 -> 50", "batch_size: None -> 8"]),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(plain, changed, words):
    refused(plain.folder, lambda: toy_run(["ddpm"], plain.folder, **changed), "--fresh", *words)


def test_other_samplers_in_the_same_folder_are_refused_by_name(plain):
    refused(plain.folder, lambda: toy_run(["ddpm", "ddim"], plain.folder), "['ddpm'] -> ['ddpm', 'ddim']")


def test_a_run_goes_on_with_its_own_number_of_threads(plain):
    """They are part of its key, so nothing is drawn again where torch has others by now."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        toy_run(["ddpm"], plain.folder)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert read_run(plain.folder).environment.threads == before


TURNED = """
from dataclasses import dataclass
from samplerbench import hookimpl
from samplerbench.plugins.samplers.ddim import DDIM

@dataclass(frozen=True)
class Turned(DDIM):
    def step(self, run, x, a, b, past):
        x, past = super().step(run, x, a, b, past)
        return 1.0 * x, past

@hookimpl
def samplerbench_samplers():
    return {"turned": Turned}
"""


def test_an_edited_sampler_alone_is_run_again(tmp_path, draws):
    plugin = tmp_path / "edited.py"
    plugin.write_text(TURNED)
    settings = {"steps": [2], "n": 4, "plugins": [str(plugin), TOY], "output": tmp_path / "run"}
    sb.run("toy", ["turned", "ddpm"], **settings)
    before = snapshot(tmp_path / "run" / "chunks")
    plugin.write_text(TURNED.replace("1.0 * x", "-1.0 * x"))
    draws.clear()
    again = sb.run("toy", ["turned", "ddpm"], **settings)
    assert [d for d in draws if d[2] > 1] == [("Turned", 0, 4)]
    after = snapshot(tmp_path / "run" / "chunks")
    assert {path: after[path] for path in before if path.endswith(".safetensors")} == {
        path: content for path, content in before.items() if path.endswith(".safetensors")
    }
    assert len(after) == len(before) + 1
    fresh = sb.run("toy", ["turned", "ddpm"], **settings | {"output": tmp_path / "fresh"})
    same_table(again.table, fresh.table)
    draws.clear()
    plugin.write_text(TURNED)
    sb.run("toy", ["turned", "ddpm"], **settings)
    assert [d for d in draws if d[2] > 1] == []


def test_an_edited_model_is_another_model(tmp_path):
    plugin = tmp_path / "edited.py"
    plugin.write_text(Path(TOY).read_text())
    settings = {"steps": [2], "n": 4, "plugins": [str(plugin)]}
    first = sb.run("toy", ["ddim"], **settings, output=tmp_path / "run")
    plugin.write_text(Path(TOY).read_text().replace("return (x - alpha * x0) / sigma", "return 0.5 * x"))
    refused(tmp_path, lambda: sb.run("toy", ["ddim"], **settings, output=tmp_path / "run"), "the model, its code")
    second = sb.run("toy", ["ddim"], **settings, output=tmp_path / "other")
    assert first.table["ode_error"].tolist() != second.table["ode_error"].tolist()


def test_fresh_starts_the_folder_again(tmp_path):
    toy_run(["ddim"], tmp_path / "run", seed=1)
    expected = toy_run(["ddim"], tmp_path / "other", seed=2)
    again = toy_run(["ddim"], tmp_path / "run", seed=2, fresh=True)
    same_table(again.table, expected.table)
    assert len(list((tmp_path / "run" / "chunks").rglob("*.safetensors"))) == 2 + 1 + 1  # chunks, reference, path


def test_fresh_keeps_files_that_no_run_wrote(tmp_path):
    toy_run(["ddim"], tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    toy_run(["ddim"], tmp_path / "run", fresh=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("fresh", [False, True])
def test_an_output_that_is_a_file_is_refused(tmp_path, fresh):
    (tmp_path / "run").write_text("precious")
    refused(tmp_path, lambda: toy_run(["ddim"], tmp_path / "run", fresh=fresh), "is a file", "folder")


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_something_else_is_refused(tmp_path, fresh):
    (tmp_path / "run" / "chunks").mkdir(parents=True)
    (tmp_path / "run" / "chunks" / "precious").write_text("keep me")
    (tmp_path / "run" / "table.csv").write_text("mine")
    refused(tmp_path, lambda: toy_run(["ddim"], tmp_path / "run", fresh=fresh), "holds other files", "run.json")


def test_a_model_without_a_fingerprint_takes_no_other_run_s_folder(tmp_path):
    toy_run(["ddim"], tmp_path / "run")
    nameless = dataclasses.replace(REGISTRY.model("toy"), fingerprint="", name="nameless")
    with pytest.warns(UserWarning, match="'nameless' has no fingerprint"):
        refused(tmp_path, lambda: sb.run(nameless, ["ddim"], steps=[2], n=100, output=tmp_path / "run"), "model")


def test_a_model_without_a_fingerprint_is_run_again(tmp_path, draws):
    nameless = dataclasses.replace(REGISTRY.model("toy"), fingerprint="")
    for _ in range(2):
        draws.clear()
        with pytest.warns(UserWarning, match=r"'toy' has no fingerprint .* will not resume; give .*fingerprint="):
            sb.run(nameless, ["ddpm"], steps=[2], n=64, output=tmp_path / "run")
        assert ("DDPM", 0, 64) in draws


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samplers": ["ddimm"]}, ["unknown sampler 'ddimm'", "did you mean 'ddim'", "euler-a"]),
        ({"samplers": []}, ["sampler", "at least one"]),
        ({"samplers": ["ddim", "ddim"]}, ["twice"]),
        ({"model": "fashion"}, ["unknown model 'fashion'", "fashion-mnist", "mixture"]),
        ({"metrics": ["fd"]}, ["unknown metric 'fd'", "did you mean 'fid'", "clip_score"]),
        ({"grid": "karas"}, ["unknown grid 'karas'", "did you mean 'karras'"]),
        ({"steps": [0]}, ["steps 0", "from 1"]),
        ({"steps": [2.0]}, ["steps 2.0", "whole number"]),
        ({"steps": [True]}, ["steps True", "whole number"]),
        ({"steps": []}, ["steps"]),
        ({"steps": [1001]}, ["steps 1001", "1000"]),
        ({"n": 0}, ["samples 0"]),
        ({"n": 1.5}, ["samples 1.5"]),
        ({"seed": -1}, ["seed -1", "2^63"]),
        ({"seed": 2**63}, [f"seed {2**63}"]),
        ({"guidance": float("nan")}, ["guidance nan"]),
        ({"guidance_rescale": float("nan")}, ["guidance_rescale nan", "from 0 to 1"]),
        ({"guidance_rescale": 0.5}, ["guidance_rescale 0.5", "no effect at guidance 1"]),
        ({"guidance": 2.0}, ["guidance 2.0", "unconditional"]),
        ({"batch_size": 7}, ["batch_size 7", "64"]),
        ({"batch_size": 0}, ["batch_size 0"]),
        ({"device": "cuda:77"}, ["device 'cuda:77'"]),
        ({"device": "abacus"}, ["device 'abacus'", "cpu"]),
        ({"dtype": "int8"}, ["dtype 'int8'", "float32"]),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(tmp_path, settings, words):
    settings = {"model": "mixture", "samplers": ["ddim"], "steps": [2], "n": 8, **settings}
    refused(tmp_path, lambda: sb.run(**settings, output=tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


# Samplers that fail


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        ("raises", ["ZeroDivisionError", "one | two three"]),
        pytest.param("exits", ["SystemExit"], marks=FURTHER),
        ("nans", ["step 1", "not finite"]),
        pytest.param("reshapes", ["step 0", "(64, 1, 8, 7)", "(64, 1, 8, 8)"], marks=FURTHER),
        ("forgets", ["step 0", "None"]),
        pytest.param("calls-twice", ["4 model calls", "declares 2"], marks=FURTHER),
        ("late", ["RuntimeError", "the second block"]),
    ],
)
def test_a_failing_sampler_fails_its_own_cells_alone(tmp_path, plain, sampler, words):
    result = toy_run([sampler, "ddpm"], tmp_path / "run")
    assert result.failed == 1
    status = row(result, sampler, 2)["status"]
    assert status.startswith("failed: ")
    for word in words:
        assert word in status
    assert "\n" not in status
    assert row(result, sampler, 2)[["fid", "seconds_per_image", "ode_error"]].isna().all()
    pd.testing.assert_series_equal(
        row(result, "ddpm", 2)[[*MEASURED, "samples", "status"]],
        row(plain, "ddpm", 2)[[*MEASURED, "samples", "status"]],
        check_names=False, check_exact=True,
    )  # fmt: skip


def test_an_error_s_text_does_no_harm_to_the_tables(tmp_path):
    result = toy_run(["raises", "ddpm"], tmp_path / "run")
    lines = (tmp_path / "run" / "table.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert {line.replace("\\|", "").count("|") for line in table} == {table[1].count("|")}
    assert "one \\| two three" in table[2]
    assert all(c.isprintable() or c == "\n" for c in (tmp_path / "run" / "table.md").read_text())
    stored = pd.read_csv(tmp_path / "run" / "table.csv")
    assert stored["status"].tolist() == result.table["status"].tolist()


def test_two_plugin_files_of_one_name_keep_apart(tmp_path):
    for name, eta in (("a", 0.0), ("b", 1.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(
            "from dataclasses import dataclass\nfrom samplerbench import hookimpl\n"
            "from samplerbench.plugins.samplers.ddim import DDIM\n"
            f"@dataclass(frozen=True)\nclass Mine{name.upper()}(DDIM):\n    eta: float = {eta}\n"
            f"@hookimpl\ndef samplerbench_samplers():\n    return {{'mine-{name}': Mine{name.upper()}}}\n"
        )
    plugins = [str(tmp_path / name / "mine.py") for name in ("a", "b")]
    keys = {
        order: [
            cell.key
            for cell in plan_for(Config(model="mixture", sampler=("mine-a",), steps=(2,)), load_registry(order)).cells
        ]
        for order in (tuple(plugins), tuple(plugins[:1]))
    }
    assert keys[tuple(plugins)] == keys[tuple(plugins[:1])]


# Damage


def test_a_damaged_chunk_is_named_and_the_run_can_go_on_without_it(tmp_path):
    first = toy_run(["ddpm", "ddim"], tmp_path / "run")
    chunk = chunks_of(first, "ddpm", 2)[0]
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(sb.StoreError) as caught:
        toy_run(["ddpm", "ddim"], tmp_path / "run")
    assert caught.value.exit_code == 5
    assert chunk.name in str(caught.value)
    assert "delete" in str(caught.value)
    chunk.unlink()
    same_table(toy_run(["ddpm", "ddim"], tmp_path / "run").table, first.table)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A finished run with one small chunk, its plan's cell, block and path."""
    registry = load_registry()
    config = Config(model="mixture", sampler=("ddim",), steps=(2,), samples=2)
    plan = plan_for(config, registry)
    folder = tmp_path_factory.mktemp("small") / "run"
    session = begin(plan, registry, folder)
    session.work(Watch())
    return plan, session.folder


def reading(small, tmp_path, damage):
    """Damage a copy of the small run's chunk and read it; StoreError is the one error that may come."""
    plan, folder = small
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(folder.path, copy.path, dirs_exist_ok=True)
    path = copy.chunk_path(plan.cells[0], plan.blocks[0])
    whole = path.read_bytes()
    refused = 0
    for content in damage(whole):
        path.write_bytes(content)
        try:
            chunk = copy.read(plan.cells[0], plan.blocks[0])
        except sb.StoreError as error:
            assert path.name in str(error)  # noqa: PT017  (in a loop)
            refused += 1
        else:
            assert chunk.hashes.shape == (2, 16)
    return refused, len(whole)


def test_a_chunk_cut_anywhere_is_refused(small, tmp_path):
    refused, length = reading(small, tmp_path, lambda whole: [whole[:i] for i in range(len(whole))])
    assert refused == length


@pytest.mark.parametrize("bit", [0, pytest.param(5, marks=pytest.mark.slow)])
def test_a_chunk_with_a_flipped_bit_opens_or_is_refused(small, tmp_path, bit):
    def flips(whole):
        for i in range(len(whole)):
            damaged = bytearray(whole)
            damaged[i] ^= 1 << bit
            yield damaged

    refused, length = reading(small, tmp_path, flips)
    assert 8 < refused <= length


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": 0}', b'{"format": "1"}'])
def test_a_damaged_run_json_is_refused_and_untouched(copy, content):
    (copy / "run.json").write_bytes(content)
    before = snapshot(copy)
    with pytest.raises(sb.StoreError, match=r"run\.json"):
        toy_run(["ddpm"], copy)
    assert snapshot(copy) == before


@pytest.mark.parametrize("place", ["/dev/null/run", "/proc/run"])
def test_an_output_that_cannot_be_made_is_a_store_error(place):
    with pytest.raises(sb.StoreError, match="cannot be written"):
        toy_run(["ddpm"], place)


def test_an_output_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(sb.SamplerbenchError, match=r"output|cannot be written"):
        toy_run(["ddpm"], tmp_path / ("x" * 300))


def test_a_start_at_alpha_0_takes_one_call_and_the_declared_count_knows_it(tmp_path):
    specs = ["heun", "dpm-solver:order=3", "seeds", "plms", "restart", "unipc"]
    table = sb.run("gaussian:flow", specs, steps=[2, 4], n=4, output=tmp_path / "out").table
    assert list(table["status"]) == ["ok"] * 12
    assert list(table["nfe"]) == [2, 6, 2, 8, 2, 6, 2, 5, 2, 14, 2, 4]


def test_one_of_anything_need_not_be_in_a_list(tmp_path):
    one = sb.run("mixture", "ddim", 2, 8, output=tmp_path / "one")
    several = sb.run("mixture", ["ddim"], [2], 8, output=tmp_path / "several")
    assert read_run(one.folder).plan == read_run(several.folder).plan

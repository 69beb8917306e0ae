"""my-engine draws the samples that the local engine draws, and a sampler that fails there fails nothing else."""

from pathlib import Path

import my_engine as plugin
import pandas as pd
import pytest

import samplerbench as sb

FILE = Path(plugin.__file__)
FAILS = """
from dataclasses import dataclass
from samplerbench import Sampler, hookimpl

@dataclass(frozen=True)
class Fails(Sampler):
    convergence = 1

    def nfe(self, steps):
        return steps

    def step(self, run, x, a, b, past):
        raise RuntimeError("tired")

@hookimpl
def samplerbench_samplers():
    return {"fails": Fails}
"""
CLOCKED = ["seconds", "overhead", "timing", "repeats", "peak_memory", "load"]


def table_of(engine: str, folder: Path) -> pd.DataFrame:
    """What a run of three samplers shows, but for its times."""
    fails = folder / "fails.py"
    fails.write_text(FAILS)
    result = sb.run(
        "mixture", ["ddim", "fails", "ddpm"], steps=[2], n=130, engine=engine, plugins=[str(FILE), str(fails)],
        output=folder / engine,
    )  # fmt: skip
    return result.table.drop(columns=[c for c in result.table if any(word in str(c) for word in CLOCKED)])


def test_it_draws_what_the_local_engine_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLERBENCH_IN_PROCESS", "1")  # of the local engine: no processes of its own
    here, there = (table_of(engine, tmp_path) for engine in ("local", "my-engine"))
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    assert list(there["status"]) == ["ok", "failed: RuntimeError: tired", "ok"]


def test_a_wrong_number_of_processes_is_refused(tmp_path: Path) -> None:
    for argument in ("0", "many"):
        with pytest.raises(sb.InputError, match="expected a number of processes"):
            sb.run("mixture", ["ddim"], steps=[2], n=8, engine=f"my-engine:{argument}", plugins=[str(FILE)],
                   output=tmp_path / "run")  # fmt: skip
    assert not (tmp_path / "run").exists()

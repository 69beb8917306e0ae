"""Parity with diffusers and k-diffusion, row by row; skipped where the extra `parity` is not installed."""

from pathlib import Path

import pytest
import torch

import parity
import samplerbench as sb
from cases import thinned

PAGE = (Path(__file__).parents[2] / "docs" / "parity.md").read_text()


def require(module: str) -> None:
    pytest.importorskip(module, reason=f"{module} is not installed; pip install -e '.[parity]'")


QUICK = {case.name.partition(":")[0]: case.id for case in parity.CASES}
"""One row of each sampler and grid; the fast suite takes every other one of these."""


@pytest.mark.parametrize(
    "case", thinned(parity.CASES, lambda case: case.id in list(QUICK.values())[::2]), ids=lambda case: case.id
)
def test_row(case):
    require(case.requires)
    row = case.measured()
    assert row.verdict != "FAIL", row
    assert row.verdict in {"pass", f"differs: {case.reason}"}
    assert row.verdict != "pass" or row.difference <= row.tolerance


def test_no_two_rows_are_the_same():
    ids = [case.id for case in parity.CASES]
    assert len(set(ids)) == len(ids)


def test_a_sampler_that_is_not_the_peer_fails():
    require("k_diffusion")
    heun, euler = parity.KDiffusion("sample_heun"), parity.KDiffusion("sample_euler")
    assert parity.case("heun", heun, parity.ON_EDM).measured().verdict == "pass"
    assert parity.case("heun", euler, parity.ON_EDM).measured().verdict == "FAIL"


@pytest.mark.slow
@pytest.mark.further
def test_a_reason_without_proof_fails():
    require("k_diffusion")
    euler = parity.KDiffusion("sample_euler")
    for proof in (None, parity.vanishes(euler, "with nothing changed"), parity.orders(2, 2)):
        case = parity.case("heun", euler, parity.ON_EDM, reason="because", proof=proof)
        assert case.measured().verdict == "FAIL"
    proven = parity.case("heun", euler, parity.ON_EDM, reason="because", proof=parity.orders(2, 1))
    assert proven.measured().verdict == "differs: because"


def test_the_page_has_every_row_and_no_failure():
    lines = [line.split(" | ")[:2] for line in PAGE.splitlines() if line.startswith("| `")]
    assert sorted(lines) == sorted([f"| `{case.name}`", f"`{case.label}`"] for case in parity.CASES)
    assert "FAIL" not in PAGE


def test_every_sampler_is_compared_or_named_as_without_a_peer():
    without = PAGE.partition("## Without a row")[2]
    for name in sb.list_samplers():
        assert (name in parity.named(parity.SAMPLERS)) != (f"`{name}`" in without), name


def test_peers_run_in_float64_and_leave_the_names_as_they_were():
    float32, default = torch.float32, torch.get_default_dtype()
    with parity.computing_in(torch.float64):
        assert torch.float32 == torch.ones(1).dtype == torch.float64
    assert torch.float32 is float32
    assert torch.get_default_dtype() == default

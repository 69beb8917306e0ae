"""my-sampler keeps its claims: a test for each line of the report card of `samplerbench check --quick`."""

import pytest
from my_sampler import MySampler

import samplerbench as sb


@pytest.mark.parametrize("finding", sb.check(MySampler(), quick=True), ids=lambda finding: finding.name)
def test_claim(finding: sb.Finding) -> None:
    assert finding.holds, f"claimed: {finding.claim}; measured: {finding.measured}"

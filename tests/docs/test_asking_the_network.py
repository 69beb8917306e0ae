"""docs/asking-the-network.md: its plugins are right samplers, and its commands print what it says."""

from pathlib import Path

import pytest

import pages
import samplerbench as sb
from cases import thinned
from samplerbench.bench.conformance.card import QUICK
from samplerbench.bench.conformance.check import CHECKS, waive
from samplerbench.samplers.registry import load_registry

PAGE = (Path(__file__).parents[2] / "docs" / "asking-the-network.md").read_text(encoding="utf-8")
FILES = pages.titled(PAGE)


@pytest.mark.slow
def test_the_page_can_be_followed(follow, tmp_path):
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    assert pages.follow_commands(PAGE, follow) == 7


@pytest.mark.parametrize("file", thinned(FILES, "my_cfg_pp.py"))
def test_its_samplers_keep_their_claims(file, tmp_path):
    (tmp_path / file).write_text(FILES[file])
    registry = load_registry([str(tmp_path / file)])
    (name,) = (name for name, origin in registry.samplers.origins.items() if origin.plugin == str(tmp_path / file))
    sampler = registry.sampler(name)
    quick = [
        measure for measure in CHECKS if measure.__module__.rpartition(".")[2] in ("runs", "equivalence", "guidance")
    ]
    card = waive([finding for measure in quick for finding in measure(sampler, QUICK)], sampler)
    assert [finding for finding in card if not finding.holds] == []
    assert [finding.name for finding in card if finding.waived] == [*sampler.claims]


def test_what_it_says_of_hints_is_what_there_is():
    for name in sb.Hints.__dataclass_fields__:
        assert f"- `{name}`: " in PAGE

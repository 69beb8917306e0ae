"""check holds what the docstring of a plugin says of other samplers, and says of a statement why it cannot be held."""

import pytest

import samplerbench as sb
from samplerbench.bench.conformance import check as module
from samplerbench.bench.conformance.card import QUICK
from samplerbench.bench.conformance.check import card_of
from samplerbench.bench.conformance.sameness import same_as, statements_of
from samplerbench.samplers.registry import load_registry

PLUGIN = '''
"""Euler with eta.

SAID

Use it never.
"""
from dataclasses import dataclass
from samplerbench import Sampler, hookimpl

@dataclass(frozen=True)
class Mine(Sampler):
    eta: float = 0.0
    turn: bool = False

    @property
    def convergence(self):
        return None if self.eta else 1
    def nfe(self, steps):
        return steps
    def step(self, run, x, a, b, past):
        up = self.eta * b.sigma * (1 - (b.sigma_ve / a.sigma_ve) ** 2) ** 0.5
        x = run.predict(x, a).combine(b.alpha, (b.sigma**2 - up**2) ** 0.5)
        return x + up * run.noise(a, b) if up else x, None

class Other(Mine):
    pass

@hookimpl
def samplerbench_samplers():
    return {"mine": Mine, "other": Other}
'''


@pytest.fixture
def said(tmp_path):
    """The findings about a spec of a plugin with such a paragraph."""

    def findings(text, spec="mine"):
        path = tmp_path / f"mine_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(PLUGIN.replace("SAID", text))
        registry = load_registry([str(path)])
        return list(same_as(registry)(registry.sampler(spec), QUICK))

    return findings


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Same as: `mine` = `ddim`.", ["same as ddim"]),
        ("Same as: `mine:eta=E` = `ddim:eta=E` (E from 0 to 1);\n`mine:eta=1` = `ddpm`; `mine` = `heun` (in 1 step).",
         ["same as ddim:eta=E", "same as ddpm", "same as heun"]),
        ("It is fast.", []),
    ],
)  # fmt: skip
def test_what_is_right_holds(said, text, names):
    found = said(text)
    assert [finding.name for finding in found] == names
    assert all(finding.holds for finding in found)


@pytest.mark.parametrize(
    "text", ["Same as: `mine` = `heun`.", "Same as: `mine:eta=E` = `ddim:eta=E` (E from 0 up).",
             "Same as: `mine:eta=0.5` = `ddpm`."],
)  # fmt: skip
def test_what_is_wrong_fails(said, text):
    (finding,) = said(text)
    assert not finding.holds
    assert finding.claim.startswith("as mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Same as: `mine` = `dimd`.", "unknown sampler 'dimd'"),
        ("Same as: `mine` = `ddim` (on Sundays).", "(on Sundays); expected none or one of (E from 0 to 1)"),
        ("Same as: `mine:beta=1` = `ddim`.", "unknown option 'beta'"),
        ("Same as: `ddim` = `mine`.", "`ddim` is of another file"),
        ("Same as: `mine` = `ddim` (E from 0 to 1).", "apart by"),
    ],
)
def test_a_statement_that_cannot_be_held_says_why(said, text, words):
    (finding,) = said(text)
    assert words in finding.measured
    assert finding.holds == (words == "apart by")


def test_a_paragraph_of_another_form_is_named(said):
    with pytest.raises(sb.InputError, match=r"'as ddim'; expected `x` = `y` \(condition\)"):
        said("Same as: `mine` = `ddim`; as ddim.")


def test_a_spec_with_options_is_held_to_what_is_said_of_it(said):
    text = "Same as: `mine` = `ddim`; `mine:eta=1` = `ddpm`; `other` = `ddim`."
    assert [finding.name for finding in said(text)] == ["same as ddim", "same as ddpm"]
    assert [finding.name for finding in said(text, "mine:eta=1")] == ["same as ddpm"]
    assert said(text, "mine:eta=0.4") == []
    assert [finding.claim for finding in said(text, "other")] == ["as other"]


def test_the_card_has_these_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHECKS", ())
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN.replace("SAID", "Same as: `mine` = `ddim`; `mine` = `heun`."))
    card = {finding.name: finding.holds for finding in card_of("mine", load_registry([str(path)]), quick=True)}
    assert (card["same as ddim"], card["same as heun"]) == (True, False)


def test_samplers_that_came_are_known_by_what_they_say():
    assert ("euler-a:eta=E", "ddim:eta=E", "E from 0 to 1") in statements_of(sb.list_samplers()["euler-a"])

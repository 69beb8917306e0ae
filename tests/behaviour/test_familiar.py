"""The names of other tools: each resolves to a spec, or is refused with what it is and what to take."""

import re

import pytest

import samplerbench as sb_
from samplerbench.samplers.familiar import (
    SCHEDULES,
    SCHEDULES_AS_SPELT,
    SPECS,
    TOOLS,
    WITHOUT,
    advice_on,
    canonical,
    grid_for,
    spec_for,
)
from samplerbench.samplers.registry import Registry, default_registry

NAMES = [name for names in TOOLS.values() for name in names]
DDIM = {name: default_registry().samplers.things[name] for name in ("ddim", "dpm-solver++", "seeds")}


def only_a_few():
    """A registry of three samplers, in which most names of other tools have none."""
    few = Registry()
    for name, cls in DDIM.items():
        few.samplers.add(name, cls, default_registry().samplers.origins[name])
    return few


@pytest.mark.parametrize("schedule", ["", " Karras", " exponential", "_sgm_uniform"])
@pytest.mark.parametrize("spelt", [str, str.lower, str.upper])
def test_every_name_resolves_or_says_what_to_take(spelt, schedule):
    registry = default_registry()
    for name in NAMES:
        if schedule and name.endswith(("Karras", "Exponential")):
            continue
        typed = spelt(name + schedule)
        try:
            sampler, grid = registry.sampler_and_grid(typed)
        except sb_.InputError as error:
            check_refusal(typed, str(error))
        else:
            assert type(sampler) in registry.samplers.things.values()
            assert not schedule or grid == SCHEDULES[canonical(schedule)], typed


def check_refusal(typed, said):
    """Assert that an error says what a sampler is, and that the one to take is there."""
    assert "did you mean" not in said
    if take := re.match(rf"unknown sampler {re.escape(repr(typed))}: take (\S+) \({re.escape(typed)} ", said):
        default_registry().sampler(take[1])
    else:
        assert said.startswith(f"unknown sampler {typed!r} (it ")
        assert "no sampler" in said


def test_there_are_sixty_names_and_more_that_resolve():
    registry = default_registry()
    assert len(NAMES) >= 110
    assert sum(bool(registry.alias(name) or spec_for(name, registry.aliases())) for name in NAMES) >= 70


@pytest.mark.parametrize(
    ("typed", "spec"),
    [
        ("DPM++ 2M SDE Heun Karras", "dpm-solver++-sde:variant=heun,grid=karras"),
        ("DPM++ 3M SDE Exponential", "dpm-solver++-sde:order=3,variant=heun,coefficients=published,grid=exponential"),
        ("Euler a Karras", "euler-a:grid=karras"),
        ("Restart", "restart"),
        ("DPM fast Karras", "dpm-solver:plan=fast,grid=karras"),
        ("HeunDiscreteScheduler", "heun"),
        ("DPMSolverMultistepScheduler", "dpm-solver++"),
        ("sample_dpmpp_2m", "dpm-solver++"),
        ("k_euler_ancestral", "euler-a"),
        ("dpmpp_2m_sde_gpu karras", "dpm-solver++-sde:grid=karras"),
        ("Euler Automatic", "euler"),
        ("ddim beta:eta=0.5", "ddim:eta=0.5,grid=beta:variable=t"),
    ],
)
def test_names_stand_for_specs(typed, spec):
    registry = default_registry()
    assert registry.sampler_and_grid(typed) == registry.sampler_and_grid(spec)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LCM", "unknown sampler 'LCM' (it is for networks distilled to a few steps)"),
        ("DPM++ SDE Karras", "unknown sampler 'DPM++ SDE Karras': take seeds:grid=karras (DPM++ SDE Karras is "),
        ("DDIM CFG++", ": take ddim (DDIM CFG++ is a sampler with another form of guidance, CFG++); there are: "),
        ("dpmpp_2m_cfg_pp", ": take dpm-solver++ ("),
        ("heunpp2", "up to three slopes a step)"),
        ("VQDiffusionScheduler", "discrete tokens"),
    ],
)
def test_where_there_is_no_sampler_the_error_says_what_it_is(name, words):
    with pytest.raises(sb_.InputError, match=re.escape(words)) as caught:
        only_a_few().sampler(name)
    assert "did you mean" not in str(caught.value)


def test_a_sampler_that_brings_the_name_comes_first():
    registry = only_a_few()

    class LCM(DDIM["ddim"]):
        """Another sampler."""

        aliases = {"LCM": ""}

    registry.samplers.add("lcm", LCM, registry.samplers.origins["ddim"])
    assert type(registry.sampler("LCM Karras")) is LCM
    assert type(registry.sampler("FlowMatchLCMScheduler")) is LCM


def test_what_is_recommended_exists():
    registry, aliases = default_registry(), default_registry().aliases()
    for spec in SPECS.values():
        if canonical(spec.partition(":")[0]) in map(canonical, aliases):
            registry.sampler(spec)
    for _, instead in WITHOUT.values():
        assert not instead or any(name in registry.samplers.things for name in instead)
    for grid in filter(None, SCHEDULES.values()):
        assert grid.partition(":")[0] in registry.grids.things


def test_every_name_of_diffusers_is_known():
    diffusers = pytest.importorskip("diffusers")
    theirs = [name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")]
    ours, aliases = set(TOOLS["diffusers"]), default_registry().aliases()
    unknown = [n for n in theirs if n not in ours and not (spec_for(n, aliases) or advice_on(n, aliases))]
    assert len(set(theirs) & ours) >= 35
    assert set(unknown) <= OF_ONE_PIPELINE


OF_ONE_PIPELINE = {
    "BlockRefinementScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler", "FlowMapEulerDiscreteScheduler",
    "HeliosDMDScheduler", "HeliosScheduler", "MiniMaxH3Scheduler", "PiflowScheduler", "RFD4ProteinaScheduler",
}  # fmt: skip
"""Schedulers that diffusers has for one pipeline, under no name that people compare."""


@pytest.mark.parametrize("name", SCHEDULES_AS_SPELT)
def test_a_schedule_as_a_grid_is_named(name):
    if not (here := grid_for(name)):
        return
    if name.lower() in default_registry().grids.things:
        return
    with pytest.raises(sb_.InputError, match=re.escape(f"(here it is {here!r})")):
        sb_.sample("mixture", "ddim", steps=2, grid=name)


@pytest.mark.parametrize(
    ("option", "here"),
    [("--cfg", "--guidance"), ("--cfg-scale", "--guidance"), ("--num_inference_steps", "--steps"),
     ("--sampler_name", "--sampler"), ("--scheduler", "--grid"), ("--negative_prompt", "--negative")],
)  # fmt: skip
def test_an_option_of_another_tool_is_named(sb, option, here):
    sb("run", option, "13").refused(2, f"unknown option {option!r} (it is {here} here); samplerbench run --help")


def test_an_option_near_in_its_words_is_still_offered(sb):
    sb("run", "--guidanse", "13").refused(2, "did you mean '--guidance'?")


def test_lists_show_the_names(sb):
    listed = sb("list", "samplers").out
    assert "also: " in listed
    assert "HeunDiscreteScheduler" in listed
    assert "DPM++ 3M SDE Exponential" in sb("list", "names").out

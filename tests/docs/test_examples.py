"""docs/examples: ten plugins of strangers. Each passes `check`, and draws what its built-in twin draws."""

import functools
import importlib.util
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pages
import samplerbench as sb
from cases import thinned
from samplerbench.bench.conformance.card import QUICK
from samplerbench.bench.conformance.check import CHECKS, waive
from samplerbench.bench.conformance.guidance import mixed_model
from samplerbench.samplers.registry import load_registry

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "examples.md").read_text(encoding="utf-8")
FILES = sorted(path.name for path in (DOCS / "examples").glob("*.py"))
SAMPLERS = {
    "cfg_pp.py": "my-cfg++",
    "lcm.py": "my-lcm",
    "tcd.py": "my-tcd",
    "learned.py": "my-learned",
    "epd.py": "my-epd",
    "picard.py": "my-picard",
    "interval.py": "my-interval",
    "caching.py": "my-cache",
}
TWINS = [
    ("cfg_pp.py", "my-cfg++", "euler-cfg++"),
    ("cfg_pp.py", "my-cfg++:eta=0.7", "euler-a-cfg++:eta=0.7"),
    ("lcm.py", "my-lcm", "lcm"),
    ("tcd.py", "my-tcd", "tcd"),
    ("tcd.py", "my-tcd:gamma=0.8", "tcd:eta=0.8"),
    ("learned.py", "my-learned", "ddim"),
    ("epd.py", "my-epd", "epd"),
    ("epd.py", "my-epd:points=1", "epd:points=1"),
    ("picard.py", "my-picard", "paradigms:window=6,sweeps=3"),
    ("picard.py", "my-picard:window=3,sweeps=5", "ddim"),
    ("caching.py", "my-cache:every=1", "ddim"),
]
SCHEDULES = {
    "VP": (sb.vp_linear(), [990.5, 950.0, 600.25, 590.0, 200.0, 150.5, 20.0, 3.0]),
    "EDM": (sb.edm(), [40.0, 31.0, 8.0, 7.0, 2.5, 0.9, 0.31, 0.07]),
    "flow": (sb.flow(), [1.0, 0.9, 0.6, 0.55, 0.2, 0.1, 0.05, 0.01]),
}


@functools.cache
def registry_of(file):
    return load_registry([str(DOCS / "examples" / file)])


def module_of(file):
    """The file as a module; what it registers is not registered."""
    spec = importlib.util.spec_from_file_location(f"example_{file[:-3]}", DOCS / "examples" / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


def drawn(sampler, name, guidance=2.0, **settings):
    """Samples of the guided exact model, of which both parts are known."""
    schedule, times = SCHEDULES[name]
    generator = torch.Generator().manual_seed(1)
    x, *noise = torch.randn(20, 4, 2, generator=generator, dtype=torch.float64)
    stream = iter(noise)
    x = x * schedule.prior_scale(schedule.at_time(times[0]))
    settings = {"grid": times, "prompts": ["1"], "guidance": guidance, "noise": lambda a, b: next(stream), **settings}
    network = settings.pop("model", None) or mixed_model(schedule)
    return sb.sample(network, sampler, x_init=x, **settings).x


def apart(a, b):
    """The largest difference, in units of the larger numbers."""
    return float((a - b).abs().max() / b.abs().max())


# ---- All of them ----


def test_there_are_ten_of_a_page_or_less():
    plugins = [file for file in FILES if file != "learn.py"]
    assert len(plugins) == 10
    for file in plugins:
        assert 20 <= len((DOCS / "examples" / file).read_text().splitlines()) <= 60, file
        assert f"(examples/{file})" in PAGE


@pytest.mark.parametrize("file", thinned(SAMPLERS, "cfg_pp.py", "lcm.py"))
def test_a_sampler_keeps_its_claims(file):
    sampler = registry_of(file).sampler(SAMPLERS[file])
    fast = [m for m in CHECKS if m.__module__.rpartition(".")[2] in ("runs", "guidance")]
    findings = [finding for measure in fast for finding in measure(sampler, QUICK)]
    # What a claim names may stand in the part of the card that the slow test has.
    card = [finding for finding in waive(findings, sampler) if finding.name != "claims"]
    assert [finding for finding in card if not finding.holds] == []


@pytest.mark.slow
@pytest.mark.parametrize("file", SAMPLERS)
def test_the_whole_card_of_a_sampler(file, sb):
    model = ["--model", "my-cached"] if file == "caching.py" else []
    done = sb("check", SAMPLERS[file], "--plugin", DOCS / "examples" / file, "--quick", *model)
    assert done.code == 0, done.out
    assert "FAILS" not in done.out


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("file", "mine", "twin"), thinned(TWINS, lambda case: ":" not in case[1]))
def test_it_draws_what_its_twin_draws(file, mine, twin, name):
    registry = registry_of(file)
    settings = {}
    if file == "caching.py":  # which needs a network that takes hints
        settings = {"model": hinted(name), "prompts": None, "guidance": 1.0}
    one, two = (drawn(registry.sampler(spec), name, **settings) for spec in (mine, twin))
    assert apart(one, two) < 1e-12


def hinted(name):
    """A network that takes hints, and heeds none."""
    return sb.wrap_network(lambda x, t, hints: (x + 1).tanh(), SCHEDULES[name][0], (2,), "v")


# ---- One by one ----


def test_check_sees_that_it_renoises_with_the_prompt(tmp_path):
    text = (DOCS / "examples" / "cfg_pp.py").read_text()
    right = "guided.unconditional.eps"
    assert text.count(right) == 1
    (tmp_path / "wrong.py").write_text(text.replace(right, "guided.eps"))
    sampler = load_registry([str(tmp_path / "wrong.py")]).sampler("my-cfg++")
    failing = [
        finding.name for measure in CHECKS if "guidance" in measure.__module__
        for finding in measure(sampler, QUICK) if not finding.holds
    ]  # fmt: skip
    assert failing == ["CFG++, first step"]


@pytest.mark.parametrize("interval", [(0.3, 5.0), (0.0, 2.0), (1.0, 1e9)])
def test_guidance_in_an_interval_is_that_of_a_run(interval):
    sampler = module_of("interval.py").MyInterval(weight=3.0, low=interval[0], high=interval[1])
    for name in SCHEDULES:
        mine = drawn(sampler, name, guidance=1.0)
        assert apart(mine, drawn("ddim", name, guidance=3.0, guidance_interval=interval)) < 1e-12
        assert apart(mine, drawn("ddim", name, guidance=3.0)) > 1e-3


def weights_of(steps):
    rng = np.random.default_rng(0)
    return [[1.0, *(0.2 * rng.standard_normal(i))] for i in range(steps)]


def written(tmp_path, **content):
    (tmp_path / "weights.json").write_text(json.dumps(content))
    return str(tmp_path / "weights.json")


def test_learned_weights_do_what_the_built_in_solver_does_with_them(tmp_path):
    mine = module_of("learned.py").MyLearned
    table = sb.File(written(tmp_path, model="", guidance=2, weights=weights_of(8)))
    twin = {"fingerprint": "", "guidance": 2, "steps": 8, "weights": weights_of(8)}
    twin = sb.make_sampler("learned", file=written(tmp_path, **twin))
    for name in ("VP", "EDM"):  # at alpha = 0 the twin refuses weights of eps
        assert apart(*(drawn(sampler, name, any_model=True) for sampler in (mine(table), twin))) < 1e-12


def test_learned_weights_are_for_one_model_guidance_and_number_of_steps(tmp_path):
    learn, mine = module_of("learn.py"), module_of("learned.py").MyLearned
    model = sb.load_model("mixture")
    rows = learn.weights_for(model, 3)
    fingerprint = learn.hashlib.sha256(model.fingerprint.encode()).hexdigest()
    sampler = mine(sb.File(written(tmp_path, model=fingerprint, guidance=1, weights=rows)))
    times = [model.schedule.at_time(t).t for t in (999, 499.5, 0)]
    settings = {"grid": times, "n": 32, "dtype": "float64"}
    solution = sb.sample(model, "dpm-solver++", steps=200, n=32).x
    learned, euler = (sb.sample(model, one, grid=times, n=32).x for one in (sampler, "ddim"))
    assert (learned - solution).square().mean() < 0.8 * (euler - solution).square().mean()
    with pytest.raises(sb.InputError, match="has weights for 3"):
        sb.sample(model, sampler, steps=4, n=1)
    with pytest.raises(sb.InputError, match="was learned for another model or guidance"):
        sb.sample("gaussian", sampler, **settings)
    sb.sample("gaussian", sampler, any_model=True, **settings)


def test_a_cache_reuses_deep_features_and_no_batch_meets_those_of_another():
    registry, network, calls = registry_of("caching.py"), module_of("caching.py").TwoHalves(), []
    network.deep.register_forward_hook(lambda *_: calls.append(1))
    model = sb.wrap_network(network, sb.vp_linear(), (1, 8, 8), "v")
    full = sb.sample(model, registry.sampler("my-cache:every=1"), steps=6, n=8).x
    asked = len(calls)
    reused = sb.sample(model, registry.sampler("my-cache:every=3"), steps=6, n=8).x
    assert len(calls) - asked == asked - 4
    assert 1e-4 < apart(reused, full) < 0.5
    for size in (1, 2, 4):
        batched = sb.sample(model, registry.sampler("my-cache:every=3"), steps=6, n=8, batch_size=size).x
        assert torch.allclose(batched, reused, atol=1e-5)


def test_the_levels_found_are_the_cheapest_and_bring_samples_nearer():
    gits = module_of("gits.py")
    rng = np.random.default_rng(0)
    cost = rng.random((6, 7))
    ways = [(0, a, b, 6) for a in range(1, 6) for b in range(a + 1, 6)]
    best = min(ways, key=lambda way: sum(cost[i, j] for i, j in itertools.pairwise(way)))
    assert tuple(gits.cheapest(cost, 4)) == best
    model = sb.load_model("mixture")
    solution = sb.sample(model, "dpm-solver++", steps=100, grid="logsnr", n=64).x
    times = gits.MyGITS(candidates=30, images=16).times(model.schedule, 5, model)
    mine, logsnr, uniform = (
        float((sb.sample(model, "ddim", n=64, **grid).x - solution).square().mean())
        for grid in ({"grid": times}, {"grid": "logsnr", "steps": 5}, {"steps": 5})
    )
    assert mine < 0.6 * min(logsnr, uniform)


def test_the_metric_counts_pairs_and_its_influence_is_what_leaving_an_image_out_does():
    metric = module_of("brightness.py").BrightnessOrder()
    rng = np.random.default_rng(0)
    asked = rng.integers(-1, 2, 200)
    rows = np.stack([asked, 0.7 * asked + rng.standard_normal(200)], axis=1).astype(np.float32)
    bright, dark = (rows[asked == sign, 1] for sign in (1, -1))
    whole = metric.estimate(rows, None)
    assert whole.value == pytest.approx(np.mean([b > d for b in bright for d in dark]))
    without = [metric.estimate(np.delete(rows, i, axis=0), None).value for i in range(30)]
    assert np.allclose(199 * (whole.value - np.array(without)), whole.influence[:30], atol=0.05)


def test_the_metric_reads_images_and_prompts():
    module = module_of("brightness.py")
    grey = torch.tensor([0, 10, 200], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    rows = module.read(grey, ["a Bright shirt", "a dark bag", "a dress"])
    assert np.array_equal(rows, [[1, 0], [-1, 10], [0, 200]])
    with pytest.raises(sb.InputError, match="expected prompts with 'dark'"):
        module.check_prompts(["dark", "black"])


# ---- The page ----


@pytest.mark.slow
def test_the_page_can_be_followed(follow, tmp_path):
    for file in FILES:
        (tmp_path / file).write_text((DOCS / "examples" / file).read_text())
    for file, text in pages.titled(PAGE).items():
        (tmp_path / file).write_text(text)
    assert pages.follow_commands(PAGE, follow) >= 10

"""Wrong arguments from Python: each is an InputError of one line that begins with the name of the argument."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import samplerbench as sb

LONG = 10**400
"""More than a float holds."""
MANY_DIGITS = 10**5000
"""More digits than Python writes."""
ONE = torch.zeros(2, 2)


class Unshowable:
    """An object whose own description fails."""

    def __repr__(self):
        raise RuntimeError("no description")


def zero(x, t, *condition):
    """A network."""
    return 0 * x


def rows(texts):
    """Texts -> a condition."""
    return torch.zeros(len(texts), 1)


def sampled(model=None, sampler="ddim", **settings):
    """sample() with good arguments but for those that are given."""
    if model is None:
        model = sb.wrap_network(zero, sb.vp_linear(), (2,), encode=rows)
        settings = {"prompts": ["a"], **settings}
    return sb.sample(model, sampler, **{"steps": 2, "n": 2, **settings})


def wrapped(**arguments):
    """Samples of a network that is wrapped with good arguments but for those that are given."""
    model = sb.wrap_network(**{"network": zero, "schedule": sb.vp_linear(), "shape": (2,), **arguments})
    return sb.sample(model, "ddim", steps=2, n=2, prompts=["a", "b"] if "encode" in arguments else None)


def of_model(**fields):
    """Samples of a Model with good fields but for those that are given."""
    return sb.sample(dataclasses.replace(sb.wrap_network(zero, sb.vp_linear(), (1, 4, 4)), **fields), "ddim", 2, n=2)


def listed(function, name, *values):
    """A case for each wrong value of an argument."""
    return [pytest.param(function, {name: value}, name, id=f"{function.__name__}-{name}-{i}") for i, value in
            enumerate(values)]  # fmt: skip


NOISES = (
    5, "x", lambda a, b: None, lambda a, b: np.zeros((2, 2)), lambda a, b: torch.zeros(3, 2), lambda a: ONE,
    lambda a, b: 1 / 0, lambda a, b: ONE.to(torch.complex64), lambda a, b: ONE.to("meta"),
    lambda a, b: ONE.to_sparse(), lambda a, b: ONE * math.nan, lambda a, b: 0.0,
)  # fmt: skip
CASES = [
    *listed(sampled, "model", 5, [], b"ddim", sb.Model, torch.nn.Linear(2, 2), Unshowable(), ""),
    *listed(sampled, "sampler", 5, None, [], b"ddim", sb.Sampler, type(sb.make_sampler("ddim")), Unshowable()),
    *listed(sampled, "steps", 0, -1, 1.5, "5", True, [5], None, 10**12, MANY_DIGITS, math.nan, 2000),
    *listed(sampled, "n", 0, -1, 1.5, "5", True, None, 10**12, [2], math.inf, LONG),
    *listed(sampled, "seed", -1, 2**63, 1.5, "0", None, True, [1], LONG, MANY_DIGITS),
    *listed(
        sampled,
        "grid",
        5,
        [],
        [1, 2],
        [math.nan, 1],
        [math.inf, 1],
        ["a", "b"],
        [[1], [2]],
        {3, 1},
        {3: 1, 1: 2},
        b"ab",
        [-1, -2],
        [5000, 1],
        [5, 5],
        Unshowable(),
        np.zeros((2, 2)),
        torch.zeros(2, 2),
        "",
        " ",
        "/",
        [LONG, 1],
        1.5,
        object(),
        iter([]),
    ),
    *listed(
        sampled,
        "prompts",
        5,
        [5],
        [None],
        "a",
        b"a",
        [],
        {"a"},
        {"a": 1},
        [b"a"],
        [["a"]],
        ONE,
        Unshowable(),
        np.array([1]),
        iter([]),
    ),
    *listed(sampled, "negative", 5, ["a"], b"a", True),
    *listed(
        sampled,
        "guidance",
        0,
        -1,
        "2",
        None,
        True,
        math.nan,
        math.inf,
        LONG,
        MANY_DIGITS,
        1e300,
        [2],
        2j,
        np.array([2.0]),
        torch.tensor(2.0),
        Unshowable(),
    ),
    *listed(sampled, "guidance_rescale", -1, 2, "x", None, True, math.nan, LONG, [1]),
    *listed(sampled, "guidance_calls", 0, 3, "1", None, True, 1.0, [1], LONG),
    *listed(sampled, "batch_size", 0, -1, 3, 96, "8", 2.0, True, LONG, [8]),
    *listed(
        sampled,
        "x_init",
        np.zeros((2, 2)),
        [[0, 0]],
        5,
        "x",
        torch.tensor(1.0),
        torch.zeros(0, 2),
        torch.zeros(2, 3),
        torch.zeros(2),
        ONE.long(),
        ONE.bool(),
        ONE.to(torch.complex64),
        ONE * math.nan,
        ONE - math.inf,
        ONE.to("meta"),
        ONE.to_sparse(),
        torch.zeros(2, 2, 1),
    ),
    *[
        pytest.param(sampled, {"sampler": "ddpm", "noise": noise}, "noise", id=f"sampled-noise-{i}")
        for i, noise in enumerate(NOISES)
    ],
    *listed(sampled, "device", 5, "", [], "gpu", "mps", "meta", "cuda:99", 1.5, LONG, Unshowable()),
    *listed(sampled, "dtype", "int8", torch.int64, 5, np.float32, float, "", [], "complex64", True, Unshowable()),
    *listed(sampled, "trajectory", "yes", 1, None),
    *listed(
        wrapped,
        "network",
        5,
        None,
        "x",
        [],
        torch.nn.Linear,
        lambda x, t: None,
        lambda x, t: x.numpy(),
        lambda x, t: x[:1],
        lambda x, t: (x,),
        lambda x, t: x.to(torch.complex64),
        lambda x, t: x.long(),
        lambda x, t: x > 0,
        lambda x, t: x.to("meta"),
        lambda x, t: x.to_sparse(),
    ),
    *listed(wrapped, "schedule", 5, None, "vp", sb.vp_linear, []),
    *listed(
        wrapped,
        "shape",
        5,
        (),
        (0,),
        (-1,),
        (1.5,),
        ("2",),
        "2",
        None,
        [],
        (True,),
        (10**12,),
        (2, 0),
        ((2,),),
        LONG,
        (LONG,),
        Unshowable(),
    ),
    *listed(wrapped, "predicts", 5, None, "noise", [], ("eps",)),
    *listed(wrapped, "timesteps", 5, None, "int", []),
    *listed(
        wrapped,
        "clip",
        5,
        (1,),
        (1, -1),
        (0, 0),
        "1",
        (math.nan, 1),
        ("a", "b"),
        (True, False),
        (0, LONG),
        [],
        (0, 1, 2),
        np.array([0, 1]),
        Unshowable(),
    ),
    *listed(wrapped, "value_range", 5, (1, 0), (0,), ("a", "b"), (math.nan, 1), (0, math.inf), (0, LONG), "01"),
    *listed(wrapped, "encode", 5, "x"),
    *listed(wrapped, "batch_size", 0, -1, 3, "8", 2.0, True, LONG, None),
    *listed(wrapped, "name", 5, None, "", [], b"x"),
    *listed(of_model, "decode", 5, "x"),
    *listed(of_model, "image_shape", 5, (0, 1, 1), (4, 8, 8), (3, 8), "388"),
    *listed(of_model, "prompts", "a", 5, [5]),
    *listed(of_model, "extractors", 5, ["clip"]),
    *listed(of_model, "fingerprint", 5, None),
    *listed(of_model, "guide", 5),
    *listed(of_model, "unconditional", 5),
    *listed(of_model, "check_texts", 5),
    *listed(sb.dynamic_threshold, "quantile", "a", None, 0, 2, math.nan, LONG),
    *listed(sb.dynamic_threshold, "bound", "a", None, 0, -1, math.inf, LONG),
]


def refused(call, name):
    """The line of an InputError that begins with the name of an argument."""
    with pytest.raises(sb.InputError) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 400
    assert line.removeprefix("unknown ").startswith(name), line
    return line


@pytest.mark.parametrize(("function", "arguments", "name"), CASES)
def test_a_wrong_argument_is_one_line_that_names_it(function, arguments, name):
    named = {"steps": ("steps",), "grid": ("grid", "steps")}.get(name, (name,))
    line = refused(lambda: function(**arguments), named if name != "bound" else "bound")
    assert "Traceback" not in line


ENCODES = (
    lambda texts: None, lambda texts: np.zeros((len(texts), 1)), lambda texts: torch.zeros(1),
    lambda texts: torch.tensor(1.0), lambda: 1, lambda texts: 1 / 0, lambda texts: [0.0] * len(texts),
)  # fmt: skip


@pytest.mark.parametrize("encode", ENCODES)
def test_an_encode_that_fails_or_returns_no_rows_is_told_of_with_the_prompts(encode):
    refused(lambda: wrapped(encode=encode), "prompts: model 'network'")
    good = sb.wrap_network(zero, sb.vp_linear(), (2,), encode=rows)
    none = dataclasses.replace(good, unconditional=encode)
    refused(lambda: sampled(none, prompts=["a"], guidance=2.0), "prompts: model 'network'")


@pytest.mark.parametrize("spec", [5, None, ["ddim"], b"ddim", sb.Sampler, Unshowable()])
def test_what_is_no_spec_of_a_sampler_or_model_is_refused(spec):
    refused(lambda: sb.make_sampler(spec), "sampler")
    refused(lambda: sb.load_model(spec), "model")


@pytest.mark.parametrize("eta", ["x", None, [], LONG, True, math.nan, 2])
def test_a_wrong_option_of_a_sampler_is_named(eta):
    assert "option eta" in refused(lambda: sb.make_sampler("ddim", eta=eta), "sampler 'ddim'")


MIXTURE = {"means": ((0.0,), (1.0,)), "variances": (1.0, 1.0), "weights": (0.5, 0.5)}


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"means": ()}, "means"), ({"means": 5}, "means"), ({"means": ((0.0,), (1.0, 2.0))}, "means"),
        ({"means": ((math.nan,), (1.0,))}, "means"), ({"means": ((), ())}, "means"), ({"means": "ab"}, "means"),
        ({"variances": (1.0,)}, "means, variances"), ({"variances": (-1.0, 1.0)}, "variances"),
        ({"variances": (math.inf, 1.0)}, "means, variances"), ({"weights": (0.5, 0.6)}, "weights"),
        ({"weights": (1.0, 0.0)}, "weights"), ({"weights": (LONG, 1)}, "means, variances, weights"),
        ({"weights": (math.nan, 1)}, "weights"),
    ],
)  # fmt: skip
def test_a_mixture_that_is_none_is_refused(wrong, name):
    refused(lambda: sb.GaussianMixture(**{**MIXTURE, **wrong}), name)


@pytest.mark.parametrize(
    ("data", "schedule", "predicts", "name"),
    [(5, sb.vp_linear(), "eps", "data"), (None, 5, "eps", "schedule"), (None, sb.vp_linear(), "noise", "predicts")],
)
def test_an_exact_model_of_wrong_parts_is_refused(data, schedule, predicts, name):
    refused(lambda: sb.exact_model(data or sb.GaussianMixture(**MIXTURE), schedule, predicts), name)


RUNS = [
    *listed(sb.run, "model", 5, None, [], sb.Model, "nope"),
    *listed(sb.run, "samplers", 5, None, [5], b"x", sb.make_sampler("ddim"), {"ddim"}),
    *listed(sb.run, "steps", None, "5", 0, 1.5, [1.5], LONG, {5}),
    *listed(sb.run, "nfe", 0, "5", [1.5], LONG),
    *listed(sb.run, "n", 0, "5", None, 1.5, LONG),
    *listed(sb.run, "grid", 5, [5, 1], b"x"),
    *listed(sb.run, "guidance", 0, "2", None, LONG, math.nan),
    *listed(sb.run, "guidance_calls", 0, "1", None),
    *listed(sb.run, "prompts", 5, [5], b"a", {"a"}),
    *listed(sb.run, "negative", 5, ["a"]),
    *listed(sb.run, "metrics", 5, None, [5]),
    *listed(sb.run, "extractors", 5, None, [5]),
    *listed(sb.run, "plugins", 5, None, [5]),
    *listed(sb.run, "reference", 5, []),
    *listed(sb.run, "output", 5, []),
    *listed(sb.run, "device", 5, None, "gpu"),
    *listed(sb.run, "dtype", 5, None, "int8"),
    *listed(sb.run, "keep_images", "x", 1),
    *listed(sb.run, "fresh", "x", None),
    *listed(sb.run, "retry_failed", "x", None),
    *listed(sb.run, "time_limit", "x", True, -1),
    *listed(sb.run, "memory_limit", "x", True, 0),
]
NAMED = {"n": "samples", "samplers": ("sampler", "samplers")}


@pytest.mark.parametrize(("run", "settings", "name"), RUNS)
def test_a_wrong_setting_of_a_run_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, run, settings, name):
    monkeypatch.chdir(tmp_path)
    told = {"model": "gaussian", "samplers": "ddim", "steps": 2, "n": 4, "metrics": [], **settings}
    refused(lambda: run(**told), NAMED.get(name, name))
    assert not list(tmp_path.iterdir())


# ---- What is right stays right ----


@pytest.mark.parametrize(
    "settings",
    [
        {"grid": [900, 5]}, {"grid": np.array([900.0, 5.0])}, {"grid": torch.tensor([900, 5])},
        {"grid": (t for t in (900, 5))}, {"grid": "900/5"}, {"prompts": ("a", "b")}, {"prompts": np.array(["a", "b"])},
        {"prompts": (text for text in "ab")}, {"guidance": np.float64(2.0)}, {"guidance": 2, "guidance_rescale": 1},
        {"x_init": torch.zeros(3, 2, dtype=torch.float64)}, {"dtype": "torch.float16"}, {"device": torch.device("cpu")},
        {"n": 1, "batch_size": 128},
    ],
)  # fmt: skip
def test_good_arguments_of_every_kind_are_taken(settings):
    samples = sampled(**settings)
    assert samples.x.shape == (len(settings.get("x_init", range(settings.get("n", 2)))), 2)


@pytest.mark.parametrize("shape", [torch.Size([1, 4, 4]), np.array([1, 4, 4]), [1, 4, 4], (np.int64(1), 4, 4)])
def test_a_shape_may_be_any_sequence_of_whole_numbers(shape):
    model = sb.wrap_network(zero, sb.vp_linear(), shape)
    assert model.shape == (1, 4, 4)
    assert all(type(side) is int for side in model.shape)


@pytest.mark.parametrize(
    ("make", "arguments", "name"),
    [
        (sb.vp_linear, ("a",), "timesteps"),
        (sb.vp_linear, (10**9,), "timesteps"),
        (sb.vp_linear, (1000, "a"), "beta_start"),
        (sb.vp_linear, (1000, 1e-4, 1.0), "beta_end"),
        (sb.vp_scaled_linear, (1000, -1.0), "beta_start"),
        (sb.vp_cosine, (1000, None), "s"),
        (sb.vp_cosine, (1000, 0.008, 2.0), "max_beta"),
        (sb.vp_from_alphas_cumprod, ("ab",), "alphas_cumprod"),
        (sb.vp_from_alphas_cumprod, (5,), "alphas_cumprod"),
        (sb.edm, ("a",), "sigma_min"),
        (sb.edm, (0.1, float("nan")), "sigma_max"),
    ],
)
def test_a_schedule_of_wrong_numbers_is_refused(make, arguments, name):
    refused(lambda: make(*arguments), name)

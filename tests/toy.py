"""A plugin for the tests: "toy", a Gaussian of 8 x 8 grey images in closed form, with prompts, features and a CLIP.

Also a metric of its own, and the faulty samplers that the harness has to live with.
"""

import math
import os
import signal
from dataclasses import dataclass

import numpy as np
import torch

from samplerbench import Extractor, Metric, Model, Sampler, hookimpl, mean_estimate, vp_linear

SHAPE = (1, 8, 8)
VARIANCE = 0.04
SCHEDULE = vp_linear()
TEMPLATES = {"left": torch.full(SHAPE, -0.5), "right": torch.full(SHAPE, -0.5)}
TEMPLATES["left"][..., :4] = 0.5
TEMPLATES["right"][..., 4:] = 0.5


def network(x, t, condition):
    """The noise in x, given that the data is N(condition, VARIANCE)."""
    level = SCHEDULE.at_time(float(t[0]))
    alpha, sigma = level.alpha, level.sigma
    share = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    x0 = condition + share * (x - alpha * condition)
    return (x - alpha * x0) / sigma


def encode(prompts):
    """The mean image of each prompt."""
    return torch.stack([TEMPLATES[prompt] for prompt in prompts])


def features(images, prompts):
    """Mean of each quadrant, (n, 4)."""
    quadrants = torch.nn.functional.avg_pool2d(images.float() / 127.5 - 1, 4).flatten(1)
    return quadrants.numpy()


def cosines(images, prompts):
    """Cosine of image and template, (n, 1)."""
    pixels = images.float().flatten(1) / 127.5 - 1
    return torch.cosine_similarity(pixels, encode(prompts).flatten(1)).numpy()[:, None]


def reference():
    """What a perfect sampler's features are like."""
    noise = torch.randn(1000, *SHAPE, generator=torch.Generator().manual_seed(7)) * math.sqrt(VARIANCE)
    prompts = ["left", "right"] * 500
    return features(((encode(prompts) + noise).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8), prompts)


def toy(argument=""):
    """The model."""
    return Model(
        name="toy",
        network=lambda device, dtype: network,
        schedule=SCHEDULE,
        shape=SHAPE,
        batch_size=64,
        encode=encode,
        unconditional=lambda texts: torch.zeros(len(texts), *SHAPE),
        prompts=("left", "right"),
        extractors={
            "features": Extractor("toy quadrants", features, reference, fingerprint="1"),
            "clip": Extractor("toy CLIP", cosines, note="two templates", fingerprint="1"),
        },
        fingerprint="toy 1",
    )


class Brightness(Metric):
    """Mean of all four quadrants: a metric that no column of the table knows."""

    extractor = "features"
    better = "higher"
    unit = ""
    least = 1

    def estimate(self, rows, prepared):
        """Features (n, 4) -> their mean."""
        return mean_estimate(rows.mean(1))


@dataclass(frozen=True)
class Faulty(Sampler):
    """DDIM, but for one fault."""

    def nfe(self, steps):
        """One call a step."""
        return steps

    def step(self, run, x, a, b, past):
        """First order."""
        return self.spoil(run, run.predict(x, a).combine(b.alpha, b.sigma), a), None

    def spoil(self, run, x, a):
        """The fault."""
        raise NotImplementedError


@dataclass(frozen=True)
class Raises(Faulty):
    """Raises in step 1; its message has what Markdown and terminals would obey."""

    def spoil(self, run, x, a):
        """The fault."""
        if run.i == 1:
            raise ZeroDivisionError("one | two\nthree \x1b[31mred")
        return x


@dataclass(frozen=True)
class Exits(Faulty):
    """Would end the program as if all were well."""

    def spoil(self, run, x, a):
        """The fault."""
        raise SystemExit(0)


@dataclass(frozen=True)
class NaNs(Faulty):
    """One NaN in step 1."""

    def spoil(self, run, x, a):
        """The fault."""
        if run.i == 1:
            x[-1].view(-1)[-1] = np.nan
        return x


@dataclass(frozen=True)
class Reshapes(Faulty):
    """A wrong shape."""

    def spoil(self, run, x, a):
        """The fault."""
        return x[..., :-1]


@dataclass(frozen=True)
class Forgets(Faulty):
    """No result."""

    def spoil(self, run, x, a):
        """The fault."""


@dataclass(frozen=True)
class CallsTwice(Faulty):
    """More calls than it declares."""

    def spoil(self, run, x, a):
        """The fault."""
        run.predict(x, a)
        return x


@dataclass(frozen=True)
class Late(Faulty):
    """Fails in the second block only."""

    def spoil(self, run, x, a):
        """The fault."""
        return self.fail_if_second(x, run)

    def fail_if_second(self, x, run):
        """The second block of 64 is told by its number of samples."""
        if len(x) not in (1, 64):
            raise RuntimeError("the second block")
        return x


@dataclass(frozen=True)
class Prints(Faulty):
    """Talks."""

    def spoil(self, run, x, a):
        """The fault."""
        print("hello from a plugin")
        return x


@dataclass(frozen=True)
class Signals(Faulty):
    """Sends this process a signal in the second block, which has fewer samples; `number` is the signal's."""

    number: int = int(signal.SIGINT)

    def spoil(self, run, x, a):
        """The fault."""
        if len(x) not in (1, 64):
            os.kill(os.getpid(), self.number)
        return x


@hookimpl
def samplerbench_models():
    """The model."""
    return {"toy": toy}


@hookimpl
def samplerbench_metrics():
    """The metric."""
    return {"brightness": Brightness}


@hookimpl
def samplerbench_samplers():
    """The faulty samplers."""
    return {
        "raises": Raises,
        "exits": Exits,
        "nans": NaNs,
        "reshapes": Reshapes,
        "forgets": Forgets,
        "calls-twice": CallsTwice,
        "late": Late,
        "prints": Prints,
        "signals": Signals,
    }

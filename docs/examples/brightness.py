"""A metric of image and prompt: does "bright" in a prompt give brighter images than "dark"?"""

import numpy as np

from samplerbench import Estimate, Extractor, InputError, Metric, check_rows, hookimpl

WORDS = {"dark": -1, "black": -1, "bright": 1, "white": 1}


def asked_for(prompt):
    """-1 for a dark image, 1 for a bright one, 0 where the prompt does not say."""
    return next((WORDS[word] for word in prompt.lower().split() if word in WORDS), 0)


def read(images, prompts):
    """For each image: what its prompt asks for, and the mean grey level of what is not black background."""
    grey = images.float().mean(1).flatten(1)
    is_there = grey > 0
    mean = (grey * is_there).sum(1) / is_there.sum(1).clamp(min=1)
    return np.stack([[asked_for(prompt) for prompt in prompts], mean.numpy()], axis=1).astype(np.float32)


def check_prompts(prompts):
    """Refuse prompts of which nothing can be said, before a run."""
    if {asked_for(prompt) for prompt in prompts} < {-1, 1}:
        raise InputError("metric 'brightness_order': expected prompts with 'dark' and others with 'bright'")


class BrightnessOrder(Metric):
    """The share of pairs of a "bright" and a "dark" image in which the bright one is brighter; 0.5 = by chance."""

    extractor = "brightness"
    better = "higher"
    unit = ""
    least = 20

    def estimate(self, rows, prepared):
        """The mean over all pairs. An image's influence is how its own mean over its pairs differs from that."""
        check_rows(rows, 2)
        asked, grey = rows.astype(np.float64).T
        wins = np.sign(grey[asked > 0][:, None] - grey[asked < 0]) / 2 + 0.5
        value, influence = float(wins.mean()), np.zeros(len(rows))
        for sign, axis in ((1, 1), (-1, 0)):
            influence[asked * sign > 0] = (wins.mean(axis) - value) * len(rows) / (asked * sign > 0).sum()
        return Estimate(value, influence)


@hookimpl
def samplerbench_extractors():
    """The rows."""
    extractor = Extractor("grey level", read, fingerprint="1", check=check_prompts)
    return {"my-brightness": lambda argument: {"brightness": extractor}}


@hookimpl
def samplerbench_metrics():
    """The number."""
    return {"brightness_order": BrightnessOrder}

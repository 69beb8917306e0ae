"""Parallel directions before learning (Zhu et al. 2025, EPD-Solver): the midpoint rule, its points asked at once."""

from dataclasses import dataclass

from samplerbench import Sampler, hookimpl


@dataclass(frozen=True)
class MyEPD(Sampler):
    """In s = sigma / alpha: x_b / alpha_b = x_a / alpha_a + (s_b - s_a) mean_k eps(x_k, s_k)."""

    points: int = 2
    """K: directions that are asked for at once, each in the middle of a K-th of the interval in lambda."""

    convergence = 2

    def __post_init__(self):
        """Check the option."""
        if self.points < 1:
            raise ValueError(f"points {self.points}: expected a whole number from 1")

    def nfe(self, steps):
        """The start and the points of each interval, the start only of the last."""
        return (1 + self.points) * (steps - 1) + 1

    def step(self, run, x, a, b, past):
        """An Euler step to each point, one call about all, and the mean of their eps for the whole interval."""
        start = run.predict(x, a)
        inner = [level for _, level in run.between(a, b, 2 * self.points - 1)[::2]]
        if not inner:
            return start.combine(b.alpha, b.sigma), None
        said = run.predict_many([(start.combine(level.alpha, level.sigma), level) for level in inner])
        slope = sum(prediction.eps for prediction in said) / self.points
        return b.alpha * (x / a.alpha + (b.sigma_ve - a.sigma_ve) * slope), None


@hookimpl
def samplerbench_samplers():
    """What this file adds."""
    return {"my-epd": MyEPD}

"""Guidance in an interval of noise levels (Kynkaanniemi et al. 2024), as a sampler that guides by itself."""

from dataclasses import dataclass

from samplerbench import Sampler, hookimpl


@dataclass(frozen=True)
class MyInterval(Sampler):
    """Euler; D = D_none + weight (D_prompt - D_none) where low < sigma / alpha <= high, D_prompt elsewhere."""

    weight: float = 2.0
    """Guidance within the interval. The run itself has guidance 1, so that `predict` answers with the prompt."""
    low: float = 0.3
    """No guidance at sigma / alpha up to this: it costs variety there and adds little."""
    high: float = 5.0
    """No guidance above this."""

    convergence = 1
    needs_unconditional = True
    claims = {
        "CFG++, first step": "guides by its own weight, and renoises with the guided eps",
        "options, each changed": "a model without prompts has nothing to guide by",
    }

    def nfe(self, steps):
        """One call a step."""
        return steps

    def step(self, run, x, a, b, past):
        """Both parts are linear in the network's answer, so that their step is mixed instead of it."""
        said = run.predict(x, a)
        prompt = said.combine(b.alpha, b.sigma)
        if not self.low < a.sigma_ve <= self.high:
            return prompt, None
        none = said.unconditional.combine(b.alpha, b.sigma)
        return none + self.weight * (prompt - none), None


@hookimpl
def samplerbench_samplers():
    """What this file adds."""
    return {"my-interval": MyInterval}

"""DPM-Solver++ for the SDE, multistep (Lu et al. 2022b, SDE-DPM-Solver++; Crowson, k-diffusion, sample_dpmpp_2m_sde).

Stochastic. NFE = steps. The paper has eta = 1 and orders 1 and 2; eta, as in k-diffusion, scales the SDE: h becomes
h' = (1 + eta) h. The first steps use lower orders, since there are not enough earlier predictions yet; the last
interval, and one that starts at alpha = 0, is first order. "DPM++ 3M SDE" of the tools is
order=3,variant=heun,coefficients=published (`dpm-solver++` explains the last option).

Same as: `dpm-solver++-sde:order=1` = `ddpm`; `dpm-solver++-sde:eta=0` = `dpm-solver++`;
`dpm-solver++-sde:order=3,eta=0` = `dpm-solver++:order=3`; `dpm-solver++-sde:order=1,eta=E` = `seeds:order=1,eta=E`
(E from 0 up).

Use it for stochastic samples where `ddpm` needs too many steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.errors import InputError
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .dpm_solver_pp import derivatives


@dataclass(frozen=True)
class DPMSolverPPSDE(Sampler):
    """x0 expanded in lambda under the kernel e^-h' of the SDE, its derivatives from earlier steps."""

    order: Literal[1, 2, 3] = 2
    """Predictions that a step uses."""
    eta: float = 1.0
    """Strength of the noise: 0 = the ODE, 1 = the reverse SDE of the model."""
    variant: Literal["midpoint", "heun"] = "midpoint"
    """With two predictions: midpoint = the slope as if at half the step, the paper's; heun = integrated exactly."""
    coefficients: Literal["exact", "published"] = "exact"
    """With three: published = the second derivative by half."""

    aliases = {
        "DPM++ 2M SDE": "",
        "DPM++ 2M SDE Karras": "grid=karras",
        "DPM++ 2M SDE Heun": "variant=heun",
        "DPM++ 3M SDE": "order=3,variant=heun,coefficients=published",
        "DPM++ 3M SDE Karras": "order=3,variant=heun,coefficients=published,grid=karras",
        "dpmpp_2m_sde": "",
        "dpmpp_3m_sde": "order=3,variant=heun,coefficients=published",
    }

    def __post_init__(self) -> None:
        """Check the option."""
        if not 0 <= self.eta < math.inf:
            raise InputError(f"sampler 'dpm-solver++-sde': option eta {self.eta}: expected a number from 0 up")

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """That of dpm-solver++ without noise."""
        if self.eta:
            return None
        return self.order if self.coefficients == "exact" else min(self.order, 2)

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """First order, the correction from older predictions, then the noise."""
        prediction = run.predict(x, a)
        history = [(a.lambda_, prediction.x0), *(past or [])][: self.order]
        # The linear part and the noise of the SDE are solved exactly: x_a gets the factor e^(-eta h) sigma_b / sigma_a.
        decay = (b.sigma_ve / a.sigma_ve) ** self.eta  # e^(-eta h); 0 or, without noise, 1 where h is infinite
        kept = decay * b.sigma / a.sigma
        x = prediction.mean(kept, b.alpha - a.alpha * kept)
        h = b.lambda_ - a.lambda_
        # The derivatives of x0; only first order where a lambda is infinite, or at the first step.
        if math.isfinite(h) and len(history) > 1:
            x = x + b.alpha * self._bend(history, h)
        if std := b.sigma * math.sqrt(1 - decay**2):
            x = x + std * run.noise(a, b)
        # A prediction made at alpha = 0 has no finite lambda, so no later step can use it.
        return x, [entry for entry in history if math.isfinite(entry[0])]

    def _bend(self, history: list[tuple[float, Tensor]], h: float) -> Tensor:
        """phi_2 D1 - phi_3 D2, with phi_2 and phi_3 of h' = (1 + eta) h."""
        d1, d2 = derivatives(history, h, published=self.coefficients == "published")
        # The kernel of the SDE decays with (1 + eta) h: h from the ODE and eta h from the noise.
        h_eta = (1 + self.eta) * h
        phi2 = math.expm1(-h_eta) / h_eta + 1
        if d2 is None:
            return (phi2 if self.variant == "heun" else -0.5 * math.expm1(-h_eta)) * d1
        return phi2 * d1 - (phi2 / h_eta - 0.5) * d2


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """SDE-DPM-Solver++."""
    return {"dpm-solver++-sde": DPMSolverPPSDE}

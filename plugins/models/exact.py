"""Models with a known answer, which try samplers without a network: "gaussian" and "mixture".

The data is two-dimensional. The argument is the schedule: "mixture:vp" (the default), "mixture:edm", "mixture:flow".
"""

from __future__ import annotations

from collections.abc import Callable

from ...samplers.errors import InputError, closest
from ...samplers.exact import GaussianMixture, exact_model, gaussian
from ...samplers.model import Model
from ...samplers.predictor import Predicts
from ...samplers.registry import ModelFactory, hookimpl
from ...samplers.schedule import Schedule, edm, flow, vp_linear

SCHEDULES: dict[str, tuple[Callable[[], Schedule], Predicts]] = {
    "vp": (vp_linear, "eps"),
    "edm": (edm, "x0"),
    "flow": (flow, "flow"),
}
GAUSSIAN = gaussian((0.5, -0.25), 0.09)
MIXTURE = GaussianMixture(
    means=((-0.7, -0.5), (0.6, -0.3), (0.1, 0.7)), variances=(0.01, 0.04, 0.0225), weights=(0.3, 0.3, 0.4)
)


def _factory(name: str, data: GaussianMixture) -> ModelFactory:
    def load(argument: str) -> Model:
        """Two-dimensional data with a known answer, to try samplers without a network; NAME:vp, NAME:edm, NAME:flow."""
        schedule = argument or "vp"
        if schedule not in SCHEDULES:
            raise InputError(
                f"model '{name}:{argument}': unknown schedule{closest(argument, SCHEDULES)}; "
                f"expected one of {', '.join(SCHEDULES)}"
            )
        # Each schedule with the prediction that models of its kind are trained for.
        make, predicts = SCHEDULES[schedule]
        return exact_model(data, make(), predicts, name=name if not argument else f"{name}:{argument}")

    return load


@hookimpl
def samplerbench_models() -> dict[str, ModelFactory]:
    """A Gaussian and a mixture of three."""
    return {"gaussian": _factory("gaussian", GAUSSIAN), "mixture": _factory("mixture", MIXTURE)}

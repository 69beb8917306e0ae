"""my-model, a model for samplerbench. Say here what it generates, and which paper and which data it comes from.

What stands below works: images of a disc, with a network whose answer is exact. Put your network in its place.

    samplerbench run --model my-model -s ddim -s dpm-solver++ --steps 5,10,20 -n 64 --plugin my_model.py
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from samplerbench import InputError, Model, ModelFactory, hookimpl, vp_linear, wrap_network

samplerbench_api = 1  # the version of the interface that this file is written for

SIDE = 16
DEVIATION = 0.2
SCHEDULE = vp_linear()  # the noise schedule that the network was trained with


class Network(nn.Module):
    """Predicts the noise in images that are a disc plus Gaussian noise of a known deviation."""

    def __init__(self) -> None:
        super().__init__()
        axis = torch.linspace(-1, 1, SIDE)
        disc = (axis[:, None] ** 2 + axis**2 < 0.5).float() - 0.5  # one of -0.5 and 0.5, (H, W)
        self.mean = nn.Parameter(disc[None])
        self.abar = nn.Parameter(torch.tensor(SCHEDULE.alphas_cumprod))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The state x (B, 1, H, W) = alpha x0 + sigma eps, unscaled, at the timesteps t (B,) -> eps, as x."""
        abar = self.abar[t].reshape(-1, 1, 1, 1)  # alpha^2 = abar, sigma^2 = 1 - abar
        share = abar.sqrt() * DEVIATION**2 / (abar * DEVIATION**2 + 1 - abar)
        x0 = self.mean + share * (x - abar.sqrt() * self.mean)
        return (x - abar.sqrt() * x0) / (1 - abar).sqrt()


def my_model(argument: str) -> Model:
    """The model; `argument` is what follows the colon in "my-model:argument", '' if nothing does.

    A model that comes in files takes their path as its argument. Keyword-only parameters after it are settings of the
    model, such as `size: str | None = None` for `--size`.
    """
    if argument:
        raise InputError(f"model 'my-model:{argument}': takes no argument; expected my-model")
    network = Network()  # here the weights are read: safetensors.torch.load_model(network, argument)
    model = wrap_network(
        network,
        SCHEDULE,
        shape=(1, SIDE, SIDE),  # the shape of one state, without the batch
        predicts="eps",  # or "x0", "v", "flow": what the network predicts
        timesteps="integer",  # it looks t up in a table; a network that takes any t is "fractional"
        name="my-model",
    )
    # A hash of everything that the answers depend on: by it a run is resumed. Hash the file of the weights for it.
    return replace(model, fingerprint="disc 1")


@hookimpl
def samplerbench_models() -> dict[str, ModelFactory]:
    """What this file adds, by name."""
    return {"my-model": my_model}

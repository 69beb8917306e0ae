"""The training losses of the three networks: autoencoder, text encoder, U-Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ....samplers.ddpm import Draw, draw_examples, loss_of_draw
from ....samplers.image_data import ImageData
from ....samplers.nets.feeding import Batch, FedLoss
from ....samplers.nets.training import batch_of, step_generator
from ....samplers.schedule import vp_scaled_linear
from ..ddpm.losses import CONDITION_DROP, as_input
from .networks import LATENT_CHANNELS, Pairs
from .settings import FACTOR, FLOW

Numbers = npt.NDArray[Any]
KL = 1e-6
"""Weight of the divergence from a unit normal: it bounds the latents, and blurs nothing (Rombach et al. 2022, G)."""
FLOW_TIMES = 1000
"""What the time of a flow is multiplied by for the network: sines of a time below 1 would hardly differ."""
EDGES = 0.5
"""Weight of the error of differences between neighbours, which keeps edges sharp."""


def reconstructing(images: Tensor, *, batch: int, seed: int, device: torch.device) -> FedLoss:
    """The autoencoder's error on uint8 images (N, 3, H, W): of pixels, of edges, and of the latents' distribution."""
    shape = LATENT_CHANNELS, *(side // FACTOR for side in images.shape[2:])

    def batch_at(step: int) -> Batch:
        noise = torch.randn(batch, *shape, generator=step_generator(seed, step))
        return {"images": images[batch_of(seed, step, len(images), batch)], "noise": noise}

    def loss(net: nn.Module, given: Batch) -> Tensor:
        vae: Any = net
        x = as_input(given["images"])
        # Decoded from a draw and not from the mean, or pixels would teach the deviation nothing.
        found = vae.encode(x).latent_dist
        decoded: Tensor = vae.decode(found.mean + found.std * given["noise"].to(found.mean)).sample.float()
        divergence = (found.mean.float().square() + found.var.float() - 1 - found.logvar.float()).mean() / 2
        error: Tensor = F.l1_loss(decoded, x) + EDGES * _edges(decoded, x) + KL * divergence
        return error

    return FedLoss(batch_at, loss, device)


def decoding(images: Tensor, vae: Any, *, batch: int, seed: int, device: torch.device) -> FedLoss:
    """The decoder's mean squared error on uint8 images (N, 3, H, W), from the means of their latents."""

    def batch_at(step: int) -> Batch:
        return {"images": images[batch_of(seed, step, len(images), batch)]}

    def loss(net: nn.Module, given: Batch) -> Tensor:
        x = as_input(given["images"])
        with torch.no_grad():  # the encoder stays as it is, and with it the latents that the U-Net learns
            latents = vae.encode(x).latent_dist.mean
        error: Tensor = F.mse_loss(net(latents).float(), x)
        return error

    return FedLoss(batch_at, loss, device)


def _edges(a: Tensor, b: Tensor) -> Tensor:
    """The mean error of the differences between neighbours, along both axes."""
    return sum((F.l1_loss(a.diff(dim=d), b.diff(dim=d)) for d in (-2, -1)), torch.zeros((), device=a.device))


def contrasting(  # noqa: PLR0913  (what the pairs are made of)
    images: Tensor, data: ImageData, tokens_of: Callable[[Sequence[str]], Tensor], *, batch: int, seed: int,
    device: torch.device,
) -> FedLoss:  # fmt: skip
    """The loss of image-text pairs, where each image has to tell its caption from what is false of it too.

    Without such hard negatives an encoder learns which words a caption has, and not their order (Yuksekgonul et al.
    2023).
    """

    tokens = Tokens(data, tokens_of)

    def batch_at(step: int) -> Batch:
        rows = batch_of(seed, step, len(images), batch)
        texts, owners, places = tokens(rows.tolist())
        # As wide as the image with most contraries needs it: where there are fewer, a place says nothing.
        hard = torch.full((batch, int(places.max(initial=-1)) + 1), -torch.inf)
        return {
            "images": images[rows], "texts": texts, "hard": hard,
            "owners": torch.from_numpy(owners), "places": torch.from_numpy(places),
        }  # fmt: skip

    def loss(net: nn.Module, given: Batch) -> Tensor:
        assert isinstance(net, Pairs)
        shown, told = net.images(as_input(given["images"])), net.texts(given["texts"])
        # In float32, even under autocast: cosines are multiplied by up to 100.
        with torch.autocast(device.type, enabled=False):
            logits = net.scale * shown @ told[:batch].T
            # Each image only against its own contraries: those of another image may be true of it.
            cosines = (told[batch:] * shown[given["owners"]]).sum(1)
            hard = given["hard"].to(logits).index_put((given["owners"], given["places"]), net.scale * cosines)
            pairs = torch.arange(batch, device=device)
            return (F.cross_entropy(torch.cat([logits, hard], 1), pairs) + F.cross_entropy(logits.T, pairs)) / 2

    return FedLoss(batch_at, loss, device)


class Tokens:
    """The tokens of images' captions and of what is false of them, which are kept: to read a text again in each epoch
    would keep a GPU waiting."""

    def __init__(self, data: ImageData, tokens_of: Callable[[Sequence[str]], Tensor]) -> None:
        self._data, self._tokens_of = data, tokens_of
        self._of: dict[int, Tensor] = {}

    def __call__(self, rows: Sequence[int]) -> tuple[Tensor, Numbers, Numbers]:
        """Numbers of images -> the tokens of their captions and behind them of all contraries; the position in `rows`
        of the image that each contrary is of, and its number among those of this image."""
        if new := [i for i in dict.fromkeys(rows) if i not in self._of]:
            texts = [[self._data.caption(i) or "", *self._data.contraries(i)] for i in new]
            made = self._tokens_of([text for of_one in texts for text in of_one])
            # Copies: a part of a tensor would keep the whole of it.
            parts = (part.clone() for part in torch.split(made, list(map(len, texts))))
            self._of |= dict(zip(new, parts, strict=True))
        found = [self._of[i] for i in rows]
        counts = [len(of_one) - 1 for of_one in found]
        places = np.concatenate([np.arange(count) for count in counts])
        tokens = torch.cat([*(of_one[:1] for of_one in found), *(of_one[1:] for of_one in found)])
        return tokens, np.repeat(np.arange(len(found)), counts), places


def denoising(  # noqa: PLR0913  (what the examples are made of)
    latents: Tensor, states_of: Callable[[Tensor], Tensor], *, prediction: str, scale: float, batch: int, seed: int,
    device: torch.device,
) -> FedLoss:  # fmt: skip
    """The U-Net's error in v, or in the velocity of a flow, on latents (N, 4, h, w) times `scale`.

    `states_of(texts)` are the states (B, L, D) of captions by number, where number N is the empty text: it takes the
    place of a tenth of the captions, which makes classifier-free guidance possible (Ho and Salimans 2022).
    """
    schedule = vp_scaled_linear()

    def batch_at(step: int) -> Batch:
        generator = step_generator(seed, step)
        kept = torch.rand(batch, generator=generator) >= CONDITION_DROP
        shape = (batch, *latents.shape[1:])
        drawn = draw_times(shape, generator) if prediction == FLOW else draw_examples(schedule, shape, generator)
        rows = batch_of(seed, step, len(latents), batch)
        texts = torch.where(kept, rows, len(latents))
        return {"latents": latents[rows], "texts": texts, "t": drawn.t, "eps": drawn.eps}

    def loss(net: nn.Module, given: Batch) -> Tensor:
        x0, states = scale * given["latents"].float(), states_of(given["texts"])
        drawn = Draw(given["t"], given["eps"])
        if prediction == FLOW:
            return loss_of_flow(_Asked(net), x0, states, drawn)
        return loss_of_draw(_Asked(net), schedule, x0, states, drawn, predicts=prediction)

    return FedLoss(batch_at, loss, device)


def draw_times(shape: Sequence[int], generator: torch.Generator) -> Draw:
    """A random time in (0, 1] of a flow, and random noise, for each sample of a batch of this shape."""
    batch = shape[0]
    # One in each of `batch` equal parts, which makes the loss less noisy (Kingma et al. 2021, appendix I.1). The rows
    # of a batch are in random order, so that each sample still meets any time.
    t = (torch.arange(batch) + 1 - torch.rand(batch, generator=generator)) / batch
    return Draw(t, torch.randn(tuple(shape), generator=generator))


def loss_of_flow(network: nn.Module, x0: Tensor, states: Tensor, draw: Draw) -> Tensor:
    """Mean squared error in eps - x0, the velocity of x = (1 - t) x0 + t eps (Lipman et al. 2023, Liu et al. 2023).

    The network hears 1000 t, as pipelines of diffusers tell it.
    """
    t, eps = draw.t.to(x0), draw.eps.to(x0)
    at = t.view(-1, *[1] * (x0.ndim - 1))
    answer: Tensor = network((1 - at) * x0 + at * eps, FLOW_TIMES * t, states)
    # In float32, even if autocast made the answer bfloat16.
    return (answer.float() - (eps - x0)).square().mean()


class _Asked(nn.Module):
    """A U-Net of diffusers, asked as the networks of this package are."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, states: Tensor) -> Tensor:
        """The U-Net's answer."""
        answer: Any = self.unet(x, t, encoder_hidden_states=states)
        return answer.sample  # type: ignore[no-any-return]

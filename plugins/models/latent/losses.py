"""The training losses of the three networks: autoencoder, text encoder, U-Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ....samplers.ddpm import draw_examples, loss_of_draw
from ....samplers.image_data import ImageData
from ....samplers.nets.training import LossOf, batch_of, step_generator
from ....samplers.schedule import vp_scaled_linear
from ..ddpm.losses import CONDITION_DROP, as_input
from .networks import Pairs

KL = 1e-6
"""Weight of the divergence from a unit normal: it bounds the latents, and blurs nothing (Rombach et al. 2022, G)."""
EDGES = 0.5
"""Weight of the error of differences between neighbours, which keeps edges sharp."""


def reconstructing(images: Tensor, *, batch: int, seed: int, device: torch.device) -> LossOf:
    """The autoencoder's error on uint8 images (N, 3, H, W): of pixels, of edges, and of the latents' distribution."""

    def loss(net: nn.Module, step: int) -> Tensor:
        vae: Any = net
        x = as_input(images[batch_of(seed, step, len(images), batch)].to(device))
        # Decoded from a draw and not from the mean, or pixels would teach the deviation nothing.
        found = vae.encode(x).latent_dist
        noise = torch.randn(found.mean.shape, generator=step_generator(seed, step)).to(found.mean)
        decoded: Tensor = vae.decode(found.mean + found.std * noise).sample.float()
        divergence = (found.mean.float().square() + found.var.float() - 1 - found.logvar.float()).mean() / 2
        error: Tensor = F.l1_loss(decoded, x) + EDGES * _edges(decoded, x) + KL * divergence
        return error

    return loss


def decoding(images: Tensor, vae: Any, *, batch: int, seed: int, device: torch.device) -> LossOf:
    """The decoder's mean squared error on uint8 images (N, 3, H, W), from the means of their latents."""

    def loss(net: nn.Module, step: int) -> Tensor:
        x = as_input(images[batch_of(seed, step, len(images), batch)].to(device))
        with torch.no_grad():  # the encoder stays as it is, and with it the latents that the U-Net learns
            latents = vae.encode(x).latent_dist.mean
        error: Tensor = F.mse_loss(net(latents).float(), x)
        return error

    return loss


def _edges(a: Tensor, b: Tensor) -> Tensor:
    """The mean error of the differences between neighbours, along both axes."""
    return sum((F.l1_loss(a.diff(dim=d), b.diff(dim=d)) for d in (-2, -1)), torch.zeros((), device=a.device))


def contrasting(  # noqa: PLR0913  (what the pairs are made of)
    images: Tensor, data: ImageData, tokens_of: Callable[[Sequence[str]], Tensor], *, batch: int, seed: int,
    device: torch.device,
) -> LossOf:  # fmt: skip
    """The loss of image-text pairs, where each image has to tell its caption from what is false of it too.

    Without such hard negatives an encoder learns which words a caption has, and not their order (Yuksekgonul et al.
    2023).
    """

    def loss(net: nn.Module, step: int) -> Tensor:
        assert isinstance(net, Pairs)
        rows = batch_of(seed, step, len(images), batch)
        texts = [data.caption(i) or "" for i in rows.tolist()]
        false = [data.contraries(i) for i in rows.tolist()]
        shown = net.images(as_input(images[rows].to(device)))
        told = net.texts(tokens_of([*texts, *(text for of_one in false for text in of_one)]).to(device))
        # In float32, even under autocast: cosines are multiplied by up to 100.
        with torch.autocast(device.type, enabled=False):
            logits = net.scale * shown @ told[:batch].T
            hard = torch.full((batch, max(map(len, false))), -torch.inf, dtype=logits.dtype, device=device)
            # Each image only against its own contraries: those of another image may be true of it.
            for i, own in enumerate(torch.split(told[batch:], [len(of_one) for of_one in false])):
                hard[i, : len(own)] = net.scale * own @ shown[i]
            pairs = torch.arange(batch, device=device)
            return (F.cross_entropy(torch.cat([logits, hard], 1), pairs) + F.cross_entropy(logits.T, pairs)) / 2

    return loss


def denoising(  # noqa: PLR0913  (what the examples are made of)
    latents: Tensor, states_of: Callable[[Sequence[int], Tensor], Tensor], *, scale: float, batch: int, seed: int,
    device: torch.device,
) -> LossOf:  # fmt: skip
    """The U-Net's error in v on latents (N, 4, h, w) times `scale`.

    `states_of(numbers, kept)` are the states of the captions of images (B, L, D). A caption that is not kept is the
    empty text, which makes classifier-free guidance possible (Ho and Salimans 2022).
    """
    schedule = vp_scaled_linear()

    def loss(net: nn.Module, step: int) -> Tensor:
        generator = step_generator(seed, step)
        kept = torch.rand(batch, generator=generator) >= CONDITION_DROP
        drawn = draw_examples(schedule, (batch, *latents.shape[1:]), generator)
        rows = batch_of(seed, step, len(latents), batch)
        x0 = scale * latents[rows].to(device, torch.float32)
        return loss_of_draw(_Asked(net), schedule, x0, states_of(rows.tolist(), kept), drawn, predicts="v")

    return loss


class _Asked(nn.Module):
    """A U-Net of diffusers, asked as the networks of this package are."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, states: Tensor) -> Tensor:
        """The U-Net's answer."""
        answer: Any = self.unet(x, t, encoder_hidden_states=states)
        return answer.sample  # type: ignore[no-any-return]

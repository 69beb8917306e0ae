"""The training losses of the networks: classifier, CLIP, and the U-Net that the CLIP's text conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ....samplers.ddpm import Draw, draw_examples, loss_of_draw
from ....samplers.nets.clip import CLIP
from ....samplers.nets.ranks import ALONE, Ranks
from ....samplers.nets.training import LossOf, batch_of, step_generator
from ....samplers.predictor import Predicts
from ....samplers.schedule import vp_linear

CONDITION_DROP = 0.1
"""Share of training images without a condition, which makes classifier-free guidance possible."""
PREDICTS: Predicts = "v"
"""The U-Net answers with v: near t = T the noise is almost the input itself, and x0 = (x - sigma eps) / alpha
would magnify the error of a small network up to 150 times."""


def as_input(images: Tensor) -> Tensor:
    """uint8 -> float in [-1, 1]."""
    return images.float() / 127.5 - 1


def classifying(
    images: Tensor, labels: Tensor, *, batch: int, seed: int, device: torch.device = ALONE.device
) -> LossOf:
    """Cross-entropy of a classifier's answers on uint8 (N, C, H, W) with class numbers (N,)."""

    def loss(net: nn.Module, step: int) -> Tensor:
        rows = batch_of(seed, step, len(images), batch)
        answers: Tensor = net(as_input(images[rows].to(device)))
        return F.cross_entropy(answers.float(), labels[rows].to(device), label_smoothing=0.05)

    return loss


def contrasting(
    images: Tensor,
    texts_of: Callable[[Tensor, int], Sequence[str]],
    *,
    batch: int,
    seed: int,
    device: torch.device = ALONE.device,
) -> LossOf:
    """The CLIP's loss on pairs; `texts_of(rows, seed)` words the captions of a batch."""

    def loss(net: nn.Module, step: int) -> Tensor:
        assert isinstance(net, CLIP)
        rows = batch_of(seed, step, len(images), batch)
        tokens = net.tokenizer.encode(texts_of(rows, seed + step))
        return net.loss(as_input(images[rows].to(device)), tokens.to(device))

    return loss


def denoising(
    images: Tensor,
    condition_of_rows: Callable[[Tensor, int], Tensor] | None,
    *,
    batch: int,
    seed: int,
    ranks: Ranks = ALONE,
) -> LossOf:
    """The DDPM's loss; `condition_of_rows(rows, seed)` gives the condition (B, D) of images by number.

    All random numbers are drawn for the whole batch, and each process takes its part: the number of processes changes
    the training only by rounding.
    """
    schedule = vp_linear()

    def loss(net: nn.Module, step: int) -> Tensor:
        # Numbered by the step and not taken from a stream that runs on: a resumed training draws what it would have
        # drawn.
        generator = step_generator(seed, step)
        kept = torch.rand(batch, 1, generator=generator) >= CONDITION_DROP
        drawn = draw_examples(schedule, (batch, *images.shape[1:]), generator)
        rows = ranks.part(batch_of(seed, step, len(images), batch))
        condition = None
        if condition_of_rows:
            condition = condition_of_rows(rows, seed + step) * ranks.part(kept).to(ranks.device)
        x0 = as_input(images[rows].to(ranks.device))
        own = Draw(ranks.part(drawn.t), ranks.part(drawn.eps))
        return loss_of_draw(net, schedule, x0, condition, own, predicts=PREDICTS)

    return loss

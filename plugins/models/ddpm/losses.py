"""The training losses of the networks: classifier, CLIP, and the U-Net that the CLIP's text conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ....samplers.ddpm import Draw, draw_examples, loss_of_draw
from ....samplers.nets.clip import CLIP, Tokenizer
from ....samplers.nets.feeding import Batch, FedLoss
from ....samplers.nets.ranks import ALONE, Ranks
from ....samplers.nets.training import batch_of, step_generator
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
) -> FedLoss:
    """Cross-entropy of a classifier's answers on uint8 (N, C, H, W) with class numbers (N,)."""

    def batch_at(step: int) -> Batch:
        rows = batch_of(seed, step, len(images), batch)
        return {"images": images[rows], "labels": labels[rows]}

    def loss(net: nn.Module, given: Batch) -> Tensor:
        answers: Tensor = net(as_input(given["images"]))
        return F.cross_entropy(answers.float(), given["labels"], label_smoothing=0.05)

    return FedLoss(batch_at, loss, device)


def contrasting(  # noqa: PLR0913  (what the pairs are made of)
    images: Tensor,
    texts_of: Callable[[Tensor, int], Sequence[str]],
    tokenizer: Tokenizer,
    *,
    batch: int,
    seed: int,
    device: torch.device = ALONE.device,
) -> FedLoss:
    """The CLIP's loss on pairs; `texts_of(rows, seed)` words the captions of a batch."""

    def batch_at(step: int) -> Batch:
        rows = batch_of(seed, step, len(images), batch)
        return {"images": images[rows], "tokens": tokenizer.encode(texts_of(rows, seed + step))}

    def loss(net: nn.Module, given: Batch) -> Tensor:
        assert isinstance(net, CLIP)
        return net.loss(as_input(given["images"]), given["tokens"])

    return FedLoss(batch_at, loss, device)


def denoising(
    images: Tensor,
    condition_of_rows: Callable[[Tensor, int], Tensor] | None,
    *,
    batch: int,
    seed: int,
    ranks: Ranks = ALONE,
) -> FedLoss:
    """The DDPM's loss; `condition_of_rows(rows, seed)` gives the condition (B, D) of images by number, on the CPU.

    All random numbers are drawn for the whole batch, and each process takes its part: the number of processes changes
    the training only by rounding.
    """
    schedule = vp_linear()

    def batch_at(step: int) -> Batch:
        # Numbered by the step and not taken from a stream that runs on: a resumed training draws what it would have
        # drawn.
        generator = step_generator(seed, step)
        kept = torch.rand(batch, 1, generator=generator) >= CONDITION_DROP
        drawn = draw_examples(schedule, (batch, *images.shape[1:]), generator)
        rows = ranks.part(batch_of(seed, step, len(images), batch))
        made = {"images": images[rows], "t": ranks.part(drawn.t), "eps": ranks.part(drawn.eps)}
        if condition_of_rows:
            made["condition"] = condition_of_rows(rows, seed + step) * ranks.part(kept)
        return made

    def loss(net: nn.Module, given: Batch) -> Tensor:
        drawn = Draw(given["t"], given["eps"])
        x0 = as_input(given["images"])
        return loss_of_draw(net, schedule, x0, given.get("condition"), drawn, predicts=PREDICTS)

    return FedLoss(batch_at, loss, ranks.device)

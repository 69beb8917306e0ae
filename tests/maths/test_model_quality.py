"""Does the embedded model draw what it is asked for? Judged by a classifier that has no part in the project.

The judge is trained here, from nothing, on the real training images: about three minutes on two cores.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import samplerbench as sb
from samplerbench.plugins.models.fashion_mnist.data import DEBIAN_FOLDER, Split, load_split

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(DEBIAN_FOLDER).is_dir(), reason="needs the Debian package dataset-fashion-mnist"),
]
EPOCHS, BATCH, PEAK_RATE = 6, 128, 0.1
IMAGES = 2_000


class Residual(nn.Module):
    """A residual block with batch normalisation, unlike anything in the package."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.skip = nn.Conv2d(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(self.skip(x) + h)


def standardised(images: Tensor) -> Tensor:
    return (images.float() - 73) / 90


@torch.no_grad()
def classes_of(judge: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([judge(standardised(part)).argmax(1) for part in torch.split(images, 500)])


@pytest.fixture(scope="module")
def judge() -> nn.Module:
    torch.manual_seed(123)
    network = nn.Sequential(
        nn.Conv2d(1, 24, 3, 2, 1), nn.ReLU(), Residual(24, 32, 1), Residual(32, 64, 2), Residual(64, 96, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(96, 10),
    )  # fmt: skip
    data: Split = load_split(True)
    steps = EPOCHS * (len(data.images) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), PEAK_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps + 1)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(data.images)), BATCH)[: len(data.images) // BATCH]:
            shift = torch.randint(-1, 2, (2,)).tolist()
            images = torch.roll(standardised(data.images[rows]), shift, (2, 3))
            F.cross_entropy(network(images), data.labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return network.eval()


def test_the_judge_knows_real_images(judge, figure):
    test = load_split(False)
    accuracy = float((classes_of(judge, test.images) == test.labels).float().mean())
    figure("independent judge on the 10,000 test images", f"{accuracy:.1%}")
    assert accuracy > 0.91


@pytest.mark.parametrize(("guidance", "least"), [(1.0, 0.85), (2.0, 0.95)])
def test_the_asked_class_is_drawn(judge, guidance, least, figure):
    samples = sb.sample("fashion-mnist", "ddim", steps=50, n=IMAGES, guidance=guidance, seed=1)
    found = classes_of(judge, samples.images)
    share = float((found == torch.arange(IMAGES) % 10).float().mean())
    figure(f"embedded model, images of the asked class at guidance {guidance:g}", f"{share:.1%} of {IMAGES:,}")
    assert share >= least

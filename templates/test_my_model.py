"""my-model draws what its data is: a wrong schedule, or a wrong `predicts`, shows here."""

import pytest
import torch
from my_model import DEVIATION, Network, my_model

import samplerbench as sb

MODEL = my_model("")


def test_samples_have_the_mean_and_the_deviation_of_the_data() -> None:
    x = sb.sample(MODEL, "dpm-solver++", steps=200, n=256).x
    mean = Network().mean.detach()
    assert (x.mean(0) - mean).abs().max() < 5 * DEVIATION / 16  # 5 standard errors of 256 samples
    assert abs(float((x - mean).std()) / DEVIATION - 1) < 0.05


@pytest.mark.parametrize("t", [10, 300, 900])
def test_the_network_predicts_the_noise(t: int) -> None:
    level = MODEL.schedule.at_time(t)
    generator = torch.Generator().manual_seed(0)
    eps, deviation = torch.randn(2, 256, *MODEL.shape, generator=generator)
    x0 = Network().mean.detach() + DEVIATION * deviation
    network = MODEL.network(torch.device("cpu"), torch.float32)
    answer = network(level.alpha * x0 + level.sigma * eps, torch.full((256,), t))
    # The best guess explains a share of the noise, as a projection does: <answer, eps> = <answer, answer>.
    assert float((answer * eps).mean() / answer.square().mean()) == pytest.approx(1, abs=0.05)


def test_samples_do_not_depend_on_how_many_there_are() -> None:
    few, many = (sb.sample(MODEL, "ddim", steps=3, n=n).x for n in (3, 66))
    assert torch.equal(few, many[:3])


def test_an_argument_is_refused() -> None:
    with pytest.raises(sb.InputError, match="takes no argument"):
        my_model("large")

"""my-extractor gives each image finite numbers of its own, whatever the images beside it."""

import numpy as np
import pytest
import torch
from my_extractor import my_extractor

import samplerbench as sb

IMAGES = torch.randint(0, 256, (70, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
EXTRACTORS = my_extractor("")


@pytest.mark.parametrize("role", EXTRACTORS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_has_a_row_of_finite_numbers(role: str, channels: int) -> None:
    rows = EXTRACTORS[role].extract(IMAGES[:, :channels], [""] * len(IMAGES))
    assert rows.ndim == 2
    assert len(rows) == len(IMAGES)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("role", EXTRACTORS)
def test_a_row_does_not_depend_on_the_other_images(role: str) -> None:
    extract = EXTRACTORS[role].extract
    together = extract(IMAGES, [""] * len(IMAGES))
    assert np.array_equal(extract(IMAGES[3:4], [""]), together[3:4])


def test_the_numbers_are_right() -> None:
    left_half_white = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    left_half_white[..., :2] = 255
    rows = EXTRACTORS["features"].extract(left_half_white, [""])
    deviation = (16 * 0.25 / 15) ** 0.5  # 16 pixels, each 0.5 from the mean
    assert rows[0] == pytest.approx([0.5, deviation, 1 / 3])  # one of three differences in a line is 1


def test_an_argument_is_refused() -> None:
    with pytest.raises(sb.InputError, match="takes no argument"):
        my_extractor("large")

"""my-data is what samplerbench expects of images by number."""

import pytest
import torch
from my_data import my_data

import samplerbench as sb

DATA = my_data("")


@pytest.mark.parametrize("i", [0, 1, len(DATA) - 1])
def test_an_image_is_of_bytes_in_one_or_three_channels(i: int) -> None:
    image = DATA.image(i)
    assert image.dtype == torch.uint8
    assert image.ndim == 3
    assert image.shape[0] in (1, 3)
    assert image.float().std() > 0


def test_an_image_is_the_same_whenever_it_is_read() -> None:
    assert torch.equal(DATA.image(5), my_data("").image(5))
    assert not torch.equal(DATA.image(5), DATA.image(6))


def test_a_caption_is_one_line_or_none() -> None:
    captions = [DATA.caption(i) for i in range(len(DATA))]
    assert all(caption is None or (caption.strip() and "\n" not in caption) for caption in captions)


def test_the_fingerprint_changes_with_the_images() -> None:
    assert my_data("").fingerprint == DATA.fingerprint
    assert my_data("500").fingerprint != DATA.fingerprint


@pytest.mark.parametrize("argument", ["0", "many"])
def test_a_wrong_argument_is_refused(argument: str) -> None:
    with pytest.raises(sb.InputError, match="expected a number of images"):
        my_data(argument)

"""Samples of several frames: what decode may return, what extractors get, and which frames pictures show."""

import dataclasses

import numpy as np
import pytest
import torch

import samplerbench as sb
from samplerbench.bench.draw.chunk import extract_rows
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.show.picture import redraw
from samplerbench.samplers.files.tiles import as_shown

FRAMES = (5, 1, 8, 8)
read = []


def decode(x):
    """Frame f has the grey level 10 f, and a pixel that depends on the sample."""
    made = torch.arange(5, dtype=torch.uint8).mul(10)[None, :, None, None, None].repeat(len(x), 1, 1, 8, 8)
    made[:, :, 0, 0, 0] = (100 + 20 * x.flatten(1)[:, 0].tanh())[:, None].to(torch.uint8)
    return made


def means(frames, prompts):
    read.append(tuple(frames.shape))
    return frames.float().flatten(2).mean(2).numpy()


def moving(**changes):
    model = sb.wrap_network(lambda x, t: 0 * x, sb.vp_linear(), (4, 2), "x0", fingerprint="moving")
    extractor = sb.Extractor("frame means", means, fingerprint="1")
    settings = {"decode": decode, "image_shape": FRAMES, "extractors": {"features": extractor}, **changes}
    return dataclasses.replace(model, **settings)


@pytest.mark.parametrize(("frames", "shown"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 2, 3]), (16, [0, 8, 15])])
def test_the_first_the_middle_and_the_last_frame_stand_side_by_side(frames, shown):
    images = np.arange(2 * frames, dtype=np.uint8).reshape(2, frames, 1, 1, 1).repeat(3, 3).repeat(4, 4)
    strip = as_shown(images)
    assert strip.shape == (2, 1, 3, 4 * len(shown))
    assert strip[1, 0, 0, ::4].tolist() == [frames + f for f in shown]
    assert as_shown(strip) is strip


def test_samples_have_every_frame_and_a_notebook_shows_three():
    samples = sb.sample(moving(), "ddim", 2, n=3)
    assert samples.images.shape == (3, *FRAMES)
    assert samples._repr_png_().startswith(b"\x89PNG")
    assert moving().shown_shape is None


def test_a_run_gives_extractors_all_frames_and_pictures_three(tmp_path):
    read.clear()
    rows = extract_rows(moving(), "features", moving().images(torch.zeros(2, 4, 2)), (), 0)
    assert (rows.shape, read) == ((2, 5), [(2, *FRAMES)])
    result = sb.run(moving(), ["ddim", "ddpm"], steps=2, n=4, metrics=[], output=tmp_path / "run")
    assert set(result.table["status"]) == {"ok"}
    assert (result.folder / "grid.png").exists()
    stored = StoredRun(result.folder)
    assert redraw(stored).width > 3 * 8
    kept = stored.first_chunk(stored.record.cells[0]).images
    assert kept.shape == (4, 1, 8, 24)
    assert kept[0, 0, 4, ::8].tolist() == [0, 20, 40]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": None}, r"decode returned uint8 \(2, 5, 1, 8, 8\); expected uint8 \(2, 1 or 3, H, W\)"),
        ({"image_shape": (4, 1, 8, 8)}, r"expected uint8 \(2, 4, 1, 8, 8\)"),
        ({"image_shape": (1, 8, 8)}, r"expected uint8 \(2, 1, 8, 8\)"),
        ({"decode": lambda x: decode(x).float()}, r"float32 \(2, 5, 1, 8, 8\)"),
    ],
)
def test_frames_are_held_to_what_the_model_says(changes, message):
    with pytest.raises(sb.InputError, match=message):
        moving(**changes).images(torch.zeros(2, 4, 2))


@pytest.mark.parametrize("shape", [(5, 2, 8, 8), (2, 5, 1, 8, 8), (8, 8)])
def test_a_shape_that_is_none_of_frames_is_refused(shape):
    with pytest.raises(sb.InputError, match=r"image_shape .*expected \(1 or 3, H, W\), or \(F, 1 or 3, H, W\)"):
        moving(image_shape=shape)

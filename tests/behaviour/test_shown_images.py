"""Clean states -> images: the range of black and white, what a decode may return, and that x is never lost for them."""

import dataclasses

import pytest
import torch

import samplerbench as sb
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.samplers.model import to_images
from samplerbench.samplers.registry import load_registry

# The models here are made for a test: that their runs do not resume is as it should be.
pytestmark = pytest.mark.filterwarnings("ignore:model .* has no fingerprint:UserWarning")

SHAPE = (1, 2, 4)
RAMP = torch.linspace(0, 1, 8).reshape(SHAPE)
"""From black to white."""
GREYS = torch.tensor([0, 36, 73, 109, 146, 182, 219, 255], dtype=torch.uint8).reshape(1, *SHAPE)


def constant(low, high, **settings):
    """A model whose data is one ramp from `low`, black, to `high`, white."""
    data = low + (high - low) * RAMP
    return sb.wrap_network(lambda x, t: data.to(x).expand_as(x), sb.vp_linear(), SHAPE, "x0", **settings)


@pytest.mark.parametrize(
    ("low", "high", "settings"),
    [
        (-1, 1, {}),
        (-1, 1, {"clip": (-1, 1)}),
        (0, 1, {"clip": (0, 1)}),
        (0, 1, {"clip": [0.0, 1.0]}),
        (0, 1, {"value_range": (0, 1)}),
        (0, 255, {"clip": (0, 255)}),
        (0, 255, {"value_range": (0, 255)}),
        (-0.5, 0.5, {"clip": (-0.5, 0.5)}),
        (-2, 2, {"clip": sb.dynamic_threshold(1.0, 2.0)}),
        (-1, 1, {"clip": sb.dynamic_threshold()}),
        (-1, 1, {"clip": (-3, 3), "value_range": (-1, 1)}),
        (0, 1, {"clip": sb.dynamic_threshold(1.0, 1.0), "value_range": (0, 1)}),
        (-1, 1, {"clip": (-float("inf"), 1)}),
    ],
)
def test_black_is_0_and_white_is_255_in_the_range_that_is_given(low, high, settings):
    samples = sb.sample(constant(low, high, **settings), "ddim", steps=3, n=2)
    assert torch.equal(samples.images, GREYS.expand(2, *SHAPE))
    assert torch.allclose(samples.x, (low + (high - low) * RAMP).expand(2, *SHAPE), atol=1e-3 * (high - low))


def test_what_is_beyond_the_range_is_cut_off():
    x = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5]).reshape(1, 1, 1, 5)
    assert to_images(x, (0, 1)).flatten().tolist() == [0, 0, 64, 255, 255]
    assert to_images(x).flatten().tolist() == [64, 128, 159, 255, 255]


def test_extractors_see_the_images_of_the_range(tmp_path):
    seen = []
    reader = sb.Extractor("reader", lambda images, prompts: seen.append(images) or images.flatten(1).float().numpy(),
                          lambda: torch.rand(99, 8).numpy())  # fmt: skip
    model = dataclasses.replace(constant(0, 1, clip=(0, 1)), extractors={"features": reader})
    result = sb.run(model, "ddim", steps=2, n=16, metrics=["fid"], output=tmp_path / "run")
    assert result.table["status"].tolist() == ["ok"]
    assert torch.equal(seen[-1], GREYS.expand(16, *SHAPE))


def test_the_range_is_part_of_a_cells_key_and_the_usual_one_is_not():
    def key(**settings):
        config = Config(model="m", sampler=("ddim",), steps=(2,), samples=4, metric=())
        return plan_for(config, load_registry([]), constant(-1, 1, **settings)).cells[0].key

    assert key() == key(value_range=(-1, 1)) == key(value_range=(-1.0, 1.0)) != key(value_range=(0, 1))


# ---- x is there whatever becomes of the images ----

TOO_LARGE = (
    r"^images: None.*: states of torch.float32 from 0 to 255: expected .* from -1 to 1; .*value_range=\(0, 255\)$"
)


def test_grey_levels_without_a_range_keep_x_and_warn():
    with pytest.warns(UserWarning, match=TOO_LARGE):
        samples = sb.sample(constant(0, 255), "ddim", steps=3, n=2)
    assert samples.images is None
    assert torch.allclose(samples.x, (255 * RAMP).expand(2, *SHAPE), atol=1e-2)


def fails(x):
    raise RuntimeError("out of paper")


DECODES = {
    "rank": (lambda x: torch.zeros(len(x), 3, 2, 8, 8, dtype=torch.uint8), r"uint8 \({n}, 3, 2, 8, 8\)"),
    "size": (lambda x: torch.zeros(len(x), 3, 8, 9, dtype=torch.uint8), r"uint8 \({n}, 3, 8, 9\)"),
    "channels": (lambda x: torch.zeros(len(x), 4, 8, 8, dtype=torch.uint8), r"uint8 \({n}, 4, 8, 8\)"),
    "count": (lambda x: torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"uint8 \(1, 3, 8, 8\)"),
    "dtype": (lambda x: torch.zeros(len(x), 3, 8, 8), r"float32 \({n}, 3, 8, 8\)"),
    "array": (lambda x: torch.zeros(len(x), 3, 8, 8, dtype=torch.uint8).numpy(), "a ndarray"),
    "nothing": (lambda x: None, "None"),
}


def latent(decode, image_shape=(3, 8, 8)):
    return dataclasses.replace(constant(-1, 1), decode=decode, image_shape=image_shape)


@pytest.mark.parametrize(("decode", "said"), DECODES.values(), ids=DECODES)
@pytest.mark.parametrize("image_shape", [(3, 8, 8), None])
def test_a_decode_that_returns_something_else_is_refused_where_images_are_made(decode, said, image_shape):
    if decode is DECODES["size"][0] and image_shape is None:
        pytest.skip("an image as any other where no shape was said")
    expected = r"2, 3, 8, 8" if image_shape else "2, 1 or 3, H, W"
    line = rf"model 'network': decode returned {said.format(n=2)}; expected uint8 \({expected}\)$"
    model = latent(decode, image_shape)
    with pytest.raises(sb.InputError, match=f"^{line}"):
        model.images(torch.zeros(2, *SHAPE))
    with pytest.warns(UserWarning, match=line):
        samples = sb.sample(model, "ddim", steps=2, n=2)
    assert samples.images is None
    assert samples.x.shape == (2, *SHAPE)


def test_a_decode_that_raises_is_named_and_loses_no_x():
    with pytest.warns(UserWarning, match="model 'network': decode: RuntimeError: out of paper"):
        assert sb.sample(latent(fails), "ddim", steps=2, n=2).x.shape == (2, *SHAPE)


@pytest.mark.parametrize("name", ["rank", "size", "count", "dtype", "nothing"])
def test_a_run_fails_its_cells_at_the_first_chunk_and_ends_with_table_and_report(tmp_path, name):
    decode, said = DECODES[name]
    calls = []

    def counted(x):
        calls.append(len(x))
        return decode(x)

    result = sb.run(latent(counted), ["ddim", "ddpm"], steps=2, n=200, metrics=[], output=tmp_path / "run")
    assert result.table["status"].str.contains(f"failed: model 'network': decode returned {said.format(n=64)}").all()
    assert calls.count(64) == 2  # a chunk of each cell
    assert {"table.csv", "table.md", "report.html"} <= {path.name for path in result.folder.iterdir()}


def test_a_run_of_grey_levels_without_a_range_fails_in_one_line(tmp_path):
    result = sb.run(constant(0, 255), "ddim", steps=2, n=200, metrics=[], output=tmp_path / "run")
    (status,) = result.table["status"]
    assert (
        "from 0 to 255: expected floating numbers from -1 to 1; a model of grey levels says value_range=(0, 255)"
        in status
    )
    assert (result.folder / "report.html").exists()


def test_the_ode_solution_needs_no_images(tmp_path):
    """It is drawn first, and a decode that fails must not end the run there."""
    calls = []

    def decode(x):
        calls.append(len(x))
        return torch.zeros(len(x), 3, 8, 8, dtype=torch.uint8)

    result = sb.run(latent(decode), "ddim", steps=2, n=4, metrics=[], output=tmp_path / "run")
    assert result.table["ode_error"].notna().all()
    assert calls.count(4) == 1  # the chunk; the others are trials and paths, of one sample

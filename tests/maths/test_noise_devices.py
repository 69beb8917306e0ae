"""Noise on a device: the words of the CPU, and its normals to 1e-6, by torch and by the Triton kernel."""

import itertools
import os
import subprocess
import sys
import types
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import samplerbench as sb
from samplerbench.samplers import philox, philox_torch, sample
from samplerbench.samplers.exact import gaussian
from samplerbench.samplers.noise import Noise
from samplerbench.samplers.philox import Draw

CPU = torch.device("cpu")
HIGH = 2**32 - 1
DRAWS = {
    "zeros": Draw(0, range(1), 4, 0, 0),
    "high": Draw(2**63 - 1, range(HIGH - 2, HIGH + 1), 37, HIGH, HIGH),
    "odd": Draw(0x299F31D0_A4093822, range(5, 135), 35, 2**31, 1 << 24 | 3),
    "one element": Draw(7, range(3), 1, 1, 2 << 24),
    "one long sample": Draw(7, range(1), 40_003, 9, 1 << 24),
}
needs_triton = pytest.mark.skipif(not find_spec("triton"), reason="no Triton")


def words_of(draw):
    """The words of a draw, (samples, blocks, 4), counter by counter."""
    blocks = range(-(-draw.size // 4))
    counters = np.array([[*key, draw.place, draw.label] for key in itertools.product(blocks, draw.samples)])
    found = philox.words(draw.key, counters.astype(np.uint32))
    return found.reshape(len(blocks), len(draw.samples), 4).swapaxes(0, 1)


def words_by_torch(draw, device=CPU):
    pairs = philox_torch.words(device, draw, slice(None), range(-(-draw.size // 4)))
    return torch.stack([word & HIGH for pair in pairs for word in (pair >> 32, pair)], dim=-1).cpu().numpy()


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_torch_makes_the_words_of_the_cpu(draw):
    assert np.array_equal(words_by_torch(draw), words_of(draw))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_torch_makes_the_normals_of_the_cpu(draw):
    found = philox_torch.normals(CPU, draw)
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - philox.normals(draw)).max() < 1e-6
    assert torch.equal(philox_torch.normals_on(CPU, draw), found)


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_no_byte_of_torch_depends_on_the_size_of_a_piece(piece, monkeypatch):
    whole = philox_torch.normals(CPU, DRAWS["high"])
    monkeypatch.setattr(philox_torch, "PIECE", piece)
    assert torch.equal(philox_torch.normals(CPU, DRAWS["high"]), whole)


def test_torch_gives_finite_normals_for_extreme_words():
    words = (0, 1, 2**30, 2**31, 3 * 2**30, HIGH)
    pair = torch.tensor([high << 32 | low if high < 2**31 else (high << 32 | low) - 2**64 for high, low in
                         itertools.product(words, words)])  # fmt: skip
    doubled = [[high, low, high, low] for high, low in itertools.product(words, words)]
    expected = philox.box_muller(np.array(doubled, dtype=np.uint32))[:, :2]
    assert np.isfinite(expected).all()
    assert np.abs(philox_torch._box_muller(pair).numpy() - expected).max() < 1e-6


def test_noise_is_made_on_its_device():
    """The meta device has shapes only: what came from the CPU would not be on it."""
    noise = Noise(3, (2, 5), 6, first=4, device="meta")
    for drawn in (noise.prior(), noise.step(1, 0), noise.brownian(1, 1)):
        assert drawn.is_meta
        assert drawn.shape == (6, 2, 5)
        assert drawn.dtype == torch.float32


def test_a_sample_asks_for_its_noise_on_its_device(monkeypatch):
    asked = []
    monkeypatch.setattr(
        sample, "Noise", lambda *_, **settings: asked.append(settings["device"]) or Noise(*_, **settings)
    )
    sb.sample(sb.exact_model(gaussian((0.0, 1.0), 0.5), sb.edm()), "ddim", steps=1, n=2)
    assert asked == [CPU]


def kernel(monkeypatch, normals):
    """kernel_for, with `normals` as the kernel or no Triton for None, and what it warns of."""
    fake = None if normals is None else types.SimpleNamespace(normals=normals)
    monkeypatch.setitem(sys.modules, "samplerbench.samplers.philox_triton", fake)
    monkeypatch.delattr("samplerbench.samplers.philox_triton", raising=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = philox_torch.kernel_for.__wrapped__(CPU)
    return found, [str(warning.message) for warning in caught]


def test_the_kernel_draws_where_it_agrees(monkeypatch):
    def fused(device, draw):
        return philox_torch.normals(device, draw) + 5e-7

    assert kernel(monkeypatch, fused) == (fused, [])


def test_a_wrong_kernel_does_not_draw(monkeypatch):
    found, (warning,) = kernel(monkeypatch, lambda device, draw: philox_torch.normals(device, draw) + 0.5)
    assert found is None
    assert warning == "noise on cpu: the Triton kernel is wrong by 0.5; torch draws in its place, more slowly"


def test_a_kernel_of_nans_does_not_draw(monkeypatch):
    found, (warning,) = kernel(monkeypatch, lambda device, draw: philox_torch.normals(device, draw) * float("nan"))
    assert found is None
    assert "wrong by nan" in warning


def test_a_kernel_that_cannot_be_built_does_not_draw(monkeypatch):
    def fused(device, draw):
        raise RuntimeError("no C compiler\nis here")

    found, (warning,) = kernel(monkeypatch, fused)
    assert found is None
    assert "does not run (RuntimeError: no C compiler is here)" in warning


def test_without_triton_torch_draws_without_a_word(monkeypatch):
    assert kernel(monkeypatch, None) == (None, [])


INTERPRETED = """
import numpy as np, torch
from samplerbench.samplers import philox, philox_torch, philox_triton
from samplerbench.samplers.philox import Draw

cpu, high = torch.device("cpu"), 2**32 - 1
for draw in (Draw(2**63 - 1, range(high - 2, high + 1), 37, high, high - 1), Draw(5, range(3), 2051, 0, 1)):
    pairs = philox_torch.words(cpu, draw, slice(None), range(-(-draw.size // 4)))
    words = torch.stack([word & high for pair in pairs for word in (pair >> 32, pair)], dim=-1).flatten(1)
    assert torch.equal(philox_triton.words(cpu, draw).long() & high, words[:, : draw.size])
    assert np.abs(philox_triton.normals(cpu, draw).numpy() - philox.normals(draw)).max() < 1e-6
"""

COMPILED = """
import re, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from samplerbench.samplers import philox_triton

integers = dict.fromkeys(("key", "first", "size", "counters", "place", "label"), "i64")
for kind in ("*fp32", "*i32"):
    source = ASTSource(philox_triton._draw, {"drawn": kind, **integers, "width": "constexpr"}, {"width": 512})
    text = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    wanted = {"cvt.rn.f32.f64"} if kind == "*fp32" else set()
    assert set(re.findall(r"[a-z.0-9]+\\.f32[a-z.0-9]*", text)) == wanted, "float32 before the last rounding"
"""


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "environment"),
    [(INTERPRETED, {"TRITON_INTERPRET": "1"}), (COMPILED, {})],
    ids=["interpreted", "compiled"],
)
def test_the_kernel_without_a_gpu(program, environment, tmp_path):
    variables = {**os.environ, **environment, "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_gpu_makes_the_words_and_normals_of_the_cpu(draw):
    cuda = torch.device("cuda")
    assert np.array_equal(words_by_torch(draw, cuda), words_of(draw))
    assert np.abs(philox_torch.normals(cuda, draw).cpu().numpy() - philox.normals(draw)).max() < 1e-6
    assert np.abs(philox_torch.normals_on(cuda, draw).cpu().numpy() - philox.normals(draw)).max() < 1e-6


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_kernel_makes_the_words_and_normals_of_the_cpu(draw):
    from samplerbench.samplers import philox_triton

    cuda = torch.device("cuda")
    assert philox_torch.kernel_for(cuda) is philox_triton.normals
    words = philox_triton.words(cuda, draw).cpu().numpy().view(np.uint32)
    assert np.array_equal(words, words_of(draw).reshape(len(draw.samples), -1)[:, : draw.size])
    assert np.abs(philox_triton.normals(cuda, draw).cpu().numpy() - philox.normals(draw)).max() < 1e-6


@pytest.mark.gpu
def test_a_sample_on_a_gpu_begins_with_the_noise_of_the_cpu():
    model = sb.exact_model(gaussian((0.0, 1.0), 0.5), sb.vp_linear())
    starts = [
        sb.sample(model, "ddpm", 2, n=3, device=device, trajectory=True).trajectory[0] for device in ("cpu", "cuda")
    ]
    assert starts[1].is_cuda
    assert float((starts[1].cpu() - starts[0]).abs().max()) < 1e-6

"""The model scenes, whose weights mean something: the same latent states as the pipeline of diffusers, and what each
setting changes. It wants the package of models/scenes."""

import importlib.util
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import samplerbench as sb
from samplerbench.plugins.models.diffusers.libraries import library, quietly

pytestmark = pytest.mark.slow

STEPS, GUIDANCE = 10, 4.0
PROMPTS = ("two cats on a green ground", "an apple left of a car, on a blue ground")
PEERS = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "dpm-solver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}
"""Sampler -> the scheduler of diffusers that is the same, and its options."""
FLOW = {"flow": ("FlowMatchEulerDiscreteScheduler", {})}


@pytest.fixture(scope="module")
def folder():
    """The model's folder."""
    spec = importlib.util.find_spec("samplerbench_scenes")
    there = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if there is None or not (there / "model_index.json").is_file():
        pytest.skip("the package of the model scenes is not installed, or not filled")
    return there


@pytest.fixture(scope="module")
def model(folder):
    return sb.load_model(f"diffusers:{folder}")


class Wide:
    """A library whose float32 is its float64: schedulers keep their tables and their state in it."""

    def __init__(self, library):
        self.library, self.float32 = library, library.float64

    def __getattr__(self, name):
        return getattr(self.library, name)


@contextmanager
def pipeline(folder, name, dtype):
    """The pipeline of diffusers with a scheduler; in float64 the scheduler computes in it too."""
    diffusers = library("diffusers")
    cls, options = {**PEERS, **FLOW}[name]
    module = importlib.import_module(getattr(diffusers, cls).__module__)
    with ExitStack() as names, quietly():
        for short, whole in {"torch": torch, "np": np}.items():
            if dtype == torch.float64 and hasattr(module, short):
                names.enter_context(mock.patch.object(module, short, Wide(whole)))
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(
            str(folder), safety_checker=None, local_files_only=True, torch_dtype=torch.float32
        )
        for part in (pipe.unet, pipe.text_encoder):
            part.to(dtype)
        # Some versions of transformers have no part of this name, and those of diffusers still ask it for its norm.
        pipe.text_encoder.__dict__.setdefault("text_model", getattr(pipe.text_encoder, "text_model", pipe.text_encoder))
        config = {**pipe.scheduler.config, "timestep_spacing": "leading", **options}
        pipe.scheduler = getattr(diffusers, cls).from_config(config)
        pipe.set_progress_bar_config(disable=True)
        yield pipe


def start_of(model, dtype):
    return torch.randn(len(PROMPTS), *model.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def distance(ours, theirs):
    """The largest difference, relative to the largest number."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("negative", [None, "three frogs on a red ground"])
@pytest.mark.parametrize("name", PEERS)
def test_latent_states_are_those_of_the_pipeline(folder, model, name, negative, dtype, tolerance):
    start = start_of(model, dtype)
    against = [negative or ""] * len(PROMPTS)
    with pipeline(folder, name, dtype) as pipe, torch.no_grad():
        theirs = pipe(
            prompt_embeds=model.encode(PROMPTS).to(dtype), negative_prompt_embeds=model.encode(against).to(dtype),
            latents=start, num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="latent",
        ).images  # fmt: skip
        grid = [float(t) for t in pipe.scheduler.timesteps]
    made = sb.sample(
        model, name, grid=grid, x_init=start, prompts=PROMPTS, negative=negative, guidance=GUIDANCE, batch_size=2
    )
    assert len(grid) == STEPS
    assert made.x.dtype == dtype
    assert distance(made.x, theirs) < tolerance


@pytest.fixture(scope="module")
def flow_unet():
    """The folder of the U-Net of the model scenes-flow."""
    spec = importlib.util.find_spec("samplerbench_scenes_flow")
    there = Path(spec.origin).parent / "model" / "unet" if spec and spec.origin else None
    if there is None or not there.is_dir():
        pytest.skip("the package of the model scenes-flow is not installed, or not filled")
    return there


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_latent_states_of_the_flow_are_those_of_flow_matching(folder, flow_unet, shift, dtype, tolerance):
    ours = sb.load_model("scenes-flow")
    start = start_of(ours, dtype)
    against = ["three frogs on a red ground"] * len(PROMPTS)
    with pipeline(folder, "flow", dtype) as pipe, torch.no_grad():
        pipe.unet = type(pipe.unet).from_pretrained(flow_unet, local_files_only=True).to(dtype)
        pipe.scheduler = type(pipe.scheduler)(shift=shift)
        pipe.scheduler.init_noise_sigma = 1.0  # of the state at t = 1: the pipeline asks, and this scheduler lacks it
        theirs = pipe(
            prompt_embeds=ours.encode(PROMPTS).to(dtype), negative_prompt_embeds=ours.encode(against).to(dtype),
            latents=start, num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="latent",
        ).images  # fmt: skip
        grid = [float(t) / 1000 for t in pipe.scheduler.timesteps]
    made = sb.sample(
        ours, "euler", grid=grid, x_init=start, prompts=PROMPTS, negative=against[0], guidance=GUIDANCE, batch_size=2
    )
    assert (len(grid), grid[0]) == (STEPS, 1.0)
    assert made.x.dtype == dtype
    assert distance(made.x, theirs) < tolerance


@pytest.mark.parametrize("skip", [1, 2])
def test_texts_are_encoded_as_the_pipeline_does(folder, skip):
    model = sb.load_model(f"diffusers:{folder}", clip_skip=skip)
    with pipeline(folder, "ddim", torch.float32) as pipe, torch.no_grad():
        theirs, _ = pipe.encode_prompt(list(PROMPTS), torch.device("cpu"), 1, False, clip_skip=skip - 1 or None)
    assert distance(model.encode(PROMPTS), theirs) < 1e-5


def test_each_setting_changes_the_images(folder, model):
    def drawn(of=model, **settings):
        return sb.sample(of, "ddim", steps=5, n=2, prompts=PROMPTS, **{"guidance": GUIDANCE, **settings}).x

    plain = drawn()
    others = {
        "clip skip": drawn(sb.load_model(f"diffusers:{folder}", clip_skip=2)),
        "negative prompt": drawn(negative="three frogs on a red ground"),
        "guidance rescale": drawn(guidance_rescale=0.7),
        "guidance": drawn(guidance=1.0),
    }
    for name, other in others.items():
        assert distance(other, plain) > 0.01, name
    assert torch.equal(drawn(negative=""), plain)


def test_rescaling_takes_the_clean_state_back_to_the_deviation_without_guidance(model):
    """One call, whose x0 is the sample (Lin et al. 2024, section 3.4)."""

    def deviation(**settings):
        return sb.sample(model, "ddim", steps=1, n=2, prompts=PROMPTS, **settings).x.flatten(1).std(1)

    unguided, whole = deviation(), deviation(guidance=8.0)
    half, full = (deviation(guidance=8.0, guidance_rescale=share) for share in (0.5, 1.0))
    assert torch.allclose(full, unguided, rtol=1e-3)
    assert torch.allclose(half, (whole + unguided) / 2, rtol=1e-3)
    assert bool((whole > 1.02 * unguided).all())


def test_a_negative_prompt_of_a_colour_leads_away_from_it(model):
    """A negative prompt of another colour moves the mean colour away from it."""

    def mean(**settings):
        asked = {"prompts": ["a cat"], "guidance": 3.0, "batch_size": 8, **settings}
        made = sb.sample(model, "dpm-solver++", steps=10, n=8, **asked)
        return made.images.float().mean((0, 2, 3))

    red = mean(negative="a cat on a red ground")[0] - mean(negative="a cat on a red ground")[2]
    blue = mean(negative="a cat on a blue ground")[0] - mean(negative="a cat on a blue ground")[2]
    assert red < blue

"""Models of diffusers: the same samples as its pipelines, what each setting changes, and what no sample depends on."""

import dataclasses
import functools
import json
import shutil
import socket
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import samplerbench as sb
import tiny_diffusers as tiny
from cases import thinned
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.plugins.models.diffusers import building, canvas, text
from samplerbench.plugins.models.diffusers.libraries import LOGGED, library, quietly
from samplerbench.samplers.errors import InputError
from samplerbench.samplers.registry import default_registry
from samplerbench.samplers.sample import request_for
from samplerbench.samplers.sampler import declared_calls

SAMPLERS = sorted(default_registry().samplers.things)
WITH_TEXT = ("sd", "sdxl", "sd3", "flux")


def with_slow(kinds, *quick):
    """The kinds as parameters, those that are not named as quick in the slow suite: they take seconds each."""
    return [kind if kind in quick else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


PROMPTS = ("cat", "a dog")
STEPS, GUIDANCE = 5, 4.0
PARITY = 5e-7
"""Relative to the largest number: both sides run the networks in one precision and in the same order of operations;
with guidance the rows without the prompt come first there and last here, and the schedulers' tables are float32."""


@pytest.fixture
def folders(tiny_models):
    """The folder of each kind of model."""
    return tiny_models


@pytest.fixture
def load(folders):
    """The model of a kind; Flux makes large images unless it is told otherwise."""

    def loaded(kind, **settings):
        usual = {"size": tiny.SIDE} if kind == "flux" else {}
        return sb.load_model(f"diffusers:{folders(kind)}", **{**usual, **settings})

    return loaded


def states(model, n=2, dtype=torch.float32):
    return torch.randn(n, *model.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def prompts_for(kind):
    return {"classes": ("3", "1"), "dit": ("3", "7")}.get(kind, PROMPTS if kind in WITH_TEXT else None)


def draw(model, kind, **settings):
    return sb.sample(model, "ddim", **{"steps": 2, "n": 2, "prompts": prompts_for(kind), **settings})


def distance(ours, theirs):
    """The largest difference, relative to the largest number."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


# ---- Parity ----


def peer(folder, dtype=torch.float32, **options):
    """The pipeline of diffusers, its tables in float64 where its networks are."""
    with quietly():
        pipe = library("diffusers").DiffusionPipeline.from_pretrained(str(folder), **options).to(dtype)
        if dtype == torch.float64:
            config = pipe.scheduler.config
            betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, 1000, dtype=dtype) ** 2
            pipe.scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_peer(pipe, start, **options):
    """What a pipeline makes of a state; pipelines without latents draw it themselves."""
    home = sys.modules[type(pipe).__module__]
    with quietly(), mock.patch.object(home, "randn_tensor", return_value=start), torch.no_grad():
        images = pipe(num_inference_steps=STEPS, **options).images
    return images if isinstance(images, torch.Tensor) else torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2)


def assert_decoded(made, theirs, pipe):
    """The images are those that the pipeline's own lines make of its latent states."""
    config = pipe.vae.config
    with torch.no_grad():
        pixels = pipe.vae.decode(theirs / config.scaling_factor + config.shift_factor).sample
    shown = torch.from_numpy(pipe.image_processor.postprocess(pixels, output_type="np")).permute(0, 3, 1, 2)
    assert float((made.images - shown * 255).abs().max()) < 0.51  # rounding, and the decoder's own
    assert len(made.images.unique()) > 50


@pytest.mark.parametrize("predicts", with_slow(["epsilon", "sample", "v_prediction"], "v_prediction"))
def test_pixels_as_the_pipeline_makes_them(tmp_path, predicts):
    folder = tiny.pixels(tmp_path, scheduler_config={"prediction_type": predicts})
    ours = sb.load_model(f"diffusers:{folder}")
    assert ours.clip == (-1, 1)
    start = states(ours, dtype=torch.float64)
    theirs = run_peer(peer(folder, torch.float64), start, batch_size=2, output_type="np", use_clipped_model_output=True)
    made = sb.sample(ours, "ddim", STEPS, grid="leading", x_init=start)
    assert distance((made.x / 2 + 0.5).clamp(0, 1), theirs) < PARITY
    assert torch.equal(made.images, (theirs * 255).round().to(torch.uint8))


def test_classes_are_told_to_the_network(load, folders):
    ours, pipe = load("classes"), peer(folders("classes"), torch.float64)
    x = states(ours, dtype=torch.float64)
    pipe.scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            answer = pipe.unet(x, t, class_labels=torch.tensor([3, 1])).sample
            x = pipe.scheduler.step(answer, t, x, use_clipped_model_output=True).prev_sample
    start = states(ours, dtype=torch.float64)
    made = sb.sample(ours, "ddim", STEPS, grid="leading", x_init=start, prompts=["3", "1"])
    assert distance(made.x, x) < PARITY
    assert ours.prompts == ("0", "1", "2", "3", "4")


def test_latent_states_as_the_pipeline_makes_them(load, folders):
    ours = load("ldm")
    start = states(ours)
    theirs = run_peer(peer(folders("ldm")), start, batch_size=2, output_type="np")
    made = sb.sample(ours, "ddim", STEPS, grid="leading", x_init=start)
    assert torch.equal(made.images, (theirs * 255).round().to(torch.uint8))
    assert made.images.shape == (2, 3, tiny.SIDE, tiny.SIDE)
    assert len(made.images.unique()) > 50


@pytest.mark.parametrize("guidance", with_slow([1.0, 4.0], 4.0))
def test_transformer_of_classes_as_the_pipeline_asks_it(load, folders, guidance):
    ours = load("dit")
    start = states(ours)
    theirs = run_peer(peer(folders("dit")), start, class_labels=[0, 7], guidance_scale=guidance, output_type="np")
    made = sb.sample(ours, "ddim", STEPS, grid="leading", x_init=start, prompts=["Tinca tinca", "7"], guidance=guidance)
    assert torch.equal(made.images, (theirs * 255).round().to(torch.uint8))
    assert len(made.images.unique()) > 50


@pytest.mark.parametrize(
    "options",
    with_slow([{}, {"guidance": 4.0}, {"guidance": 4.0, "negative": "bad"}], {"guidance": 4.0, "negative": "bad"}),
    ids=str,
)
@pytest.mark.parametrize("kind", with_slow(["sd", "sdxl"], "sd"))
def test_text_to_image_as_the_pipeline_makes_it(load, folders, kind, options):
    ours, pipe = load(kind), peer(folders(kind), torch.float64, **({"safety_checker": None} if kind == "sd" else {}))
    start = states(ours, dtype=torch.float64)
    told = {
        "prompt": list(PROMPTS), "latents": start, "guidance_scale": options.get("guidance", 1.0),
        "negative_prompt": [options["negative"]] * 2 if "negative" in options else None,
    }  # fmt: skip
    theirs = run_peer(pipe, start, output_type="latent", **told)
    grid = [float(t) for t in pipe.scheduler.timesteps]
    assert grid == [float(offset + 200 * i) for offset in [int(kind == "sd")] for i in (4, 3, 2, 1, 0)]
    made = sb.sample(ours, "ddim", grid=grid, x_init=start, prompts=PROMPTS, **options)
    assert distance(made.x, theirs) < PARITY
    pictures = run_peer(pipe, start, output_type="np", **told)
    assert float((made.images - pictures * 255).abs().max()) < 0.51  # rounding, and the decoder's own
    assert made.network_evaluations == STEPS * (2 if options else 1)


def test_a_flow_with_a_unet_as_the_pipeline_makes_it(load, folders):
    ours, pipe = load("sd-flow"), peer(folders("sd-flow"), safety_checker=None)
    pipe.scheduler.init_noise_sigma = 1.0  # of the state at t = 1, which the pipeline asks and this scheduler lacks
    start = states(ours)
    even = np.linspace(1, 1 / STEPS, STEPS).tolist()
    with mock.patch.object(pipe.scheduler, "set_timesteps", functools.partial(told_sigmas, pipe.scheduler, even)):
        theirs = run_peer(
            pipe, start, prompt=list(PROMPTS), latents=start, output_type="latent",
            guidance_scale=GUIDANCE, negative_prompt=["bad"] * 2,
        )  # fmt: skip
    made = sb.sample(ours, "euler", STEPS, x_init=start, prompts=PROMPTS, guidance=GUIDANCE, negative="bad")
    assert (ours.predicts, ours.schedule.default_grid) == ("flow", "shift:factor=2")
    assert distance(made.x, theirs) < GUIDANCE * PARITY  # it magnifies the rounding of a call


def told_sigmas(scheduler, sigmas, steps, device=None):
    """What newer pipelines do: they say the times to their scheduler, which shifts them."""
    type(scheduler).set_timesteps(scheduler, device=device, sigmas=sigmas)


@pytest.mark.parametrize(
    ("with_t5", "guided", "config"),
    [
        pytest.param(True, False, {"use_dynamic_shifting": True}, marks=pytest.mark.slow),
        pytest.param(True, False, {"shift": 3.0}, marks=pytest.mark.slow),
        (False, True, {"shift": 3.0}),
    ],
)
def test_stable_diffusion_3_on_its_own_grid(tmp_path, with_t5, guided, config):
    folder = tiny.stable_diffusion_3(tmp_path, with_t5=with_t5, **config)
    absent = {} if with_t5 else {"text_encoder_3": None, "tokenizer_3": None}
    ours, pipe = sb.load_model(f"diffusers:{folder}"), peer(folder, **absent)
    start = states(ours)
    theirs = run_peer(
        pipe, start, prompt=list(PROMPTS), latents=start, output_type="latent", guidance_scale=4.0 if guided else 1.0,
        negative_prompt=["bad"] * 2 if guided else None,
    )  # fmt: skip
    told = {"guidance": 4.0, "negative": "bad"} if guided else {}
    told["grid"] = f"shift-twice:factor={config['shift']}" if "shift" in config else None
    made = sb.sample(ours, "euler", STEPS, x_init=start, prompts=PROMPTS, **told)
    assert distance(made.x, theirs) < PARITY
    assert_decoded(made, theirs, pipe)
    request = request_for(default_registry(), ours, "euler", steps=STEPS, prompts=PROMPTS, grid=told["grid"])
    assert [level.sigma for level in request.levels] == pytest.approx(pipe.scheduler.sigmas.tolist(), abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 28])
@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
def test_times_are_shifted_once(tmp_path, shift, steps):
    """Esser et al. 2024, equation 23, on even times from 1 to the last of 1000; for Flux from 1 to 1/S."""
    models = {
        1e-3: sb.load_model(f"diffusers:{tiny.stable_diffusion_3(tmp_path / 'sd3', with_t5=False, shift=shift)}"),
        1 / steps: sb.load_model(
            f"diffusers:{tiny.flux(tmp_path / 'flux', use_dynamic_shifting=False, shift=shift)}", size=tiny.SIDE
        ),
    }
    for last, model in models.items():
        even = np.linspace(1, last, steps)
        shifted = shift * even / (1 + (shift - 1) * even)
        request = request_for(default_registry(), model, "euler", steps=steps, prompts=PROMPTS)
        assert [level.t for level in request.levels[:-1]] == pytest.approx(shifted.tolist(), rel=1e-8)
    if shift == 3:
        assert shifted[-1] > 0.05
        assert models[1e-3].schedule.default_grid == "shift:factor=3,last=0.001"


@pytest.mark.parametrize(
    ("distilled", "config"),
    [
        (True, {}),
        pytest.param(True, {"time_shift_type": "linear"}, marks=pytest.mark.slow),
        pytest.param(False, {"use_dynamic_shifting": False, "shift": 1.0}, marks=pytest.mark.slow),
    ],
)
def test_flux_on_its_own_grid(tmp_path, distilled, config):
    folder = tiny.flux(tmp_path, distilled=distilled, **config)
    ours, pipe = sb.load_model(f"diffusers:{folder}", size="32x16"), peer(folder)
    assert ours.shape == (4, 8, 16)
    start = states(ours)
    with quietly():
        theirs = pipe(
            prompt=list(PROMPTS), height=16, width=32, num_inference_steps=STEPS, guidance_scale=2.5,
            latents=pipe._pack_latents(start, 2, *ours.shape), output_type="latent",
        ).images  # fmt: skip
    theirs = pipe._unpack_latents(theirs, 16, 32, pipe.vae_scale_factor)
    made = sb.sample(ours, "euler", STEPS, x_init=start, prompts=PROMPTS, **({"guidance": 2.5} if distilled else {}))
    assert distance(made.x, theirs) < PARITY
    assert_decoded(made, theirs, pipe)
    assert made.network_evaluations == STEPS
    request = request_for(default_registry(), ours, "euler", steps=STEPS, prompts=PROMPTS)
    assert [level.sigma for level in request.levels] == pytest.approx(pipe.scheduler.sigmas.tolist(), abs=1e-7)
    assert ours.schedule.default_grid == "uniform" or distilled


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 400},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.4]},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    ],
    ids=str,
)
def test_schedule_is_that_of_the_scheduler(folders, tmp_path, config):
    folder = shutil.copytree(folders("pixels"), tmp_path / "copy")
    tiny.scheduler(folder, **config)
    ours = sb.load_model(f"diffusers:{folder}")
    with quietly():
        theirs = library("diffusers").DDIMScheduler.from_pretrained(str(folder), subfolder="scheduler").alphas_cumprod
    assert len(ours.schedule.alphas_cumprod) == len(theirs)
    assert list(ours.schedule.alphas_cumprod) == pytest.approx(theirs.tolist(), rel=2e-5, abs=1e-9)


@pytest.mark.parametrize("cls", ["LCMScheduler", "TCDScheduler"])
def test_a_distilled_model_has_the_schedule_of_the_model_before(folders, tmp_path, cls):
    folder = shutil.copytree(folders("sd"), tmp_path / "copy")
    tiny.scheduler(folder, cls, original_inference_steps=50)
    entries = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**entries, "scheduler": ["diffusers", cls]}))
    ours, before = sb.load_model(f"diffusers:{folder}"), sb.load_model(f"diffusers:{folders('sd')}")
    assert ours.schedule == before.schedule
    assert before.notes == ()
    assert ours.notes[0].startswith(f"{cls}: the model is distilled to 1 to 8 steps, and to guidance 1")
    assert ("as lcm does" in ours.notes[0]) == (cls == "LCMScheduler")


def test_the_notes_of_a_model_stand_on_the_error_stream(request, tmp_path):
    run = request.getfixturevalue("sb")
    (tmp_path / "noted.py").write_text(
        "import dataclasses\nimport samplerbench as sb\n"
        "def make():\n"
        "    return dataclasses.replace(sb.load_model('gaussian'), notes=('it is distilled\\nto a few steps',))\n"
    )
    done = run("run", "--model", "noted.py:make", "-s", "euler", "--steps", 2, "--dry-run", "--json")
    assert done.code == 0
    assert done.err.startswith("Note: it is distilled")
    assert done.err.count("\n") == 1
    assert json.loads(done.out)


def test_all_noise_drawn_again_is_what_the_scheduler_of_lcm_does():
    """Its boundary scalings are 1 and 0 to 4e-7 at these timesteps."""
    with quietly():
        theirs = library("diffusers").LCMScheduler()
    theirs.set_timesteps(4)
    ours = sb.wrap_network(
        lambda x, t: torch.tanh(0.3 * x + t.reshape(-1, 1, 1, 1) / 3000), sb.vp_scaled_linear(), (1, 4, 4)
    )
    start, *noise = torch.randn(5, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = [float(t) for t in theirs.timesteps]
    left = iter(noise)
    made = sb.sample(ours, "lcm", grid=grid, x_init=start, noise=lambda a, b: next(left))
    x, home = start, sys.modules[type(theirs).__module__]
    with mock.patch.object(home, "randn_tensor", side_effect=noise):
        for t in theirs.timesteps:
            answer = torch.tanh(0.3 * x + float(t) / 3000)
            x, denoised = theirs.step(answer, t, x, return_dict=False)
    assert grid == [999, 759, 499, 259]
    assert distance(made.x, denoised) < 1e-6


# ---- Every sampler ----


def sampled(ours, kind, name):
    sampler = sb.make_sampler(name)
    made = sb.sample(ours, sampler, 3, n=1, prompts=prompts_for(kind))
    assert made.x.shape == (1, *ours.shape)
    assert bool(made.x.isfinite().all())
    assert made.images.shape == (1, *ours.image_shape)
    request = request_for(default_registry(), ours, sampler, steps=3, prompts=prompts_for(kind))
    declared = declared_calls(sampler, request.levels)
    assert declared in (None, made.nfe)
    return declared


@pytest.mark.parametrize(
    "name",
    thinned(["ddim", "heun", "euler-a", "dpm-solver++", "unipc", "dpm-solver-adaptive"], "heun", "euler-a", "unipc"),
)
def test_some_samplers(load, name):
    sampled(load("pixels"), "pixels", name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(tiny.KINDS))
def test_every_sampler(load, kind):
    ours = load(kind)
    assert sum(sampled(ours, kind, name) is not None for name in SAMPLERS) > 10


# ---- Every dtype ----

ROUNDING = {"float16": 2e-2, "bfloat16": 0.15, "float64": 1e-5}
"""Of the states that two steps lead to, relative to their largest number: 15 times that of the noise,
since alpha begins at 0.068."""


@pytest.mark.parametrize("dtype", with_slow(ROUNDING, "bfloat16", "float64"))
@pytest.mark.parametrize("kind", with_slow(tiny.KINDS, "pixels"))
def test_every_model_in_every_dtype(load, kind, dtype):
    """Files are float32; the network is all in the dtype that is asked for, its state and its decoder are not."""
    ours = load(kind)
    network = ours.network(torch.device("cpu"), getattr(torch, dtype)).args[-1]
    assert {t.dtype for t in (*network.parameters(), *network.buffers())} == {getattr(torch, dtype)}
    plain, made = draw(ours, kind), draw(ours, kind, dtype=dtype)
    assert made.x.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert 0 < distance(made.x, plain.x.to(made.x)) < ROUNDING[dtype]
    assert float((made.images.float() - plain.images.float()).abs().max()) <= 255 * ROUNDING[dtype] + 1


@pytest.mark.parametrize("dtype", with_slow([torch.float16, torch.bfloat16], torch.bfloat16))
@pytest.mark.parametrize("kind", with_slow(["ldm", "sd", "sd3"], "ldm"))
def test_states_of_half_precision_are_decoded_in_float32(load, kind, dtype, monkeypatch):
    seen = []
    inner = canvas.load_part
    monkeypatch.setattr(canvas, "load_part", lambda *place: seen.append(place[2]) or inner(*place))
    ours = load(kind)
    x = states(ours, dtype=dtype)
    assert torch.equal(ours.images(x), ours.images(x.float()))
    assert set(seen) == {torch.float32}


def test_no_library_says_a_word_on_loading(load, capfd, caplog):
    for dtype in ("float32", "bfloat16"):
        draw(load("sd"), "sd", dtype=dtype)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


# ---- What a sample depends on ----


@pytest.mark.parametrize("kind", with_slow(tiny.KINDS, "pixels", "sd"))
def test_an_image_does_not_depend_on_its_company(load, kind):
    guidance = 1.0 if kind in ("pixels", "ldm", "classes") else 3.0
    alone, among = (draw(load(kind), kind, n=n, guidance=guidance) for n in (1, 3))
    assert torch.equal(alone.x[0], among.x[0])
    assert torch.equal(alone.images[0], among.images[0])
    assert not torch.equal(among.images[0], among.images[1])


def test_images_are_decoded_one_at_a_time(load, monkeypatch):
    seen = []

    class Decoder:
        def decode(self, x, return_dict):
            seen.append(len(x))
            return (x.repeat(1, 1, 2, 2)[:, :3],)

    monkeypatch.setattr(canvas, "load_part", lambda *_: Decoder())
    assert load("sd").images(torch.zeros(3, 4, 8, 8)).shape == (3, 3, 16, 16)
    assert seen == [1, 1, 1]


@pytest.mark.parametrize("kind", with_slow(WITH_TEXT, "sd"))
def test_a_text_changes_its_own_image_alone(load, kind):
    ours = load(kind)
    one, other = draw(ours, kind, prompts=["cat", "dog"]), draw(ours, kind, prompts=["cat", "a"])
    assert torch.equal(one.x[0], other.x[0])
    assert not torch.equal(one.x[1], other.x[1])


@pytest.mark.parametrize("kind", with_slow(["sd", "sdxl", "sd3"], "sd"))
def test_guidance_and_negative_prompt(load, kind):
    ours = load(kind)
    plain, guided = (draw(ours, kind, guidance=g).x for g in (1.0, 3.0))
    against, against_nothing = (draw(ours, kind, guidance=3.0, negative=text).x for text in ("dog", ""))
    assert not torch.equal(plain, guided)
    assert not torch.equal(guided, against)
    assert torch.equal(draw(ours, kind, guidance=3.0, negative="dog").x, against)
    assert torch.equal(guided, against_nothing) == (kind != "sdxl")  # whose "no prompt" is zeros, not an empty text
    assert torch.allclose(draw(ours, kind, guidance=2.0).x, draw(ours, kind, guidance=2.0, guidance_rescale=0).x)
    assert not torch.equal(draw(ours, kind, guidance=3.0, guidance_rescale=0.7).x, guided)
    with pytest.raises(InputError, match=r"^guidance 0: .* no guidance, which is 1 here; .* give an empty prompt"):
        draw(ours, kind, guidance=0.0)


def test_distilled_guidance_is_told_to_the_network(load):
    ours = load("flux")
    weak, strong = (draw(ours, "flux", guidance=g) for g in (1.0, 3.5))
    assert not torch.equal(weak.x, strong.x)
    assert weak.network_evaluations == strong.network_evaluations == 2
    condition = ours.guide(ours.encode(["cat"]), 3.5)
    assert condition[0, -1] == 3.5
    assert torch.equal(condition[:, :-1], ours.encode(["cat"])[:, :-1])
    with pytest.raises(
        InputError, match=r"^negative 'dog': model 'diffusers:.*' is told its guidance and has no place"
    ):
        draw(ours, "flux", guidance=3.5, negative="dog")
    with pytest.raises(InputError, match=r"^guidance_rescale 0.5: model .* is told its guidance"):
        draw(ours, "flux", guidance=3.5, guidance_rescale=0.5)


@pytest.mark.slow
def test_clip_skip_counts_from_the_last_layer(load, folders):
    """1 is the last layer with its norm, 2 the one before; Stable Diffusion XL and 3 were trained with 2."""
    encode = {skip: load("sd", clip_skip=skip).encode(["cat"]) for skip in (None, 1, 2, 3)}
    assert torch.equal(encode[None], encode[1])
    pipe = peer(folders("sd"), safety_checker=None)
    tokens = pipe.tokenizer(["cat"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        said = pipe.text_encoder(tokens, output_hidden_states=True)
        layers = [pipe.text_encoder.final_layer_norm(h) for h in said.hidden_states]
    assert torch.allclose(encode[1], said.last_hidden_state)
    for skip in (1, 2, 3):
        assert torch.allclose(encode[skip], layers[-skip])
    for kind in ("sdxl", "sd3"):
        unasked, second, first = (load(kind, clip_skip=skip).encode(["cat"]) for skip in (None, 2, 1))
        assert torch.equal(unasked, second)
        assert not torch.equal(unasked, first)


def test_clip_skip_changes_the_image_and_the_fingerprint_and_nothing_else(load):
    first, second = load("sd", clip_skip=1), load("sd", clip_skip=2)
    assert not torch.equal(draw(first, "sd").x, draw(second, "sd").x)
    assert first.fingerprint != second.fingerprint
    assert (first.shape, first.schedule, first.name) == (second.shape, second.schedule, second.name)


@pytest.mark.parametrize("kind", with_slow([k for k in tiny.KINDS if k != "dit"], "pixels", "sd"))
def test_size(load, kind):
    ours = load(kind, size="32x16")
    made = draw(ours, kind, steps=1, n=1)
    assert made.images.shape == (1, 3, 16, 32)
    assert ours.image_shape == (3, 16, 32)
    assert ours.fingerprint != load(kind).fingerprint


def test_size_is_told_to_stable_diffusion_xl(load):
    sizes = load("sdxl", size=(32, 16)).encode(["cat"])[0, -6:]
    assert sizes.tolist() == [16, 32, 0, 0, 16, 32]
    assert load("sdxl").unconditional(["", ""])[:, :-6].count_nonzero() == 0


@pytest.mark.slow
def test_the_usual_size_is_the_models_own(load):
    assert load("pixels").shape == (3, 8, 8)
    for kind in ("ldm", "dit", "sd", "sdxl", "sd3"):
        assert load(kind).image_shape == (3, tiny.SIDE, tiny.SIDE)
    assert load("flux", size=None).image_shape == (3, 256, 256)


@pytest.mark.slow
def test_batches(load):
    assert {kind: load(kind).batch_size for kind in tiny.KINDS} == {
        kind: 64 if kind in ("pixels", "classes") else 1 for kind in tiny.KINDS
    }
    assert load("pixels", size=128).batch_size == 1


@pytest.mark.parametrize(("size", "kept"), [("64", True), ("66x64", False)])
def test_whether_images_are_kept_goes_by_the_images_and_not_by_the_states(folders, size, kept):
    config = Config(
        model=f"diffusers:{folders('sd')}",
        sampler=("ddim",),
        steps=(2,),
        samples=2,
        prompts=("cat",),
        size=size,
        metric=("fid",),
    )
    assert plan_for(config, default_registry()).keep_images == kept


def test_fingerprint_is_of_the_files_and_not_of_their_place(folders, tmp_path):
    folder = shutil.copytree(folders("sd"), tmp_path / "copy")
    before = sb.load_model(f"diffusers:{folder}").fingerprint
    assert before == sb.load_model(f"diffusers:{folders('sd')}").fingerprint
    seen = {before}
    for file in ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        weights = load_file(folder / file)
        name = sorted(weights)[0]
        save_file({**weights, name: weights[name] + 1e-3}, folder / file, metadata={"format": "pt"})
        seen.add(sb.load_model(f"diffusers:{folder}").fingerprint)
    for file in ("scheduler/scheduler_config.json", "tokenizer/vocab.json"):
        (folder / file).write_text((folder / file).read_text() + "\n")
        seen.add(sb.load_model(f"diffusers:{folder}").fingerprint)
    assert len(seen) == 5


# ---- Folders ----


def test_a_bare_path_is_enough(folders):
    assert (
        sb.load_model(str(folders("pixels"))).fingerprint == sb.load_model(f"diffusers:{folders('pixels')}").fingerprint
    )


def test_a_lone_network_with_its_scheduler(tmp_path, folders):
    tiny.unet(tmp_path, 1, seed=2)
    shutil.copy(folders("pixels") / "scheduler" / "scheduler_config.json", tmp_path)
    ours = sb.load_model(str(tmp_path))
    assert ours.shape == (1, 8, 8)
    assert draw(ours, "pixels").images.shape == (2, 1, 8, 8)
    (tmp_path / "model_index.json").write_text(
        json.dumps({
            "_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", "DDIMScheduler"],
        })
    )  # fmt: skip
    assert torch.equal(draw(sb.load_model(str(tmp_path)), "pixels").x, draw(ours, "pixels").x)


def test_a_folder_of_another_kind_is_not_claimed(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(InputError, match=r"a folder that none of .* reads"):
        sb.load_model(str(tmp_path))


def test_learned_variance_is_left_out(tmp_path):
    ours = sb.load_model(str(tiny.pixels(tmp_path, answers=6)))
    assert draw(ours, "pixels").x.shape == (2, 3, 8, 8)


def test_half_precision_files_are_taken_where_there_are_no_others(folders, tmp_path):
    folder = shutil.copytree(folders("pixels"), tmp_path / "copy")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
        folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    )
    assert torch.equal(
        draw(sb.load_model(str(folder)), "pixels").x, draw(sb.load_model(str(folders("pixels"))), "pixels").x
    )


def test_shards(folders, tmp_path):
    folder = shutil.copytree(folders("pixels"), tmp_path / "copy") / "unet"
    whole = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(whole)
    names = sorted(weights)
    pieces = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in pieces.items():
        save_file({name: weights[name] for name in own}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, own in pieces.items() for name in own}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{whole.name}.index.json").write_text(json.dumps(index))
    whole.unlink()
    made = draw(sb.load_model(str(folder.parent)), "pixels")
    assert torch.equal(made.x, draw(sb.load_model(str(folders("pixels"))), "pixels").x)


# ---- Manners ----


@pytest.mark.parametrize("kind", with_slow(tiny.KINDS, "pixels", "classes", "sd", "flux"))
def test_weights_are_read_when_they_are_needed(load, kind, monkeypatch):
    def refuse(*_):
        raise AssertionError("weights were read")

    for module in (building, canvas, text):
        monkeypatch.setattr(module, "load_part", refuse)
    guided = {"guidance": 2.0, "negative": "0"} if kind in ("classes", "dit") else {}
    request_for(default_registry(), load(kind), "ddim", steps=3, prompts=prompts_for(kind), **guided)


@pytest.mark.parametrize("kind", ["pixels", "sd"])
def test_nothing_is_said_or_changed_and_no_connection_is_made(load, kind, monkeypatch, capfd):
    logs = [library(name) for name in LOGGED]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    stream = torch.get_rng_state()

    def refuse(*_):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    draw(load(kind), kind)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), stream)
    assert [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs] == before


@pytest.mark.parametrize("kind", thinned(["pixels", "sd", "flux"], "pixels"))
def test_half_precision(load, kind):
    ours = load(kind)
    made, rough = draw(ours, kind), draw(ours, kind, dtype="bfloat16")
    assert rough.x.dtype == torch.float32
    assert 0 < float((made.x - rough.x).abs().mean() / made.x.abs().mean()) < 0.2


def test_class_numbers_do_not_suffer_from_half_precision(load):
    ours = load("dit")
    condition = ours.encode(["999", "998"])
    assert condition.tolist() == [999, 998]
    seen = []
    answer = dataclasses.replace(ours, network=lambda *_: lambda x, t, c: (seen.append(c), x)[1])
    sb.sample(answer, "ddim", 1, n=2, prompts=["999", "998"], dtype="bfloat16")
    assert torch.cat(seen).tolist() == [999, 998]


@pytest.mark.parametrize("kind", with_slow([kind for kind in tiny.KINDS if kind not in ("sd3", "flux")], "dit", "sd"))
def test_a_network_of_betas_is_asked_between_whole_timesteps(load, kind):
    """A grid in sigma / alpha stays what it is, and the network tells a fraction from the timesteps beside it."""
    ours = load(kind)
    prompts = {"classes": ["3"], "dit": ["7"], "sd": ["cat"], "sdxl": ["cat"]}.get(kind)
    asked = request_for(default_registry(), ours, "DPM++ 2M Karras", steps=20, prompts=prompts)
    sigmas = [level.sigma_ve for level in asked.levels[:-1]]
    assert np.diff(np.array(sigmas) ** (1 / 7)) == pytest.approx((sigmas[-1] ** (1 / 7) - sigmas[0] ** (1 / 7)) / 19)
    assert asked.notes == ()
    network, x = ours.network(torch.device("cpu"), torch.float32), states(ours, n=1)
    condition = [ours.encode(prompts)] if ours.encode else []
    with torch.no_grad():
        low, middle, high = (network(x, torch.tensor([t]), *condition) for t in (500.0, 500.5, 501.0))
    apart = float((high - low).abs().max())
    assert 0 < float((middle - (low + high) / 2).abs().max()) < apart / 4  # nearer the middle than either end is

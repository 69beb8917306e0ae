"""Model folders with a damaged file: each is loaded and drawn from, or refused in one line, in bounded time and memory.

Tiny models of every kind; every JSON file, tokenizer, list of sums and header of weights that is read of them.
"""

import json
import random
import warnings
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file

import fuzz
import samplerbench as sb_
import tiny_diffusers as tiny
from cases import thinned
from samplerbench.plugins.extractors import clip as clip_plugin
from samplerbench.plugins.models.ddpm.card import Card, write_card
from samplerbench.plugins.models.ddpm.networks import FEATURE_DIM
from samplerbench.samplers.errors import SamplerbenchError
from samplerbench.samplers.files.weights import SUMS, write_sums
from samplerbench.samplers.nets.unet import UNet

CODES = (1, 2, 4)
"""Exit codes of a refusal: a sampler that fails on what the network answers, a setting, a file."""
LARGE = 2**18
"""Numbers of a state; a model of a larger one, which its config may well have, is loaded and not drawn from."""
LONGEST = 2000
"""Letters of a line."""
PLUGIN = """
import numpy as np
from samplerbench import Estimate, Extractor, Metric, hookimpl

class Plain(Metric):
    extractor, better, unit, least = "features", "lower", "", 1
    def estimate(self, rows, prepared):
        return Estimate(1.0, np.zeros(len(rows)))

@hookimpl
def samplerbench_metrics():
    return {"plain": Plain}

@hookimpl
def samplerbench_extractors():
    return {"plain": lambda _: {"features": Extractor("plain", lambda x, _: x.flatten(1).numpy(), fingerprint="p")}}
"""
WEIGHTS = 0.15
"""How often the header of weights is damaged; else one of the files that say what they are."""
HEADER = 4096
"""Bytes of a file of weights in which a damage is a header's."""


# ---- Models ----


def small_unet(folder, name="model", **more):
    """Weights of a U-Net of 8 x 8 grey images, and its arguments."""
    arguments = {
        "channels": 1,
        "widths": [8, 16],
        "heads": [0, 2],
        "blocks": 1,
        "patch": 1,
        "embedding_dim": 16,
        **more,
    }
    folder.mkdir(exist_ok=True)
    save_random(UNet(**arguments), folder / f"{name}.safetensors")
    return arguments


def save_random(network, path):
    """Write a network's weights, all of them random."""
    torch.manual_seed(0)
    save_file({k: torch.randn_like(v) * 0.1 for k, v in network.state_dict().items()}, path)


def edm(folder):
    """A folder of edm, of classes."""
    arguments = small_unet(folder, condition_dim=2)
    about = {"network": "UNet", "arguments": arguments, "preconditioning": "edm", "shape": [1, 8, 8], "sigma_data": 0.5,
             "sigma_min": 0.002, "sigma_max": 80.0, "classes": ["cat", "dog"]}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    return f"edm:{folder}"


def edm_of_diffusers(folder):
    """A folder of edm with a network of diffusers."""
    folder.mkdir()
    arguments = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8], "norm_num_groups": 4,
        "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"], "num_class_embeds": 3,
    }  # fmt: skip
    save_random(tiny.diffusers().UNet2DModel(**arguments), folder / "model.safetensors")
    about = {"network": "UNet2DModel", "arguments": arguments, "shape": [1, 8, 8], "classes": ["a", "b"]}
    (folder / "config.json").write_text(json.dumps(about))
    return f"edm:{folder}"


def ddpm(folder):
    """What training writes, with random weights."""
    arguments = small_unet(folder, "unet", condition_dim=64)
    card = Card(
        data="shapes", shape=(1, 8, 8), unet=arguments, vocabulary=("cat", "dog"), length=2, prompts=("cat", "dog"),
        classes=2, notes=("Its files are JPEG.",), training={"size": 8, "lengths": {"ddpm": 3}},
    )  # fmt: skip
    save_random(card.new_clip(), folder / "clip.safetensors")
    save_random(card.new_features(), folder / "features.safetensors")
    for name, width in (("reference", FEATURE_DIM), ("clip_reference", card.new_clip().dim)):
        save_file({"features": torch.randn(9, width)}, folder / f"{name}.safetensors")
    write_card(card, folder)
    write_sums(folder, ["model.json", *(f"{name}.safetensors" for name in card.weights)])
    return f"ddpm:{folder}"


def clip(folder):
    """A CLIP of transformers, an extractor."""
    transformers = pytest.importorskip("transformers")
    tiny.words(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 58, "max_position_embeddings": 12, "bos_token_id": 56, "eos_token_id": 57}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**sizes, "image_size": 20, "patch_size": 5}, projection_dim=8
    )
    tiny.save(tiny.made(transformers.CLIPModel, config=config), folder)
    prepared = {
        "do_resize": True, "size": {"shortest_edge": 20}, "resample": 3, "do_center_crop": True,
        "crop_size": {"height": 20, "width": 20}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return str(folder)


def pipeline(kind):
    """A folder as diffusers writes it."""
    return lambda folder: f"diffusers:{tiny.KINDS[kind](folder)}"


OWN = {"ddpm": ddpm, "edm": edm}
LIBRARIES = {"edm of diffusers": edm_of_diffusers, "clip": clip, **{kind: pipeline(kind) for kind in tiny.KINDS}}
KINDS = {**OWN, **LIBRARIES}


# ---- Reading ----


def use(spec):
    """Load a model with all its weights and draw one image of it, where that is small."""
    model = sb_.load_model(spec, **({"size": 16} if spec.endswith("flux") else {}))
    prompts = None
    if model.encode is not None:
        prompts = model.prompts[:1] or ["cat"]
        model.encode(list(prompts))
    model.network(torch.device("cpu"), torch.float32)
    for extractor in model.extractors.values():
        if extractor.reference:
            extractor.reference()
    if torch.Size(model.shape).numel() * model.batch_size <= LARGE:
        with warnings.catch_warnings(action="ignore"):  # of the grid, and of images that there are none
            model.images(sb_.sample(model, "euler", steps=1, n=1, prompts=prompts).x)


def use_clip(folder):
    """What a CLIP says of an image."""
    towers = clip_plugin.clip(folder)
    towers["clip"].check(["cat"])
    towers["clip"].extract(torch.zeros(1, 3, 24, 24, dtype=torch.uint8), ["cat"])


def damaged(rng, path):
    """Another content for a file."""
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.8:
        return fuzz.mutated_json(rng, json.loads(content)).encode(errors="surrogatepass")
    if path.suffix == ".safetensors":
        return fuzz.mutated_bytes(rng, content[:HEADER]) + content[HEADER:]
    return fuzz.mutated_bytes(rng, content)


def read(kind, spec):
    """Use the model or the extractor of a kind."""
    use_clip(spec) if kind == "clip" else use(spec)


def outcome(kind, spec):
    """0, or the exit code of a refusal of one line."""
    try:
        read(kind, spec)
    except SamplerbenchError as error:
        code, text = error.exit_code, str(error)
    else:
        return 0
    assert "\n" not in text, text
    assert len(text) < LONGEST, text
    assert code in CODES, text
    return code


def damage(rng, folder):
    """Damage one file of a folder; its path, and all that is to be put back."""
    of_weights = rng.random() < WEIGHTS
    path = rng.choice(
        sorted(p for p in folder.rglob("*") if p.is_file() and (p.suffix == ".safetensors") == of_weights)
    )
    sums = folder / SUMS
    before = {file: file.read_bytes() for file in (path, sums) if file.exists()}
    path.write_bytes(damaged(rng, path))
    if sums in before and path != sums and rng.random() < 0.9:
        write_sums(folder, [line.split()[1] for line in before[sums].decode().splitlines()])
    return path, before


def fuzzed(kind, root, count, seed):
    """How often each exit code came; the first failure tells the file and what makes it again."""
    folder = root / kind.replace(" ", "-")
    spec = KINDS[kind](folder)
    read(kind, spec)  # imports are nobody's fault
    bounds, codes = fuzz.Bounds(), Counter()
    for number in range(count):
        path, before = damage(random.Random(f"{seed} {number}"), folder)
        try:
            with bounds.held():
                codes[outcome(kind, spec)] += 1
        except BaseException as error:
            error.add_note(
                f"{kind}, damage {seed} {number} of {path.relative_to(folder)}: {path.read_bytes()[:2000]!r}"
            )
            raise
        for file, content in before.items():
            file.write_bytes(content)
    return codes, bounds


@pytest.mark.parametrize(
    ("kind", "count"),
    thinned(
        [("ddpm", 15), ("edm", 20), ("pixels", 8), ("sd", 6), ("clip", 8)], lambda case: case[0] not in ("sd", "clip")
    ),
)
def test_some_damaged_files_of_models(tmp_path, kind, count):
    codes, _ = fuzzed(kind, tmp_path, count, seed=1)
    assert codes[4] > count / 5, codes


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_5000_damaged_files_of_models(tmp_path, kind, figure):
    codes, bounds = fuzzed(kind, tmp_path, 420, seed=2)
    name = f"damaged files of models, {kind}: tracebacks, over 2 s, over 1 GB"
    most = f"{bounds.most_seconds:.2f} s, {bounds.most_gigabytes:.2f} GB"
    figure(name, f"0, 0, 0 of {codes.total():,} (at most {most})")
    assert codes[4] > 60, codes
    assert codes[0] > 10, codes


@pytest.mark.parametrize("kind", thinned(["edm", "pixels"], "edm"))
def test_the_command_line_refuses_damaged_files_in_one_line(sb, tmp_path, kind):
    """Under --dry-run too, which draws one sample; the network of nothing has no metric."""
    folder = tmp_path / "model"
    spec = KINDS[kind](folder)
    (tmp_path / "plain.py").write_text(PLUGIN)
    run = ("run", "--model", spec, "-s", "euler", "--steps", 1, "-n", 8, "--dry-run", "--plugin", "plain.py")
    run = (*run, "--extractor", "plain", "--metric", "plain")
    assert sb(*run).code == 0
    codes = Counter()
    for number in range(8):
        _, before = damage(random.Random(f"3 {number}"), folder)
        done = sb(*run)
        codes[done.code] += 1
        if done.code:  # a slow machine is noted in a line before
            assert not done.out
            assert done.err.splitlines()[-1].startswith("Error: "), done.err
            assert sum(line.startswith(("Error", "Traceback")) for line in done.err.splitlines()) == 1, done.err
        for file, content in before.items():
            file.write_bytes(content)
    assert set(codes) <= {0, 2, 4}
    assert codes[4] > 2

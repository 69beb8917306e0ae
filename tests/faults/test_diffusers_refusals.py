"""What a folder of diffusers may not be: one line says what is given, what is accepted, the fix; nothing of it runs."""

import json
import os
import pickle
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_parameter_registration_hook

import samplerbench
from cases import FURTHER, thinned
from samplerbench.plugins.models.diffusers.libraries import library
from samplerbench.samplers.errors import InputError, ModelError

INDEX, CONFIG, SCHEDULER = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def originals(tiny_models):
    """The folder of each kind of model."""
    return tiny_models


@pytest.fixture
def copy(originals, tmp_path):
    """A folder of a kind that a test may spoil."""
    return lambda kind: shutil.copytree(originals(kind), tmp_path / "model")


def refused(folder, *words, error=ModelError, **settings):
    """Assert that a model is refused, on loading or when its weights are read, with these words on one line."""
    with pytest.raises(error) as caught:
        drawn(samplerbench.load_model(f"diffusers:{folder}", **settings))
    message = str(caught.value)
    assert "\n" not in message
    assert "http" not in message
    for word in words:
        assert word in message, message


def drawn(model, **settings):
    prompts = ["cat"] if model.encode and not model.prompts else None
    with warnings.catch_warnings(action="ignore"):  # that there are no images, of which the error follows
        samples = samplerbench.sample(model, "ddim", **{"steps": 1, "n": 1, "prompts": prompts, **settings})
    return samples if samples.images is not None else model.images(samples.x)


def edit(path, **changes):
    """Change fields of a JSON file; None takes one out."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def quick(cases):
    """The cases of models without texts, and a third of the others, whose folders take long to make and to read."""
    return [
        case
        if hasattr(case, "marks") or case[0] in ("pixels", "classes") or i % 3 == 0
        else pytest.param(*case, marks=FURTHER)
        for i, case in enumerate(cases)
    ]


# ---- Where a model is ----


def test_no_such_folder(tmp_path):
    refused(tmp_path / "none", "no such folder")
    refused("", "expected a folder or an identifier", error=InputError)
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path / "model.safetensors", "looks like an empty file; expected a safetensors file")
    refused(tmp_path, "model_index.json: no such file; expected a folder as save_pretrained")


def test_an_identifier_that_is_not_here(tmp_path, monkeypatch):
    monkeypatch.setattr(library("huggingface_hub.constants"), "HF_HUB_CACHE", str(tmp_path))
    refused("someone/some-model", "neither a folder nor a model on this machine; add --allow-download to fetch it")


def test_an_identifier_is_looked_up_on_this_machine_alone(originals, monkeypatch):
    asked = []

    def snapshot(identifier, **options):
        asked.append((identifier, options))
        return str(originals("pixels"))

    monkeypatch.setattr(library("huggingface_hub"), "snapshot_download", snapshot)
    model = samplerbench.load_model("diffusers:someone/some-model")
    assert model.name == "diffusers:someone/some-model"
    assert asked == [("someone/some-model", {"local_files_only": True})]


def test_what_is_fetched_if_that_is_allowed(originals, monkeypatch):
    asked = []

    def snapshot(identifier, **options):
        asked.append(options)
        return str(originals("sd"))

    monkeypatch.setattr(library("huggingface_hub"), "snapshot_download", snapshot)
    monkeypatch.setenv("SAMPLERBENCH_ALLOW_DOWNLOAD", "1")
    samplerbench.load_model("diffusers:someone/some-model")
    first, second = asked
    assert first == {"allow_patterns": ["*.json"]}
    assert {"unet/*.safetensors", "tokenizer/*.txt"} <= set(second["allow_patterns"])
    assert not [pattern for pattern in second["allow_patterns"] if "bin" in pattern or ".py" in pattern]


def test_a_fetch_that_fails_names_no_host(monkeypatch):
    def snapshot(identifier, **options):
        raise OSError("https://somewhere.example/api: no route to host")

    monkeypatch.setattr(library("huggingface_hub"), "snapshot_download", snapshot)
    monkeypatch.setenv("SAMPLERBENCH_ALLOW_DOWNLOAD", "1")
    refused("someone/some-model", "cannot be fetched (OSError)")


@pytest.mark.parametrize("missing", ["diffusers.utils.logging", "huggingface_hub"])
def test_a_library_that_is_not_installed(originals, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    argument = "someone/some-model" if missing == "huggingface_hub" else originals("sd")
    refused(argument, "cannot be imported; pip install 'samplerbench[diffusers]'")


# ---- What would run code ----


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_never_read(copy, tmp_path):
    folder, canary = copy("pixels"), tmp_path / "canary"
    pickles = [folder / "unet" / f"diffusion_pytorch_model.{kind}" for kind in ("bin", "ckpt")]
    for path in pickles:
        path.write_bytes(pickle.dumps(Canary(canary)))
    assert drawn(samplerbench.load_model(f"diffusers:{folder}")).x.isfinite().all()
    (folder / UNET).unlink()
    refused(folder, "diffusion_pytorch_model.bin, diffusion_pytorch_model.ckpt, which", "never read", "save_pretrained")
    (folder / UNET).write_bytes(pickles[0].read_bytes())
    refused(folder, "looks like a pickle, which is never read", "expected a safetensors file")
    assert not canary.exists()
    pickle.loads(pickles[0].read_bytes())  # the canary is one
    assert canary.exists()


@pytest.mark.parametrize(
    ("kind", "file", "changes", "word"),
    [
        ("pixels", INDEX, {"_class_name": ["pipeline", "MyPipeline"]}, "_class_name ['pipeline', "),
        ("pixels", INDEX, {"unet": ["my_unet", "UNet2DModel"]}, "unet is a UNet2DModel of 'my_unet'"),
        ("sd", INDEX, {"extra": ["my_unet", "Thing"]}, "extra is a Thing of 'my_unet'"),
        ("sd", "text_encoder/config.json", {"auto_map": {"AutoModel": "my_unet.Thing"}}, "auto_map names code"),
        ("pixels", CONFIG, {"auto_map": {"AutoModel": "my_unet.Thing"}}, "auto_map names code"),
    ],
)
def test_code_of_a_models_own_is_never_run(copy, tmp_path, kind, file, changes, word):
    folder, canary = copy(kind), tmp_path / "canary"
    for name in ("my_unet.py", "pipeline.py", "unet/my_unet.py", "text_encoder/my_unet.py"):
        if (folder / name).parent.is_dir():
            (folder / name).write_text(f"import os; os.mkdir({str(canary)!r})\nclass UNet2DModel: pass\n")
    edit(folder / file, **changes)
    refused(folder, word, "never run")
    assert not canary.exists()


def test_tokenizers_run_no_code(copy, tmp_path):
    folder, canary = copy("sd"), tmp_path / "canary"
    (folder / "tokenizer" / "words.py").write_text(f"import os; os.mkdir({str(canary)!r})\nclass Words: pass\n")
    edit(folder / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["words.Words", None]})
    refused(folder, "auto_map names code", "never run")
    assert not canary.exists()


# ---- Files that are damaged ----


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "holds a list; expected a JSON object"),
        ("\xff", "cannot be read as JSON"),
    ],
    ids=["cut", "list", "bytes"],
)
def test_a_config_that_does_not_parse(copy, file, content, word):
    folder = copy("pixels")
    (folder / file).write_bytes(content.encode("latin-1"))
    refused(folder, file, word, "fetch the file again")


def test_weights_that_are_not_there(copy):
    folder = copy("sd")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    refused(folder, "vae: no diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "an empty file"), (b"<!DOCTYPE html>", "an HTML page"), (b"version https://git-lfs", "git-lfs pointer")],
    ids=["empty", "page", "pointer"],
)
def test_weights_that_are_something_else(copy, content, word):
    folder = copy("pixels")
    (folder / UNET).write_bytes(content)
    with pytest.raises(ModelError, match=word):
        samplerbench.load_model(f"diffusers:{folder}")


@pytest.mark.parametrize("file", thinned(["unet/config.json", UNET, "tokenizer/vocab.json"], UNET))
def test_pipes_keep_no_reader_waiting(copy, file):
    folder = copy("sd")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    refused(folder, file, "a folder, pipe or device; expected a file")


def test_weights_that_are_cut_short(copy):
    folder = copy("pixels")
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged or cut short"):
        samplerbench.load_model(f"diffusers:{folder}")


@pytest.mark.parametrize(
    ("kind", "file", "name"),
    [
        ("pixels", UNET, "conv_in.weight"),
        pytest.param("sd", "vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.weight", marks=FURTHER),
        ("sd", "text_encoder/model.safetensors", None),
    ],
)
def test_weights_that_do_not_fit(copy, kind, file, name):
    folder = copy(kind)
    weights = load_file(folder / file)
    name = name or next(n for n in sorted(weights) if n.endswith("layers.1.mlp.fc1.weight"))
    for spoilt, words in (
        ({k: v for k, v in weights.items() if k != name}, ["1 weights do not fit", f"no {name}"]),
        ({**weights, name: torch.zeros(2, 2)}, ["1 weights do not fit", f"{name} is [2, 2], expected ["]),
        ({**weights, name: weights[name] * torch.nan}, [f"tensor {name!r} holds NaN or infinity"]),
    ):
        save_file(spoilt, folder / file, metadata={"format": "pt"})
        refused(folder, *words, "fetch it again")


def test_shards_of_another_folder(copy):
    folder = copy("pixels")
    (folder / UNET).unlink()
    (folder / f"{UNET}.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    refused(folder, "names the file '../../secret.safetensors'; expected files of its own folder")
    (folder / f"{UNET}.index.json").write_text(json.dumps({"weight_map": {"a": "b.safetensors"}}))
    refused(folder, "b.safetensors: no such file")


def test_a_tokenizer_that_cannot_be_read(copy):
    folder = copy("sd")
    (folder / "tokenizer" / "vocab.json").write_text("{")
    refused(folder, "no CLIPTokenizer can be made of it")


# ---- What asks for memory or time ----

TEXT, T5_TEXT, WORDS = "text_encoder/config.json", "text_encoder_2/config.json", "tokenizer/tokenizer_config.json"
TRANSFORMER, VAE = "transformer/config.json", "vae/config.json"
LARGE = "describes a larger network than the weights beside it, "


@pytest.fixture
def frugal():
    """Fail as soon as a test makes more layers, or larger ones, than the tiny models have."""
    made = []

    def count(module, name, parameter):
        made.append(0 if parameter is None or parameter.is_meta else parameter.numel())
        if len(made) > 20_000 or sum(made) > 10**6:
            pytest.fail(f"{len(made)} tensors of {sum(made)} numbers")

    hook = register_module_parameter_registration_hook(count)
    yield
    hook.remove()


@pytest.mark.parametrize(
    ("kind", "file", "changes"),
    quick([
        ("pixels", CONFIG, {"layers_per_block": 3_000_000}),
        ("pixels", CONFIG, {"block_out_channels": [2**20, 2**20]}),
        pytest.param("pixels", CONFIG, {"num_class_embeds": 1_000_000}, marks=FURTHER),
        ("ldm", "vqvae/config.json", {"num_vq_embeddings": 10**12}),
        ("sd", CONFIG, {"layers_per_block": 3_000_000}),
        ("sd", CONFIG, {"layers_per_block": [3_000_000, 1]}),
        ("sd", CONFIG, {"cross_attention_dim": 16, "transformer_layers_per_block": [1, 2_000_000]}),
        ("sd", CONFIG, {"layers_per_block": 100, "transformer_layers_per_block": 100}),
        ("sdxl", CONFIG, {"transformer_layers_per_block": 2_000_000}),
        ("sd", VAE, {"layers_per_block": 10**9}),
        ("sd", TEXT, {"num_hidden_layers": 5_000_000}),
        ("sd", TEXT, {"intermediate_size": 10**12}),
        ("sd", TEXT, {"max_position_embeddings": 10**9}),
        ("dit", TRANSFORMER, {"num_layers": 10**6}),
        ("dit", TRANSFORMER, {"sample_size": 1024}),
        ("sd3", TRANSFORMER, {"num_layers": 10**6}),
        ("sd3", TRANSFORMER, {"pos_embed_max_size": 10**5}),
        ("flux", TRANSFORMER, {"num_single_layers": 10**6}),
        ("flux", T5_TEXT, {"num_layers": 10**6}),
        ("flux", T5_TEXT, {"relative_attention_num_buckets": 10**12}),
    ]),
    ids=str,
)  # fmt: skip
def test_a_network_larger_than_its_weights_is_never_made(copy, frugal, kind, file, changes):
    folder = copy(kind)
    edit(folder / file, **changes)
    with pytest.raises(ModelError, match=LARGE) as caught:
        samplerbench.load_model(f"diffusers:{folder}", size=16)
    assert str(caught.value).startswith(f"{folder / file}: ")
    assert "\n" not in str(caught.value)


def test_a_plan_is_refused_as_a_run_is(sb, copy, frugal):
    folder = copy("pixels")
    edit(folder / CONFIG, layers_per_block=3_000_000)
    run = ("run", "--model", f"diffusers:{folder}", "-s", "ddim", "--steps", 2, "-n", 2)
    for more in (("--dry-run",), ("-o", "out")):
        sb(*run, *more).refused(4, f"{folder / CONFIG}: {LARGE}144 tensors of 45,259 numbers; fetch both again")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "changes",
    [pytest.param(changes, marks=FURTHER * (i > 0)) for i, changes in enumerate([
        {"num_labels": 10**9}, {"id2label": {"0": 5}, "num_labels": 3}, {"quantization_config": {"quant_method": "x"}},
        {"attn_implementation": "someone/kernels"}, {"per_layer_config": {"0": {"hidden_size": 10**9}}},
        {"torch_dtype": "float8_e4m3fn"}, {"output_hidden_states": "x"}, {"tie_word_embeddings": [1]},
    ])],
    ids=str,
)  # fmt: skip
def test_of_a_text_encoder_only_what_its_layers_are_is_read(copy, originals, frugal, changes):
    folder = copy("sd")
    edit(folder / TEXT, **changes)
    as_before = drawn(samplerbench.load_model(f"diffusers:{originals('sd')}")).x
    assert torch.equal(drawn(samplerbench.load_model(f"diffusers:{folder}")).x, as_before)


@pytest.mark.parametrize(
    ("kind", "file", "changes", "words"),
    quick([
        ("pixels", CONFIG, {"quantization_config": {"quant_method": "x"}}, "quantization_config: its weights"),
        ("pixels", CONFIG, {"block_out_channels": [8] * 999}, "block_out_channels lists 999 levels; expected 1 to 12"),
        ("sd", VAE, {"block_out_channels": []}, "block_out_channels lists 0 levels"),
        ("pixels", CONFIG, {"sample_size": 5000}, "of images of at most 4096 pixels a side"),
        ("pixels", CONFIG, {"sample_size": True}, "sample_size True: expected a number of places"),
        ("sd", VAE, {"scaling_factor": 0}, "scaling_factor 0: expected a number that states can be divided by"),
        ("sd", VAE, {"scaling_factor": float("nan")}, "scaling_factor nan: expected a finite number"),
        ("sd", VAE, {"shift_factor": 10**400}, "shift_factor 1000000"),
        ("sd", VAE, {"latents_mean": [0, 0, 0, float("inf")], "latents_std": [1] * 4}, "latents_mean: expected 4 num"),
        ("pixels", SCHEDULER, {"beta_end": float("nan")}, "beta_end nan: expected a finite number"),
        ("pixels", SCHEDULER, {"num_train_timesteps": 10**6}, "num_train_timesteps 1000000: expected 1 to 100000"),
        ("pixels", SCHEDULER, {"trained_betas": [0.1] * 100_001}, "trained_betas: expected numbers, at most 100,000"),
        ("pixels", SCHEDULER, {"trained_betas": [[0.1]]}, "trained_betas: expected numbers"),
        ("pixels", SCHEDULER, {"clip_sample_range": float("inf")}, "clip_sample_range inf: expected a finite number"),
        ("flux", TRANSFORMER, {"axes_dims_rope": [4, 4, 10**9]}, "[4, 4, 1000000000]: expected 3 numbers that are 16"),
        ("flux", TRANSFORMER, {"axes_dims_rope": "x"}, "axes_dims_rope 'x': expected"),
        ("sdxl", WORDS, {"model_max_length": 5}, "tokenizer 5 and tokenizer_2 77; expected as many of each"),
        ("sd3", WORDS, {"model_max_length": 5}, "tokenizer 5 and tokenizer_2 77; expected as many of each"),
        ("sd", WORDS, {"model_max_length": float("nan")}, "model_max_length nan: expected a number of tokens"),
        ("sd", WORDS, {"model_max_length": -1}, "model_max_length -1: expected a number of tokens"),
        ("sd", WORDS, {"extra_ids": 10**9}, "tokenizer_config.json: 1000000000 of something; expected at most 4096"),
        ("sd", WORDS, {"extra_special_tokens": ["x"] * 5000}, "adds 5,000 tokens; expected at most 4096"),
        ("sd", WORDS, {"added_tokens_decoder": {"0": {"x": [10**9]}}}, "1000000000 of something"),
    ]),
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_numbers_that_no_model_has_are_named(copy, frugal, kind, file, changes, words):
    folder = copy(kind)
    edit(folder / file, **changes)
    with pytest.raises(ModelError) as caught:
        samplerbench.load_model(f"diffusers:{folder}", size=None if kind != "flux" else 16)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("kind", "file", "changes", "name"),
    quick(
        [
            ("sd", TEXT, {"num_hidden_layers": 2}, "layers.2.layer_norm1.bias"),
            ("pixels", CONFIG, {"layers_per_block": 0}, "up_blocks.0.attentions.1.group_norm.bias"),
            ("sd3", TRANSFORMER, {"num_layers": 1}, "transformer_blocks.1."),
            ("flux", T5_TEXT, {"num_layers": 1}, "encoder.block.1."),
        ]
    ),
)
def test_weights_that_a_config_has_no_place_for_are_named(copy, kind, file, changes, name):
    folder = copy(kind)
    edit(folder / file, **changes)
    refused(folder, "weights do not fit its config.json: ", name, "which the config has no place for")


def test_weights_of_other_parts_that_were_stored_along_are_left_alone(copy, originals):
    folder = copy("sd")
    path = folder / "text_encoder" / "model.safetensors"
    extra = {"logit_scale": torch.ones(1), "vision_model.layers.0.weight": torch.ones(2, 2)}
    save_file({**load_file(path), **extra}, path, metadata={"format": "pt"})
    as_before = drawn(samplerbench.load_model(f"diffusers:{originals('sd')}")).x
    assert torch.equal(drawn(samplerbench.load_model(f"diffusers:{folder}")).x, as_before)


@pytest.mark.parametrize("mark", thinned([b"", b"\xef\xbb\xbf"], b"\xef\xbb\xbf"), ids=["plain", "marked"])
def test_files_with_a_byte_order_mark_are_read(copy, originals, mark):
    folder = copy("sd")
    for name in (INDEX, CONFIG, SCHEDULER, TEXT, WORDS, "tokenizer/vocab.json", "tokenizer/merges.txt"):
        (folder / name).write_bytes(mark + (folder / name).read_bytes())
    before = set(folder.rglob("*"))
    as_before = drawn(samplerbench.load_model(f"diffusers:{originals('sd')}")).x
    assert torch.equal(drawn(samplerbench.load_model(f"diffusers:{folder}")).x, as_before)
    assert set(folder.rglob("*")) == before


def test_a_token_that_the_encoder_does_not_know_is_named(copy):
    folder = copy("sd")
    words = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({**words, "cat</w>": 5000}))
    refused(folder, f"{folder / 'tokenizer'}: has a token of number 5000, and {folder / TEXT} knows 58 of them")


@pytest.mark.parametrize("file", [INDEX, SCHEDULER])
def test_long_and_odd_names_stay_short_on_their_line(copy, file):
    for name in ("a" * 10_000, "a\nb", "\x1b[31m", "\u202e"):
        folder = copy("pixels")
        edit(folder / file, **({"unet": [name, name]} if file == INDEX else {"beta_schedule": name}))
        with pytest.raises(ModelError) as caught:
            samplerbench.load_model(f"diffusers:{folder}")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600
        shutil.rmtree(folder)


def test_files_of_words_are_bounded(copy):
    folder = copy("sd")
    with (folder / "tokenizer" / "vocab.json").open("ab") as file:
        file.truncate(2**24 + 1)
    refused(folder, "vocab.json: 16,777,217 bytes; expected at most 16,777,216")
    with (folder / INDEX).open("ab") as file:
        file.truncate(2**23 + 1)
    refused(folder, "model_index.json: 8,388,609 bytes; expected at most 8,388,608")


# ---- Kinds that are not supported ----


@pytest.mark.parametrize(
    ("kind", "file", "changes", "words"),
    quick([
        ("sd", INDEX, {"_class_name": "StableDiffusionInpaintPipeline"}, [
            "'StableDiffusionInpaintPipeline' is no pipeline that is supported", "expected one of DDPMPipeline, DDIM"]),
        ("sd", INDEX, {"vae": ["diffusers", "AutoencoderTiny"]}, ["Tiny; expected AutoencoderKL"]),
        ("sd", INDEX, {"vae": ["transformers", "AutoencoderKL"]}, ["of 'transformers'; expected"]),
        ("sd", INDEX, {"tokenizer": None}, ["no tokenizer, which a StableDiff"]),
        ("sd", INDEX, {"scheduler": ["diffusers", "EDMEulerScheduler"]}, [
            "EDMEulerScheduler; expected DDIM", "sigma_data", "edm:FOLDER", "sb.wrap_network(D, sb.edm()"]),
        ("sdxl", INDEX, {"scheduler": ["diffusers", "EDMDPMSolverMultistepScheduler"]}, ["sigma_data", "edm:FOLDER"]),
        ("pixels", INDEX, {"scheduler": ["diffusers", "CMStochasticIterativeScheduler"]}, ["consistency model"]),
        ("pixels", INDEX, {"scheduler": ["diffusers", "KarrasVeScheduler"]}, ["sb.wrap_network(...)"]),
        ("sdxl", INDEX, {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, ["is of a flow; these are"]),
        ("sd", INDEX, {"scheduler": ["diffusers", "FlowMatchLCMScheduler"]}, ["write that as its class"]),
        ("sd-flow", SCHEDULER, {"use_dynamic_shifting": True}, ["use_dynamic_shifting True: expected False"]),
        ("sd3", INDEX, {"scheduler": ["diffusers", "FlowMatchHeunDiscreteScheduler"]}, [
            "write that as its class, since grids are chosen here"]),
        ("sd", INDEX, {"_class_name": "LatentConsistencyModelPipeline"}, ["LCM-LoRA merged into it"]),
        ("sd", INDEX, {"_class_name": "StableDiffusionImg2ImgPipeline"}, ["is a StableDiffusionPipeline by its parts"]),
        ("sd3", INDEX, {"scheduler": ["diffusers", "DDIMScheduler"]}, ["expected FlowMatchEuler"]),
        ("sd", CONFIG, {"in_channels": 9}, ["in_channels 9: expected 4, the latent channels of its VAE"]),
        ("sd", CONFIG, {"cross_attention_dim": 32}, ["cross_attention_dim 32: expected 16, the hidden_size"]),
        ("sd", CONFIG, {"time_cond_proj_dim": 256}, ["time_cond_proj_dim 256: expected None"]),
        ("sd", CONFIG, {"sample_size": "8"}, ["sample_size '8': expected a number of places"]),
        ("sd", CONFIG, {"sample_size": 10**9}, ["sample_size 1000000000: expected a number of places"]),
        ("classes", CONFIG, {"num_class_embeds": 10**12}, ["num_class_embeds 1000000000000: expected 1 to"]),
        ("sd", "vae/config.json", {"out_channels": 4}, ["out_channels 4: expected 1 or 3"]),
        ("sd", "vae/config.json", {"block_out_channels": None}, ["no block_out_channels, which a AutoencoderKL needs"]),
        ("sdxl", CONFIG, {"projection_class_embeddings_input_dim": 8}, ["expected 72, the projection_dim"]),
        ("sd3", "transformer/config.json", {"joint_attention_dim": 32}, ["joint_attention_dim 32: expected 24"]),
        ("flux", "transformer/config.json", {"in_channels": 32}, ["in_channels 32: expected 16, four times"]),
        ("pixels", CONFIG, {"in_channels": 2, "out_channels": 2}, ["in_channels 2: expected 1 or 3"]),
        ("pixels", CONFIG, {"in_channels": "3"}, ["in_channels '3': expected a value of type int"]),
        ("pixels", CONFIG, {"time_embedding_type": "fourier"}, ["'fourier': expected 'positional'"]),
        ("classes", CONFIG, {"class_embed_type": "timestep"}, ["class_embed_type 'timestep': expected None"]),
        ("pixels", SCHEDULER, {"beta_schedule": None}, ["no beta_schedule, which a DDIM"]),
        ("pixels", SCHEDULER, {"beta_end": None}, ["no beta_end, which a DDIM"]),
        ("pixels", SCHEDULER, {"beta_schedule": "sigmoid"}, ["'sigmoid': expected one of linear"]),
        ("pixels", SCHEDULER, {"beta_end": 2.0}, ["beta_end 2: expected 0 < start <= end <= 1"]),
        ("pixels", SCHEDULER, {"num_train_timesteps": 10**12}, ["num_train_timesteps 10000"]),
        ("pixels", SCHEDULER, {"trained_betas": [0.1, -1.0]}, ["no noise schedule can be made"]),
        ("pixels", SCHEDULER, {"prediction_type": "noise"}, ["'noise': expected one of epsilon"]),
        ("pixels", SCHEDULER, {"rescale_betas_zero_snr": True}, [
            "prediction_type 'epsilon' where the last timestep is pure noise", "expected v_prediction or sample"]),
        ("pixels", SCHEDULER, {"thresholding": True}, ["thresholding true: expected false"]),
        ("pixels", SCHEDULER, {"clip_sample_range": -1}, ["clip_sample_range -1.0: expected a pos"]),
        ("pixels", SCHEDULER, {"use_flow_sigmas": True}, ["use_flow_sigmas True: expected False"]),
        ("sd3", SCHEDULER, {"invert_sigmas": True}, ["invert_sigmas True: expected False"]),
        ("sd3", SCHEDULER, {"shift": 0}, ["shift 0: expected a positive number"]),
        ("sd3", SCHEDULER, {"shift": 1e9}, ["times are shifted by 1e+09; expected 0.0001 to 10000"]),
        ("flux", SCHEDULER, {"max_shift": 1e9}, ["times are shifted by 1.01423e+304; expected"]),
        ("sd3", SCHEDULER, {"num_train_timesteps": 1}, ["num_train_timesteps 1: expected 2 to"]),
        ("flux", SCHEDULER, {"time_shift_type": "square"}, ["time_shift_type 'square'"]),
    ]),
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_is_not_supported_is_named(copy, kind, file, changes, words):
    folder = copy(kind)
    edit(folder / file, **changes)
    refused(folder, file, *words) if "_class_name" not in changes else refused(folder, *words)


WHOLE = {
    "model.diffusion_model.input_blocks.0.0.weight": "of Stable Diffusion; expected a folder, made by "
    'diffusers.StableDiffusionPipeline.from_single_file("m.safetensors").save_pretrained("DIR")',
    "conditioner.embedders.1.model.ln_final.bias": "of Stable Diffusion XL; expected a folder, made by",
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "of Stable Diffusion 3; expected a folder, made by",
    "double_blocks.0.img_attn.qkv.weight": "of Flux; expected a folder, made by diffusers.FluxPipeline",
    "lora_unet_mid_block.lora_up.weight": "weights of a LoRA, which change a model; merge them into it with fuse_lora",
    "unet.mid_block.to_q.lora.up.weight": "weights of a LoRA",
    "conv_in.weight": "weights without the configs that say what they are of; expected a folder",
}


@pytest.mark.parametrize("prefix", ["", "diffusers:"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_file_of_weights_is_named_with_the_way_to_a_folder(tmp_path, monkeypatch, prefix, name):
    monkeypatch.chdir(tmp_path)
    others = {"model.diffusion_model.out.2.bias": torch.ones(1)} if name.startswith("conditioner") else {}
    save_file({name: torch.ones(1), **others}, "m.safetensors")
    with pytest.raises(ModelError) as caught:
        samplerbench.load_model(f"{prefix}m.safetensors")
    assert str(caught.value).startswith("model 'diffusers:m.safetensors': ")
    assert WHOLE[name] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["m.ckpt", "m.pt", "m.BIN"])
def test_a_pickle_is_refused_with_the_way_to_a_folder(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"can run code and is never read; expected a folder .*from_single_file"):
        samplerbench.load_model(str(tmp_path / name))


def test_other_files_are_refused_as_before(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"<html>")
    with pytest.raises(ModelError, match="looks like an HTML page"):
        samplerbench.load_model(str(tmp_path / "m.safetensors"))
    (tmp_path / "m.txt").write_text("x")
    with pytest.raises(ModelError, match=r"m.txt': a file; expected a folder, as save_pretrained"):
        samplerbench.load_model(f"diffusers:{tmp_path / 'm.txt'}")
    with pytest.raises(InputError, match="a file that none of"):
        samplerbench.load_model(str(tmp_path / "m.txt"))


# ---- Settings and prompts ----


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    quick(
        [
            ("sd", {"size": 15}, ["size 15x15: expected multiples of 2, by which its VAE divides", "14x14 or 16x16"]),
            ("sd", {"size": "1x16"}, ["nearest: 2x16"]),
            ("pixels", {"size": "9x8"}, ["its U-Net divides them", "8x8 or 10x8"]),
            ("flux", {"size": 18}, ["expected multiples of 4", "16x16 or 20x20"]),
            ("sd3", {"size": 68}, ["expected at most 64 a side"]),
            ("dit", {"size": "16x32"}, ["only square images; expected 16 or 32"]),
            ("sd", {"size": "big"}, ["size 'big': expected width x height"]),
            ("sd", {"clip_skip": 0}, ["clip_skip 0: expected a whole number from 1", "to 3"]),
            ("sd", {"clip_skip": 4}, ["clip_skip 4: expected a whole number from 1", "to 3"]),
            ("pixels", {"clip_skip": 1}, ["clip_skip 1: model 'diffusers:", "has no text encoder; leave it out"]),
            ("flux", {"clip_skip": 1}, ["clip_skip 1: model", "reads no layer but the last; leave it out"]),
            ("pixels", {"seed": 1}, ["has no seed; settings of this model: size, clip_skip"]),
        ]
    ),
)
def test_settings_that_a_model_cannot_have(originals, kind, settings, words):
    refused(originals(kind), *words, error=InputError, **{**({"size": 16} if kind == "flux" else {}), **settings})


def test_a_model_that_knows_no_size(copy):
    folder = copy("pixels")
    edit(folder / "unet" / "config.json", sample_size=None)
    refused(folder, "size: not given, and the config of this model names none; give one", error=InputError)
    assert samplerbench.load_model(f"diffusers:{folder}", size=16).shape == (3, 16, 16)


@pytest.mark.parametrize("settings", [{"guidance": 2.0}, {"prompts": ["cat"]}, {"negative": "dog"}])
def test_a_model_without_prompts(originals, settings):
    with pytest.raises(InputError, match=r"model 'diffusers:.*' is unconditional; leave \w+ out"):
        drawn(samplerbench.load_model(f"diffusers:{originals('pixels')}"), **settings)


def test_a_model_without_prompts_of_its_own(originals):
    with pytest.raises(InputError, match=r"prompts: not given, and model 'diffusers:.*' has none of its own; give"):
        drawn(samplerbench.load_model(f"diffusers:{originals('sd')}"), prompts=None)


@pytest.mark.parametrize("kind", thinned(["sd", "sdxl", "sd3", "flux"], "sd"))
def test_a_text_that_is_too_long_is_refused_and_never_cut(originals, kind):
    model = samplerbench.load_model(f"diffusers:{originals(kind)}", size=16)
    drawn(model, prompts=["a " * 75])
    with pytest.raises(InputError, match=r"^prompt 'a a .*': 78 tokens; expected at most 77"):
        drawn(model, prompts=["dog", "a " * 76])
    if kind != "flux":
        with pytest.raises(InputError, match="78 tokens"):
            drawn(model, prompts=["dog"], guidance=2.0, negative="a " * 76)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("classes", {"prompts": ["5"]}, "prompt '5': expected a class, a number from 0 to 4$"),
        ("dit", {"prompts": ["tensh"]}, r"number from 0 to 999 or a name \(did you mean 'tench'\?\)"),
        ("dit", {"prompts": ["crane"]}, "prompt 'crane': expected a class"),  # two classes have that name
        ("classes", {"guidance": 2.0}, "none for no class, so guidance takes a negative one, as in --negative 0"),
    ],
)
def test_classes(originals, kind, settings, message):
    with pytest.raises(InputError, match=message):
        drawn(samplerbench.load_model(f"diffusers:{originals(kind)}"), **settings)


def test_names_of_classes(originals):
    model = samplerbench.load_model(f"diffusers:{originals('dit')}")
    assert model.encode(["tench", "Tinca Tinca", "tench, Tinca tinca", "2", "999"]).tolist() == [0, 0, 0, 2, 999]
    assert model.prompts[:4] == ("tench, Tinca tinca", "1", "2", "3")
    classes = samplerbench.load_model(f"diffusers:{originals('classes')}")
    assert drawn(classes, guidance=2.0, negative="0").network_evaluations == 2


# ---- On the command line ----


def test_the_command_line_says_it_in_one_line(sb, copy):
    folder = copy("pixels")
    weights = load_file(folder / UNET)
    save_file({**weights, "conv_in.weight": torch.zeros(2, 2)}, folder / UNET, metadata={"format": "pt"})
    run = ("run", "--model", f"diffusers:{folder}", "-s", "euler-a", "--steps", "2", "-n", "2", "-o", "out")
    done = sb(*run)
    assert done.code == 4
    assert "1 weights do not fit its config.json: conv_in.weight is [2, 2]" in done.err.splitlines()[-1]
    edit(folder / "model_index.json", unet=["mine", "UNet2DModel"])
    sb(*run).refused(4, "never run")
    sb("run", "--model", "diffusers:a/b", "--size", "15x", "--dry-run").refused(2, "size '15x'")

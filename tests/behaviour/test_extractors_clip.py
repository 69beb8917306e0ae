"""The extractor "clip": cosines and embeddings as transformers computes them, and what it refuses."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_parameter_registration_hook

import samplerbench as sb
from cases import Lazily, skip_module_without
from samplerbench.plugins.extractors import clip as plugin
from samplerbench.samplers.registry import load_registry

skip_module_without("transformers")
transformers = Lazily("transformers")

SIDE, LONGEST = 20, 12
WORDS = ("a", "dark", "coat", "bag")
PREPARED = {
    "do_convert_rgb": True, "do_resize": True, "size": {"shortest_edge": SIDE}, "resample": 3,
    "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
    "image_processor_type": "CLIPImageProcessor",
}  # fmt: skip
PROMPTS = ("a dark coat", "a bag", "coat", "bag a dark", "a dark coat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of random weights, as its own library saves it."""
    path = tmp_path_factory.mktemp("clip") / "tiny-clip"
    path.mkdir()
    tokens = [f"{word}</w>" for word in WORDS]
    letters = sorted({letter for word in WORDS for letter in word})
    pairs, known = [], [*letters, *(f"{letter}</w>" for letter in letters)]
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pairs.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
            known.append(parts[0])
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*known, *tokens]))}
    vocabulary |= {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(pairs), ""]))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    (path / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    ends = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1, "pad_token_id": 0}
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": LONGEST}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**sizes, "image_size": SIDE, "patch_size": 5}, projection_dim=8
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config)
    with torch.no_grad():  # beyond what an untrained network starts with, where all images are alike
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    """The folder again, for spoiling."""
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 3, 30, 47), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_cosines_and_embeddings_are_those_of_transformers(folder, images):
    made = plugin.clip(str(folder))
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    processor = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor).from_pretrained(folder)
    pixels = processor(list(images.numpy()), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model(**tokenizer(list(PROMPTS), padding=True, return_tensors="pt"), pixel_values=pixels)
        expected = (out.logits_per_image / model.logit_scale.exp()).diagonal().numpy()
    found = made["clip"].extract(images, PROMPTS)
    assert found.shape == (5, 1)
    assert expected.std() > 1e-2
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)
    rows = made["clip_image"].extract(images, PROMPTS)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(rows / lengths, out.image_embeds.numpy(), atol=1e-6)


def test_a_row_does_not_depend_on_its_company(folder, images):
    made = plugin.clip(str(folder))
    whole = made["clip"].extract(images, PROMPTS)
    alone = plugin.clip(str(folder))["clip"].extract(images[3:4].clone(), PROMPTS[3:4])
    assert alone.tobytes() == whole[3:4].tobytes()


def test_the_images_are_seen_once_for_both_roles_and_again_when_they_change(folder, images, monkeypatch):
    seen = []
    inner = plugin.in_batches
    monkeypatch.setattr(plugin, "in_batches", lambda function, x: seen.append(len(x)) or inner(function, x))
    made = plugin.clip(str(folder))
    made["clip"].extract(images, PROMPTS)
    before = made["clip_image"].extract(images, PROMPTS)
    assert seen == [5]
    images[0] = 255 - images[0]
    assert (made["clip_image"].extract(images, PROMPTS)[0] != before[0]).any()


def test_grey_images_are_three_equal_channels(folder, images):
    made = plugin.clip(str(folder))["clip_image"]
    grey = images[:, :1]
    rows = made.extract(grey, ())
    np.testing.assert_array_equal(rows, made.extract(grey.repeat(1, 3, 1, 1), ()))
    assert "grey" in made.note


def test_it_says_which_clip_it_is_and_its_fingerprint_follows_every_file(folder, copy):
    made = plugin.clip(str(folder))
    assert made["clip"].label == "CLIP tiny-clip"
    assert made["clip"].note.startswith("the CLIP is tiny-clip; ")
    hashes = {made["clip"].fingerprint}
    for name in ("preprocessor_config.json", "vocab.json"):
        content = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(content | {"more": 99}))
        hashes.add(plugin.clip(str(copy))["clip"].fingerprint)
    assert len(hashes) == 3


def test_nothing_of_transformers_is_printed(folder, images, capfd):
    plugin.clip(str(folder))["clip"].extract(images, PROMPTS)
    assert capfd.readouterr() == ("", "")


# What is refused


def test_an_over_long_prompt_is_refused_before_a_run_with_its_number_of_tokens(folder):
    made = plugin.clip(str(folder))["clip"]
    made.check(PROMPTS)
    with pytest.raises(sb.InputError, match=r"prompt 'a dark .*\.\.\.': 14 tokens, CLIP tiny-clip reads 12"):
        made.check(["a bag", " ".join(["a dark coat"] * 4)])
    assert plugin.clip(str(folder))["clip_image"].check is None


def test_images_without_prompts_have_no_cosine(folder, images):
    with pytest.raises(sb.InputError, match="5 images with 0 prompts"):
        plugin.clip(str(folder))["clip"].extract(images, ())


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.json"])
def test_a_folder_without_a_file_is_no_clip(copy, missing):
    (copy / missing).unlink()
    name = "tokenizer.json" if missing == "vocab.json" else missing
    with pytest.raises(sb.ModelError, match=f"has no {name}"):
        plugin.clip(str(copy))


def test_another_model_is_named(copy):
    (copy / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(sb.ModelError, match="model_type 'bert'; expected 'clip'"):
        plugin.clip(str(copy))


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"size": "x"}', '{"do_resize": true}'])
def test_a_damaged_preprocessor_is_named(copy, text):
    (copy / "preprocessor_config.json").write_text(text)
    with pytest.raises(sb.ModelError, match="preprocessor_config"):
        plugin.clip(str(copy))


def test_weights_that_do_not_fit_are_named(copy, images):
    tensors = load_file(copy / "model.safetensors")
    tensors["visual_projection.weight"] = torch.ones(3, 3)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(sb.ModelError, match=r"1 tensors do not fit CLIPModel: visual_projection\.weight"):
        plugin.clip(str(copy))["clip_image"].extract(images, ())


@pytest.mark.parametrize(
    ("tower", "changes"),
    [
        ("text_config", {"num_hidden_layers": 5_000_000}), ("vision_config", {"num_hidden_layers": 5_000_000}),
        ("text_config", {"vocab_size": 10**6}), ("text_config", {"intermediate_size": 10**12}),
        ("text_config", {"max_position_embeddings": 60_000}), ("text_config_dict", {"num_hidden_layers": 5_000_000}),
    ],
)  # fmt: skip
def test_towers_larger_than_their_weights_are_never_made(copy, tower, changes):
    made = []

    def count(module, name, parameter):
        made.append(0 if parameter is None or parameter.is_meta else parameter.numel())
        if len(made) > 5000 or sum(made) > 10**6:
            pytest.fail("made")

    config = json.loads((copy / "config.json").read_text())
    config[tower] = {**config.get(tower, config["text_config"]), **changes}
    (copy / "config.json").write_text(json.dumps(config))
    hook = register_module_parameter_registration_hook(count)
    try:
        with pytest.raises(sb.ModelError, match=r"config.json: describes a larger network than the weights beside it"):
            plugin.clip(str(copy))
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop_size": {"height": 20, "width": 24}}, "makes images of (20, 24); expected (20, 20), the image_size in"),
        ({"do_center_crop": False, "size": 24}, "makes images of (24, 24); expected (20, 20)"),
        ({"size": 10**9}, "a side of 1000000000, where 1 to 4096 is expected"),
        ({"crop_size": {"height": 20, "width": 10**9}}, "a side of 1000000000"),
        ({"crop_size": {"height": 20.5, "width": 20}}, "a side of 20.5"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "nan, where a finite number is expected"),
        ({"image_std": [0.5] * 10_000}, "image_std of 10000 numbers, where 3 are expected"),
        ({"rescale_factor": 10**400}, "where a finite number is expected"),
        ({"resample": 10**400}, "is not how a CLIP's images are prepared"),
    ],
)
def test_preparations_that_cannot_be_are_named(copy, changes, words):
    (copy / "preprocessor_config.json").write_text(json.dumps({**PREPARED, **changes}))
    with pytest.raises(sb.ModelError) as caught:
        plugin.clip(str(copy))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("longest", [0, -1, 10**9, "12", 12.0, True])
def test_lengths_of_texts_that_cannot_be_are_named(copy, longest):
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = longest
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(sb.ModelError, match=r"config\.json: max_position_embeddings .*: expected 1 to 65536"):
        plugin.clip(str(copy))


def test_a_token_that_the_tower_does_not_know_is_named(copy):
    words = json.loads((copy / "vocab.json").read_text())
    (copy / "vocab.json").write_text(json.dumps({**words, "bag</w>": 5000}))
    with pytest.raises(sb.ModelError, match=r"copy: its tokenizer has a token 5000, its config.json \d+ of them"):
        plugin.clip(str(copy))["clip"].check(["a bag"])


def test_what_a_config_says_beside_its_towers_changes_nothing(copy, folder, images):
    config = json.loads((copy / "config.json").read_text())
    config["text_config"] |= {"num_labels": 10**9, "attn_implementation": "someone/kernels", "return_dict": False}
    (copy / "config.json").write_text(json.dumps({**config, "num_labels": 10**9}))
    ours, theirs = (plugin.clip(str(path))["clip"].extract(images, PROMPTS) for path in (copy, folder))
    np.testing.assert_array_equal(ours, theirs)


def test_old_configs_say_their_text_tower_under_another_name(copy, folder, images):
    config = json.loads((copy / "config.json").read_text())
    config["text_config_dict"] = config.pop("text_config")
    (copy / "config.json").write_text(json.dumps(config))
    ours, theirs = (plugin.clip(str(path))["clip"].extract(images, PROMPTS) for path in (copy, folder))
    np.testing.assert_array_equal(ours, theirs)


def test_files_with_a_byte_order_mark_are_read(copy, folder, images):
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (copy / name).write_bytes(b"\xef\xbb\xbf" + (copy / name).read_bytes())
    ours, theirs = (plugin.clip(str(path))["clip"].extract(images, PROMPTS) for path in (copy, folder))
    np.testing.assert_array_equal(ours, theirs)


def test_positions_that_old_files_hold_are_left_out(copy, images):
    expected = plugin.clip(str(copy))["clip_image"].extract(images, ())
    old = {"text_model.embeddings.position_ids": torch.arange(LONGEST)[None]}
    save_file(load_file(copy / "model.safetensors") | old, copy / "model.safetensors")
    np.testing.assert_array_equal(plugin.clip(str(copy))["clip_image"].extract(images, ()), expected)


def test_pickled_weights_are_not_looked_for(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(sb.ModelError, match=r"has no model\.safetensors"):
        plugin.clip(str(copy))


def test_code_in_a_folder_is_not_run(copy, images, tmp_path):
    canary = tmp_path / "canary"
    (copy / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass X: pass\n")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        content = json.loads((copy / name).read_text())
        kinds = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor")
        (copy / name).write_text(json.dumps(content | {"auto_map": dict.fromkeys(kinds, "evil.X")}))
    plugin.clip(str(copy))["clip"].extract(images, PROMPTS)
    assert not canary.exists()
    assert "evil" not in sys.modules


def test_a_clip_that_is_not_here_is_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMPLERBENCH_ALLOW_DOWNLOAD", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(sb.ModelError, match="'clip:nobody/nothing': is not on this machine; --allow-download"):
        load_registry().extractors_of("clip:nobody/nothing")

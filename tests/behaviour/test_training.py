"""Training on one's own images: settings, captions, the loop, files, faults; two processes as one."""

import contextlib
import csv
import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import samplerbench as sb_
from cases import thinned
from samplerbench.plugins.data.folder import FolderImages
from samplerbench.plugins.metrics.fid import FID
from samplerbench.plugins.models.ddpm import training
from samplerbench.plugins.models.ddpm.captions import Captions, Turn, in_turn, learnable
from samplerbench.plugins.models.ddpm.card import is_card, read_card
from samplerbench.plugins.models.ddpm.losses import denoising
from samplerbench.plugins.models.ddpm.model import DDPM
from samplerbench.plugins.models.ddpm.networks import PRESETS, unet_of
from samplerbench.plugins.models.ddpm.pixels import map_pixels, prepare
from samplerbench.plugins.models.ddpm.settings import Settings
from samplerbench.samplers.files import atomic as files
from samplerbench.samplers.files import weights
from samplerbench.samplers.files.images import crop
from samplerbench.samplers.files.lock import LOCK_FILE, sole_writer
from samplerbench.samplers.files.weights import read_weights
from samplerbench.samplers.image_data import ImageData
from samplerbench.samplers.nets.ranks import Ranks, join_ranks, rank_of
from samplerbench.samplers.nets.training import Recipe, fit, read_checkpoint

SIDE = 8
SHORT = {"size": SIDE, "steps": 3, "batch_size": 8}
PHASES = ("features", "clip", "ddpm")
FILES = ("unet", "features", "reference", "clip", "clip_reference")
COLOURS = {"disc": (220, 40, 40), "square": (40, 200, 60), "cross": (50, 70, 230)}
PAPER = 235.0


def shape(kind, side, rng):
    """One image (side, side, 3) uint8: place, size, shade and paper at random."""
    y, x = np.mgrid[:side, :side]
    down, across = abs(y - rng.uniform(0.4, 0.6) * side), abs(x - rng.uniform(0.4, 0.6) * side)
    radius = rng.uniform(0.22, 0.34) * side
    inside = {
        "disc": down**2 + across**2 < radius**2,
        "square": np.maximum(down, across) < 0.85 * radius,
        "cross": (np.minimum(down, across) < 0.3 * radius) & (np.maximum(down, across) < radius),
    }[kind]
    image = np.full((side, side, 3), PAPER) + rng.uniform(-15, 15)
    image[inside] = np.array(COLOURS[kind]) + rng.uniform(-20, 20, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_shapes(folder, each, side, *, grey=False, classes=True):
    """`each` images of each kind below `folder`, in class folders or without captions; returns the folder."""
    rng = np.random.default_rng(0)
    for kind in COLOURS:
        home = Path(folder) / kind if classes else Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        for i in range(each):
            image = Image.fromarray(shape(kind, side, rng))
            (image.convert("L") if grey else image).save(home / f"{kind}{i:03}.png")
    return Path(folder)


class Blank(ImageData):
    """Images of one grey level each, with any captions."""

    name = "blank"
    fingerprint = "blank 1"

    def __init__(self, captions, shapes=None):
        self.captions = captions
        self.shapes = shapes or [(3, SIDE, SIDE)] * len(captions)

    def __len__(self):
        return len(self.captions)

    def image(self, i):
        return torch.full(self.shapes[i], i, dtype=torch.uint8)

    def caption(self, i):
        return self.captions[i]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Pictures of few images in few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "SHOWN", 8)
        patch.setattr(training, "SHOWN_STEPS", 2)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 images in three class folders."""
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", 10, SIDE)


@pytest.fixture(scope="module")
def data(folder):
    """Those images as image data."""
    return FolderImages(folder)


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after each step."""
    monkeypatch.setitem(fit.__kwdefaults__, "every_seconds", 0.0)


def train(data, output, *, stop_at=None, **settings):
    """Train; `stop_at` = (phase, step) after which to break off. Returns (phase, step, loss) of each step."""
    seen = []

    def report(progress):
        if progress.phase in PHASES:
            seen.append((progress.phase, progress.step, progress.loss))
        if (progress.phase, progress.step) == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if stop_at else contextlib.nullcontext():
        DDPM().train_on(data, output=output, report=report, **(SHORT | settings))
    return seen


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a training of three steps."""
    output = tmp_path_factory.mktemp("trained") / "model"
    train(data, output)
    return output


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(trained, tmp_path / "copy")


# ---- From the command line ----


def test_a_folder_of_images_becomes_a_model_that_runs(sb, folder, tmp_path):
    done = sb("train", "--data", folder, "--size", SIDE, "--steps", 3, "-b", 8, "-o", "model")
    assert (done.code, done.out) == (0, "model\n"), done.err
    with (tmp_path / "model" / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["phase"], row["steps"]) for row in rows if row["step"] == "3"] == [(phase, "3") for phase in PHASES]
    with Image.open(tmp_path / "model" / "samples.png") as picture:
        assert picture.size[0] == 8 * picture.size[1]  # eight images in a row

    (tmp_path / "prompts.txt").write_text("disc\nsquare\n")
    run = ("run", "--model", "model", "-s", "ddim", "--steps", 2, "-n", 4, "-b", 4, "--json")
    done = sb(*run, "--guidance", 2, "--prompts", "prompts.txt")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["table"]
    assert (row["model"], row["status"], row["network_evaluations"]) == ("ddpm:model", "ok", 4)
    assert row["fid"] > 0
    assert abs(row["clip_score"]) <= 100

    (tmp_path / "prompts.txt").write_text("a disk\n")
    sb(*run, "--prompts", "prompts.txt").refused(2, "unknown word 'a'", "cross, disc, square")
    sb("train", "--data", folder, "--size", SIDE, "--steps", 4, "-b", 8, "-o", "model").refused(2, "steps: 3 -> 4")


def test_without_captions_the_user_is_told_what_the_model_lacks(sb, tmp_path):
    write_shapes(tmp_path / "set", 4, SIDE, classes=False)
    done = sb("train", "--data", "set", "--size", SIDE, "--steps", 2, "-b", 8, "-o", "model")
    assert done.code == 0, done.err
    assert "Note: no captions" in done.err
    assert "--extractor" in done.err
    model = sb_.load_model("model")
    assert (model.encode, model.prompts, dict(model.extractors)) == (None, (), {})
    assert sb_.sample(model, "ddim", steps=1, n=2, batch_size=2).images.shape == (2, 3, SIDE, SIDE)
    (tmp_path / "prompts.txt").write_text("disc\n")
    run = ("run", "--model", "model", "-s", "ddim", "--steps", 1, "-n", 2)
    sb(*run, "--prompts", "prompts.txt").refused(2, "prompts", "unconditional")
    sb(*run, "--guidance", 2).refused(2, "guidance", "unconditional")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "tny"], ["preset 'tny'", "did you mean 'tiny'", "small, base"]),
        (["--size", "10"], ["size 10", "a multiple of 4", "8, 12"]),
        (["--size", "4"], ["size 4", "from 8"]),
        (["--steps", "1"], ["steps 1", "at least 2"]),
        (["--steps", "5", "--minutes", "1"], ["steps 5 and minutes 1", "one of them"]),
        (["--minutes", "0"], ["minutes 0", "above 0"]),
        (["--lr", "nan"], ["lr nan", "above 0"]),
        (["--precision", "fp8"], ["precision 'fp8'", "bf16, float32"]),
        (["--device", "cuda:77"], ["device 'cuda:77'"]),
        (["--seed", "-1"], ["seed -1"]),
        (["-b", "0"], ["batch_size 0"]),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(sb, folder, tmp_path, arguments, words):
    sb("train", "--data", folder, "-o", "model", *arguments).refused(2, *words)
    assert not list(tmp_path.iterdir())


def test_what_a_model_cannot_take_is_refused_by_name(sb, folder, monkeypatch):
    sb("train", "fashion-mnist", "--preset", "tiny", "-o", "out").refused(2, "'fashion-mnist'", "no preset", "seed")
    sb("train", "--size", "8", "-o", "out").refused(2, "'fashion-mnist'", "no size")
    sb("train", "ddpm", "-o", "out").refused(2, "data: not given", "--data FOLDER")
    sb("train", "fashion-mnist", "--data", "nowhere", "-o", "out").refused(2, "data 'nowhere'", "no such folder")
    monkeypatch.setenv("WORLD_SIZE", "2")
    sb("train", "fashion-mnist", "-o", "out").refused(2, "one process", "without torchrun")


# ---- Data that will not do ----


def test_fewer_images_than_a_batch_are_refused(data, tmp_path):
    with pytest.raises(sb_.ModelError, match=r"30 images; expected at least 31, the batch size"):
        train(data, tmp_path / "out", batch_size=31)
    assert not list(tmp_path.iterdir())


def test_images_that_would_have_to_be_enlarged_are_refused_and_nothing_is_left(tmp_path):
    small = Blank([None] * 9, [(3, 12, 12)] * 8 + [(3, 12, 10)])
    with pytest.raises(sb_.ModelError, match=r"image 8 is 10 x 12 pixels.*size of at most 10"):
        train(small, tmp_path / "out", size=12)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("part", "length"), [("trial_seconds", {"steps": None, "minutes": 1}), ("write_card", {})])
def test_nothing_is_left_of_a_training_that_could_not_begin(data, tmp_path, monkeypatch, part, length):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(training, part, fail)
    with pytest.raises(OSError, match="No space"):
        train(data, tmp_path / "out", **length)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(data, tmp_path):
    (tmp_path / "unet.safetensors").write_bytes(b"mine")
    with pytest.raises(sb_.InputError, match=r"holds unet.safetensors"):
        train(data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["unet.safetensors"]


# ---- Images ----


def test_images_are_cut_to_the_size_in_their_order(tmp_path):
    folder = write_shapes(tmp_path / "set", 2, 20)
    data = FolderImages(folder)
    shape = prepare(data, 12, tmp_path / "images.bin", lambda progress: None)
    assert shape == (3, 12, 12)
    images = map_pixels(tmp_path / "images.bin", 6, shape)
    for i in range(6):
        assert torch.equal(images[i], crop(data.image(i), (12, 12)))
    with pytest.raises(sb_.ModelError, match="prepared again"):
        map_pixels(tmp_path / "images.bin", 7, shape)


@pytest.mark.parametrize(("channels", "expected"), [((1, 1, 1), 1), ((3, 1, 3), 3), ((1, 1, 3), 3)])
def test_images_are_grey_where_all_are(tmp_path, channels, expected):
    mixed = Blank([None] * 3, [(c, SIDE, SIDE) for c in channels])
    shape = prepare(mixed, SIDE, tmp_path / "images.bin", lambda progress: None)
    assert shape == (expected, SIDE, SIDE)
    assert map_pixels(tmp_path / "images.bin", 3, shape)[:, :, 0, 0].tolist() == [[i] * expected for i in range(3)]


def test_a_grey_set_gives_a_grey_model(tmp_path):
    data = FolderImages(write_shapes(tmp_path / "set", 4, SIDE, grey=True))
    train(data, tmp_path / "out", steps=2)
    assert sb_.load_model(tmp_path / "out").shape == (1, SIDE, SIDE)


# ---- Captions ----


def test_prompts_are_as_frequent_as_captions_and_spread():
    order = in_turn([Turn("a", 5), Turn("b", 3), Turn("c", 1)], 90)
    for n in range(1, 91):
        for text, share in (("a", Fraction(5, 9)), ("b", Fraction(3, 9)), ("c", Fraction(1, 9))):
            assert abs(order[:n].count(text) - n * share) <= 1, n
    assert in_turn([Turn("a", 2), Turn("b", 2)], 4) == ["a", "b", "a", "b"]


def test_equal_classes_are_prompts_once_each():
    assert learnable(["b", "a", "c"] * 7).prompts() == ("b", "a", "c")
    many = learnable([f"picture {i}" for i in range(1500)])
    assert len(set(many.prompts())) == 1000
    assert many.prompts() == many.prompts()


def test_captions_are_classes_where_ten_images_share_each():
    assert learnable(["disc", "cross"] * 10).classes == 2
    assert learnable([*["disc", "cross"] * 10, "ring"]).classes == 0
    assert learnable([*["disc", "cross"] * 10, *[None] * 50]).classes == 2


def test_one_caption_for_all_is_none():
    assert learnable(["cat"] * 9) is None
    assert learnable([None] * 9) is None
    assert learnable(["?!", "...", None]) is None
    assert learnable([]) is None


def test_rare_and_late_words_are_left_out_of_captions(monkeypatch):
    from samplerbench.plugins.models.ddpm import captions

    monkeypatch.setattr(captions, "MOST_WORDS", 3)
    monkeypatch.setattr(captions, "LONGEST", 2)
    found = learnable(["Red disc", "red, disc blue", "blue disc", "odd", None])
    assert found.vocabulary == ("blue", "disc", "red")
    assert found.texts == ("Red disc", "red disc", "blue disc")
    assert found.of_image.tolist() == [0, 1, 2, -1, -1]
    assert (found.length, found.shortened) == (2, 2)


def test_text_without_spaces_is_known_by_its_characters():
    found = learnable(["红色的圆", "蓝色的圆", "a 圆"])
    assert found.vocabulary == tuple(sorted({*"红色的圆蓝", "a"}))
    assert found.texts == ("红色的圆", "蓝色的圆", "a 圆")


def test_images_without_caption_are_learnt_without_condition(tmp_path):
    mixed = Blank((["disc", "cross"] * 12)[:20] + [None] * 4)
    captions = learnable([mixed.caption(i) for i in range(24)])
    condition = training.conditions(card_for(captions).new_clip(), captions)
    rows = condition(torch.tensor([0, 23, 1]), 0)
    assert rows.shape == (3, 64)
    assert rows[0].square().mean() == pytest.approx(1, abs=1e-5)
    assert not rows[1].any()
    assert not torch.equal(rows[0], rows[2])


def card_for(captions: Captions):
    """A card with these captions."""
    from samplerbench.plugins.models.ddpm.card import Card

    return Card("blank", (3, SIDE, SIDE), PRESETS["tiny"].unet_settings(3, SIDE, 64), captions.vocabulary,
                captions.length, captions.prompts(), captions.classes, (), {})  # fmt: skip


# ---- Networks ----


@pytest.mark.parametrize("preset", thinned(PRESETS, "small"))
def test_a_preset_fits_every_side_that_it_accepts(preset):
    multiple = PRESETS[preset].multiple
    for side in (2 * multiple, 3 * multiple):
        with torch.device("meta"):
            unet = unet_of(PRESETS[preset].unet_settings(3, side, 64))
            out = unet(torch.empty(2, 3, side, side), torch.empty(2), torch.empty(2, 64))
        assert out.shape == (2, 3, side, side)
    with pytest.raises(sb_.InputError, match=f"multiple of {multiple}"):
        Settings(size=8 * multiple + 1, preset=preset)


def test_attention_is_where_maps_are_small():
    settings = PRESETS["base"].unet_settings
    assert settings(3, 32, 0)["heads"] == (0, 4, 4, 4)
    assert settings(3, 64, 0)["heads"] == (0, 0, 4, 4)
    assert PRESETS["tiny"].unet_settings(3, 64, 0)["heads"] == (0, 4)
    assert PRESETS["tiny"].unet_settings(3, 128, 0)["heads"] == (0, 0)


# ---- The loop ----


@pytest.mark.slow
@pytest.mark.further
def test_a_training_stopped_in_every_phase_equals_an_unbroken_one_to_the_bit(data, trained, tmp_path, often):
    whole = train(data, tmp_path / "whole", precision="float32")
    seen = []
    for stop in (("features", 2), ("clip", 2), ("ddpm", 2), None):
        seen += train(data, tmp_path / "parts", stop_at=stop, precision="float32")
    assert {s[:2]: s[2] for s in seen} == {s[:2]: s[2] for s in whole}
    assert [s[:2] for s in whole] == [(phase, k) for phase in PHASES for k in (1, 2, 3)]
    for file in (*(f"{name}.safetensors" for name in FILES), "samples.png", "model.json", "SHA256SUMS"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    unet = (tmp_path / "whole" / "unet.safetensors").read_bytes()
    assert unet != (trained / "unet.safetensors").read_bytes()  # bf16


def test_the_seed_decides_the_training(data, trained, tmp_path):
    train(data, tmp_path / "other", seed=1, steps=2)
    one, other = (sb_.load_model(path) for path in (trained, tmp_path / "other"))
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"lr": 1e-2}, {"preset": "small"}, {"steps": None, "minutes": 1.0}, {"compile": True}]
)
def test_a_changed_setting_is_shown_and_refused(data, copy, change):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(sb_.InputError, match=rf"{next(iter(change))}: .* -> "):
        train(data, copy, **change)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_training_of_an_earlier_version_resumes(data, copy):
    card = json.loads((copy / "model.json").read_text())
    assert card["training"].pop("compile") is False
    (copy / "model.json").write_text(json.dumps(card))
    (copy / "SHA256SUMS").unlink()
    train(data, copy)


@pytest.mark.slow
def test_a_compiled_unet_learns_as_one_that_is_not(data, tmp_path):
    plain = train(data, tmp_path / "plain")
    compiled = train(data, tmp_path / "compiled", compile=True)
    losses = [[loss for phase, _, loss in seen if phase == PHASES[-1]] for seen in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)  # of bfloat16
    assert losses[1] != losses[0]
    assert sb_.load_model(tmp_path / "compiled").fingerprint


def test_other_images_are_refused(copy):
    with pytest.raises(sb_.InputError, match=r"data: 'shapes' -> 'blank'; fingerprint: "):
        train(Blank(["disc", "cross"] * 15), copy)


def tiny_fit(path, loss_of, steps=6, **more):
    """Fit one weight."""
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(1.0)
    recipe = Recipe("phase", steps=steps, lr=0.1, warmup=1, ema=0.5, bf16=False)
    return network, fit(network, loss_of, recipe, checkpoint=path, **more)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(tmp_path, bad):
    def loss(network, step):
        value = network(torch.ones(1, 1)).sum() ** 2
        if step < 3:
            return value
        return value * math.nan if bad == "loss" else value + 0 * (value - value.detach()).sqrt()

    with pytest.raises(sb_.ModelError, match=r"phase: in step 4 the loss is .*the 3 steps before.*below 0.1") as caught:
        tiny_fit(tmp_path / "phase.pt", loss)
    assert "\n" not in str(caught.value)
    state = read_checkpoint(tmp_path / "phase.pt", "cpu")
    assert state["step"] == 3
    assert state["network"]["weight"].isfinite().all()
    assert 0 < float(state["network"]["weight"]) < 1


def test_the_watch_sees_the_weights_that_would_be_kept(tmp_path):
    seen = []
    _, kept = tiny_fit(
        tmp_path / "phase.pt", lambda net, step: net(torch.ones(1, 1)).sum() ** 2,
        watch=lambda step, weights: seen.append((step, float(weights["weight"]))),
    )  # fmt: skip
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1][1] == float(kept["weight"])
    assert len({value for _, value in seen}) == 6


def test_a_folder_has_one_training_at_a_time(sb, folder, tmp_path):
    train = ("train", "--data", folder, "--size", SIDE, "--steps", 2, "-b", 8, "-o", "model")
    with sole_writer(tmp_path / "model"):
        sb(*train).refused(5, f"model: process {os.getpid()} is writing to it; let that end first, or give another -o")
        assert [path.name for path in (tmp_path / "model").iterdir()] == [LOCK_FILE]
    assert not (tmp_path / "model").exists()
    assert sb(*train).code == 0


def test_the_lock_of_a_training_that_was_killed_does_not_stop_the_next(sb, folder, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / LOCK_FILE).write_text("1")
    assert sb("train", "--data", folder, "--size", SIDE, "--steps", 2, "-b", 8, "-o", "model").code == 0
    assert not (tmp_path / "model" / LOCK_FILE).exists()


def test_a_full_disk_is_one_line_and_leaves_what_was_there(sb, folder, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    target = tmp_path / "file"
    target.write_bytes(b"before")
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(target, b"after")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"before")]
    done = sb("train", "--data", folder, "--size", SIDE, "--steps", 2, "-b", 8, "-o", "model")
    assert done.code == 5
    assert done.err.splitlines()[-1] == "Error: model: cannot be written (No space left on device)"


@pytest.mark.slow
def test_a_picture_is_drawn_now_and_then_and_the_folder_is_a_model_meanwhile(data, tmp_path, monkeypatch, often):
    monkeypatch.setattr(training, "LEAST_BETWEEN_LOOKS", 2)
    train(data, tmp_path / "out", steps=5, stop_at=("ddpm", 3))
    early = (tmp_path / "out" / "samples.png").read_bytes()
    assert sb_.load_model(tmp_path / "out").prompts == tuple(sorted(COLOURS))
    train(data, tmp_path / "out", steps=5)
    assert (tmp_path / "out" / "samples.png").read_bytes() != early


def test_a_training_that_is_killed_between_weights_and_sums_leaves_a_model(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LEAST_BETWEEN_LOOKS", 2)
    written = []

    def killed_at_the_second(folder, names):
        if written:
            raise KeyboardInterrupt
        written.append(read_weights(folder / "unet.safetensors"))
        weights.write_sums(folder, names)

    monkeypatch.setattr(training, "write_sums", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "out", steps=5)
    now = read_weights(tmp_path / "out" / "unet.safetensors")
    assert not all(torch.equal(now[name], tensor) for name, tensor in written[0].items())
    assert sb_.load_model(tmp_path / "out").prompts == tuple(sorted(COLOURS))


# ---- How long ----


def test_minutes_are_the_most_steps_that_fit():
    for budget in (1.0, 7.3, 1e4):
        steps = training.most_steps(budget, lambda n: 0.5 * n + 0.1 * min(n, 300))
        assert 0.5 * steps + 0.1 * min(steps, 300) <= budget or steps == 2
        assert 0.5 * (steps + 1) + 0.1 * min(steps + 1, 300) > budget
    assert training.most_steps(0.001, lambda n: n) == 2


@pytest.mark.slow
def test_minutes_are_turned_into_steps_by_a_trial(data, tmp_path, monkeypatch):
    tried = {"features": 0.5, "clip": 0.25, "ddpm": 1.25}
    real, clocked = training.trial_seconds, []

    def trial(place, card, captions, images, phase):
        clocked.append(real(place, card, captions, images, phase))
        return tried[phase]

    monkeypatch.setattr(training, "trial_seconds", trial)
    train(data, tmp_path / "out", steps=None, minutes=0.1)
    assert read_card(tmp_path / "out").training["lengths"] == dict.fromkeys(PHASES, 3)  # 6 seconds, 2 a step
    assert len(clocked) == 3
    assert all(0 < seconds < 60 for seconds in clocked)
    assert train(data, tmp_path / "out", steps=None, minutes=0.1) == []  # the same command again: nothing is left to do


def test_small_networks_see_few_images_only_so_often():
    assert training.small_steps("features", 5, 300) == 5
    assert training.small_steps("features", 10_000, 300) == 300
    assert training.small_steps("features", 10_000, 60_000) == 2_800
    assert training.small_steps("clip", 10_000, 60_000) == 1_900


# ---- Several processes ----


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_parts_of_a_batch_are_the_batch(size):
    batch = torch.arange(8)
    assert torch.equal(torch.cat([Ranks(rank, size).part(batch) for rank in range(size)]), batch)


def test_the_mean_of_the_parts_losses_is_the_loss_of_the_batch():
    """What one process computes of a step, several compute in parts: the same images, timesteps, noise and drops."""
    images = torch.randint(256, (20, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    table = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))

    def network(x, t, condition):
        return x * t.view(-1, 1, 1, 1) / 1000 + condition.mean(1).view(-1, 1, 1, 1)

    def mean(size):
        losses = [
            denoising(images, lambda rows, seed: table[rows], batch=8, seed=3, ranks=Ranks(rank, size))
            for rank in range(size)
        ]
        return [float(np.mean([float(loss(network, step)) for loss in losses])) for step in range(3)]

    assert mean(2) == pytest.approx(mean(1), rel=1e-6)
    assert mean(4) == pytest.approx(mean(1), rel=1e-6)
    assert mean(1)[0] != mean(1)[1]


def test_a_tenth_of_the_images_is_learnt_without_its_condition():
    images, asked = torch.zeros(1000, 1, 2, 2, dtype=torch.uint8), []

    def network(x, t, condition):
        asked.append(condition)
        return x

    loss = denoising(images, lambda rows, seed: torch.ones(len(rows), 4), batch=1000, seed=0)
    loss(network, 0)
    loss(network, 1)
    dropped = [~condition.any(1) for condition in asked]
    for rows, condition in zip(dropped, asked, strict=True):
        assert 60 < int(rows.sum()) < 140  # 100 each, 4 standard deviations
        assert bool((condition[~rows] == 1).all())
    assert not torch.equal(dropped[0], dropped[1])
    denoising(images, None, batch=8, seed=0)(network, 0)
    assert asked[-1] is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, (0, 1)), ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)), ({"WORLD_SIZE": "1"}, (0, 1))],
)
def test_the_environment_says_who_is_who(environment, expected):
    assert rank_of(environment) == expected
    with pytest.raises(sb_.InputError, match="RANK='one'"):
        rank_of({"RANK": "one"})


def test_a_batch_must_be_shared_evenly():
    with pytest.raises(sb_.InputError, match="batch_size 8: expected a multiple of 3"):
        Settings(batch_size=8).check_ranks(Ranks(0, 3))
    with join_ranks(torch.device("cpu")) as ranks:
        assert (ranks.is_first, ranks.size) == (True, 1)


# ---- The folder ----


def test_extractors_say_what_they_are_and_what_they_were_trained_on(trained):
    model = sb_.load_model(trained)
    assert set(model.extractors) == {"features", "logits", "clip", "clip_image"}
    assert model.prompts == tuple(sorted(COLOURS))
    features, clip = model.extractors["features"], model.extractors["clip"]
    assert (features.label, clip.label) == ("shapes CNN", "shapes CLIP")
    assert "trained on shapes, which is also its reference" in features.note
    assert "conditions the model" in clip.note
    assert features.reference().shape == (30, 64)
    drawn = sb_.sample(model, "ddim", steps=1, n=3, batch_size=4)
    assert model.extractors["logits"].extract(drawn.images, drawn.prompts).shape == (3, 3)
    assert np.abs(clip.extract(drawn.images, drawn.prompts)).max() <= 1


def test_the_notes_of_the_data_stand_beside_its_features(tmp_path):
    noted = Blank(["disc", "cross"] * 10)
    noted.notes = ("20 of 20 files are JPEG.",)
    train(noted, tmp_path / "out", steps=2)
    assert "; 20 of 20 files are JPEG" in sb_.load_model(tmp_path / "out").extractors["features"].note


def test_the_same_weights_are_the_same_model_wherever_they_lie(trained, copy):
    one, other = sb_.load_model(trained), sb_.load_model(f"ddpm:{copy}")
    assert one.fingerprint == other.fingerprint
    assert other.name == f"ddpm:{copy}"
    assert DDPM().reads(copy)
    assert not DDPM().reads(copy / "checkpoints")


def test_what_is_no_folder_is_refused(tmp_path):
    for argument in ("", str(tmp_path / "nowhere")):
        with pytest.raises(sb_.ModelError, match="no such folder; expected what"):
            DDPM()(argument)


CARD_FAULTS = {
    "kind": ({"kind": "other"}, "kind 'other'"),
    "format": ({"format": 2}, "format 2"),
    "shape": ({"shape": [2, 8, 8]}, "shape is"),
    "not square": ({"shape": [3, 8, 12]}, "a square"),
    "huge": ({"shape": [3, 10**9, 10**9]}, "shape is"),
    "words": ({"vocabulary": [1]}, "vocabulary is"),
    "a word more": ({"vocabulary": ["a", "b", "c", "d"]}, "do not fit CLIP"),
    "no words": ({"vocabulary": []}, "condition_dim 64"),
    "no prompts": ({"prompts": []}, "all of them or none"),
    "classes": ({"classes": -1}, "classes is"),
    "a class more": ({"classes": 4}, "do not fit FeatureNet"),
    "unet": ({"unet": []}, "unet is"),
    "nested": ({"training": json.loads("[" * 80 + "]" * 80)}, "nested more than 64 deep"),
    "no data": ({"data": None}, "data is 'None'; expected a text"),
    "a number of 400 digits": ({"classes": 10**400}, "classes is"),
}
UNET_FAULTS = {
    "wide": ({"widths": [10**9, 96]}, "unet widths is"),
    "groups": ({"widths": [48, 97]}, "multiples of 8"),
    "heads": ({"heads": [4]}, "one number for each"),
    "a head too many": ({"heads": [0, 5]}, "0 or a divisor"),
    "true": ({"blocks": True}, "unet blocks is"),
    "narrow": ({"widths": [40, 96]}, "do not fit UNet"),
    "more": ({"depth": 3}, "unet has"),
    "patch": ({"patch": 16}, "divisible by 32"),
    "as wide as it may be": (
        {"widths": [4096, 4096], "blocks": 16},
        "describes a larger network than the weights beside it",
    ),
    "as deep as it may be": ({"blocks": 16}, "describes a larger network than the weights beside it"),
}


@pytest.mark.parametrize("name", [*CARD_FAULTS, *UNET_FAULTS])
def test_a_card_that_cannot_be_is_refused_in_one_line(copy, name):
    (copy / "SHA256SUMS").unlink()
    values = json.loads((copy / "model.json").read_text())
    change, words = CARD_FAULTS.get(name) or UNET_FAULTS[name]
    (values if name in CARD_FAULTS else values["unet"]).update(change)
    (copy / "model.json").write_text(json.dumps(values))
    with pytest.raises(sb_.ModelError) as caught:
        DDPM()(str(copy))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_attention_on_large_maps_is_refused(copy):
    (copy / "SHA256SUMS").unlink()
    values = json.loads((copy / "model.json").read_text())
    values["shape"] = [3, 512, 512]
    values["unet"]["heads"] = [4, 4]
    (copy / "model.json").write_text(json.dumps(values))
    with pytest.raises(sb_.ModelError, match=r"heads \(4, 4\): attention at 256 x 256; expected at most 64 a side"):
        DDPM()(str(copy))


@pytest.mark.parametrize(("side", "rows"), [(8, 64), (128, 64), (160, 32), (256, 16), (512, 4)])
def test_large_images_go_through_the_network_a_few_at_a_time(copy, side, rows):
    (copy / "SHA256SUMS").unlink()
    values = json.loads((copy / "model.json").read_text())
    values["shape"] = [3, side, side]
    values["unet"]["heads"] = [0, 0]
    weights_there = load_file(copy / "unet.safetensors")
    save_file({k: v for k, v in weights_there.items() if ".attention." not in k}, copy / "unet.safetensors")
    (copy / "model.json").write_text(json.dumps(values))
    assert DDPM()(str(copy)).batch_size == rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks": 2}, "not the unet of its preset (blocks: 1 -> 2); delete it"),
        ({"lengths": {"ddpm": 3}}, "expected the steps of features, clip, ddpm"),
        ({"lengths": {"ddpm": 3, "clip": 3, "features": "3"}}, "expected the steps of features, clip, ddpm"),
        ({"lengths": 3}, "lengths 3; expected"),
    ],
)
def test_a_training_that_cannot_have_been_begun_here_is_not_resumed(data, copy, change, words):
    values = json.loads((copy / "model.json").read_text())
    values["unet" if "blocks" in change else "training"].update(change)
    (copy / "model.json").write_text(json.dumps(values))
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(sb_.ModelError, match=re.escape(words)):
        train(data, copy)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"kind": NaN}'])
def test_a_card_that_is_none_is_refused(copy, content):
    (copy / "SHA256SUMS").unlink()
    (copy / "model.json").write_bytes(content)
    assert not is_card(copy)
    with pytest.raises(sb_.ModelError, match=r"model\.json"):
        DDPM()(str(copy))


@pytest.mark.parametrize(
    "name", thinned(["model.json", *(f"{name}.safetensors" for name in FILES)], "model.json", "unet.safetensors")
)
def test_a_file_that_is_not_the_one_of_the_sums_is_refused(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[-5] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(sb_.ModelError, match=name):
        DDPM()(str(copy))
    (copy / name).unlink()
    with pytest.raises(sb_.ModelError, match=name):
        DDPM()(str(copy))


# ---- Minutes ----

RANKS_SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
from samplerbench.samplers.nets.ranks import join_ranks
from samplerbench.samplers.nets.training import Recipe, fit

with join_ranks(torch.device("cpu")) as ranks:
    torch.manual_seed(ranks.rank)  # DistributedDataParallel gives all the first one's weights
    network = nn.Linear(4, 4)
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    recipe = Recipe("phase", steps=20, lr=0.05, warmup=2, ema=0.9, bf16=False)
    loss = lambda net, step: (net(ranks.part(batch)) - ranks.part(batch)).square().mean()
    kept = fit(network, loss, recipe, checkpoint=Path(sys.argv[1]) / "phase.pt", ranks=ranks)
    torch.save({"network": network.state_dict(), "kept": kept}, Path(sys.argv[1]) / f"rank{ranks.rank}.pt")
"""


def torchrun(*arguments, cwd):
    """Run two processes on the CPU; the tests' environment finds this package."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def read_tensors(path):
    """What torch.save wrote."""
    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_after_training_both_processes_have_the_same_weights(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS_SCRIPT)
    torchrun("ranks.py", str(tmp_path), cwd=tmp_path)
    one, other = (read_tensors(tmp_path / f"rank{rank}.pt") for rank in range(2))
    for part in ("network", "kept"):
        for name, tensor in one[part].items():
            assert torch.equal(tensor, other[part][name]), name
    assert not torch.equal(one["network"]["weight"], one["kept"]["weight"])
    assert read_checkpoint(tmp_path / "phase.pt", "cpu")["step"] == 20


@pytest.mark.slow
def test_two_processes_train_what_one_does(folder, tmp_path, figure):
    """Each has half of every batch; in float32 sums in another order are all that differs, and Adam passes it on:
    five steps move a weight by at most 5 lr = 5e-3, of which 1 % is far above rounding and far below another step."""
    common = ("--data", str(folder), "--size", "8", "--steps", "5", "-b", "8", "--precision", "float32")
    torchrun("-m", "samplerbench", "train", *common, "-o", "two", cwd=tmp_path)
    command = [sys.executable, "-m", "samplerbench", "train", *common, "-o", "one"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    one, two = (read_tensors(tmp_path / name / "checkpoints" / "ddpm.pt") for name in ("one", "two"))
    apart = max(float((one["network"][k] - two["network"][k]).abs().max()) for k in one["network"])
    figure(
        "two processes and one at the same whole batch, largest difference of a weight after 5 steps", f"{apart:.1e}"
    )
    assert apart < 5e-5
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name in ("features", "clip"):  # the first process alone trains these
        file = f"{name}.safetensors"
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.slow
def test_a_model_of_shapes_learns_them(tmp_path, figure):
    """300 colour images, a few minutes of CPU: judged by its own features and CLIP, and by counting colours."""
    data = FolderImages(write_shapes(tmp_path / "shapes", 100, 16))
    settings = {"size": 16, "batch_size": 64}
    train(data, tmp_path / "model", **(settings | {"steps": 600}))
    train(data, tmp_path / "untrained", **(settings | {"steps": 2}))
    model, untrained = (sb_.load_model(tmp_path / name) for name in ("model", "untrained"))
    n = 96
    drawn, noise, guided = (
        sb_.sample(m, "ddim", steps=20, n=n, guidance=guidance)
        for m, guidance in ((model, 1.0), (untrained, 1.0), (model, 2.0))
    )

    features, fid = model.extractors["features"], FID()
    reference = fid.prepare(features.reference())
    values = [fid.estimate(features.extract(s.images, s.prompts), reference).value for s in (drawn, noise)]
    figure("shapes: FID under its own features, trained and untrained", f"{values[0]:.2g}, {values[1]:.3g}")
    assert values[0] < values[1] / 10

    clip = read_card(tmp_path / "model").new_clip()
    weights.load_weights(clip, tmp_path / "model" / "clip.safetensors")
    real = torch.stack([data.image(i) for i in range(300)])
    kinds = sorted(COLOURS)
    truth = torch.tensor([kinds.index(data.caption(i)) for i in range(300)])
    accuracy = float((clip.zero_shot(real, kinds) == truth).float().mean())
    figure("shapes: zero-shot accuracy of its CLIP on its images", f"{accuracy:.1%}")
    assert accuracy > 0.98

    # What has no part in the training: the colour of what is not paper.
    ink = (guided.images.float() - PAPER).abs().sum(1, keepdim=True) > 150
    colour = (guided.images * ink).sum((2, 3)) / ink.sum((2, 3)).clamp(min=1)
    centres = torch.tensor([COLOURS[kind] for kind in kinds], dtype=torch.float32)
    asked = torch.tensor([kinds.index(prompt) for prompt in guided.prompts])
    share = float((torch.cdist(colour, centres).argmin(1) == asked).float().mean())
    figure("shapes: samples in the colour of what was asked for, guidance 2", f"{share:.1%}")
    assert share > 0.9

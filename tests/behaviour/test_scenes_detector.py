"""The detector of scenes: captions read back, what it sees in its map, what is right, its training, its extractor."""

import numpy as np
import pytest
import torch

import samplerbench
from samplerbench.plugins.data.scenes import data as plugin
from samplerbench.plugins.data.scenes.composing import OPPOSITES, PLACES, WORDINGS, Draws, Group, contraries, scene
from samplerbench.plugins.data.scenes.reading import WHOLE, Told, read
from samplerbench.plugins.data.scenes.things import THINGS
from samplerbench.plugins.extractors.scenes_detector import extractor, training
from samplerbench.plugins.extractors.scenes_detector.judging import RIGHT, UNTOLD, WRONG, verdicts
from samplerbench.plugins.extractors.scenes_detector.network import CELLS, Detector, Found, Seen, centres_in, target_of
from samplerbench.samplers.errors import InputError, ModelError

APPLE, CAT, CAR = THINGS[:3]
LOOK = "composition"


def squares(thing, side):
    """Stands for the font: an opaque square in a grey of the thing's own."""
    return np.full((side, side, 4), 255, np.float32) * np.array([THINGS.index(thing) / 12] * 3 + [1], np.float32)


def scenes(argument):
    """The data set with squares for pictures."""
    options = plugin.construct(plugin.Options, "data 'scenes'", plugin.parse_spec(f"scenes:{argument}")[1])
    return plugin.Scenes(options, squares, "squares")


# ---- Captions ----


def test_every_caption_is_read_back_as_its_scene():
    wordings = set()
    for i in range(200):
        one = scene(i, bool(i % 2), i)
        assert read(one.caption) == Told(one.groups, one.relation, one.ground.colour), one.caption
        wordings |= {number for number, pattern in enumerate(WHOLE) if pattern.fullmatch(one.caption)}
        for told in contraries(Draws(i, 2, i), one, THINGS):
            assert read(told) not in (None, read(one.caption)), told
    assert wordings == set(range(len(WORDINGS)))


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        ("an apple left of a car", Told((Group(APPLE, 1), Group(CAR, 1)), "left of", "")),
        ("A car to the right of two apples.", Told((Group(APPLE, 2), Group(CAR, 1)), "left of", "")),
        ("one cat  in the middle, on a striped pink ground", Told((Group(CAT, 1),), "in the middle", "pink")),
        ("three cats", Told((Group(CAT, 3),), "", "")),
    ],
)
def test_a_caption_may_be_shorter_and_written_freely(caption, told):
    assert read(caption) == told


@pytest.mark.parametrize(
    "caption", ["", "a zebra on a red ground", "a cat on a golden ground", "two cat on a red ground", "four cats",
                "a cat left of a cat", "two cats on the left", "a cat left of a car left of an apple"],
)  # fmt: skip
def test_what_no_scene_says_is_not_read(caption):
    assert read(caption) is None


# ---- The map ----


def test_a_map_of_a_scene_is_seen_as_the_scene():
    """The target of the training, taken for the answer: things, and centres to a thousandth."""
    for i in range(60):
        one = scene(0, False, i, 12)
        (seen,) = centres_in(target_of(one, 12)[None])
        expected = sorted((p.thing.name, *p.centre) for p in one.pictures)
        found = sorted((s.thing.name, s.x, s.y) for s in seen)
        assert [name for name, *_ in found] == [name for name, *_ in expected]
        by_place = [[sorted((x, y) for _, x, y in them)] for them in (found, expected)]
        assert np.allclose(*by_place, atol=1e-3)


def test_an_empty_map_shows_nothing_and_doubt_counts_once_it_is_half():
    sure = torch.zeros(2, 4, CELLS, CELLS)
    sure[0, 1, 3, 3], sure[1, 1, 3, 3], sure[1, 2, 3, 4] = 0.45, 0.3, 0.25
    sure[:, -1] = 1 - sure[:, :-1].sum(1)
    seen = centres_in(sure)
    assert seen[0] == ()
    assert [one.thing for one in seen[1]] == [THINGS[1]]


# ---- What is right ----


def shown(*seen, colour="red"):
    return Found(tuple(Seen(*one) for one in seen), colour)


@pytest.mark.parametrize(
    ("found", "caption", "right"),
    [
        (shown((CAT, 0.3, 0.5), (CAR, 0.7, 0.5)), "a cat left of a car, on a red ground", "1111"),
        (shown((CAT, 0.3, 0.5), (CAR, 0.7, 0.5)), "a cat right of a car, on a red ground", "1110"),
        (shown((CAT, 0.3, 0.5), (CAR, 0.7, 0.5)), "a car to the right of a cat, on a blue ground", "1101"),
        (shown((CAT, 0.5, 0.3), (CAR, 0.55, 0.7)), "a cat left of a car, on a red ground", "1110"),
        (shown((CAT, 0.5, 0.3), (CAR, 0.55, 0.7)), "a car below a cat", "11-1"),
        (shown((CAT, 0.3, 0.3), (CAT, 0.7, 0.7)), "three cats on a red ground", "101-"),
        (shown((CAT, 0.3, 0.3), (APPLE, 0.7, 0.7)), "a cat on a red ground", "011-"),
        (shown((APPLE, 0.5, 0.5)), "a cat in the middle on a red ground", "0010"),
        (shown((CAT, 0.5, 0.65)), "a cat at the bottom on a red ground", "1111"),
        (shown(), "a cat", "00--"),
        (shown((CAT, 0.5, 0.5)), "a zebra on a red ground", "----"),
    ],
)
def test_each_part_is_judged_by_what_the_caption_tells(found, caption, right):
    of = {"1": RIGHT, "0": WRONG, "-": UNTOLD}
    assert verdicts(found, read(caption)) == tuple(of[one] for one in right)


def test_a_scene_is_right_of_its_caption_and_wrong_of_each_contrary():
    for i in range(80):
        one = scene(3, False, i)
        found = Found(tuple(Seen(p.thing, *p.centre) for p in one.pictures), one.ground.colour)
        assert WRONG not in verdicts(found, read(one.caption)), one.caption
        for told in contraries(Draws(0, 2, i), one, THINGS):
            assert WRONG in verdicts(found, read(told)), (one.caption, told)
    assert set(PLACES) | set(OPPOSITES) >= {scene(3, False, i).relation for i in range(9)} - {""}


# ---- Training, and the extractor ----


@pytest.fixture
def quick(monkeypatch):
    """Few scenes to measure on."""
    for name, count in (("REFERENCES", 8), ("TESTED", 20)):
        monkeypatch.setattr(training, name, count)


def learn(output, steps=2, data="size=16,things=3,images=32", report=lambda progress: None, **settings):
    return extractor.ScenesDetector().train_on(
        scenes(data), output=output, report=report, steps=steps, batch_size=8, precision="float32", **settings
    )


def test_a_trained_detector_is_an_extractor_of_both_roles(quick, tmp_path):
    (remark,) = learn(tmp_path / "out")
    assert remark.startswith("of 20 held-out scenes it sees right: object ")
    made = samplerbench.samplers.registry.default_registry().extractors_of(f"scenes-detector:{tmp_path / 'out'}")
    images = torch.stack([scenes("size=16,things=3").image(i) for i in range(5)])
    captions = [scenes("size=16,things=3").caption(i) for i in range(4)]
    rows = made[LOOK].extract(images, [*captions, "a dog on a red ground"])
    assert rows.shape == (5, 4)
    assert (rows[4] == UNTOLD).all()  # a dog is a thing, but none of these three
    assert set(np.unique(rows[:4])) <= {RIGHT, WRONG, UNTOLD}
    assert made["features"].reference().shape == (8, 96)
    assert made["features"].extract(images, captions).shape == (5, 96)
    large = torch.nn.functional.interpolate(images.float(), scale_factor=2).to(torch.uint8)
    assert made["features"].extract(large, captions) == pytest.approx(
        made["features"].extract(images, captions), abs=0.2
    )


def test_it_learns_from_images_with_more_noise_and_less():
    images = torch.full((64, 3, 16, 16), 128, dtype=torch.uint8)
    fed = training.detecting(
        images, lambda rows: (torch.tensor(rows), torch.tensor(rows)), training.Settings(), torch.device("cpu")
    )
    batch = fed.batch_at(3)
    deviations = (batch["x"] - (128 / 127.5 - 1)).flatten(1).std(1)
    # Uniform between none and the most: of 64, the least is below a tenth of that and the largest above nine tenths.
    assert deviations.min() < 0.1 * training.NOISE
    assert 0.9 * training.NOISE < deviations.max() < 1.1 * training.NOISE
    assert all(torch.equal(batch[name], fed.batch_at(3)[name]) for name in batch)
    assert not torch.equal(batch["maps"], fed.batch_at(4)["maps"])


def test_a_run_says_which_prompts_have_no_score(quick, sb, tmp_path):
    learn(tmp_path / "out")
    told = sb(
        "run", "-s", "ddim", "--steps", 2, "-n", 2, "--extractor", "scenes-detector:out", "--metric", LOOK, "--dry-run"
    )
    assert told.err.count("Note: composition: no score for 't-shirt', 'trouser', 'pullover', ...") == 1


def test_a_stopped_training_goes_on_to_the_same_detector(quick, tmp_path):
    def stop(progress):
        if (progress.phase, progress.step) == ("detector", 1):
            raise KeyboardInterrupt

    learn(tmp_path / "whole", 3)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "stopped", 3, report=stop)
    learn(tmp_path / "stopped", 3)
    whole, stopped = (tmp_path / name / training.WEIGHTS for name in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()
    with pytest.raises(InputError, match="steps: 3 -> 4"):
        learn(tmp_path / "stopped", 4)


def test_it_learns_what_stands_where(monkeypatch, tmp_path):
    """Squares of a grey each, so that few steps do."""
    monkeypatch.setattr(training, "NOISE", 0.0)
    data = scenes("size=16,things=3,images=16")
    images = torch.stack([data.image(i) for i in range(16)])
    settings = training.Settings(steps=1, batch_size=16)
    torch.manual_seed(0)
    detector = Detector(3, 1)
    loss = training.detecting(images, training.answers_of([data]), settings, torch.device("cpu"))
    optimizer = torch.optim.AdamW(detector.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        losses.append(loss(detector, 0))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 3


@pytest.mark.parametrize(
    ("data", "words"),
    [("size=48", "size 48: expected 16, 32, 64, 128"), ("images=7", "7 images; expected at least 8")],
)
def test_scenes_that_no_detector_learns_are_refused(tmp_path, data, words):
    with pytest.raises((InputError, ModelError), match=words):
        learn(tmp_path / "out", data=data)
    assert not (tmp_path / "out").exists()


def test_other_images_and_other_folders_are_refused_in_a_line(sb, tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "photos" / "a.png")
    sb("train", "scenes-detector", "--data", "photos", "-o", "out").refused(2, "known only of scenes", "--data scenes")
    sb("train", "scenes-detector", "-o", "out").refused(2, "data: not given", "'scenes-detector'")
    sb("train", "scenes-detectr", "-o", "out").refused(2, "unknown model 'scenes-detectr'")
    sb("run", "--extractor", "scenes-detector:photos", "--metric", LOOK).refused(4, "no detector.safetensors")


def test_without_the_package_a_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(extractor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install \./models/scenes"):
        extractor.ScenesDetector()()


def test_a_line_names_the_prompts_that_have_no_score():
    (told,) = extractor.remark_on_unscored(["a cat", "a dog", "a dog", "hello"], 12)
    assert "no score for 'a dog', 'hello'" in told
    assert extractor.remark_on_unscored(["a cat"], 12) == []

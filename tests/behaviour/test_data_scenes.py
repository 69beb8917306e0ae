"""The data set "scenes": what is composed, that captions are true, and what is drawn."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

from samplerbench.plugins.data.scenes import data as plugin
from samplerbench.plugins.data.scenes import drawing
from samplerbench.plugins.data.scenes.composing import COUNTS, Draws, Ground, Group, is_held_out, scene
from samplerbench.plugins.data.scenes.drawing import DARKER, FONT, draw_scene, paint
from samplerbench.plugins.data.scenes.things import COLOURS, PATTERNS, THINGS
from samplerbench.samplers.errors import InputError, ModelError

MANY = 1500
CAPTIONS = [
    "a purple ground with a sailboat below a robot",
    "three trees on a shaded pink ground",
    "a tulip above a top hat, on a yellow ground",
]


def squares(thing, side):
    """Stands for the font: an opaque square with the number of the thing in red."""
    picture = np.full((side, side, 4), 255, np.float32)
    picture[..., :3] = (THINGS.index(thing), 1, 2)
    return picture


def scenes(argument="", sprite=squares):
    """The data set with squares for pictures."""
    options = plugin.construct(plugin.Options, "data 'scenes'", plugin.parse_spec(f"scenes:{argument}")[1])
    return plugin.Scenes(options, sprite, "squares")


@pytest.fixture(scope="module")
def many():
    return [scene(0, False, i) for i in range(MANY)]


# ---- What a scene is ----


def test_scenes_are_the_same_on_every_machine():
    """The words are those of Philox 4x64-10, which NumPy promises not to change."""
    assert [scene(0, False, i).caption for i in range(3)] == CAPTIONS
    assert scene(0, False, 5) == scene(0, False, 5)
    assert len({scene(seed, held_out, i).pictures for seed in (0, 1) for held_out in (0, 1) for i in range(50)}) == 200


def test_draws_are_uniform_and_do_not_repeat():
    draws = Draws(3, 0, 7)
    numbers = np.array([draws.between(-1, 3) for _ in range(20_000)])
    assert (numbers.min() > -1, numbers.max() < 3) == (True, True)
    assert abs(numbers.mean() - 1) < 4 * 4 / np.sqrt(12 * 20_000)
    of_six = Counter(draws.below(6) for _ in range(12_000))
    assert sum((count - 2000) ** 2 / 2000 for count in of_six.values()) < 25  # chi-square of 5: 1 in 7,000
    assert len({Draws(3, 0, n).between(0, 1) for n in range(1000)}) == 1000


def test_pictures_lie_whole_in_the_scene_and_do_not_touch(many):
    for one in many:
        for i, a in enumerate(one.pictures):
            assert all(a.side / 2 <= at <= 1 - a.side / 2 for at in a.centre)
            for b in one.pictures[:i]:
                apart = max(abs(x - y) for x, y in zip(a.centre, b.centre, strict=True))
                assert apart >= (a.side + b.side) / 2 - 0.06, one  # corners of a square picture are empty


def test_every_thing_colour_pattern_and_arrangement_occurs_as_often(many):
    kinds = Counter(thing.name for one in many for thing, _ in one.groups)
    assert len(kinds) == len(THINGS)
    mean = kinds.total() / len(kinds)
    assert sum((count - mean) ** 2 / mean for count in kinds.values()) < 105  # chi-square of 59: 1 in 5,000
    assert set(Counter(one.ground.colour for one in many)) == set(COLOURS)
    assert set(Counter(one.ground.pattern for one in many)) == set(PATTERNS)
    arrangements = Counter(tuple(group.copies for group in one.groups) for one in many)
    assert set(arrangements) == {(1,), (2,), (3,), (1, 1), (1, 2), (2, 1)}
    assert all(abs(count - MANY / 6) < 5 * np.sqrt(MANY / 6) for count in arrangements.values())


def test_names_are_told_apart():
    names = [name for thing in THINGS for name in {thing.name, thing.many}]
    assert len(set(names)) == len(names)
    assert len({thing.character for thing in THINGS}) == len(THINGS) == 60


# ---- Captions ----

SHAPES = "|".join(PATTERNS)
GROUND = re.compile(rf"\ban? (?:({SHAPES}) )?({'|'.join(COLOURS)}) (?:ground|background)\b")
THING = re.compile(
    rf"\b(an?|two|three) ({'|'.join(sorted({n for t in THINGS for n in (t.name, t.many)}, key=len, reverse=True))})\b"
)
RELATION = re.compile(
    r"\b(left of|right of|above|below|on the left|on the right|at the top|at the bottom|in the middle)\b"
)


def read(caption):
    """The things, the relation and the ground that a caption tells, by an independent reading."""
    found = [("an" if a == "a" else a, name) for a, name in THING.findall(GROUND.sub("", caption))]
    (ground,) = GROUND.findall(caption)
    return found, RELATION.findall(caption), ground


def test_captions_are_true(many):
    """What a caption says of things, counts, places and ground is what the pictures show."""
    for one in many:
        things, relations, (pattern, colour) = read(one.caption)
        assert colour == one.ground.colour
        assert pattern in ("", one.ground.pattern)
        told = Counter({name: {"an": 1, "two": 2, "three": 3}[count] for count, name in things})
        shown = Counter(picture.thing for picture in one.pictures)
        assert told == Counter({t.name if n == 1 else t.many: n for t, n in shown.items()}), one.caption
        if len(things) == 2:
            first, second = (
                [p.centre for p in one.pictures if name in (p.thing.name, p.thing.many)] for _, name in things
            )
            (relation,) = relations
            axis, sign = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}[relation]
            assert all(sign * a[axis] < sign * b[axis] for a in first for b in second), one
        elif len(one.pictures) == 1:
            (x, y), (place,) = one.pictures[0].centre, relations
            near = {"on the left": 1 - x, "on the right": x, "at the top": 1 - y, "at the bottom": y}
            assert near.get(place, 0.9) > 0.6, one
            assert max(near.values()) == near.get(place, max(near.values()))
        else:
            assert not relations


def test_captions_have_several_wordings_and_one_line(many):
    captions = [one.caption for one in many]
    assert len(set(captions)) > 0.95 * MANY
    assert all(text.isprintable() and len(text) < 80 for text in captions)
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", text) for text in captions)
    assert Group(THINGS[0], 1).words == "an apple"
    assert Group(THINGS[5], 2).words == f"{COUNTS[2]} fish"


def test_contraries_are_false_in_one_respect(many):
    """Thing, colour, count and place, in this order; all else is as the scene has it."""
    data = scenes()
    for i, one in enumerate(many[:300]):
        told = data.contraries(i)
        assert told == data.contraries(i)
        assert len(told) == (4 if one.relation else 3)
        own = read(one.caption)
        kinds = {name for _, name in own[0]}
        thing, colour, count, *place = map(read, told)
        assert len({name for _, name in thing[0]} - kinds) == 1
        assert sorted(count for count, _ in thing[0]) == sorted(count for count, _ in own[0])
        assert (colour[2][1] != one.ground.colour, Counter(colour[0])) == (True, Counter(own[0]))
        assert len(count[0]) == len(own[0])
        assert Counter(count[0]) != Counter(own[0])
        for opposite in place:
            assert Counter(opposite[0]) == Counter(own[0])
            flips = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
            first_is_same = opposite[0][0] == own[0][0]
            (before,), (after,) = own[1], opposite[1]
            assert after != before if before not in flips or first_is_same else after == before
        assert {(c[2][1]) for c in (thing, count, *place)} == {one.ground.colour}


# ---- Held-out combinations ----


@pytest.mark.parametrize("things", [3, 12, 60])
def test_no_scene_to_learn_from_shows_a_held_out_pair_and_every_other_does(things):
    for held_out in (False, True):
        for i in range(200):
            one = scene(1, held_out, i, things)
            assert any(is_held_out(group.thing, one.ground.colour) for group in one.groups) == held_out
            assert all(group.thing in THINGS[:things] for group in one.groups)


def test_each_thing_is_held_out_on_one_colour():
    assert [sum(is_held_out(thing, colour) for colour in COLOURS) for thing in THINGS] == [1] * 60
    assert {sum(is_held_out(thing, colour) for thing in THINGS) for colour in COLOURS} == {6}


# ---- What is drawn ----


def test_pictures_are_drawn_where_the_scene_has_them(many):
    for one in many[:100]:
        pixels = draw_scene(one, 64, squares)
        for picture in one.pictures:
            x, y = (int(at * 64) for at in picture.centre)
            assert pixels[y, x].tolist() == [THINGS.index(picture.thing), 1, 2]
        covered = (pixels[..., 1:] == (1, 2)).all(axis=2).sum()
        expected = sum(round(picture.side * 64) ** 2 for picture in one.pictures)
        assert 0.93 * expected <= covered <= expected  # neighbours may cover some rows of each other


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("turn", range(4))
def test_a_ground_has_two_shades_of_its_colour(pattern, turn):
    pixels = paint(Ground("blue", pattern, turn, 0.125, (1.0, 2.0, 3.0)), 64)
    colour = np.array(COLOURS["blue"]) + np.array((1, 2, 3))
    light = pixels / colour
    assert np.allclose(light, light[..., :1], atol=1e-5)
    low, high = light.min(), light.max()
    if pattern == "plain":
        assert (low, high) == pytest.approx((1, 1))
    else:
        assert DARKER - 1e-6 <= low < DARKER + 0.01
        assert 0.99 < high <= 1 + 1e-6
        assert 0.25 < (light > (1 + DARKER) / 2).mean() < 0.75
    if pattern in ("striped", "shaded"):
        assert np.allclose(light.std(axis=0 if turn % 2 == 0 else 1), 0, atol=1e-5)


def test_what_is_transparent_shows_the_ground():
    one = scene(0, False, 0)
    assert np.array_equal(
        draw_scene(one, 32, lambda _, side: np.zeros((side, side, 4), np.float32)),
        np.rint(paint(one.ground, 32)).astype(np.uint8),
    )


# ---- The data set ----


def test_images_and_captions_are_those_of_the_scenes():
    data = scenes("images=7,size=32,things=12,seed=4")
    assert (len(data), data.name, data.caption(3)) == (7, "scenes train 32x32", scene(4, False, 3, 12).caption)
    image = data.image(3)
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 32, 32))
    assert np.array_equal(image.permute(1, 2, 0), draw_scene(scene(4, False, 3, 12), 32, squares))


def test_the_fingerprint_holds_options_and_pictures_alone():
    plain = scenes("images=9").fingerprint
    assert plain == scenes("images=9").fingerprint
    others = [scenes(one).fingerprint for one in ("images=8", "images=9,seed=1", "images=9,split=held-out")]
    assert len({plain, *others, scenes("images=9", lambda t, s: 1 + 0 * squares(t, s)).fingerprint}) == 5


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("size=8", ["size 8", "from 16 to 512"]), ("things=2", ["things 2", "from 3 to 60"]),
        ("images=0", ["images 0"]), ("seed=-1", ["seed -1"]), ("split=test", ["train, held-out, all"]),
        ("colour=red", ["unknown option 'colour'", "split"]), ("64", ["option=value"]),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_by_name(argument, words):
    with pytest.raises(InputError) as error:
        plugin.load(argument)
    assert all(word in str(error.value) for word in words), error.value


def test_without_the_font_one_line_says_how_to_get_it(monkeypatch, tmp_path, sb):
    monkeypatch.setattr(drawing, "FOLDERS", (str(tmp_path),))
    refused = sb("train", "--data", "scenes:images=10", "-o", "out")
    refused.refused(4, FONT, "fonts-noto-color-emoji", "--data FOLDER")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_font_is_refused(tmp_path):
    path = tmp_path / "font.ttf"
    path.write_bytes(b"no font")
    with pytest.raises(ModelError, match="the font cannot be read"):
        plugin.load(f"font={path}")


def test_the_font_has_a_picture_of_each_thing():
    try:
        content = drawing.font_bytes()
    except ModelError:
        pytest.skip(f"{FONT} is not installed")
    sprites = drawing.FontSprites(drawing.font_of(content))
    pictures = [sprites(thing, 24) for thing in THINGS]
    assert len({picture.tobytes() for picture in pictures}) == len(THINGS)
    for thing, picture in zip(THINGS, pictures, strict=True):
        assert picture.shape == (24, 24, 4)
        assert picture[..., 3].max() > 250, thing
        assert np.ptp(picture[..., :3]) > 60, thing  # in colour, not an empty box
        assert (picture[..., :3] <= picture[..., 3:] + 1).all()  # multiplied by alpha
    image = plugin.load("images=3").image(1)
    assert image.unique().numel() > 50

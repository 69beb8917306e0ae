"""The colours of the page and of figures: told apart by the colour-blind, seen on their paper in both themes."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from samplerbench.bench.show.charts import COLOURS

STYLE = (Path(__file__).parents[2] / "templates" / "report.css").read_text()
PAIRS = {name: pair for name, *pair in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", STYLE)}
SIGHTS = {
    "all cones": np.eye(3),
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no middle": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Linear sRGB as it is seen without a kind of cone: Machado, Oliveira and Fernandes 2009, severity 1."""
TO_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]
])  # fmt: skip
LEAST_APART = 12
"""In CIE 1976 units; about 2 can just be seen side by side, and marks lie apart. They differ in shape too."""
LEAST_CONTRAST, LEAST_TEXT_CONTRAST = 3.0, 4.5
"""WCAG 2.2, 1.4.11 and 1.4.3."""


def linear(colour):
    """ "#rrggbb" in linear sRGB."""
    encoded = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """Linear sRGB in CIE 1976 L*a*b*."""
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one, other):
    """The contrast of two colours, 1 to 21."""
    dark, light = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def test_white_and_black_are_21_to_1_and_100_apart():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert np.linalg.norm(lab(linear("#ffffff")) - lab(linear("#000000"))) == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("theme", [0, 1])
def test_every_two_colours_of_samplers_are_apart_whoever_looks(theme, sight):
    seen = [lab(np.array(SIGHTS[sight]) @ linear(PAIRS[f"c{i}"][theme])) for i in range(COLOURS)]
    apart = {pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in itertools.combinations(range(7), 2)}
    assert min(apart.values()) >= LEAST_APART, min(apart, key=apart.get)


@pytest.mark.parametrize("theme", [0, 1])
def test_marks_and_texts_stand_out_from_their_paper(theme):
    for paper in ("paper", "raised"):
        for i in range(COLOURS):
            assert contrast(PAIRS[f"c{i}"][theme], PAIRS[paper][theme]) >= LEAST_CONTRAST
        for text in ("ink", "soft", "accent"):
            assert contrast(PAIRS[text][theme], PAIRS[paper][theme]) >= LEAST_TEXT_CONTRAST
    assert contrast(PAIRS["good"][theme], PAIRS["good-back"][theme]) >= LEAST_TEXT_CONTRAST

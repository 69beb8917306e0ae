"""What a metric is: rows of numbers about n images -> a value with its standard error."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .student import skewed_ends, student_t

Floats = npt.NDArray[np.float64]
"""Numbers in float64, of any shape."""
Rows = npt.NDArray[np.float32]
"""A row of d numbers for each of n images, (n, d), as an extractor returns them."""
Strata = npt.NDArray[np.int64]
"""For each of n samples the number of its prompt, (n,), from 0 up without a gap; each number at least twice."""
Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""
LEAST_IMAGES = 20
"""With fewer images a value has no interval, and nothing is shown of a difference."""
ASYMMETRY = 1e-5
"""How far a covariance may differ from its transpose, relative to its largest entry: float32 files are rounded."""
BLOCK = 2048
"""How many rows are held in float64 at a time."""


@dataclass(frozen=True)
class Estimate:
    """A metric's value on n samples, and how much each of them moved it."""

    value: float
    """The value; NaN if there is no value to give."""
    influence: Floats
    """(n,), of mean 0: to first order the value is a constant plus the mean of these over the samples."""
    is_share: bool = False
    """Whether it is a share, from 0 to 1, or the difference of two."""
    common: Floats | None = None
    """(m,), of mean 0: the influence of what is drawn at random once for all cells, as directions of projection."""
    strata: Strata | None = None
    """Filled in by who draws: prompts take turns, so what differs between them is no error. None = one prompt."""
    digest: bytes = b""
    """Filled in by who draws: the same for two cells with the same samples; empty = not known."""
    counted: int | None = None
    """How many images a share is of: where not all samples count, those that do, or those of the reference; None = the
    samples."""
    excess: float = 0.0
    """The part of the variance that the influences count twice, as it is of pairs of samples (Efron & Stein 1981)."""
    skewed: bool = False
    """Whether a few samples may outweigh all others, as in a mean of squares; the interval then allows for that."""

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two values on the same samples. InputError if their numbers of samples differ."""
        if len(self.influence) != len(other.influence):
            raise InputError(
                f"values on {len(self.influence)} and on {len(other.influence)} samples: "
                "a difference is of the same samples; take as many of each"
            )
        # What both values share of the directions of projection cancels as the samples' part does.
        common = None if self.common is None or other.common is None else self.common - other.common
        # Subtracted sample by sample: on the same noise the two are correlated, and what they share cancels. How much
        # of the excess cancels is not known, so none is taken off a difference, whose error is then rather too large.
        influence, is_share = self.influence - other.influence, self.is_share and other.is_share
        skewed = self.skewed or other.skewed
        return Estimate(
            self.value - other.value, influence, is_share, common, self.strata, counted=self.counted, skewed=skewed
        )

    def has_samples_of(self, other: Estimate) -> bool:
        """Whether both values are of the very same samples, as far as that is known."""
        return bool(self.digest) and self.digest == other.digest

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the standard error: samples less prompts."""
        return len(self.influence) - (1 if self.strata is None else int(self.strata.max()) + 1)

    @cached_property
    def standard_error(self) -> float:
        """The standard deviation of the mean influence, each centred within its prompt; with that of `common`."""
        if len(self.influence) < 2:  # noqa: PLR2004  (one has no deviation)
            return math.nan
        # What is common to all cells is drawn apart from the samples, so the two variances add.
        variance = variance_of_mean(self.influence, self.strata)
        # No more than a half can be counted twice, whatever the estimate of it says.
        variance -= min(max(self.excess, 0.0), variance / 2)
        return math.sqrt(variance + (0.0 if self.common is None else variance_of_mean(self.common)))

    @cached_property
    def skewness(self) -> float:
        """The skewness of the mean influence, each centred within its prompt; 0 unless `skewed`."""
        return skewness_of_mean(self.influence, self.strata) if self.skewed else 0.0

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval; NaN with fewer than LEAST_IMAGES images."""
        return self._interval[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval; NaN with fewer than LEAST_IMAGES images."""
        return self._interval[1]

    @cached_property
    def _interval(self) -> tuple[float, float]:
        n, error = self.counted or len(self.influence), self.standard_error
        if min(n, len(self.influence)) < LEAST_IMAGES:
            return math.nan, math.nan
        # Near 0 and 1 the error of a share says too little: where all images agree it is 0.
        if self.is_share:
            return share_interval(self.value, error, n)
        if self.skewed:
            below, above = skewed_ends(student_t(self.freedom), self.skewness)
            return self.value + below * error, self.value + above * error
        return self.value - Z95 * error, self.value + Z95 * error


@np.errstate(over="ignore", invalid="ignore")  # of huge numbers it is infinite
def variance_of_mean(influence: Floats, strata: Strata | None = None) -> float:
    """The variance of the mean of n numbers, whose strata have fixed sizes: the sum of n_p s_p^2, over n^2.

    With equal sizes that is what the deviations within the strata give with the divisor n - strata.
    """
    numbers = influence.astype(np.float64)
    if strata is None:
        return float(numbers.var(ddof=1)) / len(numbers)
    sizes = np.bincount(strata)
    # Prompts in turn are a stratified sample: only the spread within a prompt is chance.
    means = np.bincount(strata, weights=numbers) / sizes
    squares = np.bincount(strata, weights=(numbers - means[strata]) ** 2)
    return float((sizes * squares / (sizes - 1)).sum()) / len(numbers) ** 2


@np.errstate(over="ignore", invalid="ignore")  # of huge numbers it is infinite or NaN
def skewness_of_mean(influence: Floats, strata: Strata | None = None) -> float:
    """The skewness of the mean of n numbers, whose strata have fixed sizes; 0 where no number differs.

    It is the sum of n_p m_p, over n^3, over the cube of the standard error, with m_p the unbiased third moment of
    stratum p. Two numbers show no skewness: with a stratum of two it is taken of all numbers together.
    """
    numbers = influence.astype(np.float64)
    if strata is None or np.bincount(strata).min() < 3:  # noqa: PLR2004  (two numbers lie evenly about their mean)
        strata = np.zeros(len(numbers), dtype=np.int64)
    error = math.sqrt(variance_of_mean(numbers, strata))
    if not error:
        return 0.0
    sizes = np.bincount(strata)
    means = np.bincount(strata, weights=numbers) / sizes
    # Over the error before the cube is taken: that of a huge number is infinite, and that of a tiny one is 0.
    cubes = np.bincount(strata, weights=((numbers - means[strata]) / error) ** 3)
    return float((sizes**2 * cubes / ((sizes - 1) * (sizes - 2))).sum()) / len(numbers) ** 3


def share_interval(share: float, error: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share: Wilson's (1927), whose width is not 0 even where all n images agree.

    It is that of as many independent images as give the standard error (Korn & Graubard 1998), and of n where the
    error is 0.
    """
    spread = share * (1 - share)
    images = spread / error**2 if spread > 0 and error > 0 else n
    # Wilson's interval, which stays within 0 and 1, for the number of independent images that has this error.
    z = Z95**2 / images
    middle, half = (share + z / 2) / (1 + z), math.sqrt(z * spread + z * z / 4) / (1 + z)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Moments:
    """The mean and covariance of the features of reference images, where only these were published.

    Raises InputError unless both are finite and of one width, and the covariance is symmetric without a negative
    variance.
    """

    mean: Floats
    """(d,)."""
    covariance: Floats
    """(d, d), divisor samples - 1."""
    samples: int | None = None
    """How many images they were computed from, if that is known."""

    def __post_init__(self) -> None:
        """Refuse moments that no images have."""
        # Shapes first: the checks below take both to be finite and of one width.
        if self.mean.ndim != 1 or not self.mean.size or self.covariance.shape != 2 * self.mean.shape:
            raise InputError(
                f"a reference of mean {self.mean.shape} and covariance {self.covariance.shape}: "
                "expected (d,) and (d, d), both of the same features"
            )
        for name, numbers in (("mean", self.mean), ("covariance", self.covariance)):
            if not np.isfinite(numbers).all():
                raise InputError(f"a reference whose {name} is not finite: expected numbers; compute it again")
        # A published file may be rounded to float32, so the symmetry need not be exact.
        apart = float(np.abs(self.covariance - self.covariance.T).max())
        if apart > ASYMMETRY * float(np.abs(self.covariance).max()) or self.covariance.diagonal().min() < 0:
            raise InputError(
                f"a reference whose covariance is invalid: it differs from its transpose by up to {apart:.2g}, its "
                f"least variance is {self.covariance.diagonal().min():.2g}; expected symmetric, none negative"
            )


class TooFewError(InputError):
    """Fewer rows than a metric needs, of the generated images or of the reference."""

    def __init__(self, rows: int, least: int, text: str) -> None:
        super().__init__(text)
        self.rows, self.least = rows, least


class Metric(ABC):
    """A number about generated images, from the rows that an extractor makes of them and of reference images.

    A subclass says what it reads in class attributes, and is made without arguments.
    """

    extractor: str
    """The role of the extractor whose rows it reads, e.g. "features"."""
    better: Literal["lower", "higher"]
    """Which values are better; comparisons and bold numbers follow it."""
    unit: str
    """Shown behind the value, e.g. "%"; '' = none."""
    least: int
    """The fewest samples for which the value means anything, whatever the rows are."""
    least_per_column: int = 0
    """The fewest samples for each of the d numbers of a row; the larger of the two counts holds."""
    unbiased: str | None = None
    """The metric without bias that reads the same: measured beside this one, and verdicts go by it, from as many
    samples on as it needs; None = no such metric."""
    needs_reference = False
    """Whether it compares with a reference. If so, it is left out where the reference is missing."""

    def prepare(self, reference: Rows | Moments | None) -> Any:
        """What `estimate` needs of the reference, computed once for all cells; None where there is no reference.

        The reference comes as rows (N, d), or only as their moments. A metric that needs the rows refuses moments with
        `rows_needed`.
        """
        return None

    def fewest(self, width: int) -> int:
        """The fewest samples for which the value means anything, where a row has `width` numbers."""
        return max(self.least, self.least_per_column * width)

    @abstractmethod
    def estimate(self, rows: Rows, prepared: Any) -> Estimate:
        """Rows (n, d) of the generated images, in the order of the samples -> the value and each sample's influence.

        `prepared` is what `prepare` returned.
        """

    def estimate_by_prompt(self, rows: Rows, prepared: Any, strata: Strata | None) -> Estimate:
        """As `estimate`, given which samples share a prompt; None = one prompt, or prompts with a single image.

        By default the value is that of `estimate`: only a mean over pairs of images depends on how many of the pairs
        are of one prompt.
        """
        return self.estimate(rows, prepared)


def rows_needed(name: str, reference: Rows | Moments) -> Rows:
    """The reference rows, (N, d). Raises InputError, naming the metric, where only their moments are known."""
    if isinstance(reference, Moments):
        raise InputError(
            f"{name}: needs the features of the reference images themselves; the reference has their mean and "
            "covariance only; compute it from the images"
        )
    return reference


def check_rows(rows: npt.NDArray[Any], width: int | None = None, least: int = 2) -> None:
    """Raise InputError unless the rows are finite, (n, d), and n is at least `least`.

    `width`, if given, is the expected d: the width of the reference rows.
    """
    expected = "d" if width is None else width
    if rows.ndim != 2 or width not in (None, rows.shape[1]):  # noqa: PLR2004  (rows and columns)
        why = "" if width is None else ", as the reference rows; were both made by one extractor?"
        raise InputError(f"rows of shape {rows.shape}: expected (n, {expected}){why}")
    if len(rows) < least:
        raise TooFewError(len(rows), least, f"rows of shape {rows.shape}: expected at least {least} of them")
    # Block by block: the mask of a large table would take a quarter of the table's memory.
    for i in range(0, len(rows), BLOCK):
        finite = np.isfinite(rows[i : i + BLOCK])
        if not finite.all():
            sample = i + int(finite.all(1).argmin())
            raise InputError(f"rows of shape {rows.shape}: that of sample {sample} is not finite")


def in_blocks(rows: npt.NDArray[np.floating[Any]], centre: Floats | float = 0.0) -> Iterator[tuple[slice, Floats]]:
    """Go through rows (n, d) in float64, block by block, with `centre`, a number or (d,), subtracted.

    Yields the place of each block, and the block. The next block overwrites it: a large table is never held in float64.
    """
    space = np.empty((min(BLOCK, len(rows)), rows.shape[1]))
    for i in range(0, len(rows), BLOCK):
        block = rows[i : i + BLOCK]
        yield slice(i, i + BLOCK), np.subtract(block, centre, out=space[: len(block)], dtype=np.float64)


def root_mean_estimate(squares: npt.NDArray[np.floating[Any]]) -> Estimate:
    """The root of the mean of one square for each sample, (n,); its influence has the derivative of the root.

    A few large squares may outweigh all others, so the interval allows for the skewness of the influences.
    """
    exact = squares.astype(np.float64)
    # d sqrt(m) = dm / (2 sqrt(m)): the delta method.
    root = math.sqrt(float(exact.mean()))
    return Estimate(root, (exact - exact.mean()) / (2 * root) if root else np.zeros_like(exact), skewed=True)


def mean_estimate(values: npt.NDArray[np.floating[Any] | np.bool_]) -> Estimate:
    """The mean of one number for each sample, (n,); for booleans, the share of those that are true."""
    # The influence of a sample on a mean is its deviation from the mean.
    exact = values.astype(np.float64)
    mean = float(exact.mean())
    return Estimate(mean, exact - mean, is_share=values.dtype == np.bool_)


def share_estimate(is_so: npt.NDArray[np.bool_], counts: npt.NDArray[np.bool_]) -> Estimate:
    """The share of samples that are so among those that count, (n,) each; NaN where none does."""
    exact, counted = (is_so & counts).astype(np.float64), int(counts.sum())
    if not counted:
        return Estimate(math.nan, np.zeros(len(exact)))
    # A ratio of two means: what does not count has no influence, and the others share its weight.
    share = float(exact.sum()) / counted
    return Estimate(share, (exact - share * counts) * (len(exact) / counted), is_share=True, counted=counted)

"""run.json as its readers see it: one typed record, whose fields are all checked when the file is read."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from .config import LATER, Config

MOST = 2**53
"""Other programs cannot read a larger count in JSON exactly."""
MOST_THREADS = 4096
Key = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0, le=MOST)]
Positive = Annotated[int, Meta(ge=1, le=MOST)]
Seconds = Annotated[float, Meta(ge=0, le=MOST)]


class CellRecord(Struct, frozen=True):
    """A row of the run's table."""

    sampler: str
    """The spec as given."""
    grid: str
    steps: Positive
    nfe: Count | None
    """Model calls that the sampler declares; None = adaptive."""
    key: Key
    guidance: float | None = None
    """Where the run has several; None = that of the run."""
    name: str = ""
    """What its row is called; '' = by the spec."""

    @property
    def shown(self) -> str:
        """What people read: the name, or the spec."""
        return self.name or self.sampler


class ModelRecord(Struct, frozen=True):
    """The model that the run was made with."""

    name: str
    fingerprint: str
    """'' if the model has none."""
    prompts: tuple[str, ...] = ()
    """Its own captions, which take turns if the run names no prompts; () = none, or not recorded."""


class EnvironmentRecord(Struct, frozen=True):
    """Where the run was made."""

    python: str
    system: str
    cpu: str
    cores: Positive | None
    threads: Annotated[int, Meta(ge=1, le=MOST_THREADS)]
    device: str
    versions: dict[str, str]
    """The version of each package."""
    switches: dict[str, Any] = msgspec.field(default_factory=dict)
    """The switches of torch that were not as usual, by torch's names."""


class AddedRecord(Struct, frozen=True):
    """An enlargement of the run by `run --add`."""

    command: str
    rows: Positive
    """How many rows the run had before."""


class ExtendedRecord(Struct, frozen=True):
    """More images for the run by `run --add -n`."""

    command: str
    samples: Positive
    """Images a cell that the run had before."""


class RunRecord(Struct, frozen=True, dict=True):
    """The settings of a run, the environment that it was made in, and its cells."""

    format: int
    plan: Key
    config: Config
    command: str
    """The command that began the run; '' for a run from Python."""
    plugins: tuple[str, ...]
    model: ModelRecord
    extractors: dict[str, dict[str, str]]
    """For each metric its extractor's label, note, fingerprint and data, and what its Frechet distance is called."""
    environment: EnvironmentRecord
    cells: Annotated[tuple[CellRecord, ...], Meta(min_length=1)]
    """In the order of the table: cells that were added later come last."""
    added: tuple[AddedRecord, ...] = ()
    extended: tuple[ExtendedRecord, ...] = ()
    shard: Annotated[str, Meta(pattern=r"\A([1-9][0-9]{0,3}/[1-9][0-9]{0,3})?\Z")] = ""
    """Which part of a run it is, as in 2/4; '' = a whole one."""
    stages: dict[str, Seconds] = {}
    """How many seconds the blocks of the table took in each stage, as in {"encoding": 0.2, "drawing": 12.5}; blocks
    that not every cell has, and cells that failed, are left out. {} until the run has ended once, and for runs of
    earlier versions."""
    unknown_settings: tuple[str, ...] = ()
    """Settings in the file that this version does not know."""

    def __post_init__(self) -> None:
        """ValueError if cells and settings contradict each other."""
        # A file that was edited by hand may be valid field by field, and still describe no run.
        settings = self.config
        if not all(map(math.isfinite, (*settings.guidances, settings.guidance_rescale))):
            raise ValueError(f"config.guidance is {settings.guidance}; expected a finite number")
        # Each sampler has a cell at each guidance and count, in whatever order the rows were added.
        rows, counts = Counter((cell.sampler, self.guidance_of(cell)) for cell in self.cells), settings.counts
        names = settings.names
        if rows != dict.fromkeys(product(names, settings.guidances), len(counts)):
            raise ValueError(f"cells are not those of {len(names)} samplers at {len(counts)} counts each")
        # In a run of budgets the steps follow from what each sampler makes of its calls.
        if not settings.nfe and any(c.steps != counts[i] for c, i in zip(self.cells, self.places, strict=True)):
            raise ValueError("the steps of cells are not those of config.steps")
        if any(cell.name != names[cell.sampler] for cell in self.cells):
            raise ValueError("the names of cells are not those of config.sampler")
        if any(one.rows >= len(self.cells) for one in self.added):
            raise ValueError(f"added.rows is not below the number of cells, {len(self.cells)}")
        if any(one.samples >= settings.samples for one in self.extended):
            raise ValueError(f"extended.samples is not below config.samples, {settings.samples}")

    def guidance_of(self, cell: CellRecord) -> float:
        """The guidance of a cell."""
        # Runs of one guidance do not repeat it in each cell, nor did those of earlier versions.
        return self.config.guidances[0] if cell.guidance is None else cell.guidance

    @property
    def prompts(self) -> tuple[str, ...]:
        """Sample i has prompts[i mod len]; () = none, or not recorded."""
        return self.model.prompts if self.config.prompts is None else self.config.prompts

    @property
    def across(self) -> Literal["nfe", "steps"]:
        """What the run counts by."""
        return "nfe" if self.config.nfe else "steps"

    @property
    def sizes_before(self) -> list[int]:
        """The number of rows that the run had before each addition."""
        return [one.rows for one in self.added]

    @property
    def commands(self) -> list[str]:
        """The commands that made the run; additions from Python have none."""
        later = [*(one.command for one in self.added), *(one.command for one in self.extended)]
        # A command that was given again to go on adds nothing, and is named once.
        return list(dict.fromkeys(filter(None, [self.command, *later])))

    @property
    def budgets(self) -> list[tuple[str, int, float]]:
        """Sampler spec, step count or budget, and guidance of each cell."""
        return [
            (cell.sampler, self.config.counts[i], self.guidance_of(cell))
            for cell, i in zip(self.cells, self.places, strict=True)
        ]

    @cached_property
    def places(self) -> tuple[int, ...]:
        """For each cell the place of its budget or step count among those of the run: a sampler's cells at a guidance
        stand in the order of the counts, whatever stands between them."""
        seen: defaultdict[tuple[str, float | None], int] = defaultdict(int)
        found = []
        for cell in self.cells:
            found.append(seen[cell.sampler, cell.guidance])
            seen[cell.sampler, cell.guidance] += 1
        return tuple(found)


def record_of(content: Mapping[str, Any]) -> RunRecord:
    """The record in a JSON object; a ValueError names the field that is missing or invalid."""
    settings = content.get("config")
    unknown: list[str] = []
    # msgspec would ignore a setting that it does not know: another version may draw other samples by it.
    if isinstance(settings, Mapping):
        known = {field.name for field in fields(Config)}
        unknown = sorted(settings.keys() - known)
        if missing := sorted(known - settings.keys() - set(LATER)):
            raise ValueError(f"config.{missing[0]} is missing")
    try:
        return msgspec.convert({**content, "unknown_settings": unknown}, RunRecord)
    except msgspec.ValidationError as error:
        raise ValueError(violation_text(error)) from error


def violation_text(error: msgspec.ValidationError) -> str:
    """A violation, with its field first: "config.nfe: expected array, got int"."""
    text, _, place = str(error).partition(" - at `$")
    text = (text[:1].lower() + text[1:]).replace("`", "")
    return f"{place.removeprefix('.').removesuffix('`')}: {text}" if place else text

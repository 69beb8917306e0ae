"""The folder of a run: the names of its files, and which of the names in a folder are a run's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ...samplers.errors import InputError, StoreError
from ...samplers.files.lock import LOCK_FILE
from ..plan.plan import Plan
from ..plan.shard import folder_of_shard
from .chunk_file import CHUNK_SUFFIX

RUN_FILE = "run.json"
CHUNKS = "chunks"
FAILURE = ".failed.json"
TABLE_FILE, TABLE_SEAL = "table.csv", "table.seal"
OWN_FILES = (TABLE_FILE, TABLE_SEAL, "table.md", "grid.png", "report.html", RUN_FILE)
REFERENCE = f"{CHUNKS}/ode-reference.safetensors"
REPEAT_SUFFIX = ".timing"
"""Ends the file of a repeat: a chunk that was drawn again only for the clock."""
LATENCY_SUFFIX = ".latency"
"""Ends the file of a draw for the latency."""
CELL = "[0-9a-f]{16}"
OWN_NAMES = re.compile(
    rf"{'|'.join(map(re.escape, (*OWN_FILES, REFERENCE)))}"
    rf"|{CHUNKS}/((answers|fronts|looks)\.json|{CELL}{re.escape(FAILURE)}|paths/({CELL}{re.escape(CHUNK_SUFFIX)})?)?"
    rf"|{CHUNKS}/{CELL}/(\d{{8,}}-\d{{4,}}{re.escape(CHUNK_SUFFIX)}|\d{{4,}}{re.escape(REPEAT_SUFFIX)}"
    rf"|[1-9]\d*-\d{{4,}}{re.escape(LATENCY_SUFFIX)})?"
)
"""The names that a run writes into its folder, except the lock; folders end in "/"."""
DRAWN = re.compile(rf"{CHUNKS}/({CELL}{re.escape(FAILURE)}|{CELL}/[^/.][^/]*)")
OF_ONE_FOLDER = ("answers.json", "fronts.json", "looks.json")
"""What is made of the chunks of one folder."""
REPEAT_NAME = re.compile(rf"([0-9]{{4,18}}){re.escape(REPEAT_SUFFIX)}")
LATENCY_NAME = re.compile(rf"([1-9][0-9]{{0,17}})-([0-9]{{4,18}}){re.escape(LATENCY_SUFFIX)}")
BEFORE, OUTGROWN = ".before", ".outgrown"
"""Folders of what is set aside: the run that was there before one that starts over, and chunks that are drawn again."""
HALF_DONE = re.compile(r"(?P<folder>.*/)?\.(?P<file>[^/]+?)(?P<process>\.[0-9a-f]{16})?\.tmp")
"""The temporary file that a process leaves behind if it is killed while it writes. `process` stands where others may
write the same file at that time."""


def repeat_name(number: int) -> str:
    """The file of a repeat for the clock."""
    return f"{number:04d}{REPEAT_SUFFIX}"


def latency_name(rows: int, number: int) -> str:
    """The file of a draw of this number of images at once."""
    return f"{rows}-{number:04d}{LATENCY_SUFFIX}"


def is_own(name: str) -> bool:
    """Whether a run writes a file or folder of this name, finished or not; `name` is one that `names_below` yields."""
    # Half of a file that a run was writing is the run's own too, by the name that it would have got.
    half = HALF_DONE.fullmatch(name)
    return OWN_NAMES.fullmatch(f"{half['folder'] or ''}{half['file']}" if half else name) is not None


def is_of_stopped_run(name: str) -> bool:
    """Whether a run may have left this behind when it was stopped while it made its folder."""
    return name in (LOCK_FILE, f"{BEFORE}/", f"{OUTGROWN}/") or (is_own(name) and name not in OWN_FILES)


def is_drawn(name: str) -> bool:
    """Whether this is the name of a chunk, of the reason why a cell failed, or of a timing: what a run draws first."""
    return DRAWN.fullmatch(name) is not None


def names_below(folder: Path, within: str = "") -> Iterator[str]:
    """The names in the folder of a run, as text relative to it; folders end in "/", links to folders do not.

    A folder that is not the run's own is named, but its content is not.
    """
    with os.scandir(folder / within) as entries:
        for entry in entries:
            # A link to a folder leads to somebody else's files, and counts as a file.
            is_folder = entry.is_dir(follow_symlinks=False)
            name = f"{within}{entry.name}{'/' if is_folder else ''}"
            yield name
            if is_folder and is_own(name):
                yield from names_below(folder, name)


def names_in(folder: Path | str) -> list[str]:
    """The names in a folder; none if the folder is missing."""
    try:
        return os.listdir(folder)  # noqa: PTH208  (no Path of each)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read ({error.strerror or error})") from error


def advice(folder: Path, otherwise: str) -> str:
    """What to do about a folder that lacks what is asked for: where a run that starts over may have been killed before
    it drew, how the one before comes back."""
    if not os.path.lexists(folder / BEFORE / RUN_FILE):
        return otherwise
    return f"a run starts over here; if that was stopped, samplerbench run -o {folder} brings back the one before"


def newest_run(root: Path) -> Path:
    """The run folder below `root` that was written to last."""
    # One level deep, as `default_output` makes them.
    runs = [p.parent for p in root.glob(f"*/{RUN_FILE}")]
    if not runs:
        raise InputError(f"no run in {root}; give a run folder, or make one with `samplerbench run`")
    return max(runs, key=lambda run: (run / RUN_FILE).stat().st_mtime)


def default_output(plan: Plan) -> Path:
    """results/<model>-<8 hex of the plan> in the current folder, or that of a shard."""
    # A model's name may be a path or a spec, with characters that no folder takes.
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in plan.config.model).strip(".-")[:64]
    return folder_of_shard(Path("results") / f"{name or 'model'}-{plan.key[:8]}", plan.shard)

"""A shard of a run: every N-th block of all its cells, drawn by a command that knows nothing of the others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...samplers.errors import InputError, quote

MOST_SHARDS = 9999
GIVEN = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})")
SUFFIX = re.compile(r"-[1-9][0-9]{0,3}-of-[1-9][0-9]{0,3}$")


@dataclass(frozen=True)
class Shard:
    """One of several parts of a run."""

    number: int
    """From 1."""
    of: int
    """How many there are."""

    def __str__(self) -> str:
        """The text that the option takes: "2/4"."""
        return f"{self.number}/{self.of}"


def parse_shard(given: str | None) -> Shard | None:
    """ "2/4" -> the second of four; None = the run is not in parts."""
    if given is None:
        return None
    if not (found := GIVEN.fullmatch(given)) or int(found[1]) > int(found[2]):
        raise InputError(
            f"shard {quote(given)}: expected I/N, the part and how many there are, as in 1/4, 2/4, 3/4 and 4/4"
        )
    return Shard(int(found[1]), int(found[2]))


def folder_of_shard(output: Path, shard: Shard | None) -> Path:
    """Where a shard of the run in a folder is."""
    # Each shard has a folder and so a lock of its own: no two commands ever write into one.
    return beside(output, f"-{shard.number}-of-{shard.of}") if shard else output


def beside(output: Path, ending: str) -> Path:
    """A path beside a folder that begins with its name. InputError for a folder that has none, such as "."."""
    # ".-1-of-2" would be a hidden folder, and "..-1-of-2" no folder above.
    if output.name in ("", ".."):
        raise InputError(
            f"output {str(output)!r}: several folders begin with its name, and it has none; give one, as in "
            f"-o {output / 'run'}"
        )
    return Path(f"{output}{ending}")


def folder_of_whole(path: Path) -> Path:
    """The folder of the run that a folder holds a shard of; one that was renamed gets another name."""
    # Never the folder itself, which holds the chunks of the shard.
    whole = SUFFIX.sub("", str(path))
    return Path(whole if whole != str(path) else f"{path}-joined")

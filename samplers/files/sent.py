"""Files that a run names by relative paths, where it is drawn: found there, or received once and kept by their hashes.

A path is relative to the folder in which the run was started. Another process looks whether the same files are there,
as on the same machine or on shared storage. If one is missing or differs, it asks for the content of those that it has
not kept from an earlier time, and works in a folder of links to what it keeps, in which the same relative paths lead to
the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from .atomic import make_folder, sync_folder

PIECE = 1 << 26
"""Bytes of a file that travel at a time."""


def kept_in() -> Path:
    """The folder of what is kept."""
    return Path.home() / ".cache" / "samplerbench" / "files"


@dataclass(frozen=True)
class SentFiles:
    """The files of a run."""

    home: str = ""
    """The folder that their paths are relative to, where the run was started."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the content, by path."""

    def place(self, kept: Path) -> Path | None:
        """The folder in which every path leads to its file: that of the run or one of links; None if files lack."""
        if all(hash_of(Path(self.home, path)) == sha256 for path, sha256 in self.hashes.items()):
            return Path(self.home) if Path(self.home).is_dir() else None
        return None if self.lacking(kept) else self._linked(kept)

    def lacking(self, kept: Path) -> list[str]:
        """The hashes of the files that are neither in the folder of the run nor kept, each once."""
        there = {sha256 for path, sha256 in self.hashes.items() if hash_of(Path(self.home, path)) == sha256}
        # What is kept is read too: the code of a run may have written to the file that it was given.
        lack = {sha256 for sha256 in self.hashes.values() if hash_of(kept / sha256) != sha256} - there
        return sorted(lack)

    def pieces(self, sha256: str) -> Iterator[bytes]:
        """The content of a file of this hash, read where the run was started."""
        path = next(path for path, its in self.hashes.items() if its == sha256)
        with Path(self.home, path).open("rb") as file:
            while piece := file.read(PIECE):
                yield piece

    def _linked(self, kept: Path) -> Path:
        """A folder of links, made once for these files and this machine."""
        said = json.dumps([self.home, sorted(self.hashes.items())])
        folder = kept / "runs" / hashlib.sha256(said.encode()).hexdigest()[:32]
        if all(hash_of(folder / path) == sha256 for path, sha256 in self.hashes.items()):
            return folder
        # It is new, or leads to a file that was edited since, and is made again.
        # Made under another name: a second process may make the same one, and whoever is first has made it.
        new = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        for path, sha256 in self.hashes.items():
            link, here = new / path, kept / sha256
            link.parent.mkdir(parents=True, exist_ok=True)
            if hash_of(here) != sha256:  # then it is in the folder of the run
                link.symlink_to(Path(self.home, path))
                continue
            try:
                os.link(here, link)  # a file of its own name: Python looks beside it for what it imports
            except OSError:  # some file systems have no hard links
                shutil.copyfile(here, link)
        if folder.is_dir():
            with suppress(OSError):
                folder.rename(new.with_name(f"{new.name}.old"))
        with suppress(OSError):
            new.rename(folder)
        for left in (new, new.with_name(f"{new.name}.old")):
            shutil.rmtree(left, ignore_errors=True)  # links or copies
        return folder


def keep(sha256: str, pieces: Iterable[bytes], kept: Path) -> None:
    """Keep the content of a file by its hash; InputError if it is another, as where the file was edited meanwhile."""
    if hash_of(kept / sha256) == sha256:
        return
    make_folder(kept)
    temporary, digest = kept / f".{sha256[:16]}.{secrets.token_hex(8)}.tmp", hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise InputError("a file was edited after the run began; give the same command again")
        temporary.replace(kept / sha256)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(kept)


def hash_of(path: Path) -> str:
    """SHA-256 of a file; '' where there is none that can be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""

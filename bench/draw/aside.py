"""Files of a run that are set aside within its folder until it is certain that nobody needs them.

A run that starts over, or draws blocks again, may still be refused, stopped or killed before it has anything to show.
Renaming costs no room and no reading, and each file is at one of two places at any moment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ...samplers.files.atomic import make_folder, sync_folder
from .folder import RUN_FILE, is_own


class Aside:
    """A hidden folder in the folder of a run, with files of that run under the names that they had."""

    def __init__(self, run: Path, name: str) -> None:
        self._run, self._folder = run, run / name

    @property
    def is_there(self) -> bool:
        """Whether anything is set aside, or was when its process was killed."""
        return os.path.lexists(self._folder)

    @property
    def is_whole_run(self) -> bool:
        """Whether a run is set aside, and not only a part of one."""
        return os.path.lexists(self._folder / RUN_FILE)

    def move(self, names: Iterable[str]) -> None:
        """Set files aside; when this returns they stay there, though the power fails."""
        for name in names:
            make_folder((self._folder / name).parent)
            (self._run / name).rename(self._folder / name)
        for folder in (self._folder, self._run):
            sync_folder(folder)

    def put_back(self) -> None:
        """Give all files their places again, run.json last: a folder without it may be taken by any run."""
        for name in sorted(self._names(), key=lambda name: name == RUN_FILE):
            # What is there has been drawn since, and other files tell of it.
            if not os.path.lexists(self._run / name):
                make_folder((self._run / name).parent)
                (self._folder / name).rename(self._run / name)
        sync_folder(self._run)
        self.drop()

    def drop(self) -> None:
        """Remove all that is set aside, and nothing that somebody else keeps there."""
        for name in self._names():
            (self._folder / name).unlink(missing_ok=True)
        for folder, _, _ in os.walk(self._folder, topdown=False):
            with suppress(OSError):  # somebody keeps something there
                Path(folder).rmdir()

    def _names(self) -> list[str]:
        """The files of the run, relative to the folder."""
        paths = (Path(folder, name) for folder, _, names in os.walk(self._folder) for name in names)
        return [name for path in paths if is_own(name := path.relative_to(self._folder).as_posix())]

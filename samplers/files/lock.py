"""One writer at a time in a folder, by a lock that no dead process can hold."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import StoreError
from .atomic import make_folder

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".lock"
NO_WINDOWS = "Windows; expected Linux or macOS, as inside WSL, for Windows has no lock that ends with its process"
"""What to say of a system that is Windows."""


class WriterLock:
    """Held from its making to `release`, or to the end of this process, however that comes.

    The system holds it for the open file; that the file is there means nothing, and the process in it is for the
    message alone. Raises StoreError where another writer has it, OSError where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._file = locked_file(self._path)
        self._close = weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let the next writer in; a second time is nothing, also where the first was interrupted."""
        if self._close.alive:
            with suppress(OSError):
                if is_at(self._file, self._path):  # else the next writer's file is there
                    self._path.unlink()  # while it is held: whoever opened this file meanwhile sees that it is gone
            self._close()


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """The folder, made where there is none, with this process as its one writer; a folder left empty is removed."""
    make_folder(folder)
    lock = WriterLock(folder)
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            folder.rmdir()  # where nothing was written


def locked_file(path: Path) -> int:
    """A descriptor of the file at `path`, locked. StoreError on Windows."""
    if sys.platform == "win32":
        raise StoreError(f"{path.parent}: the system is {NO_WINDOWS}")
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(file, path):
                return file
        except BlockingIOError as error:
            owner = os.pread(file, 20, 0).decode(errors="replace")
            os.close(file)
            raise StoreError(
                f"{path.parent}: process {owner or 'unknown'} is writing to it; "
                "let that end first, or give another -o to this one"
            ) from error
        except OSError:
            os.close(file)
            raise
        os.close(file)  # its last owner removed it between our opening and our locking it


def is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one that is at the path now."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False

"""A lock that allows one writer at a time in a folder, and that no dead process can hold."""

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
    """The lock, held from construction until `release` or until this process ends, however it ends.

    The operating system ties the lock to the open file: whether the file exists means nothing, and the process number
    in it serves only the message. Raises StoreError if another writer holds the lock, OSError if the folder cannot be
    written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._file = open_locked(self._path)
        self._close = weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    @property
    def is_held(self) -> bool:
        """Whether it was not released yet."""
        return self._close.alive

    def release(self) -> None:
        """Let the next writer in. A second call does nothing, even if the first was interrupted."""
        if self._close.alive:
            with suppress(OSError):
                if is_at(self._file, self._path):  # else it is the next writer's file
                    self._path.unlink()  # while locked: whoever opened this file meanwhile sees that it is gone
            self._close()


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Make the folder if it is missing and lock it for this process; remove it afterwards if it is empty."""
    make_folder(folder)
    lock = WriterLock(folder)
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            folder.rmdir()  # fails, as it should, if anything was written


def open_locked(path: Path) -> int:
    """A descriptor of the file at `path`, which is locked. StoreError on Windows."""
    if sys.platform == "win32":
        raise StoreError(f"{path.parent}: the system is {NO_WINDOWS}")
    # The last owner removes the file, so the file that was locked may be gone; then try again.
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

"""What the program needs from its process: a current folder, room for open files, docstrings."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import CodeType, ModuleType

from ...samplers.errors import InputError, StoreError
from ...samplers.files.lock import NO_WINDOWS

FREE_FILES = 48
"""How many more files the process must be able to hold open: those of a run, its child and the report's libraries."""
NO_DOCSTRINGS = 2
"""The level of optimisation, `python -OO`, at which docstrings are left out."""


def check_surroundings() -> None:
    """InputError on Windows or if the current folder is gone, StoreError if too few files can be open at once.

    Otherwise a library would end the program with a message that does not help.
    """
    if sys.platform == "win32":
        raise InputError(f"system: {NO_WINDOWS}")
    try:
        os.getcwd()  # noqa: PTH109  (no path is wanted)
    except OSError as error:
        raise InputError("current folder: is gone; change to one that is there, as in cd ~") from error
    with ExitStack() as opened:
        try:
            # The limit itself says little, since files may be open already: so as many are opened for a moment.
            for _ in range(FREE_FILES):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            raise StoreError(
                f"open files: {error.strerror or error}; expected room for {FREE_FILES} more, as after ulimit -n 256"
            ) from error


class Documented(importlib.machinery.SourceFileLoader):
    """Reads a module with its docstrings."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile without the cache, which has no docstrings at this level of optimisation."""
        path = self.get_filename(fullname)
        code: CodeType = compile(self.get_data(path), path, "exec", dont_inherit=True, optimize=0)
        return code


class DocumentedFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of a package for `Documented` to read."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """None for the modules of other packages."""
        # Other packages keep their cache: to compile them all would take long.
        if fullname.partition(".")[0] != self.package:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Documented(spec.loader.name, spec.loader.path)
        return spec


@contextmanager
def docstrings_kept(package: str) -> Iterator[None]:
    """Import a package with its docstrings inside the block, even under `python -OO`: some packages read their own."""
    if sys.flags.optimize < NO_DOCSTRINGS:
        yield
        return
    finder = DocumentedFinder(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)

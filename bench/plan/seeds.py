"""Several seeds of one command: where the run of each is, and the page of all."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from ...samplers.errors import InputError
from .shard import beside


def folder_of_seed(output: Path, seed: int) -> Path:
    """Where the run of one of several seeds is."""
    # Behind the name and not in a folder of that name: each run can be moved, joined and deleted by itself.
    return beside(output, f"-seed-{seed}")


def page_of_seeds(output: Path) -> Path:
    """The page of all seeds, beside the folders of their runs."""
    return beside(output, "-seeds.html")


def check_page(page: Path) -> None:
    """InputError where the page cannot be written, before anything is drawn for it."""
    try:
        # `Path.is_dir` says False of a name that is too long, which would be told only after hours of drawing.
        is_folder = stat.S_ISDIR(page.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        length = error.errno == errno.ENAMETOOLONG
        raise InputError(
            f"output {page}: cannot be written ({error.strerror}); give {'a shorter' if length else 'another'} -o"
        ) from error
    if is_folder:
        raise InputError(f"output {page}: is a folder, and the page of all seeds goes there; give another -o")

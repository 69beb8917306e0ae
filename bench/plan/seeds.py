"""Several seeds of one command: where the run of each is, and the page of all."""

from __future__ import annotations

from pathlib import Path


def folder_of_seed(output: Path, seed: int) -> Path:
    """Where the run of one of several seeds is."""
    return Path(f"{output}-seed-{seed}")


def page_of_seeds(output: Path) -> Path:
    """The page of all seeds, beside the folders of their runs."""
    return Path(f"{output}-seeds.html")

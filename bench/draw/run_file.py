"""run.json: written from a plan, read again as a record, and compared with another plan."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...samplers.errors import InputError, StoreError
from ..plan.config import as_json
from ..plan.keys import FORMAT
from ..plan.plan import Plan
from ..plan.record import RunRecord, record_of
from .folder import RUN_FILE, advice
from .sealed_file import bytes_of, has_seal, json_object, seal_json


def run_to_json(plan: Plan, about: Mapping[str, Any]) -> bytes:
    """run.json: the settings of a run, what else is to be known about it, and its cells."""
    head = {"format": FORMAT, "plan": plan.key, "config": as_json(plan.config), **about}
    cells = [
        {"sampler": c.sampler, "grid": c.grid, "steps": c.steps, "nfe": c.nfe, "key": c.key}
        | ({"guidance": c.request.guidance} if len(plan.config.guidances) > 1 else {})
        | ({"name": c.name} if c.name else {})
        for c in plan.cells
    ]
    # An indent would make the encoder slow, and there may be many cells.
    lines = json.dumps(cells, separators=(",\n  ", ": "))
    return seal_json(f'{json.dumps(head, indent=1)[:-2]},\n "cells": {lines}\n}}')


def stored_run(path: Path) -> RunRecord | None:
    """The record of run.json; None if the folder has no such file."""
    return read_run(path) if os.path.lexists(path / RUN_FILE) else None


def read_run(path: Path) -> RunRecord:
    """The record of run.json. A StoreError names the field that is missing or invalid."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected the folder of a run")
    try:
        content = bytes_of(path / RUN_FILE)
        value = json_object(content)
        is_sealed = has_seal(content)
        # Format before the seal: another format may be sealed in another way, and is no damage.
        check_format(path / RUN_FILE, value)
        if not is_sealed:
            raise ValueError("its seal is missing")
        return record_of(value)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no {RUN_FILE} in it; {advice(path, 'expected the folder of a run')}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path / RUN_FILE}: damaged ({error}); its chunks are intact: put back a copy of {RUN_FILE}, "
            "or give --fresh to start the run again"
        ) from error


def check_format(path: Path, content: Mapping[str, Any]) -> None:
    """A StoreError for a run file of another format, which names the version that reads it."""
    if (there := content.get("format")) != FORMAT or isinstance(there, bool):
        raise StoreError(
            f"{path}: format {str(there)[:20]}, and this version reads {FORMAT}; "
            f"give another -o, --fresh to draw it again, or use samplerbench {version_that_wrote(content)}"
        )


def version_that_wrote(content: Mapping[str, Any]) -> str:
    """The version of samplerbench that wrote a run file, whatever its format."""
    # Field by field and with no record: a file of another format may lack any of them.
    environment = content.get("environment")
    versions = environment.get("versions") if isinstance(environment, dict) else None
    version = versions.get("samplerbench") if isinstance(versions, dict) else None
    return version[:40] if isinstance(version, str) else "of the version that wrote it"


def edited_samplers(path: Path, plan: Plan) -> list[str]:
    """The samplers of a plan whose source was edited since its run folder was last opened."""
    stored = stored_run(path)
    # A key that is new at a place that was there: the code behind the spec has changed.
    before = {cell.key for cell in stored.cells} if stored else set()
    known = set(stored.budgets) if stored else set()
    now = [cell for cell in plan.cells if cell.place in known]
    return sorted({cell.shown for cell in now if cell.key not in before})

"""What was worked out from a run's chunks and is kept beside them: JSON that knows to what it belongs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...samplers.files.atomic import write_beside_others
from ..draw.store import bytes_of, disk_errors, sealed, unsealed


def keep(file: Path, belongs_to: Any, value: Any) -> None:
    """Write a value with what it belongs to, unless it is there already; a run and reports may do so at once."""
    content = sealed(json.dumps({"of": belongs_to, "kept": value}))
    with disk_errors(file):
        if not file.exists() or bytes_of(file) != content:
            write_beside_others(file, content)


def kept(file: Path, belongs_to: Any) -> Any:
    """What `keep` wrote; None if nothing is there, if it is not what was written, or belongs to something else."""
    try:
        content = bytes_of(file)
        value = unsealed(content)
    except (OSError, ValueError, RecursionError):
        return None
    return value.get("kept") if value.get("of") == belongs_to else None

"""Rows of prompts: made where the network is, once each, and kept on disk where that takes long.

On the CPU an encoder computes in float32, whatever `--dtype` says; on an accelerator it computes there, in the
precision of the network. Both belong to the key of a cell. A text is always encoded by itself: no other text changes
its row.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ....samplers.errors import SamplerbenchError
from ....samplers.files.atomic import make_folder, write_beside_others
from ....samplers.predictor import NetworkFault, is_out_of_memory
from ....samplers.process import switches
from .text import TextEncoder

ROWS_KEPT = 128
"""More than the prompts of a block of samples; a row may take megabytes."""
LARGE = 100 * 10**6
"""Bytes of text encoders from which on their rows are kept on disk, and they leave the memory when these are there."""
MOST_ON_DISK = 4 * 10**9
"""Bytes that rows may take on disk; the oldest go first."""
ROW, SUM = "row", "sha256"
"""The tensor in a file, and what the file says of it."""
Place = tuple[torch.device, torch.dtype]
HERE: Place = (torch.device("cpu"), torch.float32)


def rows_of(one: Callable[[str], Tensor], encoders: Sequence[TextEncoder], *settings: object) -> TextRows:
    """Texts -> rows (n, L), from what makes the row of one text by these encoders and settings."""
    return TextRows(torch.no_grad()(one), tuple(encoders), (one.__qualname__, *settings))


class TextRows:
    """Texts -> rows (n, L), as a model's `encode`."""

    def __init__(
        self,
        one: Callable[[str], Tensor],
        encoders: tuple[TextEncoder, ...],
        settings: tuple[object, ...],
        place: Place = HERE,
    ) -> None:
        # By this name the keys of stored runs know it.
        self.__qualname__ = "rows_of.<locals>.<lambda>"
        self._one, self._encoders, self._settings, self._place = one, encoders, settings, place
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._there: dict[Place, TextRows] = {place: self}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """A row for each text."""
        return torch.stack([self._row(text) for text in texts])

    def on(self, device: torch.device, dtype: torch.dtype) -> TextRows:
        """These rows, computed on a device; one and the same for one place."""
        place = HERE if device.type == "cpu" else (device, dtype)
        if place not in self._there:
            self._there[place] = TextRows(self._one, self._encoders, self._settings, place)
        return self._there[place]

    def ready(self, texts: Sequence[str]) -> None:
        """Have the rows of all texts that will be asked for on disk, and let go of large encoders.

        The network, which is loaded after this, then has their memory. Where the rows are too many for the disk, or
        cannot be written, the encoders stay.
        """
        if not self._is_large:
            return
        different = list(dict.fromkeys(texts))
        if not different or len(different) * self._row(different[0]).nbytes > MOST_ON_DISK:
            return
        for text in different:
            self._row(text)
        if all(self._file(text).exists() for text in different):
            for encoder in self._encoders:
                encoder.release()
        remove_oldest(rows_folder(), MOST_ON_DISK)

    def _row(self, text: str) -> Tensor:
        """The row of a text: as it was made before, in this process or in another."""
        row = self._kept.pop(text, None)
        if row is None:
            row = self._read(text) if self._is_large else None
            row = self._made(text) if row is None else row
        self._kept[text] = row
        while len(self._kept) > ROWS_KEPT:
            self._kept.popitem(last=False)
        return row

    def _made(self, text: str) -> Tensor:
        """The row as the encoders make it, on the CPU in float32, which holds every number of a lower precision."""
        for encoder in self._encoders:
            encoder.place = self._place
        try:
            row = self._one(text).float().cpu()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise NetworkFault(self._no_memory(error)) from error
        device, dtype = self._place
        if not bool(row.isfinite().all()):
            advice = "try --dtype bfloat16 or float32" if dtype == torch.float16 else "look into its weights"
            raise NetworkFault(
                f"text encoder: answered with NaN or infinity for prompt {text[:80]!r}, in "
                f"{str(dtype).removeprefix('torch.')} on {device}; {advice}"
            )
        if self._is_large:
            self._write(text, row)
        return row

    def _no_memory(self, error: Exception) -> str:
        """What to say where the encoders do not fit."""
        device, dtype = self._place
        need = sum(encoder.weights_bytes for encoder in self._encoders) / 1e9
        advice = "try --dtype bfloat16, which takes half" if dtype == torch.float32 else "try a smaller model"
        advice = "its rows can be made where there is more" if device.type == "cpu" else advice
        return f"text encoder: no memory on {device} for its weights of {need:.2g} GB and a text; {advice}"

    # On disk

    @functools.cached_property
    def _is_large(self) -> bool:
        return sum(encoder.weights_bytes for encoder in self._encoders) >= LARGE

    @property
    def _known_by(self) -> list[object]:
        """All that a row depends on, but the text."""
        device, dtype = self._place
        # On the CPU threads and the processor's instructions move the last digits, as they do those of samples.
        machine = [torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()] if device.type == "cpu" else []
        versions = [torch.__version__, version("transformers")]
        return [
            [encoder.fingerprint for encoder in self._encoders], [str(one) for one in self._settings], device.type,
            str(dtype), machine, versions, code_hash(), switches(),
        ]  # fmt: skip

    def _file(self, text: str) -> Path:
        known = json.dumps([*self._known_by, text], ensure_ascii=True)
        return rows_folder() / f"{hashlib.sha256(known.encode()).hexdigest()}.safetensors"

    def _read(self, text: str) -> Tensor | None:
        """The row on disk; None where there is none, or a damaged one."""
        path = self._file(text)
        try:
            with safe_open(path, "pt") as file:
                row: Tensor = file.get_tensor(ROW)
                is_whole = row.ndim == 1 and row.dtype == torch.float32 and file.metadata()[SUM] == hash_of(row)
            os.utime(path)  # those that nobody asks for go first
        except Exception:  # a damaged file may end in any exception of its reader
            return None
        return row if is_whole else None

    def _write(self, text: str, row: Tensor) -> None:
        """Keep a row for other blocks and other processes, if the disk takes it."""
        path = self._file(text)
        with suppress(OSError, SamplerbenchError):
            make_folder(path.parent)
            write_beside_others(path, save({ROW: row.contiguous()}, {SUM: hash_of(row)}))


def hash_of(row: Tensor) -> str:
    """SHA-256 of the numbers of a row: a bit that the disk lost would be another prompt."""
    return hashlib.sha256(row.contiguous().numpy().tobytes()).hexdigest()


@functools.cache
def code_hash() -> str:
    """SHA-256 of the files of this package, which make the rows: what another version of them made is none of them."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def rows_folder() -> Path:
    """Where rows of prompts are kept."""
    return Path.home() / ".cache" / "samplerbench" / "texts"


def remove_oldest(folder: Path, most: int) -> None:
    """Remove files of a folder, the oldest first, until they take no more than this many bytes."""
    with suppress(OSError):
        files = [(entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(folder)]
        for path in beyond(sorted(files, reverse=True), most):
            Path(path).unlink(missing_ok=True)


def beyond(newest_first: Iterable[tuple[float, int, str]], most: int) -> list[str]:
    """The paths of what no longer fits into this many bytes."""
    taken, left_over = 0, []
    for _, size, path in newest_first:
        taken += size
        if taken > most:
            left_over.append(path)
    return left_over

"""Find a model's folder and read its description: only JSON is read here, and no code of the folder is executed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....samplers.errors import InputError, ModelError, SamplerbenchError, in_line
from ....samplers.files.weights import read_json
from ....samplers.predictor import is_out_of_memory
from ....samplers.variables import ALLOW_DOWNLOAD, is_on
from .hints import on_part, refuse_single_file
from .libraries import library

INDEX, CONFIG, SCHEDULER, WORDS = "model_index.json", "config.json", "scheduler_config.json", "tokenizer_config.json"
IDENTIFIER = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
BARE = "UNet2DModel"
"""The class of a network that may stand in a folder by itself, with the config of its scheduler beside it."""
HOMES = {
    "diffusers": (
        "AutoencoderKL", "DiTTransformer2DModel", "FluxTransformer2DModel", "SD3Transformer2DModel",
        "Transformer2DModel", "UNet2DConditionModel", "UNet2DModel", "VQModel",
    ),
    "transformers": (
        "CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer", "CLIPTokenizerFast", "T5EncoderModel",
        "T5Tokenizer", "T5TokenizerFast",
    ),
}  # fmt: skip
"""Library -> its classes that are ever loaded; all other classes are schedulers, of which only the config is read."""
LONGEST_NAME = 80
MOST_NUMBER = 1e30
"""What a number in a config is less than, either way."""
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
"""What an index may name; the last is the home of a part that is never loaded."""


@dataclass(frozen=True)
class Part:
    """One part of a pipeline: its class, and what its config says."""

    name: str
    cls: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def file(self) -> Path:
        """The file of its config."""
        return self.folder / config_name(self.name)

    @property
    def is_tokenizer(self) -> bool:
        """Whether its files are lists of words only."""
        return config_name(self.name) == WORDS

    def get(self, field: str, default: Any, kind: type | tuple[type, ...]) -> Any:
        """A field of the config; ModelError if it is of another type."""
        value = self.config.get(field)
        if value is None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise ModelError(f"{self.file}: {field} {short(value)}: expected a value of type {names}")
        return value

    def number(self, field: str, default: float) -> float:
        """A field that holds a number; ModelError unless it is finite."""
        value = self.get(field, default, (int, float))
        if not is_number(value):
            raise ModelError(f"{self.file}: {field} {short(value)}: expected a finite number")
        return float(value)

    def need(self, field: str, kind: type | tuple[type, ...]) -> Any:
        """A field that has to be there."""
        value = self.get(field, None, kind)
        if value is None:
            raise ModelError(f"{self.file}: no {field}, which a {self.cls} needs; fetch the file again")
        return value

    def expect(self, field: str, value: object, accepted: object, why: str) -> None:
        """ModelError unless a value is what is accepted."""
        if value != accepted:
            raise ModelError(f"{self.file}: {field} {short(value)}: expected {short(accepted)}, {why}")


@dataclass(frozen=True)
class Pipeline:
    """The contents of a model's folder."""

    spec: str
    folder: Path
    cls: str
    index: Mapping[str, Any]
    """The entries of its index: part -> (library, class), and options."""
    shared: Path | None = None
    """Another folder, with the parts that this one has no folder of."""

    def has(self, name: str) -> bool:
        """Whether the index names a part."""
        return bool(_class_of(self.index.get(name))[1])

    def part(self, name: str, accepted: Sequence[str]) -> Part:
        """A part of one of these classes, with its config read."""
        where = self.folder / INDEX
        home, cls = _class_of(self.index.get(name))
        if not cls:
            raise ModelError(f"{where}: no {name}, which a {word(self.cls)} needs; fetch the folder again")
        if cls not in accepted:
            hint = on_part(name, cls, accepted)
            raise ModelError(f"{where}: {name} is a {word(cls)}; expected {' or '.join(accepted)}{hint}")
        expected = next((library for library, classes in HOMES.items() if cls in classes), "diffusers")
        if home != expected:
            raise ModelError(f"{where}: {name} is a {cls} of {short(home)}; expected that of {expected!r}")
        # The parts of a lone U-Net lie beside each other, without folders of their own.
        homes = [home / name for home in (self.folder, self.shared) if home]
        folder = next((home for home in homes if home.is_dir()), self.folder)
        file = folder / config_name(name)
        spared = file.name == WORDS and not file.exists()  # old tokenizers have none
        return Part(name, cls, folder, {} if spared else read_config(file))


def config_name(part: str) -> str:
    """The name of the file that a part's config is in."""
    if part == "scheduler":
        return SCHEDULER
    return WORDS if part.startswith("tokenizer") else CONFIG


def read_pipeline(argument: str) -> Pipeline:
    """The pipeline in a folder or of an identifier on this machine; what names code of its own is refused."""
    spec = f"diffusers:{argument}"
    if not argument:
        raise InputError(
            f"model {spec!r}: expected a folder or an identifier, as in diffusers:DIR or diffusers:OWNER/NAME"
        )
    folder = folder_of(argument)
    bare = bare_index(folder)
    index = bare or read_config(folder / INDEX)
    refuse_code(index, folder / (CONFIG if bare else INDEX))
    return Pipeline(spec, folder, str(index.get("_class_name")), index)


def bare_index(folder: Path) -> dict[str, Any]:
    """An index for a folder without one that holds a lone U-Net; else {}."""
    if (folder / INDEX).exists() or not (folder / CONFIG).is_file():
        return {}
    config = read_config(folder / CONFIG)
    if config.get("_class_name") != BARE:
        return {}
    beside = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    scheduler = read_config(beside / SCHEDULER)
    return {
        "_class_name": BARE,
        "unet": ["diffusers", BARE],
        "scheduler": ["diffusers", scheduler.get("_class_name")],
        **({"id2label": config["id2label"]} if "id2label" in config else {}),
    }


def refuse_code(index: Mapping[str, Any], where: Path) -> None:
    """ModelError for an index that names a module of its own, anywhere in it; none is ever imported."""
    if not isinstance(index.get("_class_name"), str):
        raise ModelError(
            f"{where}: _class_name {short(index.get('_class_name'))}: expected the name of a pipeline of diffusers; "
            "code of a model's own is never run"
        )
    for name, entry in index.items():
        home, cls = _class_of(entry)
        if cls and home not in LIBRARIES:
            raise ModelError(
                f"{where}: {word(name)} is a {word(cls)} of {short(home)}: expected a class of diffusers or "
                "transformers; code of a model's own is never run"
            )


def read_config(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ModelError if it is not there, is no such file, or names code of its own."""
    if not path.exists():
        raise ModelError(
            f"{path}: no such file; expected a folder as save_pretrained of diffusers writes, with all its files"
        )
    content = read_json(path)
    if "auto_map" in content:
        raise ModelError(f"{path}: auto_map names code of the model's own, which is never run; use another model")
    if "_class_name" in content and content.get("quantization_config") is not None:
        raise ModelError(
            f"{path}: quantization_config: its weights are of fewer bits than are read; expected float16, bfloat16 or "
            "float32: take the folder of the model before it was quantized"
        )
    return content


def folder_of(argument: str) -> Path:
    """The folder that a path is, or that holds an identifier's files on this machine."""
    path = Path(argument).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        refuse_single_file(path, f"diffusers:{argument}")
    if not IDENTIFIER.fullmatch(argument):
        raise ModelError(f"model 'diffusers:{argument}': no such folder")
    return fetch(argument) if is_on(ALLOW_DOWNLOAD, os.environ) else find_kept(argument)


def find_kept(identifier: str) -> Path:
    """The folder of an identifier whose files were fetched earlier; nothing is asked of any network."""
    hub = library("huggingface_hub")
    try:
        return Path(hub.snapshot_download(identifier, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model 'diffusers:{identifier}': neither a folder nor a model on this machine; add --allow-download to "
            "fetch it"
        ) from error


def fetch(identifier: str) -> Path:
    """The folder of an identifier with its files fetched: first what describes it, then the weights of its parts."""
    hub = library("huggingface_hub")
    try:
        folder = Path(hub.snapshot_download(identifier, allow_patterns=["*.json"]))
        index = read_config(folder / INDEX) if (folder / INDEX).exists() else bare_index(folder)
        # Before the weights are fetched: what is refused costs no gigabytes.
        refuse_code(index, folder / INDEX)
        parts = [name for name, entry in index.items() if _class_of(entry)[1]]
        wanted = [f"{name}/*.{kind}" for name in parts for kind in ("safetensors", "txt", "model")]
        wanted.append("diffusion_pytorch_model.safetensors")
        hub.snapshot_download(identifier, allow_patterns=wanted, ignore_patterns=["*non_ema*", "*.fp16.*"])
    except ModelError:
        raise
    except Exception as error:  # whatever the transport raises
        raise ModelError(
            f"model 'diffusers:{identifier}': cannot be fetched ({type(error).__name__}); see that the identifier is "
            "right and the network is there"
        ) from error
    return folder


def _class_of(entry: object) -> tuple[str | None, str | None]:
    """(library, class) of an entry of an index; (None, None) for a part that is left out, and for an option."""
    pair = isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == 2  # noqa: PLR2004  (as said)
    if not pair or not all(isinstance(name, str) for name in entry):  # type: ignore[attr-defined]
        return None, None
    return entry[0], entry[1]  # type: ignore[index]


def word(name: str) -> str:
    """A name of Python as it is, and anything else as an error shows a value."""
    return name if name.isidentifier() and name.isascii() and len(name) <= LONGEST_NAME else short(name)


@contextmanager
def at_fault(folder: Path, what: str) -> Iterator[None]:
    """Blame the files in a folder for what a library raises inside the block: bad ones end in any exception."""
    try:
        yield
    except SamplerbenchError:
        raise
    except Exception as error:
        if is_out_of_memory(error):  # no fault of a file
            raise
        raise ModelError(f"{folder}: {what} ({in_line(error)}); fetch it again") from error


def is_number(value: object) -> bool:
    """Whether a value of a config is a number that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST_NUMBER


def short(value: object) -> str:
    """A value of a config as an error shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004

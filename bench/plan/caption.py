"""The caption under a generated picture, as image tools write it: "a cat / Negative prompt: ... / Steps: 40, ..."."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ...samplers.errors import InputError, ModelError
from ...samplers.factories import is_there
from ...samplers.files.images import file_bytes
from ...samplers.files.png_text import MOST_TEXT, SIGNATURE, png_texts

FIELD = re.compile(r'\s*(\w[\w \-/]*?)\s*:\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
SETTINGS = re.compile(r"(?:^|[\n,.;\s])(?=steps\s*:\s*\S)", re.IGNORECASE)
"""Where the settings begin: every tool that writes such a caption begins with the steps."""
NEGATIVE = re.compile(r"negative prompt\s*:", re.IGNORECASE)
PARAMETERS, WORKFLOW = "parameters", "workflow"
"""What A1111 and ComfyUI call the text in a PNG file."""
SHAPE = 'expected a caption such as "Steps: 40, Sampler: Euler a, CFG scale: 13", or a PNG file that has one'


@dataclass(frozen=True)
class Caption:
    """What a caption says."""

    prompt: str
    negative: str
    fields: dict[str, str]
    """Its settings as written, in its order."""

    def get(self, *names: str) -> str:
        """The value of the first of these fields, whatever their case; '' where there is none."""
        values = {name.lower(): value for name, value in self.fields.items()}
        return next((values[name] for name in names if name in values), "")


def caption_from(words: str) -> Caption:
    """The caption that is given as text, in a PNG file or in a text file."""
    if is_there(Path(words)):
        return parse_caption(text_of_file(Path(words)))
    # A file name that was mistyped would otherwise be read as a caption without settings.
    if re.fullmatch(r"\S+\.(png|txt|jpe?g|webp)", words, re.IGNORECASE):
        raise InputError(f"caption {words!r}: no such file; {SHAPE}")
    return parse_caption(words)


def text_of_file(path: Path) -> str:
    """The caption in a file; ModelError where there is none."""
    data = file_bytes(path)
    if not data.startswith(SIGNATURE):
        if len(data) > MOST_TEXT or b"\0" in data:
            raise ModelError(f"{path}: neither a PNG file nor a text; {SHAPE}")
        return data.decode(errors="replace")
    texts = png_texts(path)
    if PARAMETERS in texts:
        return texts[PARAMETERS]
    if WORKFLOW in texts or "prompt" in texts:
        raise ModelError(f"{path}: holds a workflow of ComfyUI and no caption; type the settings of its KSampler")
    raise ModelError(
        f"{path}: holds no settings: image sites strip them, and a run's picture has its settings in the table; {SHAPE}"
    )


def parse_caption(text: str) -> Caption:
    """The parts of a caption; InputError where it has no settings."""
    if len(text) > MOST_TEXT:
        raise InputError(f"caption: {len(text):,} characters; expected at most {MOST_TEXT:,}")
    # The settings begin at the last "Steps:", since a prompt may hold the word too; without any, the whole text may be
    # settings.
    begins = [match.end() for match in SETTINGS.finditer(text)]
    start = begins[-1] if begins else (0 if FIELD.match(text) and not NEGATIVE.match(text) else len(text))
    pairs = [(match[1], unquote(match[2])) for match in FIELD.finditer(text[start:])]
    fields: dict[str, str] = {}
    for name, value in pairs:
        # Of a name that stands twice the first counts: extensions of a tool append their settings.
        fields.setdefault(name, value)
    if not fields:
        raise InputError(f"caption {text[:60]!r}: no settings in it; {SHAPE}")
    prompt, *negative = NEGATIVE.split(text[:start], maxsplit=1)
    return Caption(prompt.strip(" \n,"), "".join(negative).strip(" \n,"), fields)


def unquote(value: str) -> str:
    """A value as it was before it was put in quotes."""
    text = value.strip()
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError:
            return text.strip('"')
    return text

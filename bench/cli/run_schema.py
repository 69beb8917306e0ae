"""run.json as a JSON schema, made from the types that check the file when it is read."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import msgspec

from ..plan import record
from ..plan.config import LATER, Config
from ..plan.keys import FORMAT
from ..plan.settings import SETTINGS
from .listing import field_docstrings

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SEAL = {
    "type": "string", "pattern": "^[0-9a-f]{64}$",
    "description": "SHA-256 of all bytes of the file before this entry, which is its last.",
}  # fmt: skip


def run_schema() -> dict[str, Any]:
    """The schema. Conditions beyond it, such as that the cells belong to the settings, are checked elsewhere."""
    # The types say shapes and bounds; descriptions are the docstrings under the fields, which msgspec does not read.
    schema = msgspec.json.schema(record.RunRecord)
    parts: dict[str, dict[str, Any]] = schema["$defs"]
    for name, part in parts.items():
        said = words_on(getattr(record, name))
        for field, entry in part["properties"].items():
            if text := said.get(field):
                entry["description"] = text
            if "pattern" in entry:  # Python's ends of a text, in the words of JavaScript
                entry["pattern"] = entry["pattern"].replace(r"\A", "^").replace(r"\Z", "$")
    whole = parts["RunRecord"]["properties"]
    del whole["unknown_settings"]  # is found as the file is read, and not in it
    # A program that reads the file by this schema must refuse another format, in which entries may mean something else.
    whole["format"]["const"] = FORMAT
    whole["sha256"] = SEAL
    parts["RunRecord"]["required"].append("sha256")
    # The types have defaults for all settings; in a file only those may be absent that later versions added.
    parts["Config"]["required"] = [field.name for field in fields(Config) if field.name not in LATER]
    return {"$schema": DIALECT, "title": "run.json of samplerbench", **schema}


def words_on(kind: type) -> dict[str, str]:
    """The description of each field of a record: its docstring, or the help of a setting's option."""
    if kind is not Config:
        return field_docstrings(kind)
    nulls = {one.name: f" null: {one.default_words}." for one in SETTINGS if one.default is None and one.default_words}
    return {one.name: one.help + nulls.get(one.name, "") for one in SETTINGS}


def run_schema_text() -> str:
    """The schema as a file."""
    return json.dumps(run_schema(), indent=1, ensure_ascii=False) + "\n"

"""Records in JSON files: what an error says of the field that is not what it should be."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from msgspec import Meta, Struct

from samplerbench.samplers.errors import ModelError
from samplerbench.samplers.files.records import record_from


class Inner(TypedDict):
    count: Annotated[int, Meta(ge=1, description="a number from 1")]
    words: Annotated[tuple[str, ...], Meta(description="words")]


@dataclass(frozen=True)
class Outer:
    name: Annotated[str, Meta(description="a text")]
    inner: Annotated[Inner, Meta(description="an object")]
    plain: int = 0


class Strict(Struct, forbid_unknown_fields=True):
    width: int
    height: int = 1

    def __post_init__(self):
        if self.width < self.height:
            raise ValueError("width is below height")


GOOD: dict[str, Any] = {"name": "a", "inner": {"count": 2, "words": ["b"]}, "more": 1}


def test_a_record_is_read_with_what_it_does_not_know_left_out():
    assert record_from(GOOD, Outer, Path("x.json")) == Outer("a", {"count": 2, "words": ("b",)})


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        ({**GOOD, "name": 3}, Outer, "name is '3'; expected a text"),
        ({**GOOD, "inner": []}, Outer, "inner is '[]'; expected an object"),
        ({**GOOD, "inner": {"count": 0, "words": []}}, Outer, "inner count is '0'; expected a number from 1"),
        ({**GOOD, "inner": {"count": True, "words": []}}, Outer, "inner count is 'True'; expected a number from 1"),
        ({**GOOD, "inner": {"count": 1, "words": ["a", 2]}}, Outer, "inner words is '['a', 2]'; expected words"),
        ({**GOOD, "inner": {"count": 1}}, Outer, "inner words is 'None'; expected words"),
        ({**GOOD, "plain": "x"}, Outer, "plain is 'x'; expected int, got str"),
        ({}, Outer, "name is 'None'; expected a text"),
        ({"width": 1, "heigth": 2}, Strict, "unknown field 'heigth' (did you mean 'height'?); fields: width, height"),
        ({"width": 1, "height": 2}, Strict, "width is below height"),
        ({"height": 2}, Strict, "width is 'None'; expected"),
    ],
)
def test_an_error_names_file_field_and_what_is_expected(content, kind, words):
    with pytest.raises(ModelError) as caught:
        record_from(content, kind, Path("x.json"))
    assert str(caught.value).replace('"', "'").startswith(f"x.json: {words}")
    assert "\n" not in str(caught.value)

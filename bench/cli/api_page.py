"""The public names of `samplerbench`, as `samplerbench list api` shows them and as a page of documentation."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from .listing import field_docstrings

PACKAGE = __package__.partition(".")[0]
WIDTH = 100
"""The most characters of a signature in one line; a longer one has a line for each parameter."""
SHOWN = ("__call__", "__len__", "__sub__")
"""Special methods that are part of the interface of a class."""
HEAD = """# Python

Made by `samplerbench list api --markdown > docs/api.md` from the docstrings of everything that `samplerbench` exports:

```python
import samplerbench as sb
```

[What is stable, and for how long](plugins.md#what-is-stable-and-for-how-long) holds for these names. Shapes are in
brackets: n samples, \\*shape of one state without the batch, N reference images, d numbers of a row."""


class Verbatim:
    """An annotation that a signature shows as it is written in the source."""

    def __init__(self, text: object) -> None:
        self.text = text

    def __repr__(self) -> str:
        """The text, without quotes."""
        return self.text if isinstance(self.text, str) else inspect.formatannotation(self.text)


def public_names() -> dict[str, Any]:
    """Every name that the package exports, with its object."""
    package = importlib.import_module(PACKAGE)
    return {name: getattr(package, name) for name in sorted(package.__all__, key=str.lower)}


def api_listing() -> list[dict[str, str]]:
    """A row for each public name: the name and the first line of its description."""
    return [{"name": name, "what it is": description(name, thing)} for name, thing in public_names().items()]


def api_page() -> str:
    """The reference in Markdown: functions, classes, errors, then types and constants."""
    sections: dict[str, list[str]] = {"Functions": [], "Classes": [], "Errors": [], "Types and constants": []}
    for name, thing in public_names().items():
        if inspect.isfunction(thing):
            heading, entry = "Functions", function_entry(name, thing)
        elif is_class(thing) and issubclass(thing, Exception):
            heading, entry = "Errors", error_entry(name, thing)
        # The errors, which are classes too, were taken out above.
        elif is_class(thing):
            heading, entry = "Classes", class_entry(name, thing)
        else:
            heading, entry = "Types and constants", value_entry(name)
        sections[heading] += [f"### {name}", *entry]
    blocks = [HEAD, *(block for heading, entries in sections.items() for block in (f"## {heading}", *entries))]
    return "\n\n".join(blocks) + "\n"


def description(name: str, thing: object) -> str:
    """The first line of the description of a public name in the source."""
    is_code = inspect.isfunction(thing) or is_class(thing)
    return ((inspect.getdoc(thing) or "") if is_code else definition_of(name)[1]).partition("\n")[0]


def is_class(thing: object) -> bool:
    """Whether a public name is a class of the package, and not an alias of a type of Python."""
    return isinstance(thing, type) and thing.__module__.startswith(f"{PACKAGE}.")


# ---- Entries ----


def function_entry(name: str, function: Any) -> Iterator[str]:
    """Signature and docstring."""
    yield code(signature_of(function, name))
    yield as_markdown(inspect.getdoc(function) or "")


def error_entry(name: str, error: type[Exception]) -> Iterator[str]:
    """The docstring of an error, and its exit code on the command line."""
    bases = ", ".join(base.__name__ for base in error.__bases__)
    yield code(f"class {name}({bases})")
    yield f"{as_markdown(inspect.getdoc(error) or '')} Exit code {getattr(error, 'exit_code', 1)}."


def class_entry(name: str, cls: type) -> Iterator[str]:
    """The signature of a class, its docstring, then its attributes and its methods."""
    # A protocol or an abstract class is implemented and never called: its signature would mislead.
    is_made_by_users = not inspect.isabstract(cls) and not getattr(cls, "_is_protocol", False)
    bases = [base.__name__ for base in cls.__bases__ if base is not object]
    yield code(signature_of(cls, name) if is_made_by_users else f"class {name}({', '.join(bases)})")
    yield as_markdown(inspect.getdoc(cls) or "")
    if is_made_by_users and bases:
        yield f"It is a `{bases[0]}`, with what that has."
    items = [*attributes_of(cls), *methods_of(cls)]
    if items:
        yield "\n".join(f"- `{item}`{item_text(text)}" for item, text in items)


def value_entry(name: str) -> Iterator[str]:
    """The definition of a type or a constant, and the docstring under it."""
    text, meaning = definition_of(name)
    yield code(text)
    if meaning:
        yield as_markdown(meaning)


def attributes_of(cls: type) -> Iterator[tuple[str, str]]:
    """(name and type, meaning) of the fields, class attributes and properties that a class defines itself."""
    meanings = field_docstrings(cls)
    annotations = inspect.get_annotations(cls)
    # Annotations first: they stand in the order of the source, and a field without a default is in no other place.
    for name, value in {**dict.fromkeys(annotations), **vars(cls)}.items():
        # A property has its function as `fget`, a cached property as `func`.
        getter = getattr(value, "fget", None) or getattr(value, "func", None)
        if name.startswith("_") or (callable(value) and name not in annotations):
            continue
        if getter:
            yield f"{name}: {Verbatim(getter.__annotations__['return'])}", inspect.getdoc(getter) or ""
        elif name in annotations or name in meanings:
            kind = annotations.get(name)
            yield f"{name}: {Verbatim(kind)}" if kind else f"{name} = {repr_of(value)}", meanings.get(name, "")


def methods_of(cls: type) -> Iterator[tuple[str, str]]:
    """(signature, docstring) of the methods that a class defines itself."""
    for name, value in vars(cls).items():
        if inspect.isfunction(value) and (not name.startswith("_") or name in SHOWN):
            yield one_line(signature_of(value, name)), inspect.getdoc(value) or ""


# ---- Source ----


def signature_of(thing: Any, name: str) -> str:
    """The signature of a function or a class, with annotations as in the source, broken if it is long."""
    found = inspect.signature(thing)
    public = [p for p in found.parameters.values() if not p.name.startswith("_")]
    # Annotations are texts, since the modules postpone them: printed as they are, without their quotes.
    parameters = [p.replace(annotation=_verbatim(p.annotation), default=_default(p.default)) for p in public]
    returns = found.empty if isinstance(thing, type) else _verbatim(found.return_annotation)
    exact = found.replace(parameters=parameters, return_annotation=returns)
    text = f"{name}{exact}"
    # "<factory>" is what a dataclass shows where a default is made at each call.
    return (text if len(text) <= WIDTH else f"{name}{_signature_lines(exact)}").replace("<factory>", "...")


def _verbatim(annotation: object) -> object:
    return annotation if annotation is inspect.Parameter.empty else Verbatim(annotation)


def _default(value: object) -> object:
    return value if value is inspect.Parameter.empty else Verbatim(repr_of(value))


def repr_of(value: object) -> str:
    """The repr of a value, with double quotes."""
    text = repr(value)
    return text if '"' in text else text.replace("'", '"')


def _signature_lines(signature: inspect.Signature) -> str:
    """A signature with a line for each parameter."""
    lines: list[str] = []
    parameters = list(signature.parameters.values())
    for before, parameter in pairwise([None, *parameters]):
        assert parameter is not None
        star = parameter.KEYWORD_ONLY
        # `inspect` writes the star only in a signature of one line; here it is placed by hand before the first of its
        # kind.
        if parameter.kind is star and (before is None or before.kind not in (star, parameter.VAR_POSITIONAL)):
            lines.append("*")
        lines.append(str(parameter))
    # What is left of a signature without its parameters: the arrow and the type behind it.
    returns = str(signature.replace(parameters=[])).removeprefix("()")
    return "(\n" + "".join(f"    {line},\n" for line in lines) + f"){returns}"


def definition_of(name: str) -> tuple[str, str]:
    """The definition of a name that is neither class nor function, and the docstring under it."""
    package = importlib.import_module(PACKAGE)
    home = importlib.import_module(f"{PACKAGE}.{homes(package)[name]}")
    # A constant has neither docstring nor signature at run time, so both are read from the source.
    source = inspect.getsource(home)
    body = ast.parse(source).body
    for statement, under in pairwise([*body, ast.Pass()]):
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            written = ast.get_source_segment(source, statement) or ""
            match under:
                case ast.Expr(value=ast.Constant(value=str(meaning))):
                    return written, inspect.cleandoc(meaning)
            return written, ""
    raise LookupError(f"{name}: is not defined at the top level of {home.__name__}")


def homes(package: Any) -> Mapping[str, str]:
    """The module of each public name, below the package."""
    # The package loads its names when they are asked for, and keeps where each is.
    found: Mapping[str, str] = package._HOME_OF
    return found


# ---- Markdown ----


def code(text: str) -> str:
    """A block of Python."""
    return f"```python\n{text}\n```"


def one_line(text: str) -> str:
    """A signature in one line."""
    return re.sub(r",\s*\)", ")", " ".join(text.split()).replace("( ", "("))


def item_text(text: str) -> str:
    """The text of an item of a list, with its further paragraphs indented."""
    paragraphs = [as_markdown(" ".join(paragraph.split())) for paragraph in text.split("\n\n")]
    return f": {paragraphs[0]}" + "".join(f"\n\n    {more}" for more in paragraphs[1:]) if text else ""


def as_markdown(text: str) -> str:
    """A docstring, escaped for Markdown except between backticks."""
    parts = re.split(r"(`+[^`]*`+)", text)
    # `split` with a group puts what is between backticks at the odd places.
    return "".join(part if i % 2 else re.sub(r"([*<]|\b_|_\b)", r"\\\1", part) for i, part in enumerate(parts))

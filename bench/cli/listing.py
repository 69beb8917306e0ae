"""The rows and pages that `samplerbench list` prints about registered things."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, get_args, get_origin

from ...samplers.catalogue import Catalogue
from ...samplers.errors import InputError, pass_on
from ...samplers.options import File, Option, describe_options, options_of
from ...samplers.registry import Registry
from ...samplers.sampler import Sampler, nfe_rule

ABOUT_GRIDS = """\
Made by `samplerbench list grids --markdown`. A grid places the levels of a run of S steps; T is the number of
timesteps of a VP schedule. The clean end follows the last level.

**A schedule that starts at alpha = 0** (zero terminal SNR) has an infinite sigma / alpha there. The grids that are laid
out in sigma / alpha (ays, beta, cosine, karras, logsnr, polyexponential) start at 4096 instead, with alpha = 2^-12, as
published samplers do; the others start at alpha = 0 itself. A flow, which starts there too, takes uniform, shift and
beta:variable=t.

**A network of whole timesteps** gets the nearest ones. Where that moves a level by more than 5 % of its sigma / alpha,
a warning and the note of the row say so. `was moved to whole timesteps: sigma/alpha 213.89 where the grid has 7101.4`
is Karras' grid of 20 steps on the cosine schedule, most of which lies between the last two timesteps.

**A list** such as `--grid 999/500/20` is timesteps, of EDM and flow models sigmas. A run starts from noise only, and a
sample at its first level would be alpha x0 + sigma eps: a list that starts where alpha / sigma is above 0.02, and above
twice that of the schedule's start, draws from another distribution. On the embedded model
`samplerbench run -s dpm-solver++ --grid 200/100/50` has a CLIP score of 29.5, and `--grid 999/500/20` one of 71.2. A
warning says so, and so do the note of the row and the column `warning` of table.csv; from Python the state can be
given, as `x_init`. A named grid starts where its definition says."""


def listing(registry: Registry, kind: str) -> list[dict[str, str]]:
    """A dict for each name, all with the same keys."""
    catalogue: Catalogue[object] = getattr(registry, kind)
    rows = []
    for name in sorted(catalogue.things):
        thing = catalogue.things[name]
        row = {"name": name}
        if isinstance(thing, type) and issubclass(thing, Sampler):
            row |= {"order": claim(order, thing), "NFE": claim(nfe_rule, thing), "options": describe_options(thing)}
        elif kind == "grids" and isinstance(thing, type):
            row["options"] = describe_options(thing)
        elif kind == "metrics":
            row |= metric_facts(thing)
        elif kind in {"extractors", "data", "engines"}:
            row["what it is"] = first_line(thing)
        rows.append(row | {"origin": str(catalogue.origins[name])})
    return rows


def metric_facts(metric: object) -> dict[str, str]:
    """The facts in a metric's class: extractor, direction, unit, fewest samples."""
    facts = {"reads": "extractor", "better": "better", "unit": "unit", "least n": "least"}
    said = {heading: str(getattr(metric, name, "")) for heading, name in facts.items()}
    per_column = getattr(metric, "least_per_column", 0)
    return said | ({"least n": f"{per_column} d"} if per_column else {})


def first_line(thing: object) -> str:
    """The first line of a factory's own docstring; '' if it has none."""
    doc = getattr(thing, "__doc__", None)
    return inspect.cleandoc(doc).partition("\n")[0] if isinstance(doc, str) else ""


def claim(ask: Callable[[Sampler], str], cls: type[Sampler]) -> str:
    """A claim of a sampler with its default options; if the plugin raises, the error is shown in its place."""
    try:
        return ask(cls())
    except BaseException as error:
        pass_on(error)
        return f"raises {type(error).__name__}"


def order(sampler: Sampler) -> str:
    """The order of convergence, or "stochastic"."""
    return "stochastic" if sampler.convergence is None else str(sampler.convergence)


def page(registry: Registry, kind: str) -> str:
    """A page of documentation on all registered things of a kind, in Markdown, from their docstrings."""
    if kind == "samplers":
        return _joined(_samplers_page(registry))
    if kind == "grids":
        return _joined(_grids_page(registry))
    if kind == "metrics":
        return _joined(_metrics_page(registry))
    raise InputError(f"--markdown: there is no page on {kind}; expected samplers, grids or metrics")


def _joined(blocks: Iterator[str]) -> str:
    return "\n\n".join(blocks) + "\n"


def _samplers_page(registry: Registry) -> Iterator[str]:
    things = dict(sorted(registry.samplers.things.items()))
    yield "# Samplers"
    yield (
        "Made by `samplerbench list samplers --markdown`. Order and NFE (calls of the model) are those of the default "
        "options.\nA spec is `name:option=value,option=value`; `grid=NAME` may be one of them. Another name stands "
        "for the spec beside it."
    )
    rows = [[f"[{name}](#{_anchor(name)})", claim(order, cls), claim(nfe_rule, cls)] for name, cls in things.items()]
    yield _table(["sampler", "order", "NFE"], rows)
    for name, cls in things.items():
        yield _heading(name)
        yield from paragraphs_of(cls)
        if cls.__doc__ and not _is_made_by_dataclass(cls):
            yield f"One step: {inspect.cleandoc(cls.__doc__)}"
        yield f"Order: {claim(order, cls)}. NFE: {claim(nfe_rule, cls)}."
        if cls.aliases:
            names = [f"{alias} (`{name}{f':{preset}' if preset else ''}`)" for alias, preset in cls.aliases.items()]
            yield f"Other names: {', '.join(names)}."
        yield from _options_table(cls)


def _grids_page(registry: Registry) -> Iterator[str]:
    names: dict[type, list[str]] = {}
    for name, cls in sorted(registry.grids.things.items()):
        names.setdefault(cls, []).append(name)
    yield "# Grids"
    yield ABOUT_GRIDS
    for cls, of_cls in names.items():
        yield f"## {', '.join(of_cls)}"
        if cls.__doc__ and not _is_made_by_dataclass(cls):
            yield inspect.cleandoc(cls.__doc__)
        yield from _options_table(cls)


def _metrics_page(registry: Registry) -> Iterator[str]:
    things = dict(sorted(registry.metrics.things.items()))
    yield "# Metrics"
    yield (
        "Made by `samplerbench list metrics --markdown`. Each is asked for by `samplerbench run --metric NAME`, and "
        "has a\n[95 % interval](method.md#what-an-interval-is) of its value at that n, for these prompts and this "
        "reference.\n"
        "*reads* is what an extractor says of an image: the model's own, or [another](extractors.md).\n"
        "Without one the metric stays empty, as it does with fewer samples than *least n*, where d is the number of "
        "features.\nNumbers of two extractors, or of unequal numbers of samples, are not comparable."
    )
    facts = {name: metric_facts(cls) for name, cls in things.items()}
    headings = list(next(iter(facts.values()), {}))
    yield _table(["metric", *headings], [[f"[{name}](#{_anchor(name)})", *facts[name].values()] for name in things])
    for name, cls in things.items():
        yield _heading(name)
        yield from paragraphs_of(cls)
        if cls.__doc__:
            yield inspect.cleandoc(cls.__doc__)


SAME_AS, USE_IT = "Same as:", "Use it "
"""The beginnings of two paragraphs in a sampler's module docstring: which samplers it equals, when to use it."""


def paragraphs_of(cls: type) -> list[str]:
    """The paragraphs of the module docstring of a class, the two special ones marked; [] if there is none."""
    doc = inspect.cleandoc(getattr(sys.modules.get(cls.__module__), "__doc__", None) or "")
    marks = {SAME_AS: f"**{SAME_AS}**", USE_IT: f"**{USE_IT.strip()}** "}
    found = []
    for paragraph in filter(None, doc.split("\n\n")):
        start = next((mark for mark in marks if paragraph.startswith(mark)), "")
        found.append(marks.get(start, "") + paragraph.removeprefix(start))
    return found


def _options_table(cls: type) -> Iterator[str]:
    """A table of the options, with their values and their docstrings; nothing if there are none."""
    meanings = field_docstrings(cls)
    rows = [
        [f"`{name}`", _accepted(option), f"`{option.default}`", meanings.get(option.field, "")]
        for name, option in options_of(cls).items()
    ]
    if rows:
        yield _table(["option", "values", "default", "meaning"], rows)


def _accepted(option: Option) -> str:
    """The values of an option in words."""
    if get_origin(option.kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(option.kind))
    words = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text", File: "file"}
    return words.get(option.kind, getattr(option.kind, "__name__", str(option.kind)))


def field_docstrings(cls: type) -> dict[str, str]:
    """The docstring under each field or attribute of a class or its bases; {} if there is no source."""
    found: dict[str, str] = {}
    for part in reversed(cls.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for statement, under in pairwise(body):
            match (statement, under):
                case (
                    ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = " ".join(text.split())
    return found


def _is_made_by_dataclass(cls: type) -> bool:
    """Whether the docstring is the signature that `dataclass` sets where there is none."""
    return (cls.__doc__ or "").startswith(f"{cls.__name__}(")


def _anchor(name: str) -> str:
    """The anchor of a heading, with + and . spelt out, because tools make different anchors of them."""
    return name.replace("+", "-plus").replace(".", "-dot")


def _heading(name: str) -> str:
    """A heading, with its anchor if tools would make another one."""
    return f"## {name}" if _anchor(name) == name else f'<a id="{_anchor(name)}"></a>\n\n## {name}'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    """One line, with bars escaped, which would be borders."""
    return " ".join(text.split()).replace("|", "\\|")

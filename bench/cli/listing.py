"""The rows and pages that `samplerbench list` prints about registered things."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, Literal, get_args, get_origin

from ...samplers.catalogue import Catalogue
from ...samplers.errors import InputError, pass_on
from ...samplers.familiar import NOTES, SCHEDULES_AS_SPELT, TOOLS, advice_on, canonical, grid_for, spec_for
from ...samplers.options import File, Option, describe_options, options_of
from ...samplers.registry import BUILT_IN, Registry
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
    others = names_in_tools(registry) if kind == "samplers" else {}
    rows = []
    for name in sorted(catalogue.things):
        thing = catalogue.things[name]
        row = {"name": name}
        if isinstance(thing, type) and issubclass(thing, Sampler):
            # Claims are asked of an instance: they depend on the options.
            row |= {"order": claim(order, thing), "NFE": claim(nfe_rule, thing), "options": describe_options(thing)}
            row["other names"] = ", ".join(other_names(name, thing, others.get(name, ())))
        elif kind == "grids" and isinstance(thing, type):
            row["options"] = describe_options(thing)
        elif kind == "metrics":
            row |= metric_facts(thing)
        row["what it is"] = what_it_is(thing, catalogue)
        rows.append(row | {"origin": str(catalogue.origins[name])})
    return rows


FACTS = {
    "order": "order {}", "NFE": "NFE {}", "reads": "reads {}", "better": "{} is better", "unit": "in {}",
    "least n": "from {} images on", "options": "{}",
}  # fmt: skip
"""How a list for people says what stands in these fields of a row."""


def entry_for(row: dict[str, str]) -> tuple[str, list[str]]:
    """A row as a list for people has it: the name, and beside it what it is, its facts, its names, a stranger's
    origin."""
    facts = ", ".join(form.format(row[field]) for field, form in FACTS.items() if row.get(field))
    names = f"also: {row['other names']}" if row.get("other names") else ""
    # Nearly all are built in; to say so in each row would hide the others.
    origin = "" if is_built_in(row["origin"]) else f"from {row['origin']}"
    return row["name"], [row["what it is"], facts.replace("order stochastic", "stochastic"), names, origin]


def is_built_in(origin: str) -> bool:
    """Whether something came with samplerbench."""
    return origin.startswith(f"{BUILT_IN}.")


def origins_line(rows: Sequence[dict[str, str]]) -> str:
    """A line on the origin of what the list shows without one; '' where everything has one."""
    versions = {row["origin"].partition(" ")[2] for row in rows if is_built_in(row["origin"])}
    return f"Without an origin: {BUILT_IN} {', '.join(sorted(versions))}".rstrip() if versions else ""


def what_it_is(thing: object, catalogue: Catalogue[Any]) -> str:
    """The first line of what a thing's own docstring says, of its module's where it is the only one of that module."""
    if isinstance(thing, type):
        of_module = [
            other for other in catalogue.things.values() if getattr(other, "__module__", "") == thing.__module__
        ]
        module_doc = getattr(sys.modules.get(thing.__module__), "__doc__", None)
        # The usual case: a module is a method, and its docstring says which; the class's own is about one step.
        if set(of_module) == {thing} and module_doc:
            return inspect.cleandoc(module_doc).partition("\n")[0]
        return "" if _is_made_by_dataclass(thing) else first_line(thing)
    return first_line(thing)


def names_in_tools(registry: Registry) -> dict[str, list[str]]:
    """Each spec that a name of another tool stands for, with these names."""
    aliases = registry.aliases()
    found: dict[str, list[str]] = {}
    # Several tools may share a name, so it may come here more than once.
    for one in chain.from_iterable(TOOLS.values()):
        found.setdefault(spec_for(one, aliases) or one, []).append(one)
    return found


def other_names(name: str, cls: type[Sampler], theirs: Iterable[str]) -> list[str]:
    """The names that other tools, and the sampler itself, have for a sampler with its default options, each once."""
    # An alias with options names another sampler than this one at its defaults.
    own = [alias for alias, preset in cls.aliases.items() if not preset]
    # The sampler's own name in another spelling is not another name.
    found = {canonical(name): ""}
    for one in (*own, *theirs):
        found.setdefault(canonical(one), one)
    return [one for one in found.values() if one]


def names_listing(registry: Registry) -> list[dict[str, str]]:
    """A row for each name of a sampler in another tool: what to type here, or what it is."""
    aliases = registry.aliases()
    return [
        {
            "name": name,
            "tool": tool,
            "spec": spec,
            "what it is": advice.whole if advice and not spec else "",
            "note": NOTES.get((tool, name), ""),
        }
        for tool, names in TOOLS.items()
        for name in names
        # A list of one gives the value a name inside the comprehension.
        for spec in [registry.alias(name) or spec_for(name, aliases)]
        for advice in [advice_on(name, aliases)]
    ]


ABOUT_NAMES = """\
Made by `samplerbench list names --markdown > docs/names.md`. Every name of another tool is understood where a sampler
is asked for, in any case and with any of its schedules at the end: `-s "DPM++ 2M Karras"`, `-s dpmpp_2m_sde_gpu`,
`-s "Euler a Exponential"`. What has no sampler here is refused with what it is and what to take.

The same name need not mean the same pictures: noise, levels and the treatment of the last step differ between tools.
[Parity](parity.md) says how near each sampler comes to its namesake on the same levels and the same noise."""


def _names_page(registry: Registry) -> Iterator[str]:
    rows = names_listing(registry)
    yield "# Names in other tools"
    yield ABOUT_NAMES
    for tool in TOOLS:
        yield f"## {tool}"
        mine = [row for row in rows if row["tool"] == tool]
        yield _table(
            ["name", "here", "note"],
            [[row["name"], f"`{row['spec']}`" if row["spec"] else row["what it is"], row["note"]] for row in mine],
        )
    yield "## Schedules"
    yield (
        "At the end of a sampler's name; as `--grid` give the name on the right. To within a timestep the levels are "
        "the same."
    )
    grids = [[name, f"`{grid}`" if (grid := grid_for(name)) else "the model's own"] for name in SCHEDULES_AS_SPELT]
    yield _table(["schedule", "grid here"], grids)


def metric_facts(metric: object) -> dict[str, str]:
    """The facts in a metric's class: extractor, direction, unit, fewest samples."""
    facts = {"reads": "extractor", "better": "better", "unit": "unit", "least n": "least"}
    said = {heading: str(getattr(metric, name, "")) for heading, name in facts.items()}
    # A covariance needs a number of images that grows with the features, which only the extractor knows.
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
        return _join(_samplers_page(registry))
    if kind == "grids":
        return _join(_grids_page(registry))
    if kind == "metrics":
        return _join(_metrics_page(registry))
    if kind == "names":
        return _join(_names_page(registry))
    raise InputError(f"--markdown: there is no page on {kind}; expected samplers, grids, metrics or names")


def _join(blocks: Iterator[str]) -> str:
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
    # A grid may be registered under several names; it has one section.
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
        "has a\n[95 % interval](method.md#what-an-interval-is) of its value at that n, for the prompts of the run\n"
        "and its reference.\n"
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
        [f"`{name}`", _values_of(option), f"`{option.default}`", meanings.get(option.field, "")]
        for name, option in options_of(cls).items()
    ]
    if rows:
        yield _table(["option", "values", "default", "meaning"], rows)


def _values_of(option: Option) -> str:
    """The values of an option in words."""
    if get_origin(option.kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(option.kind))
    # A plugin may have an option of any type: its name is better than nothing.
    words = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text", File: "file"}
    return words.get(option.kind, getattr(option.kind, "__name__", str(option.kind)))


def field_docstrings(cls: type) -> dict[str, str]:
    """The docstring under each field or attribute of a class or its bases; {} if there is no source."""
    found: dict[str, str] = {}
    # Bases first: what a class says of a field replaces what its base says.
    for part in reversed(cls.__mro__[:-1]):
        found |= _own_field_docstrings(part)
    return found


@functools.lru_cache(maxsize=1024)  # to find a class Python parses its whole module, and most share a base
def _own_field_docstrings(cls: type) -> dict[str, str]:
    """Those under the fields and attributes that stand in the class itself."""
    try:
        # Python keeps no docstrings of fields, so they are read from the source, which is indented in a function.
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    found: dict[str, str] = {}
    for statement, under in pairwise(tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []):
        match (statement, under):
            # Only a text directly under the assignment belongs to it.
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

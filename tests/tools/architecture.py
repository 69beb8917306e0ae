"""The picture of ARCHITECTURE.md: the rooms of the package and which imports which.

`python tests/tools/architecture.py > docs/architecture.svg` draws it from the import statements, and a test holds
the file to that.
"""

import ast
import html
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = {
    "samplers": ("samplers/", "what a sampler is and acts on"),
    "samplers/nets": ("samplers/nets/", "built-in networks, training"),
    "plugins": ("plugins/", "everything that registers"),
    "bench/plan": ("bench/plan/", "cells and their keys"),
    "bench/draw": ("bench/draw/", "chunks, clock, store, engines"),
    "bench/judge": ("bench/judge/", "numbers and verdicts"),
    "bench/show": ("bench/show/", "tables, curves, pages"),
    "bench": ("bench/run, score, verify", "the public verbs"),
    "bench/conformance": ("bench/conformance/", "is a sampler right?"),
    "bench/cli": ("bench/cli/", "a module a command"),
}
"""By folder, the heading of its box and what is in it. samplers/files/ is drawn with samplers/."""
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 190, 46, 36, 46, 24
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1b2733; text-anchor: middle }
  .what { font-size: 11px; fill: #51606e }
  rect { fill: #f4f7fa; stroke: #8ba0b3; rx: 6 }
  .ground { fill: #ffffff; stroke: none }
  path { stroke: #5b7f9e; fill: none; marker-end: url(#head) }
"""


def room_of(path: Path) -> str:
    """The room of a module: its folder, as far as the picture tells them apart."""
    parts = path.relative_to(ROOT).parent.parts
    folder = "/".join(parts[:2])
    return folder if folder in NAMES else parts[0]


def targets(path: Path) -> list[Path]:
    """The files of the package that a module imports from."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            home = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for alias in node.names:
                places = (home / f"{alias.name}.py", home / alias.name / "__init__.py", home.with_suffix(".py"))
                found += [next((place for place in places if place.is_file()), home / "__init__.py")]
    return found


def imports() -> Counter[tuple[str, str]]:
    """(room, room that it imports) -> how many import statements."""
    found: Counter[tuple[str, str]] = Counter()
    for path in (path for part in ("samplers", "plugins", "bench") for path in sorted((ROOT / part).rglob("*.py"))):
        found.update((room_of(path), room_of(target)) for target in targets(path))
    return Counter({pair: count for pair, count in found.items() if pair[0] != pair[1]})


def reachable(room: str, below: dict[str, set[str]]) -> set[str]:
    """All rooms that a room imports, directly or by way of others."""
    return set().union(*({other} | reachable(other, below) for other in below[room]))


def picture() -> str:
    """The rooms as boxes, what imports above what it imports. Arrows that follow from two others are left out."""
    pairs = imports()
    below = {room: {b for a, b in pairs if a == room} for room in NAMES}
    order = list(TopologicalSorter(below).static_order())  # raises CycleError where rooms import each other
    rank: dict[str, int] = {}
    for room in order:
        rank[room] = max((rank[other] + 1 for other in below[room]), default=0)
    for room in reversed(order):  # next to what imports it
        rank[room] = min((rank[other] - 1 for other in NAMES if room in below[other]), default=rank[room])
    rows = [[room for room in NAMES if rank[room] == level] for level in range(max(rank.values()) + 1)]
    width = max(map(len, rows)) * (WIDTH + ACROSS) - ACROSS + 2 * MARGIN
    height = len(rows) * (HEIGHT + DOWN) - DOWN + 2 * MARGIN

    places: dict[str, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        left = (width - len(row) * (WIDTH + ACROSS) + ACROSS) / 2
        y = height - MARGIN - HEIGHT - level * (HEIGHT + DOWN)
        places |= {room: (left + i * (WIDTH + ACROSS), y) for i, room in enumerate(row)}

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<title>The rooms of samplerbench: an arrow goes to what is imported</title><style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
        'markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0 0 8 4 0 8z" style="fill:#5b7f9e;stroke:none"/></marker></defs>',
        f'<rect class="ground" width="{width}" height="{height}"/>',
    ]
    for a in NAMES:
        implied = set().union(*(reachable(other, below) for other in below[a]))
        for b in sorted(below[a] - implied):
            (x1, y1), (x2, y2) = places[a], places[b]
            weight = 1 + min(3.0, pairs[a, b] / 40)
            bend = (y1 + HEIGHT + y2) / 2
            lines.append(
                f'<path d="M{x1 + WIDTH / 2:g} {y1 + HEIGHT:g}C{x1 + WIDTH / 2:g} {bend:g} {x2 + WIDTH / 2:g} {bend:g} '
                f'{x2 + WIDTH / 2:g} {y2 - 2:g}" stroke-width="{weight:.2g}"><title>{pairs[a, b]} imports</title>'
                "</path>"
            )
    for room, (x, y) in places.items():
        name, what = map(html.escape, NAMES[room])
        lines += [
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}"/>',
            f'<text x="{x + WIDTH / 2:g}" y="{y + 20:g}">{name}</text>',
            f'<text class="what" x="{x + WIDTH / 2:g}" y="{y + 36:g}">{what}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    print(picture(), end="")

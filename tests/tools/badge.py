"""The badge of the README: `python tests/tools/badge.py > docs/pictures/badge.svg`, from what pyproject.toml says."""

import html
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SYSTEMS = {"POSIX :: Linux": "Linux", "MacOS": "macOS"}
"""By classifier, as people write it."""
HEIGHT, PADDING, LETTER = 22, 9, 6.8
"""In pixels; a letter is as wide as those of 12 pixel system fonts are in the mean."""


def badge() -> str:
    """Systems, Python and devices on which the program runs, as SVG."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Operating System :: "
    systems = [SYSTEMS[c.removeprefix(prefix)] for c in project["classifiers"] if c.startswith(prefix)]
    python = project["requires-python"].removeprefix(">=")
    texts = ["runs on", f"{', '.join(sorted(systems))}", f"Python {python} and later", "CPU or CUDA"]
    widths = [round(2 * PADDING + LETTER * len(text)) for text in texts]
    parts, x = [], 0
    for i, (text, width) in enumerate(zip(texts, widths, strict=True)):
        fill = "#51606e" if i == 0 else ("#1f6f8b", "#2a7f62")[i % 2]
        parts.append(f'<rect x="{x}" width="{width}" height="{HEIGHT}" fill="{fill}"/>')
        parts.append(f'<text x="{x + width / 2:g}" y="15">{html.escape(text)}</text>')
        x += width
    label = html.escape(f"{texts[0]} {'; '.join(texts[1:])}")
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x}" height="{HEIGHT}" role="img" aria-label="{label}">',
        f"<title>{label}</title>",
        "<style>text { font: 12px system-ui, sans-serif; fill: #ffffff; text-anchor: middle }</style>",
        *parts,
        "</svg>",
    ])  # fmt: skip


if __name__ == "__main__":
    print(badge())

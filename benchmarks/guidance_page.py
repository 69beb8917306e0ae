"""Put the tables of a run at several guidances into pages, in place of those that are there:

python benchmarks/guidance_page.py RUN PAGE...

Each table of a page stands between two lines, `<!-- TABLE -->` and `<!-- end -->`. The first says what it is:

fid               RUN/fid.md, of `samplerbench table RUN --pivot fid`; any other metric likewise
fid at 3          its rows at guidance 3
verdicts          RUN/budgets.txt, of `samplerbench table RUN --nfe ...`, a line for each budget
verdicts on NAME  RUN/budgets-NAME.txt, of `samplerbench table RUN --nfe ... --metric NAME`
orders of NAME    RUN/orders.txt, of `samplerbench table RUN --compare A B` for several pairs: differences in the metric
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

TABLE = re.compile(r"(<!-- (?!end )([^\n]+) -->\n)\n.*?\n(\n<!-- end -->)", re.DOTALL)
COLUMNS = re.compile(r"\s{2,}")
GUIDANCE = "guidance"
BEST, WORSE, UNDECIDED, SAME = "less the best", "worse", "no difference shown", "same samples"
ROW = re.compile(r"(?P<sampler>\S+), guidance (?P<guidance>[\d.]+), \d+ steps?, (?P<calls>\d+) calls?")
"""A row as `--compare` names it."""


def rows_of(listing: str) -> Iterator[dict[str, str]]:
    """The rows of a listing, as column -> text, without the lines below it; a listing may have several heads."""
    names: list[str] = []
    for line in listing.splitlines():
        values = COLUMNS.split(line)
        if values[0] in ("budget", "metric"):
            names = values
        elif len(values) == len(names):
            yield dict(zip(names, values, strict=True))


def named(rows: Iterable[Mapping[str, str]]) -> str:
    """`ddim` at 1, 2, `ddpm` at 4: the samplers in the order of their best row, each with its guidances."""
    guidances: dict[str, list[str]] = {}
    for row in rows:
        guidances.setdefault(row["sampler"], []).append(row[GUIDANCE])
    return ", ".join(f"`{name}` at {', '.join(sorted(given, key=float))}" for name, given in guidances.items()) or "-"


def verdicts(budgets: str) -> str:
    """A line for each budget: the best row, those that are not told apart from it, and those shown to be worse."""
    lines = ["| calls | the best | not told apart from it | shown to be worse |", "| ---: | --- | --- | --- |"]
    ranked = (row for row in rows_of(budgets) if row["rank"] != "-")
    for budget, group in itertools.groupby(ranked, key=lambda row: row["budget"]):
        best, *others = group
        # The metric stands before what a row has more or less than the best.
        column = list(best)[list(best).index(BEST) - 1]
        apart, same = ([row for row in others if row["verdict"].startswith(said)] for said in (WORSE, UNDECIDED))
        first = f"`{best['sampler']}` at {best[GUIDANCE]}, {best[column]}"
        lines.append(f"| {budget.split()[0]} | {first} | {named(same)} | {named(apart)} |")
    return "\n".join(lines)


def at_guidance(table: str, guidance: str) -> str:
    """The rows of a Markdown table at one guidance, without that column and what stands below."""
    head, rule, *rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    column = head.index(GUIDANCE)
    kept = [row for row in rows if row[column] == guidance]
    if not kept:
        sys.exit(f"no row at guidance {guidance}; there are {', '.join(dict.fromkeys(row[column] for row in rows))}")
    return "\n".join(f"| {' | '.join(row[:column] + row[column + 1 :])} |" for row in [head, rule, *kept])


def orders(comparisons: str, metric: str) -> str:
    """Differences between two samplers: a line for each pair and guidance, a column for each number of calls."""
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    for row in rows_of(comparisons):
        if not row["metric"].startswith(metric):
            continue
        a, b = (ROW.fullmatch(row[side]) for side in "AB")
        if not (a and b):
            sys.exit(f"{row['A']!r} and {row['B']!r}: expected sampler, guidance, steps and calls")
        pair = a["sampler"], b["sampler"], a[GUIDANCE]
        found.setdefault(pair, {})[int(b["calls"])] = difference(row["A - B"], row["A is"])
    if not found:
        sys.exit(f"nothing of {metric} in the comparisons")
    calls = sorted({count for counts in found.values() for count in counts})
    lines = [f"| A less B | guidance |{''.join(f' {count} |' for count in calls)}"]
    lines.append(f"| --- | ---: |{' ---: |' * len(calls)}")
    for (a_name, b_name, guidance), counts in found.items():
        fields = "".join(f" {counts.get(count, '-')} |" for count in calls)
        lines.append(f"| `{a_name}` less `{b_name}` | {guidance} |{fields}")
    return "\n".join(lines)


def difference(value: str, verdict: str) -> str:
    """A difference with its verdict, where there is one."""
    return {UNDECIDED: value, SAME: SAME}.get(verdict, f"{value}, {verdict}")


def table_of(what: str, run: Path) -> str:
    """The table that stands between such a mark and its end."""
    name, _, detail = what.partition(" ")
    _, _, detail = detail.partition(" ")
    if name == "verdicts":
        return verdicts((run / f"budgets{detail and f'-{detail}'}.txt").read_text(encoding="utf-8"))
    if name == "orders":
        return orders((run / "orders.txt").read_text(encoding="utf-8"), detail)
    table = (run / f"{name}.md").read_text(encoding="utf-8")
    return at_guidance(table, detail) if detail else table


def filled(page: str, run: Path) -> str:
    """The page with the tables of the run between their marks."""
    whole, tables = TABLE.subn(lambda mark: f"{mark[1]}\n{table_of(mark[2], run).strip()}\n{mark[3]}", page)
    if not tables:
        sys.exit("no table in the page; expected lines <!-- TABLE --> and <!-- end -->, each between empty lines")
    return whole


if __name__ == "__main__":
    folder, *pages = map(Path, sys.argv[1:])
    for path in pages:
        path.write_text(filled(path.read_text(encoding="utf-8"), folder), encoding="utf-8")

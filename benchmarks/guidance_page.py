"""Put the tables of a run at several guidances into docs/guidance.md, in place of those that are there:

python benchmarks/guidance_page.py RUN

RUN has fid.md, of `samplerbench table RUN --pivot fid`, and budgets.txt, of `samplerbench table RUN --nfe ...`.
"""

import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "guidance.md"
COLUMNS = re.compile(r"\s{2,}")
WORSE, UNDECIDED = "worse", "no difference shown"


def rows_of(budgets: str) -> Iterator[dict[str, str]]:
    """The rows of budgets.txt that were measured, as column -> text."""
    head, *lines = budgets.splitlines()
    names = COLUMNS.split(head)
    for line in lines:
        values = COLUMNS.split(line)
        if len(values) == len(names) and values[1] != "-":
            yield dict(zip(names, values, strict=True))


def named(rows: Iterable[Mapping[str, str]]) -> str:
    """`ddim` at 1, 2, `ddpm` at 4: the samplers in the order of their best row, each with its guidances."""
    guidances: dict[str, list[str]] = {}
    for row in rows:
        guidances.setdefault(row["sampler"], []).append(row["guidance"])
    return ", ".join(f"`{name}` at {', '.join(sorted(given, key=float))}" for name, given in guidances.items()) or "-"


def verdicts(budgets: str) -> str:
    """A line for each budget: the best row, those that are not told apart from it, and those shown to be worse."""
    lines = ["| calls | the best | not told apart from it | shown to be worse |", "| ---: | --- | --- | --- |"]
    for budget, group in itertools.groupby(rows_of(budgets), key=lambda row: row["budget"]):
        best, *others = group
        (column,) = (name for name in best if "FID" in name)
        apart, same = ([row for row in others if row["verdict"].startswith(said)] for said in (WORSE, UNDECIDED))
        first = f"`{best['sampler']}` at {best['guidance']}, {best[column]}"
        lines.append(f"| {budget.split()[0]} | {first} | {named(same)} | {named(apart)} |")
    return "\n".join(lines)


def filled(page: str, run: Path) -> str:
    """The page with the tables of the run between their marks."""
    parts = {"fid": (run / "fid.md").read_text(), "verdicts": verdicts((run / "budgets.txt").read_text())}
    for name, text in parts.items():
        between = re.compile(rf"(?<=<!-- {name} -->\n)\n.*?\n(?=\n<!-- end -->)", re.DOTALL)
        if len(between.findall(page)) != 1:
            sys.exit(f"{PAGE}: expected <!-- {name} --> and <!-- end -->, each between empty lines")
        page = between.sub(lambda _, text=text: f"\n{text.strip()}\n", page)
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), Path(sys.argv[1])), encoding="utf-8")

"""Measure every figure of docs/figures.md again: run the slow suite and write what its tests recorded.

    python tests/tools/figures.py > docs/figures.md

Takes about an hour on two cores. Without the packages of the extra `parity` their rows are left out.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
HEAD = """# Figures

What the slow suite measured, made by `python tests/tools/figures.py > docs/figures.md`; [method.md](method.md) says
what each means and what it does not show. Each row is checked by the test beside it, which fails where the figure is
not what it should be. [How often intervals hold](coverage.md) is measured on a pool of images, apart from the suite.

| figure | measured | test |
| --- | --- | --- |"""


def figures_of(report: Path) -> list[tuple[str, str, str]]:
    """(figure, value, test) of a JUnit report, by test and name."""
    found = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        home = case.get("classname", "").rpartition(".")[2]
        for entry in case.iter("property"):
            found.append((entry.get("name", ""), entry.get("value", ""), f"{home}.py"))
    return sorted(found, key=lambda figure: (figure[2], figure[0]))


def page(found: list[tuple[str, str, str]]) -> str:
    """docs/figures.md."""
    return "\n".join([HEAD, *(f"| {name} | {value} | {test} |" for name, value, test in found), ""])


def main() -> int:
    """Run the slow tests; print the page. The exit code is theirs."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "slow", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        print(page(figures_of(report)), end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())

"""The code blocks of a documentation page, and whether what a command prints is what the page says."""

import re
from collections.abc import Callable

ROUNDING = 1e-3
"""What is smaller than this in the page may be any other small number: it is what rounding, or few steps, left."""
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*\w)")
CLOCKED = "ms/image"


def parts(page: str) -> list[tuple[str, str]]:
    """(language, text) of the code blocks, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


def titled(page: str) -> dict[str, str]:
    """File name -> text of the Python blocks that have a title, in order."""
    return dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', page, flags=re.DOTALL | re.MULTILINE))


def commands(block: str) -> list[tuple[str, list[str]]]:
    """(command, lines that it prints) of a console block."""
    _, *given = re.split(r"^\$ ", block, flags=re.MULTILINE)
    return [(lines[0], lines[1:]) for lines in (text.splitlines() for text in given)]


def follow_commands(page: str, follow: Callable[[str], list[str]]) -> int:
    """Run the commands of the console blocks and compare what each prints with the page; returns how many there are."""
    followed = 0
    for language, text in parts(page):
        if language == "console":
            for command, expected in commands(text):
                compare(expected, follow(command))
                followed += 1
    return followed


def fields(line: str) -> list[str]:
    """The cells of a line of a Markdown table, or the columns of a listing."""
    if line.startswith("|"):
        return [cell.strip() for cell in line.strip("|").split("|")]
    return re.split(r"\s{2,}", line.strip())


def same(expected: str, printed: str) -> bool:
    """Whether two texts are equal but for the last digits of their numbers."""
    a, b = ([float(number) for number in NUMBER.findall(text)] for text in (expected, printed))
    if len(a) != len(b) or NUMBER.sub("#", expected) != NUMBER.sub("#", printed):
        return False
    return all(abs(x - y) <= 0.02 * abs(x) or max(abs(x), abs(y)) < ROUNDING for x, y in zip(a, b, strict=True))


def compare(expected: list[str], printed: list[str]) -> None:
    """Assert that lines are as the page has them; "..." stands for any number of lines."""
    clocked: set[int] = set()
    rest = list(printed)
    skipping = False
    for line in expected:
        if line == "...":
            skipping = True
            continue
        while skipping and rest and not agree(fields(line), fields(rest[0]), clocked):
            del rest[0]
        assert rest, f"{line!r} is not in\n" + "\n".join(printed)
        assert agree(fields(line), fields(rest[0]), clocked), f"page:    {line}\nprinted: {rest[0]}"
        clocked |= {i for i, cell in enumerate(fields(line)) if cell == CLOCKED}
        del rest[0]
        skipping = False
    assert skipping or not rest, "printed too:\n" + "\n".join(rest)


def agree(expected: list[str], printed: list[str], clocked: set[int]) -> bool:
    """Whether two lines have the same cells, but for those that a clock made."""
    if len(expected) != len(printed):
        return False
    pairs = enumerate(zip(expected, printed, strict=True))
    return all(i in clocked or same(a, b) for i, (a, b) in pairs)

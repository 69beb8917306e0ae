"""Put the table of a run into the README, in place of the one that is there:

python benchmarks/readme_table.py RUN
"""

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
TABLE = re.compile(r"^\| sampler \|.*?(?=^It stores the same )", re.MULTILINE | re.DOTALL)


def main(run: Path) -> None:
    """Replace the table and its caption, which stand before "It stores the same"."""
    text, table = README.read_text(encoding="utf-8"), (run / "table.md").read_text(encoding="utf-8")
    if len(TABLE.findall(text)) != 1:
        sys.exit(f"{README}: expected one table, followed by a paragraph that begins with 'It stores the same'")
    README.write_text(TABLE.sub(lambda _: f"{table.rstrip()}\n\n", text), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

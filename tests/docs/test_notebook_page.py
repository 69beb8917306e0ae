"""docs/notebook.ipynb: its cells run from top to bottom, on a toy model and few images, and show what they should."""

import ast
import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import samplerbench as sb
import toy

DOCS = Path(__file__).parents[2] / "docs"
BOOK = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))
PAGE = (DOCS / "notebooks.md").read_text(encoding="utf-8")
CELLS = ["".join(cell["source"]) for cell in BOOK["cells"] if cell["cell_type"] == "code"]
SMALLER = {
    'sb.load_model("fashion-mnist")': "toy()",
    'sb.run("fashion-mnist", ': "sb.run(toy(), ",
    '"a dark ankle boot", "a bright dress"': '"left", "right"',
    "steps=20": "steps=2",
    "n=128": "n=24",
    "[5, 10]": "[1, 2]",
}
"""What stands in the notebook -> what a test draws."""


def smaller(text):
    for words, less in SMALLER.items():
        text = text.replace(words, less)
    return text


def shown_by(cell, names):
    """Execute a cell as a notebook does: returns the value of its last expression, or None."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "notebook", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "notebook", "eval"), names)


def test_it_is_a_notebook_without_outputs_that_a_reader_can_follow():
    assert (BOOK["nbformat"], BOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in BOOK["cells"]}) == len(BOOK["cells"])
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in BOOK["cells"] if "outputs" in cell)
    for cell in CELLS:
        compile(cell, "notebook", "exec")
    together = "\n".join(CELLS)
    assert ".grid(" in together
    assert ".plot(" in together
    assert [words for words in SMALLER if words not in together] == []
    for target in re.findall(r"\]\(([^)]+)\)", json.dumps(BOOK["cells"])):
        assert (DOCS / target).exists()


@pytest.mark.slow
def test_its_cells_draw_compare_and_plot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"toy": toy.toy}
    shown = [shown_by(smaller(cell), names) for cell in CELLS]
    kinds = [type(None), Image.Image, Image.Image, sb.Result, Image.Image, Image.Image, pd.DataFrame, Image.Image]
    assert [isinstance(value, kind) for value, kind in zip(shown, kinds, strict=True)] == [True] * len(kinds)
    assert len(names["result"].table) == 6
    assert names["samples"].images.shape == (8, 1, 8, 8)
    assert (tmp_path / "notebook-run" / "report.html").exists()
    # Every pixel of the data is 0.5, between -1 (black) and 1 (white).
    assert {pixel for _, pixel in shown[-1].convert("L").getcolors()} <= {190, 191, 192, 255, 0}


def test_the_sampler_of_the_page_draws(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    # A dataclass looks for its module.
    monkeypatch.setitem(sys.modules, "in_a_cell", sys)
    names = {"__name__": "in_a_cell", "toy": toy.toy}
    exec(compile(smaller(code), "notebooks.md", "exec"), names)
    assert names["samples"].nfe == 10

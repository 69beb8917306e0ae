"""Pages of runs at several guidances have the tables of these runs, and benchmarks/guidance_page.py puts them there."""

import importlib.util
import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
BUDGETS = """\
budget    rank  sampler  guidance  steps  NFE  unbiased FID [CNN]  less the best  p        verdict
3 calls   1     ddim     2         3      3    3.08 ± 0.98         -              -        best
3 calls   2     ddim     1         3      3    3.5 ± 1.8           0.4 ± 2.1      1        no difference shown
3 calls   3     ddpm     4         3      3    5.0 ± 0.1           1.9 ± 0.9      <0.0001  worse
3 calls   4     ddim     4         3      3    5.1 ± 0.1           2.0 ± 0.9      <0.0001  worse
3 calls   5     ddpm     1         3      3    6.0 ± 0.1           2.9 ± 0.9      <0.0001  worse
3 calls   -     ddpm     2         -      -    -                   -              -        not measured
10 calls  1     ddpm     1         10     10   1.08 ± 0.98         -              -        best
p is corrected for all comparisons that can be asked of a metric (unbiased FID: 63) and for look 1 at the run.
"""
TABLE = """\
| sampler | guidance | NFE 3 | NFE 10 |
| --- | ---: | ---: | ---: |
| ddpm | 1 | 6.0 ± 0.1 | 1.08 ± 0.98 |
| ddpm | 2 | 5.0 ± 0.1 | - |

FID for each budget. | is no row of it.
"""
COMPARED = """\
metric      A                                   B                                   A - B            p        A is
FID [CNN]   heun, guidance 1, 2 steps, 3 calls  ddim, guidance 1, 3 steps, 3 calls  121.2 ± 5.0      <0.0001  worse
ODE error   heun, guidance 1, 2 steps, 3 calls  ddim, guidance 1, 3 steps, 3 calls  0.955 ± 0.027    <0.0001  worse
FID [CNN]   heun, guidance 1, 4 steps, 7 calls  ddim, guidance 1, 8 steps, 8 calls  1.2 ± 5.0  1  no difference shown
FID [CNN]   heun, guidance 2, 4 steps, 7 calls  ddim, guidance 2, 8 steps, 8 calls  -1.2 ± 0.1       <0.0001  better
p is corrected for all comparisons that can be asked of a metric (FID: 63) and for look 1 at the run.
metric     A                                   B                                   A - B  p  A is
FID [CNN]  euler, guidance 1, 3 steps, 3 calls  ddim, guidance 1, 3 steps, 3 calls  0      -  same samples
"""
ORDERS = """\
| A less B | guidance | 3 | 8 |
| --- | ---: | ---: | ---: |
| `heun` less `ddim` | 1 | 121.2 ± 5.0, worse | 1.2 ± 5.0 |
| `heun` less `ddim` | 2 | - | -1.2 ± 0.1, better |
| `euler` less `ddim` | 1 | same samples | - |"""
VERDICTS = """\
| calls | the best | not told apart from it | shown to be worse |
| ---: | --- | --- | --- |
| 3 | `ddim` at 2, 3.08 ± 0.98 | `ddim` at 1 | `ddpm` at 1, 4, `ddim` at 4 |
| 10 | `ddpm` at 1, 1.08 ± 0.98 | - | - |"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("guidance_page", ROOT / "benchmarks" / "guidance_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_verdicts_are_gathered_by_budget(script):
    assert script.verdicts(BUDGETS) == VERDICTS


def test_rows_of_one_guidance_need_no_column_for_it(script):
    assert (
        script.at_guidance(TABLE, "2")
        == "| sampler | NFE 3 | NFE 10 |\n| --- | ---: | ---: |\n| ddpm | 5.0 ± 0.1 | - |"
    )
    with pytest.raises(SystemExit, match="no row at guidance 3; there are 1, 2"):
        script.at_guidance(TABLE, "3")


def test_differences_are_gathered_by_pair_and_guidance(script):
    assert script.orders(COMPARED, "FID") == ORDERS
    assert script.orders(COMPARED, "ODE error").splitlines()[2:] == [
        "| `heun` less `ddim` | 1 | 0.955 ± 0.027, worse |"
    ]
    with pytest.raises(SystemExit, match="nothing of KID"):
        script.orders(COMPARED, "KID")


def marked(mark, table):
    return f"<!-- {mark} -->\n\n{table}\n\n<!-- end -->\n\n"


def test_tables_replace_those_between_their_marks(script, tmp_path):
    for name, text in (("fid.md", TABLE), ("budgets.txt", BUDGETS), ("orders.txt", COMPARED)):
        (tmp_path / name).write_text(text)
    (tmp_path / "budgets-composition.txt").write_text(BUDGETS.replace("3 calls ", "5 calls "))
    told = {
        "fid": TABLE.strip(), "fid at 1": script.at_guidance(TABLE, "1"), "verdicts": VERDICTS,
        "verdicts on composition": VERDICTS.replace("| 3 |", "| 5 |"), "orders of FID": ORDERS,
    }  # fmt: skip
    page = "a\n\n" + "b\n\n".join(marked(mark, "| old |") for mark in told)
    whole = "a\n\n" + "b\n\n".join(marked(mark, table) for mark, table in told.items())
    assert script.filled(page, tmp_path) == whole
    assert script.filled(whole, tmp_path) == whole
    with pytest.raises(SystemExit, match="no table in the page"):
        script.filled("a", tmp_path)


@pytest.mark.parametrize(("page", "name"), [("guidance", "guidance"), ("scenes", "scenes"), ("choosing", "scenes")])
def test_the_page_has_the_tables_of_the_run(script, page, name):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert script.filled(text, ROOT / "results" / name) == text


@pytest.mark.parametrize(
    ("name", "guidances", "calls"),
    # Two calls a step: what a budget cannot have is taken one lower.
    [("guidance", {1, 2, 4}, {3, 5, 7, 8, 9, 10, 19, 20}), ("scenes", {1, 3, 5}, {5, 7, 8, 9, 10, 15, 19, 20})],
)
def test_the_run_is_the_one_that_the_page_tells_of(name, guidances, calls):
    table = pd.read_csv(ROOT / "results" / name / "table.csv")
    assert (len(table), table["sampler"].nunique()) == (180, 12)
    assert set(table["guidance"]) == guidances
    assert set(table["status"]) == {"ok"}
    assert set(table["nfe"]) == calls


def test_the_shares_on_other_grids_are_those_of_the_run():
    table = pd.read_csv(ROOT / "results" / "scenes-grids" / "table.csv")
    _, section = (ROOT / "docs" / "scenes.md").read_text(encoding="utf-8").split("## Other grids")
    for sampler, rows in table.groupby("sampler"):
        shares = [f"{value:.3f}" for value in rows.sort_values("nfe")["composition"]]
        assert re.findall(rf"^\| `{re.escape(sampler)}` \| (\S+) ± \S+ \| (\S+) ± ", section, re.MULTILINE) == [
            tuple(shares)
        ]


def test_the_shares_of_the_flow_and_of_its_sibling_are_those_of_the_runs():
    _, section = (ROOT / "docs" / "scenes.md").read_text(encoding="utf-8").split("## The same pictures by a flow")
    told = {
        (model, sampler): re.findall(r"(\S+) ± ", cells)
        for sampler, model, cells in re.findall(r"^\| `(\S+)` of `(\S+)` \|(.*)\|$", section, re.MULTILINE)
    }
    of_first_order, calls = (
        {"scenes-flow": "euler", "scenes": "ddim"},
        {"scenes-flow": (4, 8, 18), "scenes": (5, 9, 19)},
    )
    for model, first in of_first_order.items():
        table = pd.read_csv(ROOT / "results" / model / "table.csv")
        rows = table[(table["guidance"] == 3) & table["nfe"].isin({5, 10, 20, *calls[model]})].sort_values("nfe")
        for sampler in (first, "dpm-solver++", "heun"):
            own = rows[
                (rows["sampler"] == sampler) & rows["nfe"].isin(calls[model] if sampler == "heun" else (5, 10, 20))
            ]
            shares = [f"{value:.3f}" for value in own["composition"]]
            assert told.pop((model, sampler)) == shares
    assert not told

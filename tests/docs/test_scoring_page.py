"""docs/scoring.md: its Python is run, and its table says which extractors are used without --extractor."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samplerbench.bench.plan.equipment import DEFAULTS
from samplerbench.bench.score import OFFLINE
from samplerbench.plugins.extractors import efficientnet
from samplerbench.samplers.registry import load_registry

PAGE = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_its_python_prints_what_the_page_shows(tmp_path, monkeypatch, capsys):
    pytest.importorskip(efficientnet.PACKAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    random = np.random.default_rng(0)
    for folder in ("generated", "photos"):
        Path(folder).mkdir()
        for i in range(21):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(f"{folder}/{i:02}.png")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "scoring.md", "exec"), {})
    shown = PAGE.rpartition("```text\n")[2].partition("```")[0]
    numberless = [re.sub(r"-?\d+\.\d+", "x", text).split() for text in (capsys.readouterr().out, shown)]
    assert numberless[0] == numberless[1]


def test_its_table_names_the_usual_extractor_of_each_role():
    kinds = load_registry().metrics.things
    roles = {"fid": "features", "inception score": "logits", "clip score": "clip", "cmmd": "clip_image",
             "sliced wasserstein": "state", "composition": "composition"}  # fmt: skip
    assert set(roles.values()) == {kind.extractor for kind in kinds.values()}
    rows = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in PAGE.splitlines() if row.startswith("| ")]
    for metric, role in roles.items():
        (row,) = (row for row in rows if metric in row[0].lower().split(", "))
        offline = (*OFFLINE.get(role, ()), "")[0]
        assert row[1:] == [DEFAULTS.get(role, offline), offline]

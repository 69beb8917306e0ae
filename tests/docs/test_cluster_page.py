"""docs/cluster.md and scaling.md: events are those that are written, the bridge works, container and figure hold."""

import hashlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from samplerbench.bench.draw.log import Log

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def test_the_page_names_every_event_of_the_log():
    written = set(re.findall(r'_write\(\s*"(\w+)"', inspect.getsource(Log)))
    assert written == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))


def test_the_bridge_counts_the_events_of_the_page(tmp_path):
    bridge = re.search(r'```python title="bridge.py"\n(.*?)```', PAGE, re.DOTALL)[1]
    assert len(bridge.splitlines()) <= 20
    log, shown = re.findall(r"```console\n\$ (?!samplerbench).*?\n(.*?)```", PAGE, re.DOTALL)
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["started", "stored", "stored", "done"]
    (tmp_path / "bridge.py").write_text(bridge)
    (tmp_path / "run.jsonl").write_text(log)
    subprocess.run([sys.executable, "bridge.py", "run.jsonl", "run.prom"], cwd=tmp_path, check=True)
    assert (tmp_path / "run.prom").read_text() == shown


def test_the_container_takes_the_torch_that_the_package_needs():
    needed = re.search(r'"(torch>=[\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert f'"{needed}"' in (ROOT / "Dockerfile").read_text()


def hadolint(text):
    """What hadolint says of a Dockerfile, a line for each fault."""
    if not (program := shutil.which("hadolint")):
        pytest.skip("hadolint is missing; samplerbench[test] brings it")
    done = subprocess.run([program, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    return done.stdout


def test_the_container_breaks_no_rule_of_hadolint():
    assert hadolint((ROOT / "Dockerfile").read_text()) == ""


def test_a_rule_that_is_broken_is_found():
    said = hadolint("FROM ubuntu\nRUN cd / && pip install torch\nCMD samplerbench\n")
    assert set(re.findall(r"\bDL\d+", said)) == {"DL3003", "DL3006", "DL3013", "DL3025", "DL3042"}


def test_the_figure_is_made_by_the_simulation_as_it_is():
    made_by = (ROOT / "benchmarks" / "scaling.py").read_bytes()
    figure = (ROOT / "docs" / "scaling.svg").read_text()
    assert f"<desc>benchmarks/scaling.py {hashlib.sha256(made_by).hexdigest()[:16]}</desc>" in figure
    assert "](scaling.svg)" in (ROOT / "docs" / "scaling.md").read_text()
    assert re.findall(r">(\d+) s</text>", figure) == ["30", "5", "1"]

"""docs/cluster.md: its events are those that are written, and its bridge is short and works."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

from samplerbench.bench.draw.log import Log

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def test_the_page_names_every_event_of_the_log():
    written = set(re.findall(r'_write\(\s*"(\w+)"', inspect.getsource(Log)))
    assert written == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))


def test_the_bridge_counts_the_events_of_the_page(tmp_path):
    bridge = re.search(r'```python title="bridge.py"\n(.*?)```', PAGE, re.DOTALL)[1]
    assert len(bridge.splitlines()) <= 20
    log, shown = re.findall(r"```console\n\$ .*?\n(.*?)```", PAGE, re.DOTALL)
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["started", "stored", "stored", "done"]
    (tmp_path / "bridge.py").write_text(bridge)
    (tmp_path / "run.jsonl").write_text(log)
    subprocess.run([sys.executable, "bridge.py", "run.jsonl", "run.prom"], cwd=tmp_path, check=True)
    assert (tmp_path / "run.prom").read_text() == shown


def test_the_container_takes_the_torch_that_the_package_needs():
    needed = re.search(r'"(torch>=[\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert f'"{needed}"' in (ROOT / "Dockerfile").read_text()

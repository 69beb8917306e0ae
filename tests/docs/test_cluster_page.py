"""docs/cluster.md and scaling.md: events are those that are written, the bridge works, container and figure hold."""

import hashlib
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
    log, shown = re.findall(r"```console\n\$ (?!samplerbench).*?\n(.*?)```", PAGE, re.DOTALL)
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["started", "stored", "stored", "done"]
    (tmp_path / "bridge.py").write_text(bridge)
    (tmp_path / "run.jsonl").write_text(log)
    subprocess.run([sys.executable, "bridge.py", "run.jsonl", "run.prom"], cwd=tmp_path, check=True)
    assert (tmp_path / "run.prom").read_text() == shown


def test_the_container_takes_the_torch_that_the_package_needs():
    needed = re.search(r'"(torch>=[\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert f'"{needed}"' in (ROOT / "Dockerfile").read_text()


PIPED, UNPINNED = ("| ", "|& "), re.compile(r"apt-get install (?!.*=)")


def instructions():
    """(keyword, rest) of each instruction of the Dockerfile, its lines joined; a comment before it is (#, text)."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def faults_of(found):
    """The rules of hadolint that instructions break, as far as they concern what is used here."""
    said = {key: [rest for keyword, rest in found if keyword == key] for key in {keyword for keyword, _ in found}}
    runs = said.get("RUN", [])
    default = dict(rest.partition("=")[::2] for rest in said.get("ARG", []))
    rules = {
        "DL3000": any(not rest.startswith("/") for rest in said.get("WORKDIR", [])),
        "DL3002": said.get("USER", ["root"])[-1] in ("root", "0"),
        "DL3003": any(re.search(r"(^|&& )cd ", rest) for rest in runs),
        "DL3004": any("sudo" in rest for rest in runs),
        "DL3006": any(":" not in default.get(rest.strip("${}"), rest) for rest in said["FROM"]),
        "DL3007": any(default.get(rest.strip("${}"), rest).endswith(":latest") for rest in said["FROM"]),
        "DL3009": any("apt-get install" in rest and "rm -rf /var/lib/apt/lists" not in rest for rest in runs),
        "DL3014": any("apt-get install" in rest and not re.search(r"-y\b|--yes", rest) for rest in runs),
        "DL3015": any("apt-get install" in rest and "--no-install-recommends" not in rest for rest in runs),
        "DL3020": "ADD" in said,
        "DL3025": any(not rest.startswith("[") for key in ("CMD", "ENTRYPOINT") for rest in said.get(key, [])),
        "DL3027": any(re.search(r"\bapt (install|update)", rest) for rest in runs),
        "DL3042": any("pip install" in rest for rest in runs) and "PIP_NO_CACHE_DIR=1" not in str(said.get("ENV")),
        "DL4000": "MAINTAINER" in said,
        "DL4006": any(pipe in rest for rest in runs for pipe in PIPED) and "pipefail" not in str(said.get("SHELL")),
    }
    before = {rest: found[i - 1] for i, (keyword, rest) in enumerate(found) if keyword == "RUN"}
    rules["DL3008"] = any(UNPINNED.search(rest) and "ignore=DL3008" not in before[rest][-1] for rest in runs)
    return {rule for rule, is_broken in rules.items() if is_broken}


def test_the_container_breaks_no_rule_of_hadolint():
    assert faults_of(instructions()) == set()


def test_a_rule_that_is_broken_is_found():
    bad = [
        ("FROM", "ubuntu"), ("RUN", "cd / && sudo apt install x"), ("RUN", "apt-get install python3 | tee log"),
        ("RUN", "pip install torch"), ("ADD", ". /x"), ("WORKDIR", "runs"), ("CMD", "samplerbench"),
        ("MAINTAINER", "me"),
    ]  # fmt: skip
    assert faults_of(bad) == {
        "DL3000", "DL3002", "DL3003", "DL3004", "DL3006", "DL3008", "DL3009", "DL3014", "DL3015", "DL3020", "DL3025",
        "DL3027", "DL3042", "DL4000", "DL4006",
    }  # fmt: skip


def test_the_figure_is_made_by_the_simulation_as_it_is():
    made_by = (ROOT / "benchmarks" / "scaling.py").read_bytes()
    figure = (ROOT / "docs" / "scaling.svg").read_text()
    assert f"<desc>benchmarks/scaling.py {hashlib.sha256(made_by).hexdigest()[:16]}</desc>" in figure
    assert "](scaling.svg)" in (ROOT / "docs" / "scaling.md").read_text()
    assert re.findall(r">(\d+) s</text>", figure) == ["30", "5", "1"]

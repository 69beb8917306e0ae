"""docs/learned-files.md: its commands print what it says, and its files are files."""

import json
import re
import runpy
from pathlib import Path

import pytest

import pages
import samplerbench as sb

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "learned-files.md").read_text(encoding="utf-8")
FILES = re.findall(r"\n## ([\w-]+)\n[^#]*```json\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
def test_the_page_can_be_followed(follow, tmp_path):
    (tmp_path / "plugins").symlink_to(ROOT / "plugins")
    assert pages.follow_commands(PAGE, follow) == 7


@pytest.mark.parametrize(("name", "text"), FILES, ids=[name for name, _ in FILES])
def test_the_file_that_it_shows_is_one(name, text, tmp_path):
    (tmp_path / "file.json").write_text(text)
    known = sb.make_sampler(name, file=str(tmp_path / "file.json")).known
    part = PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    fields = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", part, flags=re.MULTILINE))))
    assert fields == set(known.__struct_fields__) - {"fingerprint", "guidance", "steps", "times", "error"}
    assert set(json.loads(text)) <= set(known.__struct_fields__)


def test_every_sampler_that_reads_a_file_has_a_part():
    assert [name for name, _ in FILES] == ["learned", "epd", "dpm-solver-v3"]


@pytest.mark.slow
def test_the_command_that_made_the_statistics_makes_them_again():
    made = runpy.run_path(str(ROOT / "benchmarks" / "learn.py"))
    effort = made["OF_FORMULA"]
    again = made["statistics"](sb.load_model("mixture"), made["OfFormula"](made["MIXTURE"], effort), effort.near)
    known = json.loads((ROOT / "plugins" / "samplers" / "files" / "dpm-solver-v3-mixture.json").read_text())
    assert {*again, "error"} == set(known)
    for name in ("lambdas", "l", "s", "b"):
        assert again[name] == pytest.approx(known[name], rel=1e-5, abs=1e-7), name

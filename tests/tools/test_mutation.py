"""The planted bugs of mutation.py fit the sources; planting them all takes minutes."""

import subprocess
import sys
from pathlib import Path

import pytest

import mutation
from samplerbench.samplers.registry import default_registry

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("bug", mutation.BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_fits_its_file(bug):
    source = (ROOT / bug.file).read_text()
    changed = mutation.mutated(bug, source)
    assert changed != source
    compile(changed, bug.file, "exec")


def test_every_sampler_every_grid_and_the_core_beneath_have_bugs():
    files = [bug.file for bug in mutation.BUGS]
    samplers = [path for path in (ROOT / "plugins" / "samplers").glob("*.py") if path.name != "__init__.py"]
    core = [
        ROOT / "samplers" / f"{name}.py"
        for name in ("predictor", "schedule", "grid", "noise", "philox", "ddpm", "exact")
    ]
    assert len(samplers) >= 22
    for path in (*samplers, *core, ROOT / "samplers" / "sampler.py"):
        assert files.count(str(path.relative_to(ROOT))) >= 2, path
    things = default_registry().grids.things
    grids = {f"plugins/grids/{path.name}" for path in (ROOT / "plugins" / "grids").glob("*.py")}
    mutated = {things[bug.name.partition(":")[0]] for bug in mutation.BUGS if bug.file in grids}
    assert mutated == set(things.values())
    names = [bug.name for bug in mutation.BUGS]
    assert len(set(names)) == len(names) >= 90


@pytest.mark.parametrize("source", ["x = 2\n", "x = 1\ny = x = 1\n"], ids=["missing", "twice"])
def test_a_bug_whose_text_is_not_there_once_is_an_error(source):
    with pytest.raises(ValueError, match="expected once"):
        mutation.mutated(mutation.Bug("x: wrong", "x.py", "x = 1", "x = 3"), source)


@pytest.mark.slow
def test_the_fast_tests_kill_the_planted_bugs(figure):
    done = subprocess.run([sys.executable, mutation.__file__], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    killed, total = (int(word) for word in done.stdout.splitlines()[-1].split() if word.isdigit())
    figure("planted bugs killed", f"{killed} of {total}")
    assert total == len(mutation.BUGS)
    assert killed >= 0.95 * total

"""The tests that `samplerbench new-plugin` writes pass as they stand: those of the templates are run here.

Those of the sampler and of the engine take longer: test_new_plugin.py runs these, and all of them as their
authors do.
"""

import importlib
import sys
from pathlib import Path

import pytest

TEMPLATES = Path(__file__).parents[2] / "templates"
KINDS = ("grid", "model", "metric", "extractor", "data")


def functions_of(kind):
    """The test functions of a template, by a name that says of which."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TEMPLATES))
        module = importlib.import_module(f"test_my_{kind}")
    for name in (f"test_my_{kind}", f"my_{kind}"):
        sys.modules.pop(name)
    return {f"test_{kind}_{name[5:]}": test for name, test in vars(module).items() if name.startswith("test_")}


for template in KINDS:
    globals().update(functions_of(template))


def test_every_template_but_two_is_tested_here():
    assert {f"test_my_{kind}" for kind in (*KINDS, "sampler", "engine")} == {
        path.stem for path in TEMPLATES.glob("test_*.py")
    }

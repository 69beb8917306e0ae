"""An addition that is refused before it stored anything leaves the run as it was."""

import pytest

import samplerbench as sb
from samplerbench.bench.draw.session import Session

RUN = {"model": "mixture", "samplers": "ddim", "steps": 2, "n": 20, "metrics": [], "output": "out"}


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("more", [{"n": 100}, {"samplers": "heun"}])
def test_a_refused_addition_leaves_the_run_as_it_was(tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    sb.run(**RUN)
    before = files(tmp_path / "out")

    def refuse(self, watch, renew):
        raise sb.InputError("no node")

    with monkeypatch.context() as patched:
        patched.setattr(Session, "_work", refuse)
        with pytest.raises(sb.InputError, match="no node"):
            sb.run(**{**RUN, **more}, add=True)
    assert files(tmp_path / "out") == before
    sb.run(**{**RUN, **more}, add=True)
    assert not list((tmp_path / "out").rglob(".*.tmp"))

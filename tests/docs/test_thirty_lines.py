"""docs/thirty-lines.md: the script on it is the one in benchmarks/, and its fix is what the page says."""

import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pages
import samplerbench as sb

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "thirty-lines.md").read_text(encoding="utf-8")
FILE = ROOT / "benchmarks" / "thirty_lines.py"
SCRIPT = FILE.read_text(encoding="utf-8")
BLOCKS = dict(pages.parts(PAGE))


def mended() -> str:
    """The script with the fix of the page."""
    text = SCRIPT
    for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", BLOCKS["diff"], flags=re.MULTILINE):
        before, after = (re.sub(r"^[-+]", "", part, flags=re.MULTILINE) for part in (old, new))
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    assert text != SCRIPT
    return text


def test_the_script_on_the_page_is_the_file_and_has_thirty_lines():
    assert BLOCKS["python"] == SCRIPT
    assert len([line for line in SCRIPT.splitlines() if line.strip()]) == 30


def test_the_fix_is_a_few_lines_of_the_script():
    changed = [line for line in difflib.ndiff(SCRIPT.splitlines(), mended().splitlines()) if line[:2] in ("- ", "+ ")]
    assert 2 <= len(changed) <= 4
    compile(mended(), "thirty_lines.py", "exec")


def run(text: str, tmp_path: Path, images: int) -> dict[tuple[str, int], float]:
    """What the script prints, with fewer images."""
    assert text.count("N = 512\n") == 1
    path = tmp_path / "script.py"
    path.write_text(text.replace("N = 512\n", f"N = {images}\n"))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True, cwd=tmp_path)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {(name, int(steps)): float(fid) for name, steps, fid in rows}


@pytest.mark.slow
def test_the_script_is_wrong_as_the_page_says_and_its_fix_is_right(tmp_path):
    pytest.importorskip("diffusers")
    pytest.importorskip("scipy")
    wrong, right = (run(text, tmp_path, 64) for text in (SCRIPT, mended()))
    assert set(wrong) == set(right) == {(name, steps) for name in ("ddim", "ddpm") for steps in (5, 10, 20)}
    assert all(wrong["ddim", steps] > 5 * right["ddim", steps] for steps in (5, 10, 20))
    # More steps make it worse, and not better.
    assert wrong["ddim", 20] > wrong["ddim", 5]
    assert right["ddim", 20] < right["ddim", 5]


@pytest.mark.slow
def test_with_the_right_flags_the_schedulers_are_the_samplers_here():
    """On a network of two numbers; parity.md has it to 1e-15 with float64 in place of the libraries' float32."""
    diffusers = pytest.importorskip("diffusers")
    mixture = sb.GaussianMixture(((-0.5, 0.25), (0.5, 0.5)), (0.02, 0.1), (0.5, 0.5))
    model = sb.exact_model(mixture, sb.vp_linear(), "eps")
    network = model.network(torch.device("cpu"), torch.float64)
    x = start = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing", clip_sample_range=0.5)
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps:
        eps = network(x, t.double().repeat(len(x)))
        x = scheduler.step(eps, t, x, use_clipped_model_output=True).prev_sample
    bounded = sb.wrap_network(network, sb.vp_linear(), (2,), clip=(-0.5, 0.5))
    ours = sb.sample(bounded, "ddim", steps=10, grid="trailing", x_init=start, dtype="float64").x
    assert float((ours - x).abs().max()) < 1e-5

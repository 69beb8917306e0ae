"""Names that no file can have, wherever a command takes a path or a name: one line, and nothing is written."""

import pytest

LONG = 3000 * "a"


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "fashion-mnist", "--data", LONG, "-o", "out"),
        ("train", "--data", LONG, "-o", "out"),
        ("train", "--data", f"folder:{LONG}", "-o", "out"),
        ("train", "--latent", "--data", LONG, "--decoder-data", LONG, "-o", "out"),
        ("run", "--model", LONG),
        ("run", "--model", f"diffusers:{LONG}"),
        ("run", "--model", f"edm:{LONG}"),
        ("run", "--model", f"ddpm:{LONG}"),
        ("run", "--model", "mixture", "--reference", LONG, "--metric", "fid"),
        ("run", "--model", "mixture", "--reference", f"npz:{LONG}.npz"),
        ("run", "--model", "mixture", "--prompts", LONG),
        ("run", "--model", "mixture", "--plugin", LONG),
        ("run", "--model", "mixture", "-s", f"learned:file={LONG}"),
        ("run", "--model", "mixture", "--extractor", f"clip:{LONG}"),
        ("check", "ddim", "--model", f"edm:{LONG}"),
        ("score", LONG, LONG),
        ("explain", LONG),
        ("grid", "--model", "mixture", "-x", f"prompt={LONG}", "-o", "out.png", "--steps", "1"),
        ("table", LONG),
        ("report", LONG),
        ("verify", LONG),
        ("export", LONG, "--row", "ddim@10", "-o", "out"),
        ("new-plugin", LONG),
        ("reference", LONG, "-o", "out.npz"),
    ],
    ids=lambda arguments: " ".join(part for part in arguments if LONG not in part)[:40],
)
def test_a_name_too_long_for_a_file_is_one_line(sb, arguments, tmp_path):
    before = set(tmp_path.iterdir())
    done = sb(*arguments)
    assert done.code in (2, 3, 4), done.err
    assert [line[:6] for line in done.err.splitlines()].count("Error:") == 1, done.err
    assert "Traceback" not in done.err
    assert set(tmp_path.iterdir()) == before

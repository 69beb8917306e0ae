"""The files of a run on another node: which they are, what is missing there, and where it is kept."""

import hashlib
import sys
from pathlib import Path

import pytest

import samplerbench as sb
from samplerbench.bench.draw.engines import files_named
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.samplers.files.sent import SentFiles, hash_of, keep, kept_in
from samplerbench.samplers.registry import load_registry

MODEL = """
from pathlib import Path
import samplerbench as sb
from shifted_by import SHIFT
weights = Path("parts/weights.txt").read_text()
def make():
    scale = float(weights)
    return sb.wrap_network(lambda x, t: scale * x + SHIFT, sb.vp_linear(), (1, 8, 8), fingerprint="own")
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with a model of code, a module beside it and a file that it reads; the plan of a run there."""
    home = tmp_path / "home"
    (home / "parts").mkdir(parents=True)
    (home / "model.py").write_text(MODEL)
    (home / "shifted_by.py").write_text("SHIFT = 0.0")
    (home / "parts" / "weights.txt").write_text("0.5")
    (home / "apart.txt").write_text("of no use")
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    yield lambda: plan_for(Config(model="model.py:make", sampler=("ddim",), steps=(2,), samples=8, metric=()), REGISTRY)
    sys.modules.pop("shifted_by", None)


REGISTRY = load_registry()


def test_the_files_of_a_run_are_what_it_names_and_what_its_code_consists_of(run):
    files = files_named.files_of(run(), ())
    assert {"model.py", "shifted_by.py", "parts/weights.txt"} <= set(files.hashes)
    assert "apart.txt" not in files.hashes
    assert files.home == str(Path.cwd())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tiny", []), ("diffusers:tiny", ["tiny"]), ("./tiny", ["./tiny"]), ("mine:table=a.txt,order=2", ["a.txt"]),
        ("a.txt", ["a.txt"]), ("nowhere.py:make", []), ("x:/etc", []), ("x:..", []), ("x:.", []), ("x:\0", []),
    ],
)  # fmt: skip
def test_a_path_is_what_is_there_and_a_name_in_front_is_none(tmp_path, monkeypatch, text, found):
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    Path("a.txt").touch()
    assert list(files_named.paths_in(text)) == found


def test_all_files_of_a_folder_belong_to_it_but_hidden_ones(tmp_path):
    for name in ("a", "b/c", ".git/d", "__pycache__/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(files_named.files_at(tmp_path)) == [tmp_path / "a", tmp_path / "b" / "c"]


def there_and_kept(files, tmp_path):
    """The same files as a node sees them that has another disk, and its folder of what it keeps."""
    return SentFiles(str(tmp_path / "elsewhere"), files.hashes), tmp_path / "kept"


def test_a_node_that_has_them_works_in_the_folder_of_the_run(run, tmp_path):
    files = files_named.files_of(run(), ())
    assert files.place(tmp_path / "kept") == Path.cwd()
    assert files.lacking(tmp_path / "kept") == []
    assert SentFiles(str(Path.cwd())).place(tmp_path / "kept") == Path.cwd()
    assert SentFiles(str(tmp_path / "nowhere")).place(tmp_path / "kept") is None


def test_a_node_that_lacks_them_receives_each_once_and_makes_the_plan_of_the_same_keys(run, tmp_path, monkeypatch):
    files = files_named.files_of(run(), ())
    there, kept = there_and_kept(files, tmp_path)
    assert there.place(kept) is None
    assert there.lacking(kept) == sorted(set(files.hashes.values()))
    for sha256 in there.lacking(kept):
        keep(sha256, files.pieces(sha256), kept)
    assert there.lacking(kept) == []
    place = there.place(kept)
    assert place == there.place(kept)
    assert {path: hash_of(place / path) for path in files.hashes} == files.hashes
    key = run().cells[0].key
    monkeypatch.chdir(place)
    assert run().cells[0].key == key


def test_where_no_hard_links_can_be_made_the_files_are_copied(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("content")
    files = SentFiles(str(tmp_path), {"a": hash_of(tmp_path / "a")})
    there, kept = there_and_kept(files, tmp_path)
    (sha256,) = files.hashes.values()
    keep(sha256, files.pieces(sha256), kept)

    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr("os.link", refuse)
    assert (there.place(kept) / "a").read_text() == "content"


def test_a_file_kept_with_other_content_gives_way_to_that_of_the_run(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    hashes = {name: hash_of(tmp_path / name) for name in ("a", "b")}
    files = SentFiles(str(tmp_path), {"a": hashes["a"], "lacking": hashes["b"]})
    kept = tmp_path / "kept"
    keep(hashes["b"], [b"b"], kept)
    (kept / hashes["a"]).write_text("damaged")
    place = files.place(kept)
    assert (place / "a").read_text() == "a"
    assert (place / "lacking").read_text() == "b"


def test_a_file_that_was_edited_meanwhile_is_not_kept(tmp_path):
    (tmp_path / "a").write_text("before")
    files = SentFiles(str(tmp_path), {"a": hash_of(tmp_path / "a")})
    (tmp_path / "a").write_text("after")
    (sha256,) = files.hashes.values()
    with pytest.raises(sb.InputError, match="edited after the run began"):
        keep(sha256, files.pieces(sha256), tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_what_is_kept_is_read_from_nowhere_again(tmp_path):
    (tmp_path / "a").write_text("text")
    sha256 = hash_of(tmp_path / "a")
    keep(sha256, [b"te", b"xt"], tmp_path)
    keep(sha256, (1 / 0 for _ in "x"), tmp_path)
    assert (tmp_path / sha256).read_text() == "text"


def test_files_are_kept_beside_what_else_is_cached():
    assert kept_in().parts[-3:] == (".cache", "samplerbench", "files")


def test_a_folder_of_links_to_a_file_that_was_edited_since_is_made_again(tmp_path):
    home, kept = tmp_path / "home", tmp_path / "kept"
    home.mkdir()
    (home / "a.py").write_text("1")
    one, two = (hashlib.sha256(text.encode()).hexdigest() for text in "12")
    files = SentFiles(str(home), {"a.py": one, "b.py": two})
    keep(two, [b"2"], kept)
    assert files.place(kept) is not None
    # The first was linked to the folder of the run, where it is edited now.
    (home / "a.py").write_text("edited")
    assert files.lacking(kept) == [one]
    keep(one, [b"1"], kept)
    place = files.place(kept)
    assert [(place / name).read_text() for name in ("a.py", "b.py")] == ["1", "2"]
    # The code of the run writes to what it was given: that is not what was sent.
    (place / "b.py").write_text("written")
    assert files.lacking(kept) == [two]
    keep(two, [b"2"], kept)
    place = files.place(kept)
    assert (place / "b.py").read_text() == "2"
    assert [folder.name for folder in (kept / "runs").iterdir()] == [place.name]

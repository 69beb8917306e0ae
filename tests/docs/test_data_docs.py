"""docs/data.md says what is so."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from samplerbench.plugins.data import folder, npz, parquet, webdataset
from samplerbench.plugins.data.captions import LONGEST
from samplerbench.plugins.data.torchvision import KNOWN
from samplerbench.samplers.files import image_parts
from samplerbench.samplers.files.images import FORMATS, MOST_BYTES, MOST_EXIF, MOST_PIXELS
from samplerbench.samplers.registry import load_registry

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
TABLE = TEXT.partition("| DATA |")[2].partition("\n\n")[0]


def test_every_data_set_has_a_row_and_every_row_a_data_set():
    registry = load_registry()
    own = {name for name, origin in registry.data.origins.items() if origin.plugin.startswith("samplerbench.")}
    first = [row.split("|")[1] for row in TABLE.splitlines()[2:]]
    named = {spec.partition(":")[0] for cell in first for spec in re.findall(r"`([^`]+)`", cell)}
    assert named - {"FOLDER/train-*"} == own


def test_every_split_is_in_its_row():
    for known in KNOWN:
        (row,) = (row for row in TABLE.splitlines() if f"`{known.name}`" in row)
        assert re.findall(r"`:(\w+)`", row) == list(known.splits)


def test_limits_and_formats_are_those_of_the_program():
    parts = image_parts.MOST_CHUNKS, image_parts.MOST_SEGMENTS, image_parts.MOST_SCANS, image_parts.LONGEST_HEADER
    sets = folder.MOST_DEPTH, folder.MOST_FILES, webdataset.MOST_IDLE, webdataset.MOST_OF_IMAGE, parquet.MOST_COLUMNS
    for number in (MOST_PIXELS, MOST_BYTES, MOST_EXIF, LONGEST, *parts, *sets):
        assert re.search(rf"\b{number:,}\b", TEXT), number
    assert f"{npz.MOST_UNPACKED // 2**30} GiB" in TEXT
    assert f"{parquet.MOST_HELD // 2**30} GiB" in TEXT
    assert all(form.name in TEXT for form in FORMATS)


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == "1 torch.Size([3, 4, 5]) None ()\n"

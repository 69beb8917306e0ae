"""References: rows of real images, kept and exported; models equipped with them; what is refused."""

import dataclasses
import io
import json
import re
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import samplerbench as sb
from samplerbench.bench.plan import reference
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.equipment import equip, model_for
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.plan.reference import Images, referring
from samplerbench.bench.plan.reference_file import content_to_bytes, export, read_moments, read_rows, reference_file
from samplerbench.bench.show.sheet import heading_of, notes_of
from samplerbench.samplers.extractor import Extractor
from samplerbench.samplers.image_data import ImageData
from samplerbench.samplers.metric import Moments
from samplerbench.samplers.plugin import import_file
from samplerbench.samplers.process import state_kept
from samplerbench.samplers.registry import load_registry

SHAPE = (3, 8, 8)
PLUGIN = '''
"""A colour model without extractors, extractors of quadrants, and data that is not stored anywhere."""
import numpy as np
import torch
import samplerbench as sb
from samplerbench import hookimpl
from samplerbench.samplers.extractor import Extractor
from samplerbench.samplers.image_data import ImageData

S = sb.vp_linear()

def network(x, t, condition=None):
    level = S.at_time(float(t[0]))
    return (x - level.alpha * x * level.alpha / (level.alpha**2 + level.sigma**2)) / level.sigma

def make():
    return sb.wrap_network(network, S, (3, 8, 8), fingerprint="1")

def prompted():
    return sb.wrap_network(network, S, (3, 8, 8), encode=lambda texts: torch.zeros(len(texts), 1), fingerprint="2")

def quadrants(images, prompts):
    return torch.nn.functional.avg_pool2d(images.float() / 255, 4).flatten(1).numpy()

def halves(images, prompts):
    return torch.nn.functional.avg_pool2d(images.float() / 255, (4, 8)).flatten(1).numpy()

def refuse(prompts):
    if "too long" in prompts:
        raise sb.InputError("prompt 'too long': 99 tokens")

def cosines(images, prompts):
    return np.ones((len(images), 1), dtype=np.float32)

class Noise(ImageData):
    notes = ("Its files are JPEG.",)

    def __init__(self, argument):
        self.n = int(argument or 40)
        self.name = f"noise {self.n}"

    @property
    def fingerprint(self):
        return self.name

    def __len__(self):
        return self.n

    def image(self, i):
        generator = torch.Generator().manual_seed(i)
        return torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator)

@hookimpl
def samplerbench_extractors():
    return {
        "quadrants": lambda _: {
            "features": Extractor("quadrants", quadrants, fingerprint="q", frechet="FD-Q"),
            "clip_image": Extractor("halves", halves, note="of two", fingerprint="h"),
            "clip": Extractor("ones", cosines, fingerprint="c", check=refuse),
        },
        "halves": lambda _: {"features": Extractor("halves", halves, fingerprint="h")},
        "logits-only": lambda _: {"logits": Extractor("l", halves, fingerprint="l")},
    }

@hookimpl
def samplerbench_data():
    return {"noise": Noise}
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The plugin's file."""
    path = tmp_path_factory.mktemp("plugin") / "quadrants.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture(scope="module")
def registry(plugin):
    return load_registry([str(plugin)])


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty folder of kept rows."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAMPLERBENCH_ALLOW_DOWNLOAD", "0")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home" / ".cache" / "samplerbench" / "references"


class Ramps(ImageData):
    """Images of any sizes and channels, each a ramp."""

    name, notes = "ramps", ()

    def __init__(self, *shapes):
        self.shapes = shapes

    @property
    def fingerprint(self):
        return repr(self.shapes)

    def __len__(self):
        return len(self.shapes)

    def image(self, i):
        channels, height, width = self.shapes[i]
        ramp = torch.arange(width, dtype=torch.float32) * 255 / max(width - 1, 1)
        return (ramp + i).clamp(max=255).to(torch.uint8).expand(channels, height, width).clone()


class Counting:
    """Quadrants, and how many images were extracted."""

    def __init__(self):
        self.seen = 0

    def __call__(self, images, prompts):
        self.seen += len(images)
        assert len(prompts) == len(images)
        return images.float().flatten(1)[:, ::16].numpy()


def counting(label="counting", fingerprint="1"):
    extract = Counting()
    return Extractor(label, extract, fingerprint=fingerprint), extract


def config(plugin, metrics=("fid",), **settings):
    return Config(model=f"{plugin}:make", sampler=("ddim",), steps=(2,), samples=8, metric=metrics, **settings)


def silent(done, total):
    """Nobody looks on."""


# Images -> rows


def test_rows_are_of_the_first_images_in_order_and_are_kept(cache, registry):
    extractor, extract = counting()
    images = Images(registry.image_data("noise:150"), SHAPE, 130)
    steps = []
    rows = images.rows(extractor, lambda done, total: steps.append((done, total)))
    assert rows.shape == (130, 12)
    assert steps == [(64, 130), (128, 130), (130, 130)]
    expected = torch.stack([images.data.image(i) for i in range(130)]).float().flatten(1)[:, ::16]
    np.testing.assert_array_equal(rows, expected.numpy())
    np.testing.assert_array_equal(images.rows(extractor, silent), rows)
    assert extract.seen == 130
    (file,) = cache.iterdir()
    assert file.name.startswith(f"{images.about(extractor).key}-")


def test_rows_of_other_versions_are_made_again(cache, registry, monkeypatch):
    extractor, extract = counting()
    images = Images(registry.image_data("noise"), SHAPE)
    images.rows(extractor, silent)
    monkeypatch.setattr(reference, "version_of", lambda package: "2")
    images.rows(extractor, silent)
    assert extract.seen == 80
    assert len(list(cache.iterdir())) == 2


def test_rows_under_other_switches_of_torch_are_made_again(cache, registry):
    extractor, extract = counting()
    images = Images(registry.image_data("noise"), SHAPE)
    images.rows(extractor, silent)
    with state_kept():
        torch.set_float32_matmul_precision("high")
        images.rows(extractor, silent)
    images.rows(extractor, silent)
    assert extract.seen == 80


def test_rows_of_an_extractor_whose_code_was_edited_are_made_again(cache, registry, tmp_path):
    """Its author left the fingerprint as it was."""

    def rows(factor):
        path = tmp_path / "mine.py"
        path.write_text(
            f"def extract(images, prompts):\n    return {factor} * images.float().flatten(1)[:, :4].numpy()\n"
        )
        extractor = Extractor("mine", import_file(path).extract, fingerprint="1")
        return Images(registry.image_data("noise"), SHAPE).rows(extractor, silent)

    np.testing.assert_array_equal(2.0 * rows(1.0), rows(2.0))
    assert len(list(cache.iterdir())) == 2
    rows(1.0)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("change", ["extractor", "data", "size", "samples", "channels"])
def test_what_changes_the_rows_changes_the_hash(change, registry):
    def key(extractor="1", data=40, shape=SHAPE, samples=30):
        return Images(registry.image_data(f"noise:{data}"), shape, samples).about(counting("x", extractor)[0]).key

    changed = {
        "extractor": {"extractor": "2"}, "data": {"data": 41}, "size": {"shape": (3, 8, 9)}, "samples": {"samples": 31},
        "channels": {"shape": (1, 8, 8)},
    }  # fmt: skip
    assert key() == key()
    assert key(**changed[change]) != key()


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "nan", "fewer"])
def test_damaged_stored_rows_are_made_again(cache, registry, damage):
    extractor, extract = counting()
    images = Images(registry.image_data("noise"), SHAPE)
    rows, about = images.rows(extractor, silent), images.about(extractor)
    (file,) = cache.iterdir()
    broken = rows.copy()
    broken[3, 0] = np.nan
    other = reference.About(**{**vars(about), "samples": 39})
    file.write_bytes({
        "cut": file.read_bytes()[:-9], "empty": b"", "other": content_to_bytes(rows, other, ".safetensors"),
        "nan": content_to_bytes(broken, about, ".safetensors"),
        "fewer": content_to_bytes(rows[:-1], about, ".safetensors"),
    }[damage])  # fmt: skip
    np.testing.assert_array_equal(images.rows(extractor, silent), rows)
    assert extract.seen == 80
    np.testing.assert_array_equal(images.rows(extractor, silent), rows)
    assert extract.seen == 80


def test_a_cache_that_cannot_be_written_and_an_extractor_without_a_hash_are_no_hindrance(cache, registry):
    images = Images(registry.image_data("noise"), SHAPE)
    assert len(images.rows(counting(fingerprint="")[0], silent)) == 40
    assert not cache.exists()
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert len(images.rows(counting()[0], silent)) == 40


def test_images_are_cropped_at_the_centre_and_resized_by_pil():
    data = Ramps((3, 20, 30), (1, 20, 30))
    seen = []
    extractor = Extractor("x", lambda images, prompts: seen.append(images.clone()) or np.zeros((len(images), 1)))
    Images(data, SHAPE).rows(extractor, silent)
    middle = Image.fromarray(data.image(0).permute(1, 2, 0).numpy()).crop((5, 0, 25, 20))
    expected = np.asarray(middle.resize((8, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(seen[0][0].permute(1, 2, 0).numpy(), expected)
    assert (seen[0][1] == seen[0][1][:1]).all()


def test_fewer_images_than_asked_for_are_counted(registry):
    with pytest.raises(sb.ModelError, match=r"noise 40.*40 images, 41 asked for"):
        Images(registry.image_data("noise"), SHAPE, 41).rows(counting()[0], silent)


def test_a_row_that_is_no_number_is_named(registry):
    def extract(images, prompts):
        rows = np.zeros((len(images), 2), dtype=np.float32)
        if len(images) < 64:
            rows[5, 1] = np.inf
        return rows

    with pytest.raises(sb.ModelError, match="bad, reference noise 90: returned NaN or infinity for image 69"):
        Images(registry.image_data("noise:90"), SHAPE).rows(Extractor("bad", extract), silent)
    with pytest.raises(sb.InputError, match=r"returned shape \(64,\); expected \(64, d\)"):
        Images(registry.image_data("noise:90"), SHAPE).rows(Extractor("bad", lambda i, p: np.zeros(len(i))), silent)


# Models


def test_a_default_plan_is_what_it_was(registry):
    """No role and no reference asked for: the model itself, and so the same keys of cells; but for what it lacks."""
    plain = Config(steps=(2,), samples=8)
    model = registry.model("fashion-mnist")
    assert equip(model, plain, registry) is model
    own = sb.wrap_network(lambda x, t: x, sb.vp_linear(), SHAPE)
    equipped = equip(own, plain, registry)
    assert all(note.startswith(("fid left out", "clip_score left out")) for note in equipped.notes)
    assert dataclasses.replace(equipped, notes=()) == own
    keys = [cell.key for cell in plan_for(plain, registry).cells]
    assert keys == [cell.key for cell in plan_for(plain, registry, model).cells]


def test_extractors_are_laid_over_the_models_own_by_role_the_last_one_last(plugin, registry):
    named = config(plugin, extractor=("quadrants", "halves"))
    made = model_for(named, registry).extractors
    assert {role: e.label for role, e in made.items()} == {"features": "halves", "clip_image": "halves"}
    prompted = Config(model=f"{plugin}:prompted", steps=(2,), metric=("fid",), extractor=("quadrants",), prompts=("a",))
    assert model_for(prompted, registry).extractors["clip"].label == "ones"


def test_a_reference_becomes_that_of_every_role_that_is_compared(plugin, registry):
    settings = config(plugin, ("fid", "kid", "fd_clip"), extractor=("quadrants",), reference="noise")
    model = model_for(settings, registry)
    made = model.extractors["features"]
    assert made.reference().shape == (40, 12)
    assert model.extractors["clip_image"].reference().shape == (40, 6)
    assert made.frechet == "FD-Q"
    assert made.note == "compared with 40 images of noise 40 at 8x8; Its files are JPEG"
    assert model.extractors["clip_image"].note.startswith("of two; compared with")
    bare = registry.extractors_of("quadrants")["features"]
    assert bare.fingerprint != made.fingerprint
    assert reference.without_reference(made).fingerprint == bare.fingerprint
    other = model_for(config(plugin, extractor=("quadrants",), reference="noise:41"), registry)
    assert other.extractors["features"].fingerprint != made.fingerprint


def test_a_models_own_extractor_takes_another_reference(registry, monkeypatch):
    """In the model's own channels: colour images become grey."""
    settings = Config(model="fashion-mnist", steps=(2,), metric=("fid",), reference="noise:70")
    made = model_for(settings, registry).extractors["features"]
    own = registry.model("fashion-mnist").extractors["features"]
    assert made.reference().shape == (70, 64)
    assert made.label == own.label
    assert made.fingerprint != own.fingerprint


@pytest.mark.parametrize("named", [True, False])
def test_a_model_that_is_equipped_stays_as_it_is(plugin, registry, named):
    settings = config(plugin, extractor=("quadrants",), reference="noise")
    if not named:
        settings = Config(model="fashion-mnist", steps=(2,), metric=("fid",), reference="noise")
    once = model_for(settings, registry)
    twice = equip(once, settings, registry)
    for role, extractor in once.extractors.items():
        again = twice.extractors[role]
        assert (again.label, again.note, again.fingerprint) == (extractor.label, extractor.note, extractor.fingerprint)
    assert plan_for(settings, registry, once).cells[0].key == plan_for(settings, registry).cells[0].key


def test_roles_that_nobody_fills_get_the_extractors_of_papers_where_they_mean_something(plugin, registry):
    """Which are not here, and so are named by the error; it comes with the plan."""

    def missing(*metrics, model="make", **settings):
        prompts = ("a",) if model == "prompted" else None
        wanted = Config(model=f"{plugin}:{model}", steps=(2,), metric=metrics, prompts=prompts, **settings)
        try:
            return plan_for(wanted, registry).model.extractors
        except sb.ModelError as error:
            return str(error).partition(":")[0]

    assert missing("fid") == {}
    assert missing("fid", reference="noise") == "extractor 'inception'"
    assert missing("inception_score") == "extractor 'inception'"
    assert missing("clip_score") == {}
    assert missing("clip_score", model="prompted") == "extractor 'clip"
    assert missing("cmmd", model="prompted") == {}
    assert missing("cmmd", reference="noise") == "extractor 'clip"
    with pytest.raises(sb.ModelError, match="has no 'logits' of its own: name another by --extractor"):
        model_for(config(plugin, ("inception_score",)), registry)
    assert list(missing("clip_score", model="prompted", extractor=("quadrants",))) == ["features", "clip_image", "clip"]


def test_prompts_that_an_extractor_cannot_read_are_refused_with_the_plan(plugin, registry):
    def plan(*prompts, metric="clip_score"):
        prompted = f"{plugin}:prompted"
        wanted = Config(model=prompted, steps=(2,), metric=(metric,), extractor=("quadrants",), prompts=prompts)
        return plan_for(wanted, registry)

    plan("short")
    with pytest.raises(sb.InputError, match="'too long': 99 tokens"):
        plan("short", "too long")
    plan("too long", metric="kid")


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"model": "gaussian", "extractor": ("quadrants",)}, sb.InputError, "'quadrants': reads images, and model"),
        ({"model": "gaussian", "reference": "noise", "extractor": ()}, sb.InputError, "'noise': is of images"),
        ({"metric": ("inception_score",), "reference": "noise", "extractor": ("quadrants", "logits-only")},
         sb.InputError, "none of the metrics inception_score compares with it; add one that does, as --metric fid"),
        ({"reference": "nosie"}, sb.InputError, "'nosie': no such file or folder, and no data set"),
        ({"reference": "x.npz"}, sb.ModelError, r"'x\.npz': no such file"),
        ({"extractor": ("quadrant",)}, sb.InputError, "did you mean 'quadrants'"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(plugin, registry, settings, kind, message):
    given = {"model": f"{plugin}:make", "steps": (2,), "metric": ("fid",), "extractor": ("quadrants",)} | settings
    with pytest.raises(kind, match=message):
        model_for(Config(**given), registry)


# Files


@pytest.fixture
def made(registry):
    """(rows, about) of forty images."""
    extractor = registry.extractors_of("quadrants")["features"]
    images = Images(registry.image_data("noise"), SHAPE)
    return images.rows(extractor, silent), images.about(extractor)


@pytest.fixture
def stored(made, tmp_path):
    """Both files of them."""
    for suffix in (".npz", ".safetensors"):
        export(*made, tmp_path / f"ref{suffix}")
    return tmp_path


def test_an_npz_is_what_the_field_reads(stored, made):
    with np.load(stored / "ref.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(file["mu"], made[0].mean(0, dtype=np.float64), atol=1e-12)
        np.testing.assert_allclose(file["sigma"], np.cov(made[0].astype(np.float64), rowvar=False), atol=1e-12)
        assert file["mu"].dtype == file["sigma"].dtype == np.float64
        assert str(file["extractor"]) == "quadrants"
        assert str(file["samples"]) == "40"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_says_what_the_images_said(stored, made, plugin, registry, suffix):
    settings = config(plugin, extractor=("quadrants",), reference=str(stored / f"ref{suffix}"))
    extractor = model_for(settings, registry).extractors["features"]
    assert extractor.note == "compared with 40 images of noise 40 at 8x8; Its files are JPEG"
    found = extractor.reference()
    if suffix == ".npz":
        assert isinstance(found, Moments)
        assert found.samples == 40
        np.testing.assert_allclose(found.mean, made[0].mean(0, dtype=np.float64), atol=1e-12)
    else:
        np.testing.assert_array_equal(found, made[0])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_of_another_extractor_or_size_is_refused_naming_both(stored, plugin, registry, suffix):
    path = stored / f"ref{suffix}"
    with pytest.raises(sb.ModelError, match=r"made by quadrants \(q\), this run reads halves \(h\)"):
        model_for(config(plugin, extractor=("halves",), reference=str(path)), registry)
    with pytest.raises(sb.ModelError, match=r"made at 8x8, this run makes images of 9x8.*--size 9x8"):
        reference_file(path, (3, 8, 9))


def test_a_file_with_another_number_of_rows_than_it_says_is_refused(made, tmp_path):
    path = tmp_path / "ref.safetensors"
    path.write_bytes(content_to_bytes(made[0][:-1], made[1], ".safetensors"))
    with pytest.raises(sb.ModelError, match="39 rows, not what it says"):
        reference_file(path, SHAPE)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_a_file_made_elsewhere_is_taken_where_its_width_fits_and_says_so(plugin, registry, tmp_path):
    path = npz(tmp_path / "theirs.npz", mu=np.zeros(12, dtype=np.float32), sigma=np.eye(12))

    def features(extractor):
        settings = config(plugin, extractor=(extractor,), reference=str(path))
        return model_for(settings, registry).extractors["features"]

    assert features("quadrants").reference().mean.dtype == np.float64
    assert "theirs.npz, made elsewhere: with which extractor is not recorded" in features("quadrants").note
    with pytest.raises(sb.ModelError, match="of 12 features, and which extractor made it is not recorded; halves has"):
        features("halves").reference()


ABOUT = ("extractor", "extractor_hash", "data", "data_hash", "size", "channels", "samples")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"mean \(3,\) and covariance \(4, 4\)"),
        ({"mu": np.array([0, np.nan]), "sigma": np.eye(2)}, "mean is not finite"),
        ({"mu": np.zeros(2), "sigma": np.array([[1, 2], [0, 1.0]])}, "covariance is invalid: it differs"),
        ({"mu": np.zeros(2), "sigma": np.diag([1, -1.0])}, "least variance"),
        ({"mu": np.zeros((1, 2)), "sigma": np.eye(2)}, "mu is float64"),
        ({"mu": np.zeros(2, dtype=int), "sigma": np.eye(2)}, "mu is int64"),
        ({"mu": np.array(["a", {}], dtype=object), "sigma": np.eye(2)}, "mu: holds Python objects"),
        ({"mu": np.zeros(9000), "sigma": np.eye(2)}, "mu is float64"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "extractor_hash": np.array("q")}, "what it says of itself"),
        (
            {"mu": np.zeros(2), "sigma": np.eye(2), **dict.fromkeys(ABOUT, np.array("q")), "notes": np.array("[]")},
            "what it says of itself is damaged \\(channels: expected int",
        ),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "extractor_hash": np.array("x" * 300_000)}, "announces 1,200,128"),
    ],
)  # fmt: skip
def test_moments_that_are_none_are_refused_in_one_line(tmp_path, arrays, message):
    path = npz(tmp_path / "x.npz", **arrays)
    with pytest.raises(sb.ModelError, match=message) as error:
        read_moments(path)
    assert str(error.value).startswith(f"reference {path}: ") or "reference" in str(error.value)
    assert "\n" not in str(error.value)


def test_objects_in_an_npz_are_never_made(tmp_path):
    class Canary:
        def __reduce__(self):
            return (tmp_path / "canary").touch, ()

    path = npz(tmp_path / "x.npz", mu=np.array([Canary()], dtype=object), sigma=np.eye(1))
    with pytest.raises(sb.ModelError, match="Python objects, which are never read"):
        read_moments(path)
    assert not (tmp_path / "canary").exists()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    """64 MB of zeros in 64 kB, where a mean of 8192 numbers may be; and a header that announces what is not there."""
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(8_000_000))
        archive.writestr("mu.npy", buffer.getvalue())
        archive.writestr("sigma.npy", buffer.getvalue())
    tracemalloc.start()
    with pytest.raises(sb.ModelError, match="mu announces 64,000,128 bytes; expected at most 65,536"):
        read_moments(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (8192,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mu.npy", buffer.getvalue())
        archive.writestr("sigma.npy", buffer.getvalue())
    with pytest.raises(sb.ModelError, match=r"mu: \(8192,\) of float64 is 65,536 bytes, 0 are there"):
        read_moments(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damaged_files_are_refused_in_one_line(stored, suffix):
    path = stored / f"ref{suffix}"
    whole = path.read_bytes()
    for content in (b"", b"<html>", whole[:100], whole[:-50]):
        path.write_bytes(content)
        with pytest.raises(sb.ModelError) as error:
            (read_moments if suffix == ".npz" else read_rows)(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    random = np.random.default_rng(0)
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[random.integers(len(whole))] ^= 1 << random.integers(8)
        path.write_bytes(bytes(flipped))
        try:
            (read_moments if suffix == ".npz" else read_rows)(path)
        except sb.ModelError as error:
            assert "\n" not in str(error)  # noqa: PT017  (some flips are of numbers, which cannot be told)


# Rendering


def test_a_distance_is_called_what_its_extractor_calls_it():
    labels = {"fid": {"label": "EfficientNet-Lite0", "frechet": "FD-EffNet", "note": "n"}}
    assert heading_of("fid", labels) == "FD-EffNet"
    assert heading_of("fid", {"fid": {"label": "Inception", "frechet": "FID"}}) == "FID"
    assert heading_of("fid", {"fid": {"label": "toy", "frechet": ""}}) == heading_of("fid", {"fid": {"label": "toy"}})
    assert heading_of("fid", {"fid": {"label": "toy"}}) == "FID [toy]"
    assert heading_of("kid", {"kid": {"label": "Inception", "frechet": "FID"}}) == "kid [Inception]"
    shared = labels | {"kid": {"label": "EfficientNet-Lite0", "note": "n"}, "cmmd": {"label": "c", "note": "m"}}
    assert notes_of(shared) == " FD-EffNet, kid: n. cmmd: m."


def test_a_run_says_in_every_rendering_what_it_compared(plugin, tmp_path):
    result = sb.run(
        f"{plugin}:make", ["ddim"], steps=[2], n=8, metrics=["fid", "kid"], extractors=["quadrants"],
        reference="noise", plugins=[str(plugin)], output=tmp_path / "run",
    )  # fmt: skip
    about = json.loads((tmp_path / "run" / "run.json").read_text())["extractors"]["fid"]
    assert about["frechet"] == "FD-Q"
    assert about["note"] == "compared with 40 images of noise 40 at 8x8; Its files are JPEG"
    for name in ("table.md", "report.html"):
        text = (tmp_path / "run" / name).read_text()
        assert "FD-Q" in text
        assert not re.search(r"FID \[|>FID<|\| FID", text)
        assert "Its files are JPEG" in text
    assert "FD-Q" in result._repr_html_()
    assert np.isfinite(result.table["fid"]).all()


def test_moments_serve_fid_and_not_kid(stored, plugin, registry):
    def run(metric):
        return sb.run(
            f"{plugin}:make", ["ddim"], steps=[2], n=8, metrics=[metric], extractors=["quadrants"],
            reference=stored / "ref.npz", plugins=[str(plugin)], output=stored / metric,
        )  # fmt: skip

    assert np.isfinite(run("fid").table["fid"]).all()
    with pytest.raises(sb.InputError, match="kid: needs the features"):
        run("kid")
    assert not (stored / "kid").exists()


# The command


def test_the_command_makes_and_keeps_a_reference(sb, plugin, tmp_path, cache):
    arguments = ("reference", "noise", "--extractor", "quadrants", "--plugin", plugin)
    done = sb(*arguments, "-n", "30", "-o", "x/ref.npz", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["images"] == 30
    assert said["file"] == "x/ref.npz"
    assert (said["extractor"], said["features"], said["size"]) == ("quadrants", 12, "8x8")
    assert [file.stem.partition("-")[0] for file in cache.iterdir()] == [said["hash"]]
    assert read_moments(tmp_path / "x" / "ref.npz")[0].samples == 30
    done = sb(*arguments, "--size", "4x6", "-o", "ref.safetensors")
    assert done.out.splitlines()[0] == "40 images of noise 40 at 4x6, 3 features of quadrants"
    assert "Note: Its files are JPEG." in done.err
    assert read_rows(tmp_path / "ref.safetensors")[1].size == "4x6"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["noise", "--extractor", "quadrants", "-o", "x.png"], 2, ["x.png", "FILE.npz", "FILE.safetensors"]),
        (["noise", "--extractor", "logits-only"], 2, ["reads logits", "features, clip_image"]),
        (["noise", "--extractor", "quadrants", "--size", "0"], 2, ["size '0'"]),
        (["noise", "--extractor", "quadrants", "-n", "41"], 4, ["40 images, 41 asked for"]),
        (["noise"], 2, ["--extractor"]),
        (["nosie", "--extractor", "quadrants"], 2, ["'nosie'", "noise"]),
        (["noise", "--extractor", "inception"], 4, ["6726825d.pth, 96 MB", "--allow-download"]),
        (["noise:1", "--extractor", "quadrants", "-o", "x.npz"], 2, ["1 image: has no covariance"]),
    ],
)
def test_the_command_refuses_in_one_line(sb, plugin, tmp_path, arguments, code, words):
    done = sb("reference", *arguments, "--plugin", plugin)
    done.refused(code, *words)
    assert not list(tmp_path.glob("*.npz"))


def test_images_of_several_sizes_need_one_to_be_named(tmp_path):
    data = Ramps((3, 8, 8), (3, 8, 9))
    with pytest.raises(sb.InputError, match="image 1 is 9x8, the first 8x8; expected one size, or --size"):
        reference.images_at(data, None, None).rows(counting()[0], silent)
    assert len(reference.images_at(data, "8", None).rows(counting()[0], silent)) == 2


def test_referring_twice_refers_once(registry):
    extractor, _ = counting()
    source = Images(registry.image_data("noise"), SHAPE)
    once = referring(extractor, source)
    assert referring(once, source) == once

"""Networks D(x; sigma): from a folder and from a function, what they compute and what is refused."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import samplerbench as sb
from cases import thinned
from samplerbench.plugins.models import edm
from samplerbench.plugins.models.edm import Preconditioned
from samplerbench.samplers.exact import exact_model
from samplerbench.samplers.nets.unet import UNet

UNET = {"channels": 1, "widths": [8, 16], "heads": [0, 2], "blocks": 1, "patch": 1, "embedding_dim": 16}
SHAPE = [1, 8, 8]
LARGER = r"config.json: describes a larger network than the weights beside it, 86 tensors of 26,441 numbers"


@pytest.fixture
def folder(tmp_path):
    """A folder of random weights."""

    def make(arguments=UNET, **about):
        torch.manual_seed(0)
        network = UNet(**{**UNET, **arguments})
        for weight in network.parameters():  # those that training starts at zero too
            torch.nn.init.normal_(weight, std=0.1)
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        content = {"network": "UNet", "arguments": {**UNET, **arguments}, "shape": SHAPE, **about}
        (tmp_path / "config.json").write_text(json.dumps(content))
        return str(tmp_path)

    return make


@pytest.fixture
def function(tmp_path):
    """The spec of a function in a file."""

    def write(source):
        path = tmp_path / "nets.py"
        path.write_text(source)
        return f"edm:{path}:make"

    return write


def test_the_preconditioning_is_exact_for_gaussian_data():
    """With F = 0, D is the best answer to data N(0, sigma_data^2), and sampling gives that data."""

    class Zero(torch.nn.Module):
        def forward(self, x, t, labels=None):
            return torch.zeros_like(x)

    x = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    network = sb.wrap_network(Preconditioned(Zero(), 0.5), sb.edm(), SHAPE, predicts="x0")
    exact = exact_model(sb.GaussianMixture(((0.0,) * 64,), (0.25,), (1.0,)), sb.edm(), "x0")
    ours = sb.sample(network, "heun", steps=5, x_init=x)
    theirs = sb.sample(exact, "heun", steps=5, x_init=x.flatten(1))
    assert torch.allclose(ours.x.flatten(1), theirs.x, rtol=1e-12, atol=1e-12)


def test_the_network_sees_what_the_paper_says():
    seen = {}

    class Spy(torch.nn.Module):
        def forward(self, x, t, labels=None):
            seen.update(x=x, t=t)
            return torch.ones_like(x)

    x, sigma = torch.full((2, 1, 4, 4), 3.0), torch.tensor([2.0, 0.5])
    answer = Preconditioned(Spy(), 0.5)(x, sigma)
    for i, s in enumerate(sigma.tolist()):
        norm = s**2 + 0.25
        assert seen["x"][i, 0, 0, 0].item() == pytest.approx(3 / math.sqrt(norm))
        assert seen["t"][i].item() == pytest.approx(math.log(s) / 4)
        assert answer[i, 0, 0, 0].item() == pytest.approx(3 * 0.25 / norm + s * 0.5 / math.sqrt(norm))


def test_a_folder_is_sampled_and_known_by_its_files(folder):
    path = folder()
    model = sb.load_model(f"edm:{path}")
    made = sb.sample(model, "heun", steps=3, n=2)
    assert made.images.shape == (2, *SHAPE)
    assert made.nfe == 5
    other = sb.load_model(f"edm:{folder(sigma_data=0.6)}")
    assert model.fingerprint != other.fingerprint
    assert not torch.equal(made.x, sb.sample(other, "heun", steps=3, n=2).x)


def test_weights_of_d_itself_are_not_preconditioned(folder):
    raw = sb.sample(f"edm:{folder(preconditioning='none')}", "euler", steps=2, n=1)
    assert not torch.equal(raw.x, sb.sample(f"edm:{folder()}", "euler", steps=2, n=1).x)


@pytest.mark.parametrize(("dtype", "closest"), [("float16", 0.02), ("bfloat16", 0.2)])
@pytest.mark.parametrize("preconditioning", thinned(["edm", "none"], "edm"))
def test_a_folder_is_drawn_in_low_precision(folder, dtype, closest, preconditioning):
    """The network alone computes in it: sigma, and the scaling with it, stay in the precision of the state."""
    model = sb.load_model(f"edm:{folder(preconditioning=preconditioning)}")
    exact, low = (sb.sample(model, "heun", steps=3, n=2, dtype=name).x for name in ("float32", dtype))
    assert float(exact.std()) > 0.01
    assert float((low - exact).abs().max()) < closest * float(exact.abs().max())


def test_classes_are_prompts_and_guidance_is_against_none(folder):
    path = f"edm:{folder({'condition_dim': 2}, classes=['cat', 'dog'])}"
    model = sb.load_model(path)
    assert model.prompts == ("cat", "dog")

    def drawn(**settings):
        return sb.sample(model, "euler", steps=2, n=2, seed=1, **settings).x

    assert torch.equal(drawn(), drawn(prompts=["cat", "dog"]))
    assert not torch.equal(drawn(prompts=["cat"])[1], drawn()[1])
    assert not torch.equal(drawn(guidance=2.0), drawn())
    with pytest.raises(sb.InputError, match=r"prompt 'cta': no class of .*did you mean 'cat'.*one of: cat, dog"):
        drawn(prompts=["cta"])


def test_a_network_of_diffusers_in_a_folder(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    arguments = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8], "norm_num_groups": 4,
        "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"], "num_class_embeds": 3,
    }  # fmt: skip
    torch.manual_seed(0)
    save_file(diffusers.UNet2DModel(**arguments).state_dict(), tmp_path / "model.safetensors")

    def model_with(classes):
        about = {"network": "UNet2DModel", "arguments": arguments, "shape": SHAPE, "classes": classes}
        (tmp_path / "config.json").write_text(json.dumps(about))
        return sb.load_model(f"edm:{tmp_path}")

    two = model_with(["a", "b"])
    assert not torch.equal(
        sb.sample(two, "euler", steps=2, n=1, guidance=2.0).x, sb.sample(two, "euler", steps=2, n=1).x
    )
    with pytest.raises(sb.InputError, match="has 3 classes and no embedding of none"):
        sb.sample(model_with(["a", "b", "c"]), "euler", steps=2, n=1, guidance=2.0)


def test_a_function_returns_a_network_that_says_its_shape(function):
    spec = function(
        "class Net:\n"
        "    img_channels, img_resolution, label_dim = 1, 8, 0\n"
        "    sigma_min, sigma_max = 0, float('inf')\n"
        "    def __call__(self, x, sigma):\n"
        "        return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)\n"
        "make = Net\n"
    )
    model = sb.load_model(spec)
    assert (model.schedule.first.sigma_ve, model.shape) == (80.0, (1, 8, 8))
    sample = sb.sample(model, "heun", steps=60, n=64)
    assert sample.x.std() == pytest.approx(1, abs=0.02)  # D is exact for data N(0, 1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("make = lambda: 3", "returned a int; expected a network D"),
        ("make = lambda: len", "does not say its shape; expected img_channels and img_resolution, or shape"),
        ("mak = len", "no function 'make' in .*did you mean 'mak'"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_functions_that_make_no_network_are_refused(function, source, message):
    with pytest.raises(sb.ModelError, match=message):
        sb.load_model(function(source))


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"network": "SongUNet"}, "network is 'SongUNet'; expected UNet or UNet2DModel"),
        ({"shape": [8, 8]}, r"shape is '\[8, 8\]'; expected \[channels, height, width\]"),
        ({"sigma_data": -1}, "sigma_data is '-1'; expected a number above 0"),
        ({"sigma_max": float("inf")}, "sigma_max is 'inf'; expected a number above 0"),
        ({"classes": ["a", "a"]}, "classes is .*; expected a list of different names"),
        ({"preconditoning": "edm"}, "unknown field 'preconditoning' .*did you mean 'preconditioning'"),
        ({"preconditioning": "vp"}, "preconditioning is 'vp'; expected edm or none"),
        ({"arguments": {"widths": "no"}}, "arguments do not make a UNet"),
        ({"shape": [1, 8, 10**9]}, "shape is .*; expected .* each at most 1024"),
        ({"arguments": {"channels": 3}}, r"shape \[1, 8, 8\] with 3 channels in arguments; expected as many"),
        ({"arguments": {"channels": 3}, "shape": [3, 8, 8]}, "tensors do not fit UNet: enter.weight, leave.2.weight"),
        ({"shape": [1024, 8, 8]}, "with 1 channels in arguments; expected as many"),
        ({"arguments": {"widths": [2**23, 2**23]}}, LARGER),  # 2.5 petabytes
        ({"arguments": {"condition_dim": 2**50}}, LARGER),
        ({"arguments": {"blocks": 10**9}}, LARGER),
        ({"arguments": {"widths": [8] * 99, "heads": [0] * 99}}, LARGER),
        ({"arguments": {"blocks": -1}}, "tensors do not fit UNet"),
        ({"arguments": {"embedding_dim": float("nan")}}, "arguments do not make a UNet"),
        ({"arguments": {"patch": 10**400}}, "arguments do not make a UNet"),
    ],
)
def test_configurations_that_cannot_be_are_refused(folder, about, message):
    path = folder()
    config = Path(path) / "config.json"
    stored = json.loads(config.read_text())
    arguments = {**stored["arguments"], **about.get("arguments", {})}
    config.write_text(json.dumps({**stored, **about, "arguments": arguments}))
    with pytest.raises(sb.ModelError, match=message) as caught:
        sb.load_model(f"edm:{path}")
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_a_network_is_made_only_where_its_file_has_its_weights(folder, monkeypatch):
    made = []

    class Watched(UNet):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            made.append({weight.device.type for weight in self.parameters()})

    monkeypatch.setattr(edm, "UNet", Watched)
    path = folder()
    sb.load_model(f"edm:{path}")
    assert made == [{"meta"}, {"cpu"}]
    save_file(UNet(**{**UNET, "widths": [16, 16]}).state_dict(), Path(path) / "model.safetensors")
    with pytest.raises(sb.ModelError, match="tensors do not fit"):
        sb.load_model(f"edm:{path}")
    assert made[2:] == [{"meta"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "cannot be read as JSON"), (b"[]", "holds a list"), (b"\xff", "cannot be read as JSON")],
)
def test_broken_json_is_refused(folder, tmp_path, content, message):
    path = folder()
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(sb.ModelError, match=message):
        sb.load_model(f"edm:{path}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("edm:nowhere", "no such folder; expected one with config.json and model.safetensors, or file.py:function"),
        ("edm:", "no such folder"),
        ("edm:no_such_module:make", "no module 'no_such_module'; expected file.py:function"),
    ],
)
def test_what_is_not_there_is_refused(spec, message):
    with pytest.raises(sb.ModelError, match=message):
        sb.load_model(spec)

"""Networks D(x; sigma) -> x0 on the schedule of Karras et al. 2022: "edm:FOLDER", "edm:file.py:function".

A folder holds `model.safetensors` and a `config.json` with

- `network`: `UNet` (samplerbench's own) or `UNet2DModel` (of diffusers), and its `arguments`;
- `preconditioning`: `edm` (the default: the weights are of F in their equation 7) or `none` (they are of D itself);
- `shape`: [channels, height, width]; optional `sigma_data` 0.5, `sigma_min` 0.002, `sigma_max` 80;
- `classes`: names, where the network is conditioned on a class; prompts are then these names.

A function returns the network itself: a callable D(x, sigma), or D(x, sigma, labels) where it has a `label_dim`, that
says its `img_channels` and `img_resolution`, or its `shape`, as the networks of that paper's code do.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from ...samplers.errors import InputError, ModelError, closest, in_line, quote
from ...samplers.files.records import record_from
from ...samplers.files.weights import file_hash, network_from_file, read_json
from ...samplers.model import Encode, Model, module_on, wrap_network
from ...samplers.nets.unet import UNet
from ...samplers.plugin import function_from_code
from ...samplers.predictor import Network
from ...samplers.registry import ModelFactory, hookimpl
from ...samplers.schedule import edm
from .rows import rows_of_a_call

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SIGMA_DATA, SIGMA_MIN, SIGMA_MAX = 0.5, 0.002, 80.0
IMAGE_DIMS = 3
MOST_SIDE = 1024
SHOWN = 10
"""Names of classes that a message lists."""
CHANNELS = {"UNet": "channels", "UNet2DModel": "in_channels"}
"""Network -> its argument that says how many channels an image has."""
Side = Annotated[int, Meta(ge=1, le=MOST_SIDE)]
Sigma = Annotated[float, Meta(gt=0, le=sys.float_info.max, description="a number above 0")]


class Description(Struct, frozen=True, forbid_unknown_fields=True):
    """config.json: a network, and what it is for."""

    network: Annotated[Literal["UNet", "UNet2DModel"], Meta(description="UNet or UNet2DModel")]
    shape: Annotated[tuple[Side, Side, Side], Meta(description=f"[channels, height, width], each at most {MOST_SIDE}")]
    arguments: Annotated[dict[str, Any], Meta(description="an object")] = {}
    """The arguments of the network."""
    preconditioning: Annotated[Literal["edm", "none"], Meta(description="edm or none")] = "edm"
    sigma_data: Sigma = SIGMA_DATA
    sigma_min: Sigma = SIGMA_MIN
    sigma_max: Sigma = SIGMA_MAX
    classes: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...], Meta(description="a list of different names")
    ] = ()

    def __post_init__(self) -> None:
        """ValueError for what no type says."""
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes is {', '.join(self.classes)[:80]!r}; expected a list of different names")


class Preconditioned(nn.Module):
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, equation 7 and table 1)."""

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), sigma (B,), labels (B, k) or None -> x0 (B, C, H, W).

        Only the network itself computes in a low precision of x; the scaling does in that of sigma.
        """
        s = sigma.reshape(-1, 1, 1, 1)
        # Table 1 of the paper, column "Ours": c_in = 1 / sqrt(norm), c_noise = log(sigma) / 4.
        norm = s**2 + self.sigma_data**2
        answer: Tensor = self.network((x / norm.sqrt()).to(x.dtype), sigma.log() / 4, labels)
        return x * (self.sigma_data**2 / norm) + answer * (s * self.sigma_data / norm.sqrt())


class Labelled(nn.Module):
    """A UNet2DModel of diffusers as (x, t, labels) -> answer; the row of no class is all zeros."""

    def __init__(self, unet: nn.Module, classes: int) -> None:
        super().__init__()
        self.unet = unet
        self.classes = classes

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,), labels (B, classes) or None -> (B, C, H, W)."""
        numbers = None
        if labels is not None and self.classes:
            # The last embedding stands for "no class", where there is one more than there are classes.
            numbers = torch.where(labels.sum(1) > 0, labels.argmax(1), self.classes)
        answer: Tensor = self.unet(x, t, class_labels=numbers).sample
        return answer


def load(argument: str) -> Model:
    """The model of "edm:FOLDER" or "edm:file.py:function"."""
    name = f"edm:{argument}"
    if ":" in argument and not Path(argument).is_dir():
        make = function_from_code(argument, f"model {name!r}")
        if make is None:
            raise ModelError(f"model {name!r}: no module {argument.rpartition(':')[0]!r}; expected file.py:function")
        return model_of(make(), name)
    folder = Path(argument)
    if not argument or not folder.is_dir():
        raise ModelError(
            f"model {name!r}: no such folder; expected one with {CONFIG} and {WEIGHTS}, or file.py:function"
        )
    return model_in(folder, name)


def model_of(network: Any, name: str) -> Model:
    """The model of a network that states its shape and levels itself."""
    if not callable(network):
        raise ModelError(f"model {name!r}: returned a {type(network).__name__}; expected a network D(x, sigma)")
    shape = getattr(network, "shape", None) or [
        getattr(network, attribute, None) for attribute in ("img_channels", "img_resolution", "img_resolution")
    ]
    if len(shape) != IMAGE_DIMS or None in shape:
        raise ModelError(
            f"model {name!r}: the network does not say its shape; expected img_channels and img_resolution, or shape"
        )
    # A network may state 0 and infinity, that is any level; the run then ends at the levels of the paper.
    low, high = max(SIGMA_MIN, getattr(network, "sigma_min", 0.0)), min(SIGMA_MAX, getattr(network, "sigma_max", 1e9))
    classes = [str(i) for i in range(getattr(network, "label_dim", 0) or 0)]
    made = wrap_network(cast(Network, network), edm(low, high), shape, "x0", name=name)
    return conditioned(made, classes, knows_none=True)


def model_in(folder: Path, name: str) -> Model:
    """The model of a folder."""
    about = read_config(folder / CONFIG)
    classes = list(about.classes)
    network = network_from_file(lambda: new_network(about, folder / CONFIG), folder / WEIGHTS, folder / CONFIG)
    answer = Labelled(network, len(classes)) if about.network == "UNet2DModel" else network
    if about.preconditioning == "edm":
        answer = Preconditioned(answer, about.sigma_data)
    schedule, rows = edm(about.sigma_min, about.sigma_max), rows_of_a_call(about.shape)
    made = wrap_network(answer.eval(), schedule, about.shape, "x0", name=name, batch_size=rows)
    # A UNet2DModel represents "no class" by one embedding more than it has classes.
    knows_none = about.network == "UNet" or about.arguments.get("num_class_embeds", 0) > len(classes)
    return replace(
        conditioned(made, classes, knows_none=knows_none),
        network=functools.partial(module_on, answer),  # sigma reaches the network unrounded, not in the dtype of x
        fingerprint=file_hash(folder / CONFIG, folder / WEIGHTS),
    )


def conditioned(model: Model, classes: list[str], *, knows_none: bool) -> Model:
    """The model with its classes as prompts; `knows_none`: a row of zeros stands for no class."""
    if not classes:
        return model

    def no_class(texts: Sequence[str]) -> Tensor:
        if not knows_none:
            raise InputError(
                f"guidance: {model.name} has {len(classes)} classes and no embedding of none; give a --negative class, "
                "or guidance 1"
            )
        return torch.zeros(len(texts), len(classes))

    return replace(model, encode=encoder(classes, model.name), unconditional=no_class, prompts=tuple(classes))


def encoder(classes: Sequence[str], name: str) -> Encode:
    """Names of classes -> one row each, (n, k), with a 1 at its class."""
    places = {label: i for i, label in enumerate(classes)}

    def encode(prompts: Sequence[str]) -> Tensor:
        for prompt in prompts:
            if prompt not in places:
                shown = ", ".join(classes[:SHOWN]) + (", ..." if len(classes) > SHOWN else "")
                raise InputError(
                    f"prompt {prompt!r}: no class of {name}{closest(prompt, classes)}; expected one of: {shown}"
                )
        return nn.functional.one_hot(torch.tensor([places[p] for p in prompts]), len(classes)).float()

    return encode


def read_config(path: Path) -> Description:
    """The checked content of a config.json."""
    about = record_from(read_json(path), Description, path)
    shape = list(about.shape)
    given = about.arguments.get(CHANNELS[about.network], shape[0])
    if given != shape[0]:
        raise ModelError(f"{path}: shape {shape} with {quote(given)} channels in arguments; expected as many")
    return about


def new_network(about: Description, path: Path) -> nn.Module:
    """The untrained network that a configuration describes, of known kinds only, so that no code of a stranger is
    executed."""
    kind: Callable[..., nn.Module] = UNet
    if about.network == "UNet2DModel":
        kind = unet_2d_model()
    try:
        return kind(**about.arguments)
    except ModelError:
        raise
    except Exception as error:  # a stranger's numbers may fail anywhere in a network's making
        raise ModelError(f"{path}: arguments do not make a {about.network} ({in_line(error)})") from error


def unet_2d_model() -> Callable[..., nn.Module]:
    """UNet2DModel of diffusers, which is an extra."""
    try:
        from diffusers import UNet2DModel  # noqa: PLC0415  (an extra, and slow to import)
    except ImportError as error:
        raise ModelError(
            "network UNet2DModel: diffusers is not installed; pip install 'samplerbench[diffusers]'"
        ) from error
    return cast(Callable[..., nn.Module], UNet2DModel)


@hookimpl
def samplerbench_models() -> dict[str, ModelFactory]:
    """Networks D(x; sigma)."""
    return {"edm": load}

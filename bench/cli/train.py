"""`samplerbench train`: a model from images."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...samplers.errors import InputError, ModelError, SamplerbenchError, StoreError
from ..show.console import complain, say, stdout_for_data
from ..show.doing import Doing
from .loading import registry_with_note, warn_of_plugins
from .options import POSITIVE, WHOLE, Command, FilePath, download_option, plugin_options, quiet_option

if TYPE_CHECKING:
    from ...samplers.registry import Registry

GIVEN_TO_TRAIN = ("data", "output", "report")
"""Parameters of a training that are not settings."""


@click.command(cls=Command)
@click.argument("model", required=False)
@click.option("--data", metavar="DATA", help="Images to learn: a folder, a file or a data set, as `samplerbench list "
              "data` names them. For fashion-mnist the folder of its files. [default: the system's copy, else a "
              "download, with --allow-download]")  # fmt: skip
@click.option("-o", "--output", type=FilePath(), required=True, metavar="DIR",
              help="Where weights, log and checkpoints go; training resumes from what is there.")  # fmt: skip
@click.option("--latent", is_flag=True, help="A latent diffusion model with text, in diffusers' own layout: an "
              "autoencoder, a text encoder and a U-Net. The images need captions.")  # fmt: skip
@click.option("--decoder-data", metavar="DATA", help="With --latent: images, with or without captions, from which "
              "only the decoder learns, after the autoencoder. [default: those of --data]")  # fmt: skip
@click.option("--prediction", metavar="NAME", help="With --latent: what the U-Net answers with, v or flow. "
              "[default: v]")  # fmt: skip
@click.option("--start-from", type=FilePath(), metavar="DIR", help="With --latent: a folder of such a model. Its "
              "autoencoder and text encoder are taken as they are, unless --relearn names them; its U-Net learns "
              "on.")  # fmt: skip
@click.option("--relearn", metavar="PART", help="With --start-from: which other parts learn. vae: its autoencoder, "
              "from its weights. text: a new text encoder, from these captions. both: both.")  # fmt: skip
@click.option("--size", type=WHOLE, metavar="PIXELS", help="Side of the images. [default: 32; --latent 64]")
@click.option("--preset", metavar="NAME", help="Networks: tiny, small or base; --latent has no base. [default: tiny]")
@click.option("--steps", type=WHOLE, metavar="N", help="Training steps of the U-Net. [default: the preset's]")
@click.option("--minutes", type=POSITIVE, metavar="M", help="As many steps as fit, at the speed of a trial, instead.")
@click.option("-b", "--batch-size", type=WHOLE, help="Images of a step, of all processes together. [default: 128]")
@click.option("--lr", type=POSITIVE, help="Highest learning rate of the U-Net. [default: the preset's]")
@click.option("--precision", metavar="NAME", help="What the network computes in: bf16 or float32. [default: bf16]")
@click.option("--compile", is_flag=True, default=None, help="Compile the U-Net, which makes its steps faster and moves "
              "their last digits. Its first step takes one or two minutes longer.")  # fmt: skip
@click.option("--device", help="cpu, cuda, cuda:N, mps or xpu. [default: cpu]")
@click.option("--seed", type=WHOLE, default=0, show_default=True)
@download_option
@quiet_option
@plugin_options
def train(  # noqa: PLR0913  (the options of the command)
    model: str | None,
    data: str | None,
    output: Path,
    latent: bool,
    quiet: bool,
    plugin: tuple[str, ...],
    **options: Any,
) -> None:
    """Train a model from nothing; the same command again resumes.

    \b
    samplerbench train --data FOLDER -o DIR       a DDPM on your own images; `run --model DIR` runs it
    samplerbench train --latent --data FOLDER -o DIR       a small Stable Diffusion; `run --model DIR`
    samplerbench train fashion-mnist -o DIR       the embedded model; `run --model fashion-mnist:DIR`
    samplerbench train scenes-detector --data scenes -o DIR       what the metric composition sees with
    torchrun --nproc-per-node 4 -m samplerbench train --device cuda ...       on several GPUs

    MODEL is ddpm where --data is given, else fashion-mnist.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"output {output}: is a file; expected a folder")
    # What was not given is left to the model, whose defaults differ.
    settings = {name: value for name, value in options.items() if value is not None}
    # Under torchrun each process has a rank, and only the first speaks.
    is_first = os.environ.get("RANK", "0") == "0"
    with Doing(quiet=quiet or not is_first) as doing:
        doing.loading_torch()
        remarks = train_model(name_of_model(model, data, latent), data, output, plugin, settings, doing)
    if is_first:
        for remark in remarks:
            complain(remark, kind="Note")
        say(str(output))


def train_model(  # noqa: PLR0913  (what is learnt, where, and how it is told)
    model: str, data: str | None, output: Path, plugin: tuple[str, ...], settings: dict[str, Any], doing: Doing
) -> Sequence[str]:
    """Train a model; returns what a user should know of it."""
    from rich.console import Console

    from ...samplers.nets.ranks import rank_of
    from ..show.training_view import TrainingView

    with stdout_for_data():
        doing("loading plugins")
        # Each process loads its own plugins; one of them is enough to say which are broken.
        registry = registry_with_note(plugin)
    rank, processes = rank_of(os.environ)
    if rank == 0:
        warn_of_plugins(registry)
    doing(f"reading {data}" if data else "reading the images")
    # Everything that can be refused is refused here, before networks are built.
    learn = lesson(registry, model, data, settings, processes)
    command = shlex.join(["samplerbench", *sys.argv[1:]])
    with TrainingView(Console(stderr=True), quiet=doing.is_quiet, before=doing.over) as view:
        doing("building the networks")
        try:
            return learn(output=output, report=view, **settings) or ()
        except OSError as error:
            raise disk_fault(error, output) from error
        except KeyboardInterrupt:
            # Its words are printed by the program: training has stored a checkpoint, so it can go on.
            raise KeyboardInterrupt(f"stopped; go on with: {command}") from None


def name_of_model(model: str | None, data: str | None, latent: bool) -> str:
    """The name of the model to train. InputError for --latent with the name of another."""
    if latent and model not in (None, "latent"):
        raise InputError(f"model {model!r} and --latent: expected one of them")
    return "latent" if latent else model or ("ddpm" if data else "fashion-mnist")


def disk_fault(error: OSError, output: Path) -> SamplerbenchError:
    """The error for an OSError: the output cannot be written, or the data, which is elsewhere, cannot be read."""
    reason = error.strerror or error
    # Data and output may be on two disks, and the reader must know which to look at.
    if isinstance(error.filename, str) and not Path(error.filename).absolute().is_relative_to(output.absolute()):
        return ModelError(f"{error.filename}: cannot be read ({reason})")
    return StoreError(f"{output}: cannot be written ({reason})")


def lesson(
    registry: Registry, name: str, data: str | None, settings: dict[str, Any], processes: int
) -> Callable[..., Sequence[str] | None]:
    """The function that trains a model on the data; it takes output, report and the settings of the model."""
    from ...samplers.factories import accepted_settings, refuse_settings
    from ...samplers.model import TrainableModel, TrainableOnImages

    # An extractor may be trained too; a name that is neither is told as that of a model.
    factory: object = registry.extractors.things.get(name) or registry.models[name]
    what = f"training of {name!r}"
    if isinstance(factory, TrainableOnImages):
        refuse_settings(what, settings, [s for s in accepted_settings(factory.train_on) if s not in GIVEN_TO_TRAIN])
        if data is None:
            raise InputError(f"data: not given; expected the images for {name!r} to learn, as in --data FOLDER")
        if "decoder_data" in settings:
            # A name of the command line becomes the images, as with the data.
            settings["decoder_data"] = registry.image_data(settings["decoder_data"])
        return partial(factory.train_on, registry.image_data(data))
    if not isinstance(factory, TrainableModel):
        raise InputError(f"model {name!r}: cannot be trained here")
    # Which settings there are is read from the function's parameters, so a model of a plugin may have its own.
    refuse_settings(what, settings, [s for s in accepted_settings(factory.train) if s not in GIVEN_TO_TRAIN])
    if processes > 1:
        raise InputError(f"model {name!r}: is trained by one process; start it without torchrun")
    if data is not None and not Path(data).is_dir():
        raise InputError(f"data {data!r}: no such folder; expected the folder with the files of model {name!r}")
    return partial(factory.train, data=None if data is None else Path(data))

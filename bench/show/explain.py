"""What each setting in the caption of a picture is, and the command that draws with them here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...samplers.arguments import check_guidance
from ...samplers.errors import InputError, SamplerbenchError
from ...samplers.factories import is_there
from ...samplers.familiar import grid_for, spec_for, with_grid
from ...samplers.model import parse_size
from ...samplers.noise import check_seed
from ...samplers.options import check_count
from ...samplers.registry import Registry
from ...samplers.sampler import MAX_STEPS
from ...samplers.text import count_of
from ..plan.caption import Caption
from ..plan.config import MOST_LAYERS, Config

NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
TOLD = {
    "model": "The network and its weights. Here: --model FOLDER, a folder that diffusers' save_pretrained wrote.",
    "model hash": "The first digits of the hash of the file with the weights: which version of the model it was.",
    "vae": "The decoder from latents to pixels. It belongs to the model's folder here.",
    "denoising strength": "How far an image that was given was turned to noise before it was drawn again.",
    "hires upscale": "The picture was drawn small, enlarged by this factor and drawn again: a second pass.",
    "hires steps": "The steps of that second pass.",
    "hires upscaler": "What enlarged it between the passes.",
    "eta": "How much fresh noise a step adds: 0 none, 1 as much as the ancestral samplers. An option of samplers here.",
    "ensd": "A number that the tool adds to the seed of the noise in the steps.",
    "lora hashes": "Small changes of the weights that were loaded on top. They belong to the model's folder here.",
    "version": "The version of the tool that drew it.",
    "script": "What made one picture of many.",
    **dict.fromkeys(("x type", "x values"), "What changes from left to right: -x of samplerbench grid."),
    **dict.fromkeys(("y type", "y values"), "What changes from top to bottom: -y of samplerbench grid."),
}
"""Settings that belong to a model or a tool, and have no option of their own here."""


PROMPTS = ("--prompt", "--negative")
FOLDERS = "diffusers"
"""The models whose size, too, is given with an option."""
CODE = re.compile(r".+\.py:\w+")


@dataclass
class Explained:
    """The settings of a caption, each with what it is, and the options that say the same here."""

    settings: list[tuple[str, str, str]] = field(default_factory=list)
    """Name, value, what it is."""
    options: dict[str, str] = field(default_factory=dict)
    """Options that every model takes."""
    of_model: dict[str, str] = field(default_factory=dict)
    """Options that belong to a model of diffusers, prompts among them: the embedded model knows ten words."""
    model: str = ""
    """The model that drew the picture, if it is one of those here."""

    @property
    def where(self) -> str:
        """On which model the command draws, for people."""
        return "On the embedded model" if self.model in ("", Config().model) else "On the model that drew it"

    @property
    def left_out(self) -> str:
        """The options that the embedded model does not take, for people."""
        return "" if self.model else ", ".join(self.of_model)

    @property
    def command(self) -> str:
        """The command on the model that drew the picture, or on the embedded one."""
        return command_of(self.options)

    @property
    def command_for_folder(self) -> str:
        """The command on a model folder."""
        return command_of({"--model": "diffusers:FOLDER", **self.of_model, **self.options})


def command_of(options: dict[str, str]) -> str:
    """`samplerbench grid` with options."""
    return shlex.join(["samplerbench", "grid", *(word for pair in options.items() for word in pair)])


def explain_caption(caption: Caption, registry: Registry) -> Explained:
    """What a caption says; InputError for an invalid value."""
    about = Explained()
    # Of a folder of diffusers only: the embedded model knows ten words, and would refuse any other prompt.
    if caption.prompt:
        about.of_model["--prompt"] = caption.prompt
        about.settings.append(("Prompt", caption.prompt, "What the picture shows; the network is asked with it."))
    if caption.negative:
        about.of_model["--negative"] = caption.negative
        text = "What it does not show: the network is asked with it where it would be asked without a prompt."
        about.settings.append(("Negative prompt", caption.negative, text))
    for name, value in caption.fields.items():
        known = KNOWN.get(name.lower())
        # Each function says what a setting is, and notes the option that says the same here.
        text = known(caption, value, about, registry) if known else TOLD.get(name.lower(), NOT_KNOWN)
        about.settings.append((name, value, text))
    # The command is whole even where the caption names neither.
    about.options.setdefault("-s", "ddim")
    about.options.setdefault("--steps", "20")
    return about


NOT_KNOWN = "A setting of the tool that drew it; samplerbench has nothing that corresponds."


def steps(_: Caption, value: str, about: Explained, __: Registry) -> str:
    """Steps."""
    count = check_count("Steps", whole("Steps", value), MAX_STEPS)
    about.options["--steps"] = str(count)
    return (
        f"How often the sampler goes from noise towards the picture: {count_of(count, 'step')} of less and less noise. "
        "More steps follow the path more exactly and cost more time; beyond 20 or so most samplers change details only."
    )


def sampler(caption: Caption, value: str, about: Explained, registry: Registry) -> str:
    """Sampler, with the schedule where the caption names one."""
    aliases = registry.aliases()
    spec = registry.alias(value) or spec_for(value, aliases)
    schedule = grid_for(caption.get("schedule type", "scheduler"))
    text = "The rule by which a step is taken."
    if not spec:
        # A name that no other program uses may be a spec of ours: captions that samplerbench writes hold those.
        try:
            registry.sampler(value)
        except SamplerbenchError as error:
            return f"{text} Not here: {str(error).partition('; there are')[0]}. The command takes ddim."
        spec = value
    # Tools name the schedule in a setting of its own, or at the end of the sampler's name, which then wins.
    about.options["-s"] = spec = with_grid(spec, schedule) if "grid=" not in spec else spec
    made = registry.sampler(spec)
    text += f" Here it is {spec}"
    text += ", which adds fresh noise at every step" if made.convergence is None else ", which adds no noise on the way"
    count = caption.get("steps")
    calls = made.nfe(int(count)) if count.isdigit() and 0 < int(count) <= MAX_STEPS else None
    if not calls:
        return f"{text}."
    are = "is" if count == "1" else "are"
    return f"{text}; {count_of(int(count), 'step')} of it {are} {count_of(calls, 'call')} of the model."


def schedule(_: Caption, value: str, __: Explained, ___: Registry) -> str:
    """Schedule type."""
    here = grid_for(value)
    return "Where the steps lie between noise and picture." + (f" Here it is the grid {here}." if here else "")


def guidance(_: Caption, value: str, about: Explained, __: Registry) -> str:
    """CFG scale."""
    scale = number("CFG scale", value)
    # Tools differ in what turns guidance off; here 0 would be the network without the prompt.
    if scale == 0:
        return "Classifier-free guidance: 0 means none, which is 1 here."
    about.options["--guidance"] = f"{check_guidance(scale):g}"
    if scale == 1:
        return "Classifier-free guidance: 1 means none."
    return (
        "Classifier-free guidance: the network is asked with the prompt and without it, and the difference is "
        f"multiplied by {scale:g}. More obeys the prompt more and varies less; every step then costs two passes."
    )


def seed(_: Caption, value: str, about: Explained, __: Registry) -> str:
    """Seed."""
    text = "The number from which the noise at the start is made: with the same seed and settings the same picture."
    # The seed that the tool chose is not in such a caption, so no command can have it.
    if whole("Seed", value) == -1:
        return f"{text} -1 lets the tool choose; give one here to see the picture again."
    check_seed(int(value))
    about.options["--seed"] = value
    return f"{text} Tools make different noise of a seed, so theirs gives another picture here."


def size(_: Caption, value: str, about: Explained, __: Registry) -> str:
    """Size."""
    width, height = parse_size(value)
    about.of_model["--size"] = f"{width}x{height}"
    megapixels = width * height / 10**6
    pixels = f"{megapixels:.2g} megapixels" if megapixels >= 0.01 else f"{width * height} of them"  # noqa: PLR2004
    return f"Width x height in pixels: {pixels}. Models draw best near the size they learnt."


def model(_: Caption, value: str, about: Explained, registry: Registry) -> str:
    """Model: one that is here knows the prompt of a picture that it drew."""
    # Nothing is loaded. Code, even code in a folder's place, is named but not put into the command: anybody may have
    # written the picture, and people run a command as it stands.
    name, __, argument = value.partition(":")
    if CODE.fullmatch(value) or ":" in argument:
        return f"{TOLD['model']} If {value} is yours: --model {value}."
    is_registered = name in registry.models.things
    if not is_registered and not is_there(Path(value)):
        return TOLD["model"]
    # A model of diffusers takes all of these; of the others each has its size, and its layer of a text encoder.
    takes_all = name == FOLDERS or not is_registered
    own = about.of_model if takes_all else {key: about.of_model[key] for key in PROMPTS if key in about.of_model}
    # A picture that a model here drew has a prompt of words that it knows.
    about.options |= own
    about.model = value
    if value == Config().model:
        return "The network and its weights: the embedded model, which is the default here."
    about.options["--model"] = value
    return f"The network and its weights. Here: --model {value}."


def clip_skip(_: Caption, value: str, about: Explained, __: Registry) -> str:
    """Clip skip."""
    layer = check_count("Clip skip", whole("Clip skip", value), MOST_LAYERS)
    about.of_model["--clip-skip"] = str(layer)
    which = {1: "the last, as usual", 2: "the one before the last"}.get(layer, f"number {layer} from the end")
    return f"Which layer of the text encoder is read: {which}. Some models were trained so; it changes what words mean."


# In lower case; under the names of several tools.
KNOWN: dict[str, Callable[[Caption, str, Explained, Registry], str]] = {
    "steps": steps, "sampler": sampler, "schedule type": schedule, "scheduler": schedule, "cfg scale": guidance,
    "cfg": guidance, "guidance": guidance, "seed": seed, "size": size, "clip skip": clip_skip,
    "model": model,
}  # fmt: skip


def whole(name: str, value: str) -> int:
    """A whole number of a caption."""
    # A caption may come from anywhere: int() would also take "1_000" and digits of other scripts.
    if not re.fullmatch(r"-?[0-9]{1,20}", value):
        raise InputError(f"{name} {value[:40]!r}: expected a whole number, as in {name}: 40")
    return int(value)


def number(name: str, value: str) -> float:
    """A number of a caption."""
    if not NUMBER.fullmatch(value) or len(value) > 20:  # noqa: PLR2004
        raise InputError(f"{name} {value[:40]!r}: expected a number, as in {name}: 7.5")
    return float(value)

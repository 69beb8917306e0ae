"""The settings of a run, each written once.

From these two records are made: the options of `run` and `grid`, and with them the environment variables
(SAMPLERBENCH_RUN_SEED); the keys of a config file; the checks of `samplerbench.run`'s arguments; what `table --merge`
wants equal; the call that a report shows; what run.json holds. Nothing here imports torch: `--help` reads this list.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Kind = Literal[
    "name", "text", "path", "file", "flag", "switch", "whole", "number", "numbers", "interval", "amount", "list",
    "counts", "workers",
]  # fmt: skip
"""What a setting may be: a name, a text or None, a path or None, the lines of a file; a flag, which is off unless it is
given, or a switch, whose default depends on the run; a whole number, any number, a number or several, as in 1,2.5, two
numbers or None, an amount above 0 or None; texts; counts, as in 5,10,20; workers: a whole number, a word, or None."""
Section = Literal["drawn", "model", "measured", "machine", "limits", "kept", "manner"]
"""Options of one section stand together in the help. Those of "model" are the model's own: its loader gets them."""
USUAL_NUMBERS: dict[Kind, str] = {
    "whole": "a whole number, as in 8", "number": "a number, as in 2.5", "amount": "a number above 0, as in 2.5",
    "interval": "two numbers, as in 0.2,5",
}  # fmt: skip
DEFAULT_SAMPLERS = ("ddpm", "ddim", "dpm-solver", "euler-a")
ELSEWHERE = {
    "cfg": "guidance", "cfgscale": "guidance", "guidancescale": "guidance", "scale": "guidance", "n": "samples",
    "prompt": "prompts", "negativeprompt": "negative", "samplername": "sampler", "samplingmethod": "sampler",
    "scheduler": "grid", "schedule": "grid", "schedulername": "grid", "scheduletype": "grid",
    "numinferencesteps": "steps", "samplingsteps": "steps", "batchcount": "samples", "numimages": "samples",
    "niter": "samples", "width": "size", "height": "size", "resolution": "size", "ckpt": "model",
    "checkpoint": "model", "checkpointname": "model", "denoise": "strength", "denoisingstrength": "strength",
    "out": "output", "outdir": "output", "rescalecfg": "guidance_rescale", "cfgrescale": "guidance_rescale",
    "sigmachurn": "churn", "schurn": "churn", "sigmamin": "s_tmin", "stmin": "s_tmin", "sigmamax": "s_tmax",
    "stmax": "s_tmax", "sigmanoise": "s_noise", "snoise": "s_noise",
}  # fmt: skip
"""What other tools call a setting or an option of a sampler, in the form of `bare` -> what it is called here."""
ABOUT = "setting"
"""Where a field keeps what is known of it."""


@dataclass(frozen=True)
class InGrid:
    """What differs where `samplerbench grid` has the option; '' = as in `run`."""

    help: str = ""
    default: str = ""
    """In words."""
    metavar: str = ""
    axis: str = ""
    """What it is called as an axis of the picture; '' = it cannot be one."""


@dataclass(frozen=True)
class Setting:
    """What is known of a setting, but for its type and its default."""

    kind: Kind
    section: Section
    help: str = ""
    default_words: str = ""
    """The default in words, where its value does not say it."""
    short: str = ""
    """The short option."""
    metavar: str = ""
    numbers: str = ""
    """Which numbers are accepted, in words; '' = what USUAL_NUMBERS says of the kind."""
    keyword: str | None = ""
    """The argument of `samplerbench.run`; '' = the setting's own name, None = it has none."""
    grid: InGrid | None = None
    """None = `samplerbench grid` has no such option."""
    for_request: bool = False
    """Whether a request to draw takes it, by this name."""
    always_in_key: bool = False
    """Whether it is part of a plan's key at its default too. Every setting that differs from its default is part of it:
    so one that is added later changes no key."""
    must_agree: bool = False
    """Whether runs with different values must not be merged; model, versions and extractors are compared apart."""
    can_grow: bool = False
    """Whether a run that is there may be given more of it."""
    in_turn: bool = False
    """Whether `samplerbench run` takes several, and makes a run of each, one after the other."""
    later: bool = False
    """Whether runs of the first versions did not have it: their run.json lacks it, and it is written only where it is
    not at its default."""
    for_engine: bool = False
    """Whether it is the engine's own: its factory gets it by this name, and one that does not take it is refused."""
    name: str = ""
    """In run.json, in a config file and, in capitals, in an environment variable."""
    default: Any = None

    @property
    def option(self) -> str:
        """The long option."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def expected(self) -> str:
        """What an error says of a number that cannot be read."""
        return self.numbers or USUAL_NUMBERS[self.kind]


def setting(default: T, kind: Kind, section: Section, text: str = "", **known: Any) -> T:
    """The field of a setting: its default, and what else is known of it."""
    made: T = field(default=default, metadata={ABOUT: Setting(kind, section, text, **known)})
    return made


def settings_of(record: type) -> tuple[Setting, ...]:
    """The settings of a record, in the order of its fields."""
    return tuple(with_name(f.metadata[ABOUT], f.name, f.default) for f in fields(record) if ABOUT in f.metadata)


def with_name(about: Setting, name: str, default: Any) -> Setting:
    """A setting that knows its name and its default."""
    keyword = name if about.keyword == "" else about.keyword
    return replace(about, name=name, default=default, keyword=keyword)


@dataclass(frozen=True)
class Settings:
    """What to compare, on what, how. All of it stands in run.json and is part of the plan's key."""

    model: str = setting(
        "fashion-mnist", "name", "drawn", "Model, as `samplerbench list models` names them.", always_in_key=True,
        grid=InGrid(),
    )  # fmt: skip
    sampler: tuple[str, ...] = setting(
        DEFAULT_SAMPLERS, "list", "drawn", "Sampler, e.g. ddim:eta=0.5; ours=ddim:eta=0.5 calls its rows ours. "
        "Repeatable.",
        default_words=", ".join(DEFAULT_SAMPLERS), short="-s", metavar="SPEC", keyword="samplers", always_in_key=True,
        can_grow=True,
        grid=InGrid("Sampler, e.g. ddim:eta=0.5; ours=ddim:eta=0.5 calls it ours.", "ddim", axis="sampler"),
    )  # fmt: skip
    """Spec strings, in the order of the table; a display name may stand before each, as in ours=ddim:eta=0.5."""
    steps: tuple[int, ...] = setting(
        (5, 10, 20), "counts", "drawn", "Step counts.", default_words="5,10,20", metavar="N,N,...", always_in_key=True,
        can_grow=True, grid=InGrid("Step count.", "20", "N", axis="steps"),
    )  # fmt: skip
    """Step counts; empty if `nfe` is given."""
    nfe: tuple[int, ...] = setting(
        (), "counts", "drawn", "Budgets of model calls instead of step counts.", metavar="N,N,...", always_in_key=True,
        can_grow=True,
    )  # fmt: skip
    """Budgets of predictor calls; each sampler takes the most steps that fit."""
    samples: int = setting(
        512, "whole", "drawn", "Images of each cell.", short="-n", keyword="n", always_in_key=True, must_agree=True,
        can_grow=True, grid=InGrid("Images of each cell, as a small mosaic.", "1"),
    )  # fmt: skip
    seed: int = setting(
        0, "whole", "drawn", "Seed of the noise. Several (0,1,2) make a run each, and one table of means and "
        "spread.", metavar="N,N,...", for_request=True, always_in_key=True, must_agree=True,
        in_turn=True, grid=InGrid("The same in every cell, unless it is an axis.", metavar="INTEGER", axis="seed"),
    )  # fmt: skip
    batch_size: int | None = setting(
        None, "whole", "drawn", "Rows of a network call.", default_words="the model's own", short="-b",
        for_request=True, grid=InGrid(default="the images of a cell, at most as many as the model's own"),
    )  # fmt: skip
    grid: str | None = setting(
        None, "text", "drawn", "Where the noise levels lie: a name, or a list as in 999/500/20.",
        default_words="the schedule's own", metavar="SPEC", grid=InGrid(axis="grid"),
    )  # fmt: skip
    """A sampler's spec may name its own."""
    guidance: float | tuple[float, ...] = setting(
        1.0, "numbers", "drawn", "Classifier-free guidance, one or several; 1 is none.",
        numbers="a number above 0, as in 2.5", metavar="W,W,...", for_request=True,
        grid=InGrid("Classifier-free guidance; 1 is none.", metavar="W", axis="guidance"),
    )  # fmt: skip
    """Several are an axis of the run: each sampler has a cell at each of them and at each count."""
    guidance_interval: tuple[float, float] | None = setting(
        None, "interval", "drawn", "Guide only at the levels with LOW < sigma / alpha <= HIGH.",
        default_words="all levels", metavar="LOW,HIGH", for_request=True, later=True,
        grid=InGrid(axis="guidance_interval"),
    )  # fmt: skip
    guidance_rescale: float = setting(
        0.0, "number", "drawn", "How far the guided x0 goes back to the deviation of the conditional one, 0 to 1.",
        numbers="a number from 0 to 1, as in 0.7", for_request=True, must_agree=True,
        grid=InGrid(axis="guidance_rescale"),
    )  # fmt: skip
    guidance_calls: int = setting(
        1, "whole", "drawn", "Network calls of a guided evaluation: 1 asks with the prompt and without together, 2 in "
        "turn.", numbers="1 or 2", metavar="1|2", for_request=True, later=True, grid=InGrid(),
    )  # fmt: skip
    prompts: tuple[str, ...] | None = setting(
        None, "file", "drawn", "One prompt a line.", default_words="the model's own", metavar="FILE", for_request=True,
        must_agree=True, grid=InGrid(axis="prompt"),
    )  # fmt: skip
    """None = the model's own balanced captions."""
    negative: str | None = setting(
        None, "text", "drawn", "Negative prompt; needs guidance.", metavar="TEXT", for_request=True, must_agree=True,
        grid=InGrid(axis="negative"),
    )  # fmt: skip
    any_model: bool = setting(
        False, "flag", "drawn", "Draw with coefficients that were learned for another model or guidance; the table "
        "marks such rows.", for_request=True, later=True,
    )  # fmt: skip
    metric: tuple[str, ...] = setting(
        ("fid", "clip_score"), "list", "measured", "Metric; repeatable; none for only times and pictures.",
        default_words="fid, clip_score", metavar="NAME", keyword="metrics",
    )  # fmt: skip
    device: str = setting("cpu", "name", "machine", "cpu, cuda, cuda:N, mps or xpu.", for_request=True, grid=InGrid())
    dtype: str = setting(
        "float32", "name", "machine", "What the network computes in.", for_request=True, must_agree=True, grid=InGrid()
    )
    threads: int | None = setting(
        None, "whole", "machine", "CPU threads.", default_words="torch's own choice", keyword=None, grid=InGrid()
    )
    compile: bool = setting(
        False, "flag", "machine", "Compile the network with torch.compile, on a GPU with CUDA graphs; how long that "
        "takes is shown apart.", must_agree=True, later=True, grid=InGrid(),
    )  # fmt: skip
    channels_last: bool = setting(
        False, "flag", "machine", "Hand the network images with the channels innermost in memory.", must_agree=True,
        later=True, grid=InGrid(),
    )  # fmt: skip
    tf32: bool = setting(
        False, "flag", "machine", "Let the network round the factors of float32 products to TF32, on CUDA.",
        must_agree=True, later=True, grid=InGrid(),
    )  # fmt: skip
    cudnn_benchmark: bool = setting(
        False, "flag", "machine", "Let cuDNN time its algorithms and take the fastest, on CUDA.", must_agree=True,
        later=True, grid=InGrid(),
    )  # fmt: skip
    keep_images: bool | None = setting(
        None, "switch", "kept", "Keep every image.", default_words="up to 64 x 64 pixels"
    )
    """Not only the first 16 of each cell."""
    size: str | None = setting(
        None, "text", "model", "Size of the images, 512 or 512x768.", default_words="the model's own", metavar="WxH",
        later=True, grid=InGrid(axis="size"),
    )  # fmt: skip
    """Width x height."""
    clip_skip: int | None = setting(
        None, "whole", "model", "Which layer of the text encoder is read: 1 the last, 2 the one before.",
        default_words="the model's own", metavar="N", later=True, grid=InGrid(axis="clip_skip"),
    )  # fmt: skip
    extractor: tuple[str, ...] = setting(
        (), "list", "measured", "What metrics read, as `samplerbench list extractors` names them; repeatable.",
        default_words="the model's own, else inception and clip", metavar="NAME", keyword="extractors", later=True,
    )  # fmt: skip
    """A later one takes the place of an earlier one."""
    reference: str | None = setting(
        None, "path", "measured", "What metrics compare with: a folder, a file or a data set.",
        default_words="the model's own", metavar="DATA", later=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Conduct:
    """How a run is carried out, which changes no sample of it: no part of run.json or of a key."""

    fresh: bool = setting(
        False, "flag", "manner", "Start the run folder over; the run in it goes once this one has drawn a chunk."
    )
    add: bool = setting(
        False, "flag", "manner",
        "Add samplers, steps, budgets or images (-n) to the run in -o, whose other settings hold; only what is new is "
        "drawn.",
    )  # fmt: skip
    repeats: int = setting(
        0, "whole", "manner", "Clock each cell at least N times.", default_words="once a whole chunk", metavar="N"
    )
    """More often than a cell has whole chunks, it is drawn again only for the clock."""
    clock: bool = setting(
        False, "flag", "manner", "Then draw each cell again by itself, for its time: --repeats times, 5 if not given."
    )
    """For runs whose chunks are drawn beside each other."""
    no_overlap: bool = setting(
        False,
        "flag",
        "manner",
        "Hash and store each chunk before the next is drawn, all through the run.",
    )
    """An accelerator draws on meanwhile, once the times are there."""
    latency: tuple[int, ...] = setting(
        (), "counts", "manner", "Then draw each cell in batches of this many images, for the time of one draw: 20 "
        "times, or --repeats times where that is more.", default_words="none", metavar="N,N,...",
    )  # fmt: skip
    """As given; `bench.run.Manner` parses it."""
    retry_failed: bool = setting(False, "flag", "manner", "Run cells again that failed; else they stay as they are.")
    engine: str = setting(
        "local", "name", "manner", "Where chunks are drawn, as `samplerbench list engines` names it.", metavar="NAME"
    )
    workers: int | str | None = setting(
        None, "workers", "manner", "How many chunks are drawn at a time, or gpus: one on each GPU.",
        default_words="one chunk at a time, in this process", metavar="N",
    )  # fmt: skip
    """As given; `bench.run.Manner` parses it."""
    address: str | None = setting(
        None, "text", "manner", "With --engine ray: the cluster whose head node is there, or auto, the one that Ray "
        "finds.", default_words="a cluster of this machine, for the run", metavar="HOST:PORT|auto", for_engine=True,
    )  # fmt: skip
    cpus_per_worker: int | None = setting(
        None, "whole", "manner", "With --engine ray: cores that are kept for each worker, which are its threads too in "
        "a new run.", default_words="as many as threads", metavar="N", numbers="a whole number from 1, as in 4",
        for_engine=True,
    )  # fmt: skip
    shard: str | None = setting(
        None, "text", "manner", "Draw only every N-th block, from the I-th on, into the folder -o with -I-of-N behind "
        "its name; `table` and `report` join the folders.", default_words="the whole run", metavar="I/N",
    )  # fmt: skip
    log: str | None = setting(
        None, "path", "manner", "Append a line of JSON for each event: started, stored, retried, failed, done.",
        default_words="none", metavar="FILE.jsonl",
    )  # fmt: skip
    time_limit: float | None = setting(
        None, "amount", "limits", "For a chunk of 64 samples of a sampler that did not come with samplerbench.",
        default_words="60, and 50 times what model and extractors take", metavar="SECONDS",
    )  # fmt: skip
    memory_limit: float | None = setting(
        None, "amount", "limits", "Memory of the process that draws the samplers of others.",
        default_words="80 % of the machine's", metavar="GB",
    )  # fmt: skip


SETTINGS = settings_of(Settings)
CONDUCT = settings_of(Conduct)


def bare(name: str) -> str:
    """A name without case, spaces, dashes and underscores."""
    return re.sub(r"[\s_-]+", "", name.lower())


def called_elsewhere(name: str) -> str:
    """What a setting is called here that other tools call by this name; '' where the name is not known."""
    return ELSEWHERE.get(bare(name), "")


def names_of(chosen: Callable[[Setting], bool]) -> tuple[str, ...]:
    """The names of those settings of run.json of which something holds."""
    return tuple(one.name for one in SETTINGS if chosen(one))


AXES = {one.grid.axis: one for one in SETTINGS if one.grid and one.grid.axis}
"""The settings that may be an axis of a grid of images, by what they are called there."""

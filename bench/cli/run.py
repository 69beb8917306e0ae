"""`samplerbench run`: a run under a live view, which signals stop at any moment."""

from __future__ import annotations

import gc
import json
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from ...samplers.errors import InputError
from ...samplers.text import counted
from ..show.console import complain, print_sheet, say, stdout_for_data, table_to_json
from .loading import loaded_registry, warn_of_plugins
from .options import (
    CALLS,
    GUIDANCE,
    POSITIVE,
    SHARE,
    WHOLE,
    Command,
    FilePath,
    load_config_file,
    model_options,
    plugin_options,
)

if TYPE_CHECKING:
    from ...samplers.registry import Registry
    from ..plan.config import Config
    from ..plan.plan import Plan
    from ..run import Manner, Result, Session

SIGINT_EXIT, SIGTERM_EXIT = 130, 143


class Signals:
    """SIGINT and SIGTERM while a run goes on; use it as a context.

    The first raises KeyboardInterrupt and ends the work, a second one ends what is made of it. Further ones are not
    heard: what is left is to let the next writer in, and to say how to go on.
    """

    def __init__(self) -> None:
        self.code = 0
        """The exit code of the first; 0 before it."""
        self._left = 2

    def __enter__(self) -> Signals:
        """Hear them."""
        self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        """As before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.code = self.code or {signal.SIGINT: SIGINT_EXIT, signal.SIGTERM: SIGTERM_EXIT}[signal.Signals(number)]
        self._left -= 1
        if self._left >= 0:
            raise KeyboardInterrupt

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Where one comes, what is done meanwhile ends here."""
        try:
            yield
        except KeyboardInterrupt:
            self.code = self.code or SIGINT_EXIT  # whoever raised it


class FolderPath(FilePath):
    """A path that is not empty: that would be the current folder, which nobody named."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse the empty text."""
        if value == "":
            raise InputError("output '': is empty; expected a folder, or leave -o out")
        return super().convert(value, param, ctx)


@click.command(cls=Command)
@click.option(
    "--model", default="fashion-mnist", show_default=True, help="Model, as `samplerbench list models` names them."
)
@click.option("-s", "--sampler", multiple=True, metavar="SPEC", help="Sampler, e.g. ddim:eta=0.5; repeatable. "
              "[default: ddpm, ddim, dpm-solver, euler-a]")  # fmt: skip
@click.option("--steps", metavar="N,N,...", help="Step counts. [default: 5,10,20]")
@click.option("--nfe", metavar="N,N,...", help="Budgets of model calls instead of step counts.")
@click.option("-n", "--samples", type=WHOLE, default=512, show_default=True, help="Images of each cell.")
@click.option("--seed", type=WHOLE, default=0, show_default=True)
@click.option("-b", "--batch-size", type=WHOLE, help="Rows of a network call. [default: the model's own]")
@click.option("--grid", metavar="SPEC", help="Where the noise levels lie: a name, or a list as in 999/500/20. "
              "[default: the schedule's own]")  # fmt: skip
@click.option("--guidance", type=GUIDANCE, default=1.0, show_default=True, help="Classifier-free guidance; 1 is none.")
@click.option("--guidance-rescale", type=SHARE, default=0.0, show_default=True,
              help="How far the guided x0 goes back to the deviation of the conditional one, 0 to 1.")  # fmt: skip
@click.option("--guidance-calls", type=CALLS, default=1, show_default=True, metavar="1|2", help="Network calls of "
              "a guided evaluation: 1 asks with the prompt and without together, 2 in turn.")  # fmt: skip
@click.option("--prompts", type=FilePath(), metavar="FILE", help="One prompt a line. [default: the model's own]")
@click.option("--negative", metavar="TEXT", help="Negative prompt; needs guidance.")
@model_options
@click.option("--metric", multiple=True, metavar="NAME", help="Metric; repeatable. [default: fid, clip_score]")
@click.option("--extractor", multiple=True, metavar="NAME", help="What metrics read, as `samplerbench list extractors` "
              "names them; repeatable. [default: the model's own, else inception and clip]")  # fmt: skip
@click.option("--reference", metavar="DATA", help="What metrics compare with: a folder, a file or a data set. "
              "[default: the model's own]")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--dtype", default="float32", show_default=True, help="What the network computes in.")
@click.option("--threads", type=WHOLE, help="CPU threads. [default: torch's own choice]")
@click.option(
    "-o",
    "--output",
    type=FolderPath(),
    metavar="DIR",
    help="Run folder. [default: results/<model>-<plan>]",
)
@plugin_options
@click.option("--config", type=FilePath(), metavar="FILE.toml", is_eager=True, expose_value=False,
              callback=load_config_file, help="Settings, by the names of these options.")  # fmt: skip
@click.option("--time-limit", type=POSITIVE, metavar="SECONDS", help="For a chunk of 64 samples of a sampler that did "
              "not come with samplerbench. [default: 60, and 50 times what model and extractors take]")  # fmt: skip
@click.option("--memory-limit", type=POSITIVE, metavar="GB", help="Memory of the process that draws the samplers of "
              "others. [default: 80 % of the machine's]")  # fmt: skip
@click.option("--keep-images/--no-keep-images", default=None, help="Keep every image. [default: up to 64 x 64 pixels]")
@click.option("--dry-run", is_flag=True, help="Show the plan, its cost and an estimate of its time; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--fresh", is_flag=True, help="Start the run folder anew instead of resuming.")
@click.option("--add", is_flag=True, help="Add samplers, steps or budgets to the run in -o, whose other settings hold; "
              "only what is new is drawn.")  # fmt: skip
@click.option("--repeats", type=WHOLE, default=0, metavar="N",
              help="Clock each cell at least so often. [default: once a whole chunk]")  # fmt: skip
@click.option("--retry-failed", is_flag=True, help="Run cells again that failed; else they stay as they are.")
def run(  # noqa: PLR0913  (an option each)
    output: Path | None,
    plugin: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    fresh: bool,
    add: bool,
    repeats: int,
    retry_failed: bool,
    **settings: Any,
) -> int:
    """Compare samplers on a model.

    Without options: ddpm, ddim, dpm-solver and euler-a at 5, 10 and 20 steps on the embedded model, 512 images each.
    The same command again resumes.
    """
    import torch

    from ..draw.engines import Limits
    from ..draw.store import check_output, default_output, edited_since
    from ..plan.plan import plan_for, warnings_of
    from ..run import Manner, enlarged_run, evaluations_left

    limits = Limits(settings.pop("time_limit"), settings.pop("memory_limit"))
    manner = Manner(fresh, add, repeats, retry_failed, limits)
    config = config_from(settings)
    with stdout_for_data():  # what a plugin prints is no data
        registry = loaded_registry(plugin)
        warn_of_plugins(registry)
        if add:
            config = enlarged_run(output, settings_given(config), registry, fresh=fresh)
        if config.threads:
            torch.set_num_threads(config.threads)
        plan = plan_for(config, registry)
        folder = output or default_output(plan)
        resumes = check_output(folder, plan, fresh=fresh, add=add)
        if not fresh and (edited := edited_since(folder, plan)):
            say(f"{folder}: edited since, and run again: {', '.join(edited)}", err=True)
        for note in plan.model.notes:
            complain(note, kind="Note")
        for warning in warnings_of(plan):
            complain(warning, kind="Warning")
    if dry_run:
        left = evaluations_left(plan, folder, manner)
        show_plan(plan, folder, left, as_json, resumes=resumes)
        return 0
    return carried_out(plan, registry, folder, manner, as_json=as_json)


def settings_given(config: Config) -> dict[str, Any]:
    """Those settings of a configuration that the command line, the environment or a file gives."""
    context = click.get_current_context()
    sources = {field.name: context.get_parameter_source(field.name) for field in fields(config)}
    default = click.core.ParameterSource.DEFAULT
    return {name: getattr(config, name) for name, source in sources.items() if source not in (None, default)}


def carried_out(plan: Plan, registry: Registry, folder: Path, manner: Manner, *, as_json: bool) -> int:
    """Run a plan, print its table, and on a signal say how to go on; the exit code."""
    from ..run import begin

    command = shlex.join(["samplerbench", *sys.argv[1:]])
    failed = False
    with Signals() as signals:
        with ExitStack() as opened, signals.ending():
            with stdout_for_data():
                session = begin(plan, registry, folder, manner, command)
                opened.callback(session.folder.close)  # again where a signal came while it was closed
                if session.failures:
                    number = counted(len(session.failures), "cell")
                    say(f"{folder}: {number} failed before; --retry-failed runs them again", err=True)
                result = watched(session, signals)
            failed = result.failed > 0
            show_result(result, as_json)
        if signals.code:
            say(f"stopped; go on with: {command}", err=True)
    return signals.code or int(failed)


def show_result(result: Result, as_json: bool) -> None:
    """The table of a run as data, and where its files are."""
    from ..show.sheet import sentences, sheet_of

    if as_json:
        click.echo(table_to_json(result.table, {"folder": str(result.folder)}))
    else:
        print_sheet(sheet_of(result.table, result.labels, below=sentences(result.notes)))
        files = ", ".join(p.name for p in sorted(result.folder.iterdir()) if p.is_file())
        say(f"{result.folder}: {files}", err=True)


def config_from(settings: dict[str, Any]) -> Config:
    """The command's options as a checked configuration."""
    from ..plan.config import DEFAULT_SAMPLERS, Config, parse_counts, read_prompts
    from ..show.axes import lists_levels

    steps, nfe, grid = settings.pop("steps"), settings.pop("nfe"), settings["grid"]
    if steps is None and nfe is None:
        steps = str(len(grid.split("/"))) if lists_levels(grid) else ",".join(map(str, Config.steps))
    prompts: Path | None = settings.pop("prompts")
    return Config(
        sampler=settings.pop("sampler") or DEFAULT_SAMPLERS,
        metric=settings.pop("metric") or Config.metric,
        steps=parse_counts("steps", steps) if steps is not None else (),
        nfe=parse_counts("nfe", nfe) if nfe is not None else (),
        prompts=read_prompts(prompts) if prompts else None,
        **settings,
    )


def watched(session: Session, signals: Signals) -> Result:
    """Do the work under a live view, and conclude with what is there when it is done or a signal comes."""
    from rich.console import Console

    from ..show.live import View

    gc.freeze()  # what is loaded stays until the end: no collection of garbage need walk through it
    with closing(session.folder):
        with signals.ending(), View(Console(stderr=True), session.labels) as view:
            session.work(view)
        return session.conclude()


def show_plan(plan: Plan, folder: Path, left: int, as_json: bool, *, resumes: bool) -> None:
    """The plan, how many evaluations it makes, how many of them are left, and about how long these take here."""
    from ..draw.chunk import seconds_per_evaluation
    from ..plan.plan import summary

    about = summary(plan) | {"network_evaluations_left": left, "output": str(folder)}
    with stdout_for_data():
        seconds = seconds_per_evaluation(plan)
    about["estimated_seconds"] = None if seconds is None else round(seconds * left)
    if as_json:
        click.echo(json.dumps(about))
        return
    for cell in about["cells"]:
        nfe = "adaptive" if cell["nfe"] is None else f"{cell['nfe']} model calls a sample"
        say(f"{cell['sampler']}  {cell['grid']} grid, {cell['steps']} steps, {nfe}")
    time = "the model failed in a trial" if seconds is None else f"about {about['estimated_seconds']} s here"
    of_these = f", of which {left:,} are left to make in {folder}" if resumes else ""
    say(
        f"{counted(len(about['cells']), 'cell')} x {counted(about['samples'], 'sample')} on {about['model']}: "
        f"{counted(about['network_evaluations'], 'network evaluation')}{of_these}, {time}"
    )
    say(f"output: {folder}")

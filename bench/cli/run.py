"""`samplerbench run`: a run under a live view, which a signal can stop at any moment."""

from __future__ import annotations

import gc
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ...samplers.errors import InputError
from ...samplers.text import count_of, roughly
from ..plan.settings import CONDUCT, SETTINGS, Setting
from ..show.console import complain, print_sheet, say, stdout_for_data, table_to_json
from ..show.doing import Doing
from .loading import registry_with_note, warn_of_plugins
from .options import (
    Command,
    FilePath,
    download_option,
    load_config_file,
    plugin_options,
    setting_options,
)

if TYPE_CHECKING:
    from ...samplers.registry import Registry
    from ..plan.config import Config
    from ..plan.plan import Plan
    from ..run import Benchmark, Manner, Result

SIGINT_EXIT, SIGTERM_EXIT = 130, 143


class Signals:
    """Handles SIGINT and SIGTERM during a run; use it as a context.

    The first signal raises KeyboardInterrupt and ends the drawing, a second one ends the making of table and report.
    Further ones are ignored: only the release of the folder is left, and the line that says how to go on.
    """

    def __init__(self) -> None:
        self.code = 0
        """The exit code of the first signal; 0 before it."""
        self._left = 2

    def __enter__(self) -> Signals:
        """Install the handlers."""
        # Both end a run in the same way: a cluster sends SIGTERM where a person types Ctrl-C.
        self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the handlers from before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.code = self.code or {signal.SIGINT: SIGINT_EXIT, signal.SIGTERM: SIGTERM_EXIT}[signal.Signals(number)]
        # Two signals raise; a third may come while the folder is closed, and must not interrupt that.
        self._left -= 1
        if self._left >= 0:
            raise KeyboardInterrupt

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End the block quietly when a signal comes."""
        try:
            yield
        except KeyboardInterrupt:
            self.code = self.code or SIGINT_EXIT  # whoever raised it


class FolderPath(FilePath):
    """A path that is not empty: an empty one would be the current folder, which nobody named."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse the empty text."""
        if value == "":
            raise InputError("output '': is empty; expected a folder, or leave -o out")
        return super().convert(value, param, ctx)


@click.command(cls=Command)
@setting_options("drawn")
@download_option
@setting_options("model", "measured", "machine")
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
@setting_options("limits", "kept")
@click.option("--dry-run", is_flag=True, help="Show the plan, its cost and an estimate of its time; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No progress on stderr: the table, warnings and errors only.")
@setting_options("manner")
def run(
    output: Path | None, plugin: tuple[str, ...], dry_run: bool, as_json: bool, quiet: bool, **settings: Any
) -> int:
    """Compare samplers on a model.

    Without options: ddpm, ddim, dpm-solver and euler-a at 5, 10 and 20 steps on the embedded model, 512 images each.
    The same command again resumes.
    """
    # Before torch is imported, so that "done in" is what a reader has waited.
    since = time.monotonic()
    with Doing(quiet=quiet) as doing:
        doing.loading_torch()
        return plan_and_execute(output, plugin, settings, Mode(doing, dry_run, as_json, quiet, since))


class Mode(NamedTuple):
    """How a run is carried out, and what is printed of it."""

    doing: Doing
    is_dry: bool
    as_json: bool
    is_quiet: bool
    since: float
    """When the command began, by the monotonic clock."""
    is_one_of_several: bool = False
    """Whether the table is that of several runs, printed when all are done."""


class Ready(NamedTuple):
    """A run that may begin: everything that can be refused was checked."""

    plan: Plan
    folder: Path
    threads: int | None
    """What torch is to have; None = as many as it has."""
    resumes: bool
    warnings: tuple[str, ...]


def plan_and_execute(output: Path | None, plugin: tuple[str, ...], settings: dict[str, Any], mode: Mode) -> int:
    """Plan and carry out a run, or one for each of several seeds; returns the exit code."""
    import torch

    from ..plan.seeds import check_page, folder_of_seed, page_of_seeds
    from ..run import Manner

    # What changes no sample, such as the number of workers, is kept apart from the settings that make the keys.
    manner = Manner(**{one.name: settings.pop(one.name) for one in CONDUCT})
    seeds = given if isinstance(given := settings["seed"], tuple) else (given,)
    # The table of all seeds needs whole runs, and no process of an array job has one.
    if len(seeds) > 1 and manner.part:
        raise InputError(f"shard {manner.part}: of one run; expected one --seed, and a command for each seed and part")
    # Checked before plugins and model load, which may take minutes.
    configs = [config_from(settings | {"seed": seed}) for seed in seeds]
    with stdout_for_data():  # what a plugin prints is no data
        mode.doing("loading plugins")
        registry = registry_with_note(plugin)
        warn_of_plugins(registry)
        registry.check_engine(manner.engine, manner.of_engine)
        runs: list[Ready] = []
        # All before the first is drawn: a folder that is refused is no surprise after hours.
        for config in configs:
            # Without -o each run has the folder that its own --seed would give it, and what is drawn there is found
            # again.
            place = folder_of_seed(output, config.seed) if output and len(seeds) > 1 else output
            runs.append(made_ready(config, place, manner, registry, mode, runs[0].plan if runs else None))
        for note in runs[0].plan.model.notes:
            complain(note, kind="Note")
        for warning in dict.fromkeys(text for one in runs for text in one.warnings):
            complain(warning, kind="Warning")
    if len(runs) > 1:
        check_page(page_of_seeds(output or runs[0].folder))
        return in_turn(runs, registry, output, manner, mode)
    # One seed is a run like any other, with its table at the end and threads that stay set.
    (only,) = runs
    if only.threads:
        torch.set_num_threads(only.threads)
    if mode.is_dry:
        show_plan(only, manner, mode)
        return 0
    return execute(only.plan, registry, only.folder, manner, mode)


def made_ready(  # noqa: PLR0913  (what a command says, and the plan before)
    config: Config, output: Path | None, manner: Manner, registry: Registry, mode: Mode, before: Plan | None
) -> Ready:
    """Plan a run and check its folder. The model of the plan `before` is taken where that differs in its seed only."""
    from ..draw.folder import default_output
    from ..draw.output import check_output
    from ..draw.run_file import edited_samplers, stored_run
    from ..draw.store import RunFolder
    from ..plan.plan import plan_for, warnings_of, with_seed
    from ..plan.shard import folder_of_shard
    from ..plan.workers import threads_set, with_threads
    from ..run import enlarge_run

    output = folder_of_shard(output, manner.part) if output else None
    if output and not mode.is_dry:  # which writes nothing
        RunFolder(output).recover()
    if manner.add:
        # The run's own settings come from its folder, so only what was typed may differ from them.
        config = enlarge_run(output, settings_given(config), registry, fresh=manner.fresh)
    # A run that is there keeps its number of threads, which is part of the key of each cell.
    stored = stored_run(output) if output and not manner.fresh else None
    config, threads = with_threads(config, stored, manner.worker_count, manner.cpus_per_worker)
    # The plan hashes the number of threads that torch has, so it is set while planning.
    with threads_set(threads):
        # A large model loads for minutes, and depends on no seed.
        if before and replace(config, seed=before.config.seed) == before.config:
            plan = with_seed(before, config.seed, registry)
        else:
            mode.doing(f"loading model {config.model}")
            plan = plan_for(config, registry).for_shard(manner.part)
        folder = output or default_output(plan)
        resumes = check_output(folder, plan, fresh=manner.fresh, add=manner.add)
        if not manner.fresh and (edited := edited_samplers(folder, plan)):
            say(f"{folder}: edited since, and run again: {', '.join(edited)}", err=True)
        warnings = tuple(filter(None, [*warnings_of(plan), manner.warning]))
    return Ready(plan, folder, threads, resumes, warnings)


def in_turn(runs: list[Ready], registry: Registry, output: Path | None, manner: Manner, mode: Mode) -> int:
    """Carry out the runs of several seeds, then print the table of all; returns the exit code."""
    from ..plan.seeds import page_of_seeds
    from ..plan.workers import threads_set
    from ..show.live import duration
    from .seeds import show_seeds

    if mode.is_dry:
        plans = []
        for one in runs:
            with threads_set(one.threads):
                plans.append(show_plan(one, manner, mode._replace(is_one_of_several=True)))
        if mode.as_json:
            click.echo(json.dumps({"seeds": plans}))
        return 0
    failed = 0
    for number, one in enumerate(runs, start=1):
        if not mode.is_quiet:
            say(f"seed {one.plan.config.seed}, {number} of {len(runs)}: {one.folder}", err=True)
        with threads_set(one.threads):
            code = execute(one.plan, registry, one.folder, manner, mode._replace(is_one_of_several=True))
        # A failed cell (1) does not keep the other seeds from being drawn.
        if code > 1:  # a signal, which has said how to go on
            return code
        failed = max(failed, code)
    mode.doing("making the table and the page of all seeds")
    folders = [one.folder for one in runs]
    show_seeds(folders, page_of_seeds(output or folders[0]), registry, mode.doing, as_json=mode.as_json)
    if not mode.is_quiet:
        say(f"done in {duration(time.monotonic() - mode.since)}", err=True)
    return failed


def settings_given(config: Config) -> dict[str, Any]:
    """The settings that the command line, the environment or a file gives."""
    context = click.get_current_context()
    sources = {field.name: context.get_parameter_source(field.name) for field in fields(config)}
    default = click.core.ParameterSource.DEFAULT
    return {name: getattr(config, name) for name, source in sources.items() if source not in (None, default)}


def execute(plan: Plan, registry: Registry, folder: Path, manner: Manner, mode: Mode) -> int:
    """Run a plan, print its table and how long it took, and after a signal say how to go on; returns the exit code."""
    from ..plan.shard import folder_of_whole
    from ..run import begin
    from ..show.live import duration

    # It is stored in the folder, and printed after a signal: the same words resume.
    command = shlex.join(["samplerbench", *sys.argv[1:]])
    failed = False
    with Signals() as signals:
        # The first signal ends the drawing, in `work_under_view`; a second one ends the making of table and report.
        # Inside `signals`, so that the release of the folder is under its handlers too.
        with ExitStack() as opened, signals.ending():
            with stdout_for_data():
                mode.doing("reading what the metrics compare with" if plan.config.metric else "making the run folder")
                begun = begin(plan, registry, folder, manner, command)
                opened.callback(begun.folder.close)  # again where a signal came while it was closed
                # A cell that failed is not drawn again by itself: the reason is probably still there, and a failure may
                # take hours.
                if begun.failures:
                    number = count_of(len(begun.failures), "cell")
                    say(f"{folder}: {number} failed before; --retry-failed runs them again", err=True)
                result = work_under_view(begun, signals, mode)
            failed = result.failed > 0
            if not mode.is_one_of_several:
                show_result(result, mode.as_json, quiet=mode.is_quiet)
            if not (mode.is_quiet or mode.is_one_of_several or signals.code):
                say(f"done in {duration(time.monotonic() - mode.since)}", err=True)
            # The reader has the shards on one machine at last, and asks there.
            if plan.shard and not signals.code:
                whole = folder_of_whole(result.folder)
                say(f"shard {plan.shard} is done; samplerbench table {whole}-*-of-{plan.shard.of} joins them", err=True)
            if result.is_unclocked and not signals.code:
                say(f"no times: chunks were drawn beside each other; {command} --clock draws for them", err=True)
        if signals.code:
            say(f"stopped; go on with: {command}", err=True)
    # A signal counts for more: an incomplete run says nothing about cells that were not drawn.
    return signals.code or int(failed)


def show_result(result: Result, as_json: bool, *, quiet: bool) -> None:
    """Print the table of a run as data, and the path of its files."""
    from ..run import sheet_of_result

    if as_json:
        click.echo(table_to_json(result.table, {"folder": str(result.folder)}))
    else:
        print_sheet(sheet_of_result(result))
        if not quiet:
            files = ", ".join(p.name for p in sorted(result.folder.iterdir()) if p.is_file())
            say(f"{result.folder}: {files}", err=True)


def config_from(settings: dict[str, Any]) -> Config:
    """The command's options as a checked configuration."""
    from ..plan.config import Config
    from ..show.axes import lists_levels

    # Only what was given goes into Config, whose own defaults hold for the rest.
    grid = settings["grid"]
    # A list of levels says itself how many steps there are.
    if settings["steps"] is None and settings["nfe"] is None and lists_levels(grid):
        settings["steps"] = str(len(grid.split("/")))
    given = {one.name: value_from(one, settings[one.name]) for one in SETTINGS if settings[one.name] not in (None, ())}
    # A budget of calls takes the place of the default step counts; a run has one of the two.
    return Config(**({"steps": ()} if "nfe" in given else {}) | given)


def value_from(one: Setting, given: Any) -> Any:
    """The value of a setting whose option was given."""
    from ..plan.config import parse_counts, parse_numbers
    from ..plan.given_files import read_prompts

    if one.kind == "counts":
        return parse_counts(one.name, given)
    if one.kind in ("numbers", "interval"):
        return parse_numbers(one.name, given, one.expected)
    return read_prompts(given) if one.kind == "file" else given


def work_under_view(begun: Benchmark, signals: Signals, mode: Mode) -> Result:
    """Do the work under a live view, and conclude with what is stored, when it is done or a signal comes."""
    from rich.console import Console

    from ..draw.session import Watch
    from ..show.live import View

    gc.freeze()  # what is loaded stays until the end, so the garbage collector need not scan it
    # The lock of the folder is released whatever happens, also by an error in the view.
    with closing(begun.folder):
        # The live view draws on the same lines.
        mode.doing.over()
        quiet = nullcontext(Watch())
        view = quiet if mode.is_quiet else View(Console(stderr=True), begun.labels, workers=begun.workers)
        with signals.ending(), view as watch:
            begun.work(watch)
        mode.doing("making table, pictures and report")
        # Also after a signal: the chunks that are stored make a table with fewer rows.
        result = begun.conclude()
        mode.doing.over()
        return result


def show_plan(one: Ready, manner: Manner, mode: Mode) -> dict[str, Any]:
    """Print the plan, its evaluations, how many of them are left, and about what these cost here; returns that.

    As JSON the plans of several seeds are one object, which is printed elsewhere.
    """
    from ..draw.chunk import seconds_per_evaluation
    from ..plan.cost import cost_of
    from ..plan.plan import summary
    from ..plan.workers import number_of
    from ..run import evaluations_left

    plan, folder = one.plan, one.folder
    left, workers = evaluations_left(plan, folder, manner), number_of(manner.worker_count)
    about = summary(plan) | {"network_evaluations_left": left, "output": str(folder)}
    with stdout_for_data():
        mode.doing("timing a trial of the model")
        # The trial loads the weights, so a model that cannot draw is noticed here and not at night.
        seconds = seconds_per_evaluation(plan)
    mode.doing.over()
    # A trial that fails leaves the plan as it is: the numbers of evaluations are still right.
    cost = None if seconds is None else cost_of(plan, left, seconds, workers)
    about |= {
        "workers": workers,
        "estimated_seconds": cost and round(cost.seconds),
        "estimated_worker_seconds": cost and round(cost.worker_seconds),
        "least_bytes": cost and cost.least_bytes,
    }
    if mode.as_json:
        if not mode.is_one_of_several:
            click.echo(json.dumps(about))
        return about
    for cell in about["cells"]:
        nfe = "adaptive" if cell["nfe"] is None else f"{count_of(cell['nfe'], 'model call')} a sample"
        say(f"{cell['sampler']}  {cell['grid']} grid, {count_of(cell['steps'], 'step')}, {nfe}")
    time = "the model failed in a trial" if cost is None else f"about {roughly(cost.worker_seconds)} here"
    of_these = f", of which {left:,} are left to make in {folder}" if one.resumes else ""
    say(
        f"{count_of(len(about['cells']), 'cell')} x {count_of(about['samples'], 'sample')} on {about['model']}: "
        f"{count_of(about['network_evaluations'], 'network evaluation')}{of_these}, {time}"
    )
    if cost and workers > 1:
        say(
            f"with {workers} workers, each as fast as this process: about {roughly(cost.seconds)}; they send at least "
            f"{cost.least_bytes / 1e6:.2g} MB, which are stored"
        )
    say(f"output: {folder}")
    return about

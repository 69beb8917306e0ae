"""Run a plan and make its table, picture and report: the public verb `run`, and the work of the command."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import pandas as pd
from PIL import Image

from ..samplers.devices import is_accelerator, name_of
from ..samplers.errors import InputError, ModelError, PluginError
from ..samplers.extractor import Extractor, HasExtractors, OnDevice
from ..samplers.model import Model
from ..samplers.options import check_count
from ..samplers.registry import Registry, load_registry
from .draw.clock import LEAST_REPEATS
from .draw.engines.children import Limits
from .draw.engines.work import RunWork
from .draw.folder import default_output
from .draw.latency import LEAST_DRAWS, Latency, parse_rows
from .draw.ledger import Ledger
from .draw.log import Log, Together
from .draw.run_file import stored_run
from .draw.session import Session, Watch
from .draw.store import RunFolder
from .judge.ranking import answers_from, directions
from .judge.run_metrics import check_plugins, check_settings
from .judge.scores import scores_from
from .judge.status import Status, outcome_of
from .judge.stored import StoredRun
from .judge.table import GrowingTable, check_metric_names, seconds_by_stage
from .judge.verdict_files import fronts_from, write_answers, write_fronts
from .plan.config import Config, enlarge, without_defaults
from .plan.environment import environment
from .plan.keywords import check_arguments, conduct_of, config_of
from .plan.plan import Plan, behind, plan_for, warnings_of
from .plan.record import RunRecord
from .plan.settings import CONDUCT, DEFAULT_SAMPLERS, Conduct
from .plan.shard import Shard, folder_of_shard, parse_shard
from .plan.workers import Workers, number_of, parse_workers, threads_set, warning_of, with_threads
from .plan.yardstick import Yardstick, check_metrics, yardsticks
from .show.figures import chart_picture
from .show.formats import sheet_to_html
from .show.live import notebook_view
from .show.page import write_report
from .show.picture import write_picture
from .show.sheet import Sheet, notes_on, sentences, sheet_of, write_table
from .show.view import metrics_with_ode

MOST_REPEATS = 10_000
MOST_CORES = 4096
"""Of a worker."""


@dataclass(frozen=True)
class Result:
    """The result of a run."""

    folder: Path
    """The run folder."""
    table: pd.DataFrame
    """The columns of table.csv, a row for each sampler spec x grid x steps x guidance."""
    labels: dict[str, dict[str, str]]
    """For each metric its extractor's label, note, fingerprint and data, and the name of its Frechet distance."""
    notes: tuple[str, ...] = ()
    """What else a caption of the table has to say."""
    has_prompts: bool = True
    """Whether the images were drawn for prompts."""

    @property
    def failed(self) -> int:
        """How many cells failed."""
        return sum(outcome_of(text).has_failed for text in self.table["status"])

    @property
    def is_unclocked(self) -> bool:
        """Whether a row has all its samples and no time: its chunks were drawn beside others."""
        is_whole = self.table["status"] == str(Status.OK)
        return bool((is_whole & (self.table["repeats"] == 0)).any())

    def plot(self, metric: str | None = None, against: Literal["nfe", "seconds"] = "nfe") -> Image.Image:
        """A chart of the report, as a picture of Pillow: a metric, by default the first, against model calls or time.

        InputError for a metric that the run does not have, and if there is nothing to plot.
        """
        return chart_picture(StoredRun(self.folder), metric, against)

    def __repr__(self) -> str:
        """One line; a notebook shows the table."""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"Result({str(self.folder)!r}: {len(self.table)} rows{failed})"

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        return sheet_to_html(sheet_of_result(self))


def sheet_of_result(result: Result) -> Sheet:
    """The table of a run as people read it."""
    below = sentences(result.notes)
    return sheet_of(result.table, result.labels, below=below, has_prompts=result.has_prompts)


@dataclass(frozen=True)
class Manner(Conduct):
    """How to carry out a plan, checked."""

    def __post_init__(self) -> None:
        """Refuse an invalid number of repeats (0 = those that the chunks are), and invalid limits."""
        if self.repeats != 0:
            check_count("repeats", self.repeats, MOST_REPEATS)
        Limits(self.time_limit, self.memory_limit)  # refuses invalid limits
        parse_workers(self.workers)
        if self.cpus_per_worker is not None:
            check_count("cpus_per_worker", self.cpus_per_worker, MOST_CORES)
        is_clocked = bool(self.clock or self.repeats or self.timed_at_once.rows)
        # Shards may be drawn on one machine at a time, so none of their chunks is known to be alone.
        if self.part and (self.add or is_clocked):
            raise InputError(f"shard {self.part}: is neither clocked nor added to; join the shards first")

    @property
    def worker_count(self) -> Workers | None:
        """How many chunks are drawn at a time; None = the engine's own way."""
        return parse_workers(self.workers)

    @property
    def of_engine(self) -> dict[str, Any]:
        """The settings that are the engine's own, as far as they are given."""
        given = {one.name: getattr(self, one.name) for one in CONDUCT if one.for_engine}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def warning(self) -> str:
        """What is to be said of the number of workers; '' where it fits, or they may be on other machines."""
        is_elsewhere = self.address is not None or ":" in self.engine
        return "" if is_elsewhere else warning_of(self.worker_count)

    @property
    def part(self) -> Shard | None:
        """The part of the run that is drawn; None = all of it."""
        return parse_shard(self.shard)

    @property
    def clockings(self) -> int:
        """How often a cell is clocked at least; 0 = as often as chunks are drawn alone."""
        return self.repeats or (LEAST_REPEATS if self.clock else 0)

    @property
    def timed_at_once(self) -> Latency:
        """How many images at a time each cell is drawn with for its latency, and how often."""
        return Latency(parse_rows(self.latency), max(LEAST_DRAWS, self.repeats))

    @property
    def limits(self) -> Limits:
        """The time and memory that a child process may take."""
        return Limits(self.time_limit, self.memory_limit)


@dataclass
class Benchmark:
    """A plan being run in a folder. Whenever it is stopped, `conclude` makes the table of what is stored."""

    session: Session
    ready: dict[str, Yardstick]
    notes: tuple[str, ...] = ()
    """What else a caption of the table has to say."""
    log: Log | None = None
    """Writes down what happens."""
    growing: GrowingTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """The table begins empty."""
        self.growing = GrowingTable(self.plan, self.folder, self.ready)

    @property
    def plan(self) -> Plan:
        """What is run."""
        return self.session.plan

    @property
    def folder(self) -> RunFolder:
        """Where it is stored."""
        return self.session.folder

    @property
    def failures(self) -> dict[str, str]:
        """Reason of failure by cell key."""
        return self.session.ledger.failures

    @property
    def has_prompts(self) -> bool:
        """Whether the images are drawn for prompts."""
        prompts = self.plan.config.prompts
        return bool(self.plan.model.prompts if prompts is None else prompts)

    @property
    def labels(self) -> dict[str, dict[str, str]]:
        """The labels of each metric's extractor, from `labels_of`."""
        return labels_of(self.plan.model, self.ready)

    @property
    def workers(self) -> int:
        """How many there are, 0 where all is drawn in this process or as the engine likes."""
        asked = self.session.offered.workers
        return number_of(asked) if asked else 0

    def work(self, watch: Watch) -> None:
        """Draw everything that is missing; the watch sees the table as it grows."""
        told = Together(watch, self.log) if self.log else watch
        try:
            self.session.work(told, lambda: watch.table(self.tabulate()))
        except (InputError, ModelError, PluginError):
            self.folder.withdraw()  # what is refused leaves no folder behind
            raise

    def tabulate(self) -> pd.DataFrame:
        """The table of what is stored; it is also written to the folder."""
        table = self.growing.table(self.failures)
        keys = [cell.key for cell in self.plan.cells]
        write_table(table, self.folder, keys, self.labels, self.notes, has_prompts=self.has_prompts)
        return table

    def conclude(self) -> Result:
        """Make table, picture and report of what is stored, then open the folder to other writers."""
        with closing(self.folder):
            table = self.tabulate()
            self.folder.write_stages(seconds_by_stage(table, [cell.key for cell in self.plan.cells]))
            write_picture(self.plan, self.folder, self.failures)
            stored = StoredRun(self.folder.path)
            # Read back from the folder, as the commands will: what a report shows is what is stored.
            found = self.growing.estimates()
            write_answers(stored, answers_from(stored, found, directions(self.ready)))
            names, timings = metrics_with_ode(stored.table), self.growing.timings()
            with suppress(InputError):  # as where several machines drew it
                scores = scores_from(stored, self.ready, names, found, timings, by="seconds")
                write_fronts(stored, fronts_from(stored, scores))
            write_report(stored, lambda: self.ready)
        return Result(self.folder.path, table, self.labels, self.notes, self.has_prompts)


def run(  # noqa: PLR0913  (the settings of a run, each by name)
    model: str | Model = "fashion-mnist",
    samplers: str | Sequence[str] = DEFAULT_SAMPLERS,
    steps: int | Sequence[int] = (5, 10, 20),
    n: int = 512,
    *,
    nfe: int | Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    grid: str | None = None,
    guidance: float | Sequence[float] = 1.0,
    guidance_rescale: float = 0.0,
    guidance_calls: int = 1,
    guidance_interval: Sequence[float] | None = None,
    any_model: bool = False,
    prompts: str | Sequence[str] | None = None,
    negative: str | None = None,
    size: str | None = None,
    clip_skip: int | None = None,
    metrics: str | Sequence[str] = ("fid", "clip_score"),
    extractors: str | Sequence[str] = (),
    reference: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    compile: bool = False,  # noqa: A002  (the name of the option)
    channels_last: bool = False,
    tf32: bool = False,
    cudnn_benchmark: bool = False,
    keep_images: bool | None = None,
    output: str | Path | None = None,
    fresh: bool = False,
    add: bool = False,
    repeats: int = 0,
    latency: int | Sequence[int] = (),
    retry_failed: bool = False,
    plugins: Sequence[str] = (),
    time_limit: float | None = None,
    memory_limit: float | None = None,
    engine: str = "local",
    workers: int | str | None = None,
    address: str | None = None,
    cpus_per_worker: int | None = None,
    clock: bool = False,
    no_overlap: bool = False,
    shard: str | None = None,
    log: str | Path | None = None,
) -> Result:
    """Compare samplers, as `samplerbench run` does; `.table` is a DataFrame with the columns of table.csv.

    `model` is a name or a Model; `samplers` are specs such as "ddim:eta=0.5"; one of anything need not be in a list.
    Several values of `guidance` are an axis: each sampler has a row at each of them. `guidance_interval` is
    (low, high), the sigma / alpha with guidance. Coefficients that were learned for another model or guidance are
    refused, unless `any_model`.
    The run is stored in `output`, by default results/<model>-<8 hex of the plan> in the current folder, and resumed if
    it is there already, unless the Model cannot be known again: without a fingerprint, and no torch module, which a
    warning says. With `add` the samplers, steps or budgets are added to the run in `output`, and images up to `n`: what
    is there stays, its other settings hold where they are left at their defaults here, and a setting that differs is
    refused. A value that is equal to its default counts as left out: it adds nothing. Cells with fewer than `repeats`
    whole chunks are drawn again only for the clock; cells that failed stay so, unless `retry_failed`. `plugins` are
    files or modules.

    Samplers that did not come with samplerbench are drawn in a child process, so that one that crashes or never ends
    fails only its own cells: `time_limit` is in seconds for a chunk (None = 60 and 50 times what its model calls,
    decoding and extractors take), `memory_limit` in GB (None = 80 % of the machine's). A Model cannot be sent to
    another process: given as an object, everything is drawn in this one, without limits. All that holds of the engine
    "local"; another `engine`, of a plugin, draws the same samples elsewhere. A notebook shows how far the run is.

    With `workers` that number of chunks is drawn at a time, each in a process that keeps its model: the same bytes, and
    no times, unless `clock` has each cell drawn again by itself. The workers of a new run share the cores. With the
    engine "ray", `address` is that of a cluster, and `cpus_per_worker` the cores that it keeps for each worker.
    `shard`, as in "2/4", draws a part of the run into its own folder. An accelerator draws on while chunks are hashed
    and stored, once each cell has the blocks that are timed; with `no_overlap` it never does. `latency`, as in
    [1, 16], also has each cell drawn in batches of that many images, for the time of one draw. `log` is a file that
    gets a line of JSON for each event.
    Raises InputError, PluginError, ModelError or StoreError.
    """
    given = locals()
    check_arguments(given)
    # Everything about the arguments is checked before the model is loaded, which may take a minute.
    config, manner = config_of(given), Manner(**conduct_of(given))
    registry = load_registry(plugins)
    registry.check_engine(manner.engine, manner.of_engine)
    folder = folder_of_shard(Path(output), manner.part) if output else None
    if folder:
        RunFolder(folder).recover()
    if add:
        config = enlarge_run(None if output is None else Path(output), without_defaults(config), registry, fresh=fresh)
    # Threads come before the plan, because they are part of every key.
    stored = stored_run(folder) if folder and not fresh else None
    config, threads = with_threads(config, stored, manner.worker_count, manner.cpus_per_worker)
    with threads_set(threads):
        plan = plan_for(config, registry, model if isinstance(model, Model) else None).for_shard(manner.part)
        for warning in filter(None, [*warnings_of(plan), manner.warning]):
            warnings.warn(warning, stacklevel=2)
        # Then the folder, the drawing, and what is made of it. Stopped anywhere, what is stored stays.
        begun = begin(plan, registry, folder or default_output(plan), manner)
        with closing(begun.folder):
            with notebook_view(begun.labels, begun.workers) as view:
                begun.work(view or Watch())
            return begun.conclude()


def enlarge_run(output: Path | None, given: Mapping[str, Any], registry: Registry, *, fresh: bool = False) -> Config:
    """The settings of the run in a folder, enlarged by `given`. InputError if nothing can be added."""
    if output is None:
        raise InputError("add: to which run? expected with its folder, as in --add -s ddim -o RUN")
    if fresh:
        raise InputError("add with fresh: the one keeps the run that is there, the other starts over; give one of them")
    stored = StoredRun(output)
    if not stored.exists:
        raise InputError(f"add: there is no run in {output}; leave out --add to make one")
    check_settings(stored)
    check_plugins(stored, registry)
    return enlarge(stored.record.config, given)


def begin(plan: Plan, registry: Registry, output: Path, manner: Manner = Manner(), command: str = "") -> Benchmark:
    """Open the run folder; nothing is written if it belongs to something else. `command` is kept in run.json."""
    # All that can be refused is refused before the folder is made.
    check_metric_names(plan.config.metric)
    ready = yardsticks(plan.config.metric, registry.metrics.things, plan.model, plan.config.samples)
    check_metrics(plan.config, registry.metrics.things, plan.model, ready)
    folder = RunFolder(output)
    folder.recover()
    stored = None if manner.fresh else stored_run(output)
    # The rows that are there keep their places; verdicts and pages refer to rows by number.
    plan = behind(plan, stored.budgets) if stored else plan
    history = history_of(plan, registry, command, stored, add=manner.add)
    about = {
        **history,
        **({"shard": str(plan.shard)} if plan.shard else {}),
        # Those of the table that is there, until another is made.
        **({"stages": stored.stages} if stored and stored.stages and plan.model.fingerprint else {}),
        "model": {
            "name": plan.model.name,
            "fingerprint": plan.model.fingerprint,
            "prompts": list(plan.model.prompts),
        },
        "extractors": labels_of(plan.model, ready),
        "environment": environment(plan.config.device),
    }
    with ExitStack() as opened:
        work = replace(work_of(plan, registry, output, ready, manner.limits), workers=manner.worker_count)
        engine = registry.engine(manner.engine, work, **manner.of_engine)
        # Until the session takes them over, an error below has to close both.
        opened.callback(engine.close)
        log = log_of(manner, output)
        if log:
            opened.callback(log.close)
        folder.open(plan, about, fresh=manner.fresh, add=manner.add)
        opened.callback(folder.close)
        if manner.retry_failed:
            folder.forget_failures(plan)
        notes = notes_on(StoredRun(output).record, len(plan.cells))
        ledger = Ledger(
            plan, folder, folder.failures(plan), manner.clockings, manner.timed_at_once, blocks_alone(plan, manner)
        )
        begun = Benchmark(Session(ledger, engine, work, manner.engine), ready, notes, log)
        opened.pop_all()  # engine and folder are the session's now
    return begun


def blocks_alone(plan: Plan, manner: Manner) -> int | None:
    """How many blocks of each cell are drawn with nothing beside them; None = all of them."""
    # Beside a network on the CPU there is nothing to spare: whatever goes on takes its cores.
    if manner.no_overlap or not is_accelerator(plan.trial.device):
        return None
    # No chunk of a shard has a time.
    return 0 if plan.shard else max(LEAST_REPEATS, manner.repeats)


def log_of(manner: Manner, output: Path) -> Log | None:
    """The log of a run in a folder, if one is asked for; InputError where it cannot be written."""
    if manner.log is None:
        return None
    # To open the folder for appending would fail later, with a message that names no option.
    if Path(manner.log).absolute() == output.absolute():
        raise InputError(f"log {manner.log}: is the run's folder; give a file")
    return Log(Path(manner.log), {"run": str(output), "engine": manner.engine, "workers": manner.worker_count})


def work_of(
    plan: Plan, registry: Registry, folder: Path, ready: Mapping[str, Yardstick], limits: Limits | None = None
) -> RunWork:
    """The work of a plan, for an engine."""
    extractors = frozenset(yardstick.metric.extractor for yardstick in ready.values())
    return RunWork(plan, registry.named, folder, extractors, limits or Limits())


def history_of(plan: Plan, registry: Registry, command: str, stored: RunRecord | None, *, add: bool) -> dict[str, Any]:
    """The history in run.json: the command and plugins of the run, and those of its additions."""
    plugins = list(registry.named)
    # A run that was never added to has one command: that which was given last.
    if stored is None or not (add or stored.added or stored.extended):
        return {"command": command, "plugins": plugins}
    added = [msgspec.to_builtins(one) for one in stored.added]
    if len(plan.cells) > len(stored.cells):
        added.append({"command": command, "rows": len(stored.cells)})
    extended = [msgspec.to_builtins(one) for one in stored.extended]
    if plan.config.samples > stored.config.samples:
        extended.append({"command": command, "samples": stored.config.samples})
    later = {name: value for name, value in (("added", added), ("extended", extended)) if value}
    plugins = list(dict.fromkeys([*stored.plugins, *plugins]))
    return {"command": stored.command, **later, "plugins": plugins}


def evaluations_left(plan: Plan, output: Path, manner: Manner) -> int:
    """The network evaluations of a plan that a run would make in a folder as it is now; nothing is written there.

    As in the plan adaptive cells are not counted, and neither are repeats for the clock.
    """
    # Nothing that is there will be used.
    if manner.fresh or not plan.model.fingerprint:
        return plan.network_evaluations
    folder = RunFolder(output)
    return Ledger(plan, folder, {} if manner.retry_failed else folder.failures(plan)).evaluations_left()


def place_of(extractor: Extractor) -> dict[str, str]:
    """Where an extractor computes, if that is not the CPU."""
    extract = extractor.extract
    return {"device": name_of(extract.device)} if isinstance(extract, OnDevice) else {}


def labels_of(model: HasExtractors, ready: Mapping[str, Yardstick]) -> dict[str, dict[str, str]]:
    """For each metric its extractor's label, note, fingerprint and data, the name of its Frechet distance, its number
    of features if the reference tells that, its least number of samples, and the metric without its bias, if it has
    one, with the least number for that where there are fewer."""
    # What a reader of the numbers has to know, by metric: several may read one extractor.
    extractors = {name: model.extractors[yardstick.metric.extractor] for name, yardstick in ready.items()}
    return {
        name: {"label": e.label, "note": e.note, "fingerprint": e.fingerprint, "frechet": e.frechet, "data": e.data,
               "features": str(ready[name].width or ""), "least": str(ready[name].fewest(name)),
               **unbiased_of(ready[name]), **place_of(e)}
        for name, e in extractors.items()
    }  # fmt: skip


def unbiased_of(yardstick: Yardstick) -> dict[str, str]:
    """The metric without the bias of this one, and what it lacks where it is left out."""
    lacks = {"unbiased_least": str(yardstick.left_out[1])} if yardstick.left_out else {}
    return {"unbiased": yardstick.metric.unbiased, **lacks} if yardstick.metric.unbiased else {}

"""The command line. Data goes to stdout, progress and messages to stderr; exit codes are those of the errors.

Each command imports what it needs when it runs, so that --help waits for nothing.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from ..samplers.errors import InputError, ModelError, PluginError, SamplerbenchError
from ..samplers.variables import ALLOW_DOWNLOAD, NO_PLUGINS
from .output import complain, print_card, print_rows, print_sheet, say, stdout_for_data, table_to_json, warn_of_plugins

if TYPE_CHECKING:
    import pandas as pd

    from ..samplers.registry import Registry
    from .config import Config, Kind
    from .formats import Content
    from .run import Result, Session
    from .table import Labels

SIGINT_EXIT, SIGTERM_EXIT = 130, 143
GIVEN_TO_TRAIN = ("data", "output", "report")
"""Parameters of a training that are no settings."""
SEVERAL_RUNS = "table: {} runs; add --merge for one table of them, or give one run"
CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SAMPLERBENCH", "max_content_width": 100}


class Stopped(BaseException):
    """SIGTERM came."""


def main() -> NoReturn:
    """The program; every error that a user can cause is one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path or a name may hold what the terminal cannot show
    try:
        # What cli.main would do, but for a reader that went away: click calls that an error.
        with cli.make_context("samplerbench", sys.argv[1:]) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        complain(error.format_message())
        code = error.exit_code
    except SamplerbenchError as error:
        complain(str(error))
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt) as stop:
        if str(stop):
            complain(str(stop))
        code = SIGINT_EXIT
    except SystemExit as error:  # click and this program have other ways to end
        complain(f"a plugin ended the program with sys.exit({error.code!r})")
        code = PluginError.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush to
        code = 0
    sys.exit(code or 0)


class FilePath(click.Path):
    """A path; what cannot be one is refused in one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click does, with its ValueErrors explained."""
        try:
            return super().convert(value, param, ctx)
        except (ValueError, OSError, TypeError) as error:
            name = param.name if param else "path"
            raise InputError(f"{name} {str(value)[:80]!r}: is no path ({error})") from error


def leave_out_plugins(ctx: click.Context, _: click.Parameter, chosen: bool) -> None:
    """Say it to all that load plugins in this process and below, for as long as the command lasts."""
    if chosen:
        before = os.environ.get(NO_PLUGINS, "")
        os.environ[NO_PLUGINS] = "1"
        ctx.call_on_close(lambda: os.environ.update({NO_PLUGINS: before}))


def allow_downloads(ctx: click.Context, _: click.Parameter, chosen: bool) -> None:
    """Say it to all that look for files in this process and below, for as long as the command lasts."""
    if chosen:
        before = os.environ.get(ALLOW_DOWNLOAD, "")
        os.environ[ALLOW_DOWNLOAD] = "1"
        ctx.call_on_close(lambda: os.environ.update({ALLOW_DOWNLOAD: before}))


download_option = click.option(
    "--allow-download", is_flag=True, envvar=ALLOW_DOWNLOAD, expose_value=False, is_eager=True,
    callback=allow_downloads, help="Fetch models, weights and data that are not on this machine.",
)  # fmt: skip


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The settings that some models have of their own."""
    size = click.option("--size", metavar="WxH", help="Size of the images, 512 or 512x768. [default: the model's own]")
    skip = click.option("--clip-skip", type=int, metavar="N", help="Which layer of the text encoder is read: 1 the "
                        "last, 2 the one before. [default: the model's own]")  # fmt: skip
    return download_option(size(skip(command)))


def plugin_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that loads plugins."""
    named = click.option("--plugin", multiple=True, metavar="PATH", help="A plugin's .py file or module; repeatable.")
    none = click.option("--no-plugins", is_flag=True, envvar=NO_PLUGINS, expose_value=False, is_eager=True,
                        callback=leave_out_plugins, help="Leave out the installed plugins of others.")  # fmt: skip
    return named(none(command))


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="samplerbench")
def cli() -> None:
    """Compare diffusion samplers: FID, CLIP score and wall time across step counts."""


def load_config_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make the settings of a TOML file the defaults of this command."""
    if path is None:
        return
    from .config import read_toml

    options = [p for p in ctx.command.params if isinstance(p, click.Option) and p.name not in ("config", "help")]
    by_name = {opt[2:].replace("-", "_"): p for p in options for opt in p.opts if opt.startswith("--")}
    kinds: dict[str, Kind] = {
        name: "flag" if option.is_flag else "list" if option.multiple else "text" for name, option in by_name.items()
    }
    kinds["steps"] = kinds["nfe"] = "counts"
    ctx.default_map = {by_name[name].name or name: value for name, value in read_toml(path, kinds).items()}


@cli.command()
@click.option(
    "--model", default="fashion-mnist", show_default=True, help="Model, as `samplerbench list models` names them."
)
@click.option("-s", "--sampler", multiple=True, metavar="SPEC", help="Sampler, e.g. ddim:eta=0.5; repeatable. "
              "[default: ddpm, ddim, dpm-solver, euler-a]")  # fmt: skip
@click.option("--steps", metavar="N,N,...", help="Step counts. [default: 5,10,20]")
@click.option("--nfe", metavar="N,N,...", help="Budgets of model calls instead of step counts.")
@click.option("-n", "--samples", type=int, default=512, show_default=True, help="Images of each cell.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-b", "--batch-size", type=int, help="Rows of a network call. [default: the model's own]")
@click.option("--grid", metavar="SPEC", help="Where the noise levels lie: a name, or a list as in 999/500/20. "
              "[default: the schedule's own]")  # fmt: skip
@click.option("--guidance", type=float, default=1.0, show_default=True, help="Classifier-free guidance; 1 is none.")
@click.option("--guidance-rescale", type=float, default=0.0, show_default=True,
              help="How far the guided x0 goes back to the deviation of the conditional one, 0 to 1.")  # fmt: skip
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
@click.option("--threads", type=int, help="CPU threads. [default: torch's own choice]")
@click.option(
    "-o",
    "--output",
    type=FilePath(),
    metavar="DIR",
    help="Run folder. [default: results/<model>-<plan>]",
)
@plugin_options
@click.option("--config", type=FilePath(), metavar="FILE.toml", is_eager=True, expose_value=False,
              callback=load_config_file, help="Settings, by the names of these options.")  # fmt: skip
@click.option("--time-limit", type=float, metavar="SECONDS", help="For a chunk of 64 samples of a sampler that did not "
              "come with samplerbench. [default: 60, and 50 times what its model calls take]")  # fmt: skip
@click.option("--memory-limit", type=float, metavar="GB", help="Memory of the process that draws the samplers of "
              "others. [default: 80 % of the machine's]")  # fmt: skip
@click.option("--keep-images/--no-keep-images", default=None, help="Keep every image. [default: up to 64 x 64 pixels]")
@click.option("--dry-run", is_flag=True, help="Show the plan, its cost and an estimate of its time; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--fresh", is_flag=True, help="Start the run folder anew instead of resuming.")
@click.option("--repeats", type=int, default=0, metavar="N",
              help="Clock each cell at least so often. [default: once a whole chunk]")  # fmt: skip
@click.option("--retry-failed", is_flag=True, help="Run cells again that failed; else they stay as they are.")
def run(  # noqa: PLR0913  (an option each)
    output: Path | None,
    plugin: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    fresh: bool,
    repeats: int,
    retry_failed: bool,
    **settings: Any,
) -> int:
    """Compare samplers on a model.

    Without options: ddpm, ddim, dpm-solver and euler-a at 5, 10 and 20 steps on the embedded model, 512 images each.
    The same command again resumes.
    """
    import torch

    from ..samplers.registry import load_registry
    from .engines import Limits
    from .plan import plan_for
    from .run import Manner, begin
    from .sheet import sheet_of
    from .store import check_output, default_output, edited_since

    manner = Manner(fresh, repeats, retry_failed, Limits(settings.pop("time_limit"), settings.pop("memory_limit")))
    config = config_from(settings)
    if config.threads:
        torch.set_num_threads(config.threads)
    with stdout_for_data():  # what a plugin prints is no data
        registry = load_registry(plugin)
        warn_of_plugins(registry)
        plan = plan_for(config, registry)
        folder = output or default_output(plan)
        check_output(folder, plan, fresh=fresh)
        if not fresh and (edited := edited_since(folder, plan)):
            say(f"{folder}: edited since, and run again: {', '.join(edited)}", err=True)
    if dry_run:
        show_plan(plan, folder, as_json)
        return 0
    command = shlex.join(["samplerbench", *sys.argv[1:]])
    with stdout_for_data():
        session = begin(plan, registry, folder, manner, command)
        if session.failures:
            say(f"{folder}: {len(session.failures)} cells failed before; --retry-failed runs them again", err=True)
        try:
            result, code = watched(session)
        except KeyboardInterrupt:  # again, while the table was made: chunks are all there
            raise KeyboardInterrupt(f"stopped; go on with: {command}") from None
    if as_json:
        click.echo(table_to_json(result.table, {"folder": str(result.folder)}))
    else:
        print_sheet(sheet_of(result.table, result.labels))
        files = ", ".join(p.name for p in sorted(result.folder.iterdir()) if p.is_file())
        say(f"{result.folder}: {files}", err=True)
    if code:
        say(f"stopped; go on with: {command}", err=True)
        return code
    return 1 if result.failed else 0


def config_from(settings: dict[str, Any]) -> Config:
    """The command's options as a checked configuration."""
    from .config import DEFAULT_SAMPLERS, Config, parse_counts, read_prompts

    steps, nfe = settings.pop("steps"), settings.pop("nfe")
    if steps is None and nfe is None:
        steps = ",".join(map(str, Config.steps))
    prompts: Path | None = settings.pop("prompts")
    return Config(
        sampler=settings.pop("sampler") or DEFAULT_SAMPLERS,
        metric=settings.pop("metric") or Config.metric,
        steps=parse_counts("steps", steps) if steps is not None else (),
        nfe=parse_counts("nfe", nfe) if nfe is not None else (),
        prompts=read_prompts(prompts) if prompts else None,
        **settings,
    )


def watched(session: Session) -> tuple[Result, int]:
    """Do the work under a live view; on a signal, conclude with what is there and return its exit code."""
    from rich.console import Console

    from .view import View

    def stop(_: int, __: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    code = 0
    with closing(session.folder):
        try:
            with View(Console(stderr=True), session.labels) as view:
                session.work(view)
        except KeyboardInterrupt:
            code = SIGINT_EXIT
        except Stopped:
            code = SIGTERM_EXIT
        finally:
            signal.signal(signal.SIGTERM, before)
        return session.conclude(), code


def show_plan(plan: Any, folder: Path, as_json: bool) -> None:
    """The plan, how many evaluations it makes, and about how long they take here."""
    from .chunk import seconds_per_evaluation
    from .plan import summary

    about = summary(plan) | {"output": str(folder)}
    with stdout_for_data():
        seconds = seconds_per_evaluation(plan)
    about["estimated_seconds"] = None if seconds is None else round(seconds * plan.network_evaluations)
    if as_json:
        click.echo(json.dumps(about))
        return
    for cell in about["cells"]:
        nfe = "adaptive" if cell["nfe"] is None else f"{cell['nfe']} model calls a sample"
        say(f"{cell['sampler']}  {cell['grid']} grid, {cell['steps']} steps, {nfe}")
    time = "the model failed in a trial" if seconds is None else f"about {about['estimated_seconds']} s here"
    say(
        f"{len(about['cells'])} cells x {about['samples']} samples on {about['model']}: "
        f"{about['network_evaluations']:,} network evaluations, {time}"
    )
    say(f"output: {folder}")


@cli.command("list")
@click.argument("kind", type=click.Choice(["samplers", "grids", "models", "metrics", "extractors", "data", "commands"]),
                default="samplers")  # fmt: skip
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", is_flag=True, help="Print a page of documentation on samplers, grids, metrics or commands.")
def list_(kind: str, plugin: tuple[str, ...], as_json: bool, markdown: bool) -> None:
    """List what is registered: samplers (the default), grids, models, metrics, extractors, data; and plugins that are
    broken.

    "commands" lists the commands of this program.
    """
    from ..samplers.registry import load_registry
    from .commands import commands_listing, commands_page
    from .listing import listing, page

    if markdown and as_json:
        raise InputError("--json and --markdown: expected one of them")
    if kind == "commands":
        rows = commands_listing(cli)
        if as_json:
            click.echo(json.dumps({kind: rows}))
        elif markdown:
            click.echo(commands_page(cli), nl=False)
        else:
            print_rows(rows)
        return
    with stdout_for_data():
        registry = load_registry(plugin)
        rows = listing(registry, kind)
    if as_json:
        broken = [{"origin": str(b.origin), "reason": b.reason} for b in registry.broken]
        remarks = [{"origin": str(r.origin), "text": r.text} for r in registry.remarks]
        click.echo(json.dumps({kind: rows, "broken": broken, "remarks": remarks}))
        return
    if markdown:
        click.echo(page(registry, kind), nl=False)
    else:
        print_rows(rows)
    warn_of_plugins(registry)


@cli.command("new-plugin")
@click.argument("name")
@click.option("--package", is_flag=True, help="A project folder that can be installed, with an entry point.")
@click.option("-o", "--output", type=FilePath(), default=Path(), metavar="DIR", help="Where. [default: here]")
def new_plugin_(name: str, package: bool, output: Path) -> None:
    """Write a sampler to start from, which works, and a test that holds it to its claims."""
    from ..samplers.registry import load_registry
    from .new_plugin import new_plugin

    with stdout_for_data():
        registry = load_registry()
        paths = new_plugin(name, output, registry, package=package)
    for path in paths:
        say(str(path))
    if package:
        say(f"next: pip install -e {shlex.quote(str(output / name))} && samplerbench check {name}", err=True)
    else:
        say(f"next: samplerbench check {name} --plugin {shlex.quote(str(paths[0]))}", err=True)


@cli.command("check")
@click.argument("specs", metavar="[SPEC]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every sampler, and each value of enumerated options.")
@click.option("--quick", is_flag=True, help="Fewer and coarser measurements, under two seconds a sampler.")
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_(specs: tuple[str, ...], everything: bool, quick: bool, plugin: tuple[str, ...], as_json: bool) -> int:
    """Hold samplers to their claims: order, model calls, noise, limits, and what must make no difference.

    Without SPEC, the samplers of the plugins that are named. Prints a report card; the exit code is 1 where a claim
    fails.
    """
    import torch

    from ..samplers.registry import load_registry
    from .conformance.check import check, variants

    torch.set_num_threads(1)  # the models are tiny
    with stdout_for_data():
        registry = load_registry(plugin)
        warn_of_plugins(registry)
        theirs = [name for name, origin in registry.samplers.origins.items() if origin.plugin in plugin]
        chosen = specs or (variants(registry) if everything else theirs)
        if not chosen:
            raise InputError("check: nothing to check; expected a SPEC such as ddim:eta=0.5, --plugin FILE or --all")
        samplers = {spec: registry.sampler(spec) for spec in chosen}
    cards = {}
    for spec, sampler in samplers.items():
        with stdout_for_data():
            cards[spec] = check(sampler, quick=quick)
        if not as_json:
            print_card(spec, cards[spec], failures_only=len(samplers) > 1)
    if as_json:
        click.echo(json.dumps({"cards": {spec: [asdict(f) for f in card] for spec, card in cards.items()}}))
    return 0 if all(finding.holds for card in cards.values() for finding in card) else 1


@cli.command()
@click.argument("run_folders", metavar="[RUN]...", nargs=-1, type=FilePath())
@click.option(
    "--compare", "pair", nargs=2, metavar="A B", help="Two samplers of the run: difference, interval, verdict."
)
@click.option("--nfe", metavar="N,N,...", help="Budgets of model calls: the samplers ranked within each.")
@click.option("--seconds", metavar="S,S,...", help="Budgets of seconds an image: the samplers ranked within each.")
@click.option("--pareto", "front", is_flag=True, help="Which rows are worth their cost, and which are shown not to be.")
@click.option("--against", type=click.Choice(["seconds", "nfe"]), help="Cost for --pareto. [default: seconds]")
@click.option("--metric", metavar="NAME", help="What budgets and --pareto go by. [default: the run's first metric]")
@click.option("--merge", "as_one", is_flag=True, help="One table of several runs, where they can be compared.")
@click.option("--format", "form", type=click.Choice(["md", "csv", "latex", "html", "json", "parquet"]),
              help="Print it so. [default: a table on a terminal, else Markdown]")  # fmt: skip
@click.option("-o", "--output", type=FilePath(), metavar="FILE", help="Write it there, with --format.")
@click.option("--sort", metavar="COL,-COL", help="Sort by columns; -COL from the largest down.")
@click.option("--columns", metavar="A,B,C", help="The columns to show, by their names in table.csv.")
@click.option(
    "--pivot", metavar="METRIC", help="Samplers down, steps (or budgets of calls) across, this in the fields."
)
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON; the same as --format json.")
def table(  # noqa: PLR0913  (an option each)
    run_folders: tuple[Path, ...],
    pair: tuple[str, str] | None,
    nfe: str | None,
    seconds: str | None,
    front: bool,
    against: Literal["seconds", "nfe"] | None,
    metric: str | None,
    as_one: bool,
    form: str | None,
    output: Path | None,
    sort: str | None,
    columns: str | None,
    pivot: str | None,
    plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print the table of a run, by default the newest in results/.

    With --format, as papers, spreadsheets and programs read it; sorted, with the columns asked for, or with samplers
    down and steps across (--pivot fid, ode_error, seconds_per_image, ...). In Markdown, LaTeX and HTML the best for its
    steps or budget is bold where it is shown to differ from each of the others.

    With --compare, each metric of sampler A less that of B, at every step count, on the seeds that both have, and the
    seconds an image, on repeats clocked side by side. "better" and "worse" are said of A, and only where all verdicts
    together are wrong less than once in twenty times.

    With --nfe or --seconds, each sampler's row that makes the most of the budget, best first, and whether it is shown
    to be worse than the best. With --pareto, the rows that are the best for their cost.

    With --merge, the rows of several runs of one model with the same samples, seed, prompts, precision, extractors and
    versions; runs that differ in one of these are refused. Seconds are left out where the machines differ.
    """
    from .config import parse_counts
    from .store import newest_run

    asked = {"--compare": pair, "--nfe": nfe, "--seconds": seconds, "--pareto": front, "--merge": as_one}
    given = [option for option, value in asked.items() if value]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: expected one of them")
    if metric and given in ([], ["--compare"], ["--merge"]):
        raise InputError(f"metric {metric!r}: ranks budgets; expected with --nfe, --seconds or --pareto")
    if against and not front:
        raise InputError(f"against {against!r}: is the cost for --pareto; expected with it")
    if as_json and form not in (None, "json"):
        raise InputError(f"--json and --format {form}: expected one of them")
    form = "json" if as_json else form
    if given in ([], ["--merge"]):
        show_table(run_folders, as_one, form, output, plugin, sort=sort, columns=columns, pivot=pivot)
        return
    if form not in (None, "json"):
        raise InputError(f"{given[0]} with --format {form}: expected json, or none for people to read")
    laid_out = {"--sort": sort, "--columns": columns, "--pivot": pivot, "--output": output}
    if options := [option for option, value in laid_out.items() if value is not None]:
        raise InputError(f"{given[0]} with {', '.join(options)}: lays out the whole table; expected without")
    if len(run_folders) > 1:
        raise InputError(SEVERAL_RUNS.format(len(run_folders)))
    folder = run_folders[0] if run_folders else newest_run(Path("results"))
    as_json = form == "json"
    if pair:
        from .compare import compare, comparison_to_rows

        show_found(folder, plugin, as_json, lambda registry: compare(folder, *pair, registry), comparison_to_rows)
    elif front:
        from .pareto import pareto, pareto_to_rows

        cost = against or "seconds"
        show_found(folder, plugin, as_json, lambda registry: pareto(folder, registry, metric, cost), pareto_to_rows)
    else:
        from .budget import budgets, budgets_to_rows, parse_seconds

        amounts = parse_counts("nfe", nfe) if nfe else parse_seconds(str(seconds))
        by: Literal["seconds", "nfe"] = "nfe" if nfe else "seconds"
        show_found(folder, plugin, as_json, lambda r: budgets(folder, r, by, amounts, metric), budgets_to_rows)


def show_table(  # noqa: PLR0913  (the options of a table, each by name)
    folders: tuple[Path, ...],
    as_one: bool,
    form: str | None,
    output: Path | None,
    plugin: tuple[str, ...],
    *,
    sort: str | None,
    columns: str | None,
    pivot: str | None,
) -> None:
    """The table of a run, or of several, laid out as asked for."""
    from ..samplers.registry import load_registry
    from .formats import SHEETS, Layout, parse_columns, rendered, sheet_with_best, write_output

    if output and form is None:
        raise InputError(f"output {output}: in which format? expected with --format, as in --format latex -o {output}")
    if form == "parquet" and output is None:
        raise InputError("format 'parquet': is binary; expected with -o FILE")
    layout = Layout(pivot or "", parse_columns("sort", sort), parse_columns("columns", columns))
    content = content_asked_for(folders, as_one)
    registry = None
    if form in SHEETS or (pivot and form is None):
        with stdout_for_data():
            registry = load_registry(plugin)
            warn_of_plugins(registry)
    if form is None:
        with stdout_for_data():
            sheet = sheet_with_best(content, layout, registry)
        print_sheet(sheet)
        for note in content.notes:
            say(f"Note: {note}.")
        return
    with stdout_for_data():
        made = rendered(content, layout, form, registry)
    if output:
        write_output(output, made)
        say(str(output))
    else:
        click.echo(made.decode(), nl=False)


def content_asked_for(folders: tuple[Path, ...], as_one: bool) -> Content:
    """The table of one run, by default the newest, or of several together."""
    from .formats import content_of, merged_content
    from .store import newest_run

    if as_one:
        if len(folders) < 2:  # noqa: PLR2004  (a merger)
            raise InputError(f"--merge: {len(folders)} runs; expected two or more, as in table RUN RUN --merge")
        return merged_content(folders)
    if len(folders) > 1:
        raise InputError(SEVERAL_RUNS.format(len(folders)))
    return content_of(folders[0] if folders else newest_run(Path("results")))


def show_found(
    folder: Path,
    plugin: tuple[str, ...],
    as_json: bool,
    find: Callable[[Registry], pd.DataFrame],
    to_rows: Callable[[pd.DataFrame, Labels], list[dict[str, str]]],
) -> None:
    """What is made of a run's samples with its plugins, as JSON or as people read it."""
    from ..samplers.registry import load_registry
    from .store import read_run

    with stdout_for_data():
        registry = load_registry(plugin)
        warn_of_plugins(registry)
        found = find(registry)
    if as_json:
        click.echo(table_to_json(found, {"folder": str(folder)}))
    else:
        print_rows(to_rows(found, read_run(folder).get("extractors", {})))


@cli.command()
@click.argument("run_folder", metavar="[RUN]", required=False, type=FilePath())
@click.option("--figures", type=FilePath(), metavar="DIR",
              help="Write its charts and pictures there instead, as SVG, PDF and PNG.")  # fmt: skip
@plugin_options
def report(run_folder: Path | None, figures: Path | None, plugin: tuple[str, ...]) -> None:
    """Write report.html of a run anew, by default of the newest in results/, and print its path.

    It is one page that needs no network: answers, charts, pictures, table, and the command that made the run.

    With --figures, its charts for a paper: each metric against model calls and against time, and the samples, 3.25
    inches wide.
    """
    from ..samplers.registry import load_registry
    from .figures import write_figures
    from .report import write_report
    from .store import newest_run

    folder = run_folder or newest_run(Path("results"))
    with stdout_for_data():
        registry = load_registry(plugin)
        warn_of_plugins(registry)
        paths = write_figures(folder, figures, registry) if figures else [write_report(folder, registry)]
    for path in paths:
        say(str(path))


@cli.command("verify")
@click.argument("run_folder", metavar="RUN", type=FilePath())
@click.option(
    "--chunks", type=click.IntRange(min=1), default=3, show_default=True, help="How many; all if it has fewer."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which: they are chosen at random.")
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_(run_folder: Path, chunks: int, seed: int, plugin: tuple[str, ...], as_json: bool) -> int:
    """Draw some chunks of a run again and compare them with what is stored, byte by byte.

    Images, extractors' rows and counts of model calls must be the same; seconds are never compared. The exit code is 1
    where something differs. A run of other versions, another model or an edited sampler is refused.
    """
    from ..samplers.registry import load_registry
    from .store import read_run
    from .verify import DAMAGED, EQUAL, checks_to_rows, verify

    with stdout_for_data():
        registry = load_registry(plugin or read_run(run_folder).get("plugins", ()))
        warn_of_plugins(registry)
        done = verify(run_folder, registry, chunks, seed)
    if as_json:
        about = {"folder": str(run_folder), "seed": seed, "threads": done.threads, "notes": done.notes}
        checks = [asdict(check) for check in done.checks]
        click.echo(json.dumps({**about, "chunks": done.chunks, "checks": checks}))
        return done.exit_code
    print_rows(checks_to_rows(done.checks))
    damaged = f", {count} damaged" if (count := done.count(DAMAGED)) else ""
    say(
        f"{done.count(EQUAL)} of {len(done.checks)} chunks equal{damaged}; the run has {done.chunks}; "
        f"seed {seed}, with {done.threads} threads as the run"
    )
    for note in done.notes:
        complain(note, kind="Note")
    return done.exit_code


@cli.command("grid")
@click.argument("run_folder", metavar="[RUN]", required=False, type=FilePath())
@click.option("-x", metavar="NAME=A,B,...", help="What changes from column to column: sampler, steps, guidance, grid, "
              "seed or prompt. Values are separated by ; where there is one.")  # fmt: skip
@click.option("-y", metavar="NAME=A,B,...", help="What changes from row to row.")
@click.option("--model", help="Model, as `samplerbench list models` names them. [default: fashion-mnist]")
@click.option("-s", "--sampler", metavar="SPEC", help="Sampler, e.g. ddim:eta=0.5. [default: ddim]")
@click.option("--steps", metavar="N", help="Step count. [default: 20]")
@click.option("-n", "--samples", type=int, help="Images of each cell, as a small mosaic. [default: 1]")
@click.option("--seed", type=int, help="The same in every cell, unless it is an axis. [default: 0]")
@click.option("-b", "--batch-size", type=int, help="Rows of a network call. [default: the images of a cell, at most "
              "as many as the model's own]")  # fmt: skip
@click.option("--grid", metavar="SPEC", help="Where the noise levels lie: a name, or a list as in 999/500/20. "
              "[default: the schedule's own]")  # fmt: skip
@click.option("--guidance", type=float, help="Classifier-free guidance; 1 is none. [default: 1]")
@click.option("--guidance-rescale", type=float, help="How far the guided x0 goes back to the deviation of the "
              "conditional one, 0 to 1. [default: 0]")  # fmt: skip
@click.option("--prompts", type=FilePath(), metavar="FILE", help="One prompt a line. [default: the model's own]")
@click.option("--prompt", multiple=True, metavar="TEXT", help="A prompt instead of a file; repeatable.")
@click.option("--negative", metavar="TEXT", help="Negative prompt; needs guidance.")
@model_options
@click.option("--device", help="cpu, cuda or cuda:N. [default: cpu]")
@click.option("--dtype", help="What the network computes in. [default: float32]")
@click.option("--threads", type=int, help="CPU threads. [default: torch's own choice]")
@click.option("--trajectory", is_flag=True, help="An animated WebP of the states after each step instead.")
@click.option("-o", "--output", type=FilePath(), metavar="FILE", help="PNG, or WebP with --trajectory. [default: "
              "results/<model>-grid-<settings>.png; for a RUN, its grid.png]")  # fmt: skip
@plugin_options
def grid_(run_folder: Path | None, output: Path | None, plugin: tuple[str, ...], **options: Any) -> int:
    """Draw a grid of images: any two settings across and down, from the same noise.

    \b
    samplerbench grid -x steps=5,10,20 -y sampler=ddim,euler-a,dpm-solver++
    samplerbench grid -x guidance=1,2,4 -y "prompt=a dark coat;a bag" -s euler-a
    samplerbench grid -x seed=0,1,2 -y "sampler=ddim;dpm-solver:order=3,grid=logsnr"

    With no axis but some setting, steps 5, 10, 20 and 40 across and the four default samplers down. The PNG holds
    its settings and its command as text. The exit code is 1 where a cell failed.

    With neither axis nor setting, the picture of a RUN (the newest in results/ by default) is drawn again from the
    images that it kept: its samplers down, its step counts across. Prints the path of the picture.
    """
    given = {name: value for name, value in options.items() if not (value is None or value is False or value == ())}
    if not given:
        redraw_run(run_folder, output)
        return 0
    if run_folder:
        names = ", ".join(f"-{name}" if name in "xy" else f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{run_folder}: a run is drawn again from its own images; leave out {names}, or the run")
    return draw_grid(given, output, plugin)


def redraw_run(run_folder: Path | None, output: Path | None) -> None:
    """The picture of a run again."""
    from ..samplers.mosaic import png
    from .grid_plot import check_target, write_file
    from .picture import PICTURE_FILE, redrawn
    from .store import newest_run

    folder = run_folder or newest_run(Path("results"))
    target = check_target(output or folder / PICTURE_FILE, ".png")
    write_file(target, png(redrawn(folder)))
    say(str(target))


def draw_grid(options: dict[str, Any], output: Path | None, plugin: tuple[str, ...]) -> int:
    """A grid of new images; the exit code."""
    from rich.console import Console

    from ..samplers.registry import load_registry
    from .grid_plot import check_target, make_grid, plot_for, suffix_of
    from .view import CellBar

    plot = plot_for(options, plugin)
    target = check_target(output or plot.default_output, suffix_of(plot.trajectory))
    with stdout_for_data():
        registry = load_registry(plugin)
        warn_of_plugins(registry)
        with CellBar(Console(stderr=True)) as bar:
            failed = make_grid(plot, registry, target, bar)
    say(str(target))
    for cell, reason in failed.items():
        complain(f"{cell}: {reason}")
    say(f"again: {plot.command}", err=True)
    return 1 if failed else 0


@cli.command()
@click.argument("model", required=False)
@click.option("--data", metavar="DATA", help="Images to learn: a folder, a file or a data set, as `samplerbench list "
              "data` names them. For fashion-mnist the folder of its files. [default: the system's copy, else a "
              "download]")  # fmt: skip
@click.option("-o", "--output", type=FilePath(), required=True, metavar="DIR",
              help="Where weights, log and checkpoints go; training resumes from what is there.")  # fmt: skip
@click.option("--size", type=int, metavar="PIXELS", help="Side of the images. [default: 32]")
@click.option("--preset", metavar="NAME", help="Network: tiny, small or base. [default: tiny]")
@click.option("--steps", type=int, metavar="N", help="Training steps of the U-Net. [default: the preset's]")
@click.option("--minutes", type=float, metavar="M", help="As many steps as fit, at the speed of a trial, instead.")
@click.option("-b", "--batch-size", type=int, help="Images of a step, of all processes together. [default: 128]")
@click.option("--lr", type=float, help="Highest learning rate of the U-Net. [default: the preset's]")
@click.option("--precision", metavar="NAME", help="What the network computes in: bf16 or float32. [default: bf16]")
@click.option("--device", help="cpu, cuda or cuda:N. [default: cpu]")
@click.option("--seed", type=int, default=0, show_default=True)
@download_option
@plugin_options
def train(model: str | None, data: str | None, output: Path, plugin: tuple[str, ...], **options: Any) -> None:
    """Train a model from nothing; the same command again resumes.

    \b
    samplerbench train --data FOLDER -o DIR       a DDPM on your own images; `run --model DIR` runs it
    samplerbench train fashion-mnist -o DIR       the embedded model; `run --model fashion-mnist:DIR`
    torchrun --nproc-per-node 4 -m samplerbench train --device cuda ...       on several GPUs

    MODEL is ddpm where --data is given, else fashion-mnist.
    """
    from rich.console import Console

    from ..samplers.ranks import rank_of
    from ..samplers.registry import load_registry
    from .training_view import TrainingView

    if output.exists() and not output.is_dir():
        raise InputError(f"output {output}: is a file; expected a folder")
    with stdout_for_data():
        registry = load_registry(plugin)
    rank, processes = rank_of(os.environ)
    if rank == 0:
        warn_of_plugins(registry)
    settings = {name: value for name, value in options.items() if value is not None}
    learn = lesson(registry, model or ("ddpm" if data else "fashion-mnist"), data, settings, processes)
    command = shlex.join(["samplerbench", *sys.argv[1:]])
    with TrainingView(Console(stderr=True)) as view:
        try:
            remarks = learn(output=output, report=view, **settings)
        except OSError as error:
            raise ModelError(f"{output}: cannot be written ({error.strerror or error})") from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped; go on with: {command}") from None
    if rank == 0:
        for remark in remarks or ():
            complain(remark, kind="Note")
        say(str(output))


def lesson(
    registry: Registry, name: str, data: str | None, settings: dict[str, Any], processes: int
) -> Callable[..., Sequence[str] | None]:
    """What trains the model of that name on the data, but for output, report and settings, which it accepts."""
    from ..samplers.model import TrainableModel, TrainableOnImages
    from ..samplers.registry import accepted_settings, refuse_settings

    factory = registry.models[name]
    what = f"training of model {name!r}"
    if isinstance(factory, TrainableOnImages):
        refuse_settings(what, settings, [s for s in accepted_settings(factory.train_on) if s not in GIVEN_TO_TRAIN])
        if data is None:
            raise InputError(f"data: not given; expected the images for model {name!r} to learn, as in --data FOLDER")
        return partial(factory.train_on, registry.image_data(data))
    if not isinstance(factory, TrainableModel):
        raise InputError(f"model {name!r}: cannot be trained here")
    refuse_settings(what, settings, [s for s in accepted_settings(factory.train) if s not in GIVEN_TO_TRAIN])
    if processes > 1:
        raise InputError(f"model {name!r}: is trained by one process; start it without torchrun")
    if data is not None and not Path(data).is_dir():
        raise InputError(f"data {data!r}: no such folder; expected the folder with the files of model {name!r}")
    return partial(factory.train, data=None if data is None else Path(data))


@cli.command("reference")
@click.argument("data", metavar="DATA")
@click.option("--extractor", required=True, metavar="NAME", help="What reads the images, as `samplerbench list "
              "extractors` names them.")  # fmt: skip
@click.option("--size", metavar="WxH", help="Crop each image at its centre and resize it, 512 or 512x768. [default: as "
              "they are, if all have one size]")  # fmt: skip
@click.option("-n", "--samples", type=click.IntRange(min=1), metavar="N", help="The first N images. [default: all]")
@click.option("-o", "--output", type=FilePath(), metavar="FILE", help=".npz for mean and covariance (mu, sigma), "
              ".safetensors for the rows. [default: kept for later runs alone]")  # fmt: skip
@download_option
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def reference_(  # noqa: PLR0913  (an option each)
    data: str,
    extractor: str,
    size: str | None,
    samples: int | None,
    output: Path | None,
    plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Extract the images of DATA, a folder, a file or a data set, for `run --reference` to compare with.

    Its rows are kept in ~/.cache/samplerbench, where a run on the same images, extractor and size finds them.
    """
    from ..samplers.registry import load_registry
    from .reference import bar_on_terminal, check_suffix, data_of, export, images_at, one_extractor

    if output:
        check_suffix(output)
    with stdout_for_data():
        registry = load_registry(plugin)
        warn_of_plugins(registry)
        reader = one_extractor(registry, extractor)
        images = images_at(data_of(data, registry), size, samples)
        with bar_on_terminal(f"{reader.label} on {images.data.name}") as report:
            rows = images.rows(reader, report)
    about = images.about(reader)
    if output:
        export(rows, about, output)
    made = {
        "images": len(rows), "data": about.data, "size": about.size, "extractor": about.extractor,
        "features": rows.shape[1], "hash": about.key, "notes": list(about.notes), "file": output and str(output),
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(made))
        return
    say(f"{len(rows):,} images of {about.data} at {about.size}, {rows.shape[1]} features of {about.extractor}")
    for note in about.notes:
        complain(note, kind="Note")
    say(f"hash: {about.key[:16]}")
    if output:
        say(str(output))


@cli.command()
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(plugin: tuple[str, ...], as_json: bool) -> int:
    """Say what is here: machine, versions, plugins, extras, data, disk; and whether a default run would work.

    The exit code is 1 where it would not.
    """
    from .doctor import examination_to_lines, examine, without_home

    with stdout_for_data():
        seen = examine(plugin, Path("results"))
    if as_json:
        click.echo(json.dumps(without_home(seen.found | {"problems": seen.problems})))
    else:
        for line in examination_to_lines(seen):
            say(line)
    return 1 if seen.problems else 0

"""`samplerbench table`: a run's table in many forms, and answers to questions about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ...samplers.errors import InputError
from ...samplers.text import count_of
from ..show.console import complain, print_rows, print_sheet, say, stdout_for_data, table_to_json
from .loading import registry_with_note, the_run, warn_of_plugins
from .options import Command, FilePath, own_model_option, plugin_options

if TYPE_CHECKING:
    import pandas as pd

    from ...samplers.registry import Registry
    from ..judge.conditions import Condition
    from ..judge.stored import StoredRun
    from ..judge.table import Labels
    from ..show.formats import Content, Layout

WHOLE_TABLES: tuple[list[str], ...] = ([], ["--merge"], ["--seeds"])
"""What is given where the whole table is asked for, and no question about it."""
NO_PAIR = "every pair of samplers with different samples is told apart, or has too few images"


@click.command(cls=Command)
@click.argument("run_folders", metavar="[RUN]...", nargs=-1, type=FilePath())
@click.option(
    "--compare", "pair", nargs=2, metavar="A B", help="Two samplers of the run: difference, interval, verdict."
)
@click.option("--nfe", metavar="N,N,...", help="Budgets of model calls: the samplers ranked within each.")
@click.option("--seconds", metavar="S,S,...", help="Budgets of seconds an image: the samplers ranked within each.")
@click.option("--pareto", "front", is_flag=True, help="Which rows are worth their cost, and which are shown not to be.")
@click.option("--power", is_flag=True, help="Which difference would have been found, where none is shown.")
@click.option("--against", type=click.Choice(["seconds", "nfe", "depth"]),
              help="Cost for --pareto; depth is the model calls one after the other. [default: seconds]")  # fmt: skip
@click.option(
    "--metric", metavar="NAME",
    help="What budgets, --pareto and --power go by. [default: the run's first metric, or the ODE error]",
)  # fmt: skip
@click.option(
    "--baseline", type=FilePath(), metavar="RUN", help="Exit with 1 where a row is shown worse than the same row there."
)
@click.option(
    "--fail-if", "limits", multiple=True, metavar="CONDITION",
    help="Exit with 1 where it holds, as in 'fid[ddim,steps=10] > 2'; repeatable.",
)  # fmt: skip
@click.option("--merge", "as_one", is_flag=True, help="One table of several runs, where they can be compared.")
@click.option("--seeds", is_flag=True, help="One table of runs that differ in their seed only: means and their spread.")
@click.option("--format", "form", type=click.Choice(["md", "csv", "latex", "html", "json", "parquet"]),
              help="Print it so. [default: a table on a terminal, else Markdown]")  # fmt: skip
@click.option("-o", "--output", type=FilePath(), metavar="FILE", help="Write it there, with --format.")
@click.option("--sort", metavar="COL,-COL", help="Sort by columns; -COL from the largest down.")
@click.option("--columns", metavar="A,B,C", help="The columns to show, by their names in table.csv.")
@click.option(
    "--pivot", metavar="METRIC", help="Samplers down, steps (or budgets of calls) across, this in the fields."
)
@click.option("--over", metavar="OPTION",
              help="With --pivot: an option of samplers across instead, as eta, or guidance.")  # fmt: skip
@own_model_option
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON; the same as --format json.")
def table(  # noqa: PLR0913  (an option each)
    run_folders: tuple[Path, ...],
    pair: tuple[str, str] | None,
    nfe: str | None,
    seconds: str | None,
    front: bool,
    power: bool,
    against: Literal["seconds", "nfe", "depth"] | None,
    metric: str | None,
    baseline: Path | None,
    limits: tuple[str, ...],
    as_one: bool,
    seeds: bool,
    form: str | None,
    output: Path | None,
    sort: str | None,
    columns: str | None,
    pivot: str | None,
    over: str | None,
    model: tuple[str, ...],
    plugin: tuple[str, ...],
    as_json: bool,
) -> int:
    """Print the table of a run, by default the newest in results/.

    With --format, as papers, spreadsheets and programs read it; sorted, with the columns asked for, or with samplers
    down and steps across (--pivot fid, ode_error, seconds_per_image, ...). In Markdown, LaTeX and HTML the best for its
    steps or budget is bold where it is shown to differ from each of the others.

    With --compare, each metric of sampler A less that of B, at every step count, on the seeds that both have, and the
    seconds an image, on repeats clocked side by side. "better" and "worse" are said of A, and only where a metric's
    verdicts on all pairs of samplers together are wrong less than once in twenty times, however often the run was
    extended and asked again.

    With --nfe or --seconds, each sampler's row that makes the most of the budget, best first, and whether it is shown
    to be worse than the best. With --pareto, the rows that are the best for their cost. With --power, for each pair of
    samplers that is not told apart, the difference that would have been shown in 80 % of runs, and the -n that shows
    half of it.

    With --fail-if, the exit code is 1 where the condition holds for a row or cannot be judged, because the row has no
    value. In the brackets stand a sampler as given to -s, steps=N, nfe=N and guidance=W, each of which may be left
    out. With --baseline, each metric of each row less that of the same row of another run, and exit code 1 where one
    is shown to be worse, or failed.

    The folders of shards (`run --shard`) are joined into one run, which is then asked like any other; blocks that not
    every cell has are named and left out.

    With --merge, the rows of several runs of one model with the same samples, seed, prompts, precision, extractors and
    versions; runs that differ in one of these are refused. Seconds are left out where the machines differ.

    With --seeds, the rows of runs that differ in their seed only: each value is the mean over the seeds, with its 95 %
    interval by Student's t, and the standard deviation between seeds in brackets (column `fid_sd`).

    With --pivot fid --over eta, the samplers that are given with that option, as in ddim:eta=0.5, without it down, and
    its values across.
    """
    load = partial(load_own, plugin, model)
    asked = {
        "--compare": pair,
        "--nfe": nfe,
        "--seconds": seconds,
        "--pareto": front,
        "--power": power,
        "--baseline": baseline,
        "--merge": as_one,
        "--seeds": seeds,
    }
    given = [option for option, value in asked.items() if value]
    check_asked(given, metric, against, limits)
    if as_json and form not in (None, "json"):
        raise InputError(f"--json and --format {form}: expected one of them")
    form = "json" if as_json else form
    conditions = conditions_of(limits)
    for option, text in (("pivot", pivot), ("over", over)):
        if text == "":
            raise InputError(f"{option} '': is empty; expected as in --pivot fid --over eta")
    if over and not pivot:
        raise InputError(f"--over {over}: of which metric? expected with --pivot, as in --pivot fid --over {over}")
    if given in WHOLE_TABLES:
        check_output(form, output)
        content = content_for(run_folders, given, load)
        lines = broken_limits(conditions, content)
        show_table(content, form, output, load, layout_of(sort, columns, pivot, over))
        return report_failures(lines)
    if form not in (None, "json"):
        raise InputError(f"{given[0]} with --format {form}: expected json, or none for people to read")
    laid_out = {"--over": over, "--sort": sort, "--columns": columns, "--pivot": pivot, "--output": output}
    if options := [option for option, value in laid_out.items() if value is not None]:
        raise InputError(f"{given[0]} with {', '.join(options)}: lays out the whole table; expected without")
    run = the_run(run_folders, load)
    if baseline:
        from ..show.formats import content_of

        lines = broken_limits(conditions, content_of(run)) if conditions else []
        # Both kinds of failure are printed, not only the first: whoever mends a build wants to see all of them.
        return report_failures([*show_against(run, baseline, load(), form == "json"), *lines])
    if pair:
        question = comparison(run, pair)
    elif front:
        question = front_of(run, metric, against or "seconds")
    elif power:
        question = power_of(run, metric)
    else:
        question = ranking(run, metric, nfe, seconds)
    show_found(run, load(), form == "json", question)
    return 0


def check_asked(given: list[str], metric: str | None, against: str | None, limits: tuple[str, ...]) -> None:
    """Refuse two questions at once, and options that belong to another question than the one that is given."""
    # Each answer is a table of its own, and two of them on stdout could not be told apart.
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: expected one of them")
    if metric and given in (*WHOLE_TABLES, ["--compare"], ["--baseline"]):
        raise InputError(f"metric {metric!r}: ranks budgets; expected with --nfe, --seconds, --pareto or --power")
    if against and given != ["--pareto"]:
        raise InputError(f"against {against!r}: is the cost for --pareto; expected with it")
    if limits and given not in (*WHOLE_TABLES, ["--baseline"]):
        raise InputError(f"--fail-if and {given[0]}: expected one of them")


def load_own(plugins: tuple[str, ...], models: tuple[str, ...]) -> Registry:
    """The registry with the user's own plugins and models."""
    with stdout_for_data():
        registry = registry_with_note(plugins, models)
        warn_of_plugins(registry)
    return registry


@dataclass(frozen=True)
class Question:
    """A question about a run's samples."""

    find: Callable[[Registry], pd.DataFrame]
    """The answer, with every digit."""
    to_rows: Callable[[pd.DataFrame, Labels], list[dict[str, str]]]
    """The answer as people read it."""
    keys: int
    """How many columns of that tell its rows apart."""
    caption: Callable[[pd.DataFrame, Labels], str] | None = None
    """What stands below; None = what p is corrected for."""


def comparison(run: StoredRun, pair: tuple[str, str]) -> Question:
    """Is one sampler better than the other?"""
    from ..judge.compare import compare
    from ..show.verdicts import comparison_to_rows

    return Question(lambda registry: compare(run, *pair, registry), comparison_to_rows, 3)


def front_of(run: StoredRun, metric: str | None, cost: Literal["seconds", "nfe", "depth"]) -> Question:
    """Which rows are worth their cost?"""
    from ..judge.pareto import pareto
    from ..show.verdicts import pareto_caption, pareto_to_rows

    return Question(lambda registry: pareto(run, registry, metric, cost), pareto_to_rows, 2, pareto_caption)


def power_of(run: StoredRun, metric: str | None) -> Question:
    """Which difference would have been found?"""
    from ..judge.power import power
    from ..show.verdicts import power_caption, power_to_rows

    return Question(lambda registry: power(run, registry, metric), power_to_rows, 3, power_caption)


def ranking(run: StoredRun, metric: str | None, nfe: str | None, seconds: str | None) -> Question:
    """Which samplers are the best within budgets of model calls, or of seconds per image?"""
    from ..judge.budget import budgets, parse_seconds
    from ..plan.config import parse_counts
    from ..show.verdicts import budgets_to_rows

    amounts = parse_counts("nfe", nfe) if nfe else parse_seconds(str(seconds))
    by: Literal["seconds", "nfe"] = "nfe" if nfe else "seconds"
    return Question(lambda registry: budgets(run, registry, by, amounts, metric), budgets_to_rows, 3)


def check_output(form: str | None, output: Path | None) -> None:
    """Refuse a file without a format, and a binary format without a file."""
    if output and form is None:
        raise InputError(f"output {output}: in which format? expected with --format, as in --format latex -o {output}")
    if form == "parquet" and output is None:
        raise InputError("format 'parquet': is binary; expected with -o FILE")


def layout_of(sort: str | None, columns: str | None, pivot: str | None, over: str | None) -> Layout:
    """How a table is laid out, from the options."""
    from ..show.formats import Layout, parse_columns

    return Layout(pivot or "", parse_columns("sort", sort), parse_columns("columns", columns), over or "")


def show_table(
    content: Content, form: str | None, output: Path | None, load: Callable[[], Registry], layout: Layout
) -> None:
    """Print the table of one or several runs, laid out as asked for."""
    from ..show.formats import SHEETS, render, sheet_with_best, write_output

    # What is bold is a verdict on the samples, which needs the metrics; numbers are read from the folder.
    registry = load() if form in SHEETS or (layout.pivot and form is None) else None
    if form is None:
        with stdout_for_data():
            sheet = sheet_with_best(content, layout, registry)
        print_sheet(sheet)
        for note in content.notes:
            say(f"Note: {note}.")
        return
    with stdout_for_data():
        made = render(content, layout, form, registry)
    if output:
        write_output(output, made)
        say(str(output))
    else:
        click.echo(made.decode(), nl=False)


def content_for(folders: tuple[Path, ...], given: list[str], load: Callable[[], Registry]) -> Content:
    """The table of one run, by default the newest, or of several together."""
    from ..judge.stored import StoredRun
    from ..show.formats import content_of, content_over_seeds, merge_content

    for option in given:
        if len(folders) < 2:  # noqa: PLR2004  (several)
            runs = count_of(len(folders), "run")
            raise InputError(f"{option}: {runs}; expected two or more, as in table RUN RUN {option}")
        stored = {folder: StoredRun(folder) for folder in folders}
        together = {"--merge": merge_content, "--seeds": content_over_seeds}[option]
        return together([stored[folder] for folder in folders])
    return content_of(the_run(folders, load))


def conditions_of(limits: tuple[str, ...]) -> list[Condition]:
    """The conditions of --fail-if."""
    # Read before the run, whose shards may take long to join: a slip is refused at once.
    if not limits:
        return []
    from ..judge.conditions import parse_condition

    return [parse_condition(text) for text in limits]


def broken_limits(conditions: list[Condition], content: Content) -> list[str]:
    """A line for each row for which a condition holds."""
    from ..judge.conditions import violations

    # On all rows, whatever the layout shows of them; and asked before the table is printed, because a condition may
    # name a column that is not there.
    return violations(conditions, content.table, content.origins)


def report_failures(lines: list[str]) -> int:
    """Print the lines of what failed; returns the exit code."""
    for line in lines:
        complain(line, kind="Failed")
    return 1 if lines else 0


def show_against(run: StoredRun, folder: Path, registry: Registry, as_json: bool) -> list[str]:
    """Print the comparison with a baseline; returns a line for each row that is worse or failed."""
    from ..judge.baseline import against_baseline
    from ..judge.stored import StoredRun
    from ..show.verdicts import baseline_to_rows, correction_of, worse_to_lines

    with stdout_for_data():
        found = against_baseline(run, StoredRun(folder), registry)
    if as_json:
        lists = {"failed": list(found.failed), "left_out": list(found.left_out)}
        click.echo(table_to_json(found.table, {"folder": str(run.path), "baseline": str(folder), **lists}))
    elif len(found.table):
        print_rows(baseline_to_rows(found.table, run.labels), 2)
        if caption := correction_of(found.table, run.labels):
            say(caption)
    if found.left_out:
        complain(f"not compared, because the runs do not both have it: {'; '.join(found.left_out)}", kind="Note")
    return [*worse_to_lines(found.worse, folder), *found.failed]


def show_found(run: StoredRun, registry: Registry, as_json: bool, question: Question) -> None:
    """Print the answer to a question, as JSON or as people read it."""
    from ..show.verdicts import correction_of

    with stdout_for_data():
        # Measuring calls the code of models and plugins, and what that prints is not data.
        found = question.find(registry)
    if as_json:
        click.echo(table_to_json(found, {"folder": str(run.path)}))
        return
    rows = question.to_rows(found, run.labels)
    if rows:
        print_rows(rows, question.keys)
    # An empty answer says why, because silence looks like a fault.
    caption = (question.caption or correction_of)(found, run.labels) if rows else NO_PAIR
    if caption:
        say(caption)

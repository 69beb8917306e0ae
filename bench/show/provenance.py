"""The origin of a run's numbers: model, data, settings, machine, versions, and how to make them again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from ...samplers.text import count_of
from ..draw.clock import COMPILE
from ..draw.latency import LEAST_DRAWS, columns_among, rows_of
from ..judge.stored import StoredRun
from ..judge.table import Labels, seconds_by_stage
from ..plan.config import Config, as_json, without_defaults
from ..plan.record import RunRecord
from ..plan.settings import SETTINGS
from .sheet import heading_of

MOST_PROMPTS = 8
"""The most prompts that a call writes out."""
HASH_DIGITS = 12
LEAST_SHARE = 0.005
"""The smallest share of a run's time that is named."""


def summary_of(table: pd.DataFrame, samplers: int) -> str:
    """One sentence on what was drawn."""
    text = f"{count_of(samplers, 'sampler')}, {count_of(len(table), 'cell')}, "
    text += f"{count_of(int(table['samples'].max()), 'image')} each from the same noise"
    strengths = list(dict.fromkeys(table["guidance"]))
    return text + (f", guidance {join_numbers(strengths)}" if strengths != [1] else "") + "."


def provenance_of(run: StoredRun) -> list[tuple[str, str]]:
    """The origin of the numbers: (name, value) of each known fact."""
    record, labels = run.record, run.labels
    config, machine = record.config, record.environment
    threads = count_of(machine.threads, "thread")
    # In the order in which a reader who doubts a number asks. A fact that a run does not have is left out.
    facts = [
        ("Model", config.model + name_with_hash(", weights", record.model.fingerprint)),
        # A run that was stopped has fewer than it was to have.
        ("Images", f"{int(run.table['samples'].max()):,} of {config.samples:,} a cell, seed {config.seed}"),
        ("Guidance", guidance_to_text(config)),
        ("Prompts", f"{len(config.prompts)} given" if config.prompts else "the model's own"),
        ("Measured with", "; ".join(extractor_to_text(name, labels) for name in labels)),
        ("Precision", f"{config.dtype} on {machine.device or config.device}"),
        ("Machine", ", ".join(filter(None, [machine.cpu, f"{machine.cores} cores", machine.system, threads]))),
        ("Time", stages_to_text(run.table, [cell.key for cell in record.cells])),
        ("Latency", latency_to_text(run.table)),
        ("Versions", ", ".join([f"Python {machine.python}", *(f"{k} {v}" for k, v in machine.versions.items())])),
        ("Plan", record.plan),
    ]  # fmt: skip
    return [(name, value) for name, value in facts if value]


def stages_to_text(table: pd.DataFrame, keys: Sequence[str]) -> str:
    """How long a run was in each stage: "19.3 s: drawing 62 %, extracting 38 %"; '' where it does not say."""
    seconds = seconds_by_stage(table, keys)
    whole = sum(seconds.values())
    # A stage that took next to nothing would only lengthen the line.
    shares = [
        f"{words} {share:.0%}" for words, part in seconds.items() if (share := part / (whole or 1)) >= LEAST_SHARE
    ]
    compiling = f"; the network was compiled in {table[COMPILE].sum():.3g} s" if COMPILE in table else ""
    return f"{whole:.3g} s: {', '.join(shares)}".replace("%", " %") + compiling if shares else ""


def guidance_to_text(config: Config) -> str:
    """ "1, 2, 4, at sigma / alpha above 0.2 up to 5, negative prompt: a dark one"."""
    interval = config.guidance_interval
    within = "at sigma / alpha above {:g} up to {:g}".format(*interval) if interval else ""
    negative = f"negative prompt: {config.negative}" if config.negative else ""
    return ", ".join(filter(None, [join_numbers(config.guidances), within, negative]))


def join_numbers(numbers: Iterable[float]) -> str:
    """ "1, 2.5, 4"."""
    return ", ".join(f"{number:g}" for number in numbers)


def latency_to_text(table: pd.DataFrame) -> str:
    """How latencies were measured: "at least 20 draws of 1, 16 and 64 images at a time"; '' where they were not."""
    if not (sizes := [str(rows) for name in columns_among(table.columns) if (rows := rows_of(name))]):
        return ""
    listed = " and ".join(filter(None, [", ".join(sizes[:-1]), sizes[-1]]))
    return f"at least {LEAST_DRAWS} draws of {listed} image{'' if listed == '1' else 's'} at a time"


def extractor_to_text(name: str, labels: Labels) -> str:
    """A metric with its extractor; the hash identifies weights and reference data."""
    label = labels[name]
    note = f" ({label['note']})" if label.get("note") else ""
    data = f" against {label['data']}" if label.get("data") else ""
    place = f" on {label['device']}" if label.get("device") else ""
    known_by = name_with_hash(", weights and data", label.get("fingerprint", ""))
    return heading_of(name, labels) + place + data + note + known_by


def name_with_hash(what: str, fingerprint: str) -> str:
    """A name, followed by the beginning of the thing's fingerprint; "" if it has none."""
    return f"{what} {fingerprint[:HASH_DIGITS]}" if fingerprint else ""


def call_of(record: RunRecord) -> str:
    """The call in Python that makes a run again, with the settings that are not at their defaults."""
    config = record.config
    # A run counts by steps or by calls; the other of the two is not what its counts come from.
    unsaid = "steps" if config.nfe else "nfe"
    values = {name: value for name, value in as_json(config).items() if name != unsaid}
    # Defaults are left out: what is named is what makes this run different.
    given = values.keys() & without_defaults(config).keys()
    settings = {one.keyword: values[one.name] for one in SETTINGS if one.keyword and one.name in given}
    words = [f"{name}={value!r}" for name, value in settings.items() if name != "prompts"]
    if "prompts" in settings:
        prompts = settings["prompts"]
        # A long list is left to the reader, who has it in the report.
        words.append(f"prompts={prompts!r}" if len(prompts) <= MOST_PROMPTS else "prompts=prompts")
    words += [f"plugins={list(record.plugins)!r}"] if record.plugins else []
    return f"samplerbench.run({', '.join(words)})"

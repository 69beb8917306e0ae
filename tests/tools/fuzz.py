"""Files as accidents and strangers leave them: bytes cut and flipped, JSON and CSV with values of every other kind.

Each function takes a `random.Random`, so that a seed names the file. `Bounds` limits time and memory of what reads it.
"""

import json
import signal
import time
from contextlib import contextmanager

import torch

from samplerbench.bench.draw.clock import forget_peak_memory, peak_memory

HANG = 60
"""Seconds after which a reader is ended."""
DEEP = 20_000


class Raw(str):
    """JSON text that stands in a file as it is, whatever a parser makes of it."""


ODD = (
    None, True, False, 0, -1, 1, 5, 1.5, -0.5, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 1e-300,
    1e300, "", " ", "0", "1", "nan", "é", "\x00", "\x1b[31m", "\u202e", "\n", "../x", "/dev/zero", "<script>",
    "a" * 10_000, [], {}, [None], [0], [[]], [1, 2], ["a"], {"a": 1}, {"": {}}, [1e300] * 3, [False] * 20,
    Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("-0"), Raw("1" + "0" * 400), Raw("9" * 5000),
    Raw("1e400000000"), Raw('"\\ud800"'), Raw("[" * DEEP + "]" * DEEP), Raw('{"a":' * DEEP + "1" + "}" * DEEP),
    Raw("[" * 300 + "]" * 300), Raw("nul"), Raw(""),
)  # fmt: skip
"""What may stand anywhere in a JSON file."""
ODD_CELLS = (
    "", "nan", "inf", "-inf", "NaN", "None", "0", "-1", "-3", "1.5", "1e300", "1e999", "9" * 400, str(2**63), "True",
    "x", '"', "'", "=1+1", "\x00", "\x1b[31m", "\u202e", '"a\nb"', "\r", "é", "a" * 5000, ",", ",,", "ok", "failed: x",
    "partial", "5 5", "0x10", "1_000", "٣",
)  # fmt: skip
"""What may stand in any field of a CSV file."""


def mutated_bytes(rng, content):
    """Bytes with a bit flipped, an end cut off, or a part missing, doubled or random; now and then several of these."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, length = rng.randrange(len(content) + 1), rng.choice((1, 1, 4, 64))
        match rng.randrange(6):
            case 0 | 1 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                del content[at:]
            case 3:
                del content[at : at + length]
            case 4:
                content[at:at] = content[at : at + length]
            case _:
                content[at : at + length] = rng.randbytes(length)
    return bytes(content)


def mutated_json(rng, value):
    """The text of a JSON value in which the things at one or two of its paths are others, missing, renamed or twice."""
    places = [path for path in paths_in(value) if path]
    if not places or rng.random() < 0.02:
        return text_of(rng.choice(ODD))
    changes = {path: rng.randrange(7) for path in rng.sample(places, min(len(places), rng.choice((1, 1, 2))))}

    def odd():
        return rng.choice(ODD) if rng.random() < 0.8 else thing_at(value, rng.choice(places))

    def items(thing, path, key):
        """(key, text) of each thing that stands in the place of one."""
        right = (key, written(thing, (*path, key)))
        change = changes.get((*path, key))
        if change is None:
            return [right]
        return {0: [], 1: [right, (key, text_of(odd()))], 2: [(f"{key}x", right[1])]}.get(
            change, [(key, text_of(odd()))]
        )

    def written(thing, path):
        if isinstance(thing, dict):
            entries = [item for key, inner in thing.items() for item in items(inner, path, key)]
            return "{" + ", ".join(f"{json.dumps(key)}: {text}" for key, text in entries) + "}"
        if isinstance(thing, list):
            return "[" + ", ".join(text for i, inner in enumerate(thing) for _, text in items(inner, path, i)) + "]"
        return text_of(thing)

    return written(value, ())


def paths_in(value, path=()):
    """The path of each thing in a JSON value, its own () first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from paths_in(item, (*path, key))


def thing_at(value, path):
    """What is at a path."""
    for key in path:
        value = value[key]
    return value


def text_of(value):
    """The text as it stands in a file."""
    return str(value) if isinstance(value, Raw) else json.dumps(value)


def mutated_csv(rng, text):
    """The text of a CSV file with fields, columns, rows or lines that are others, missing, more or doubled."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.randrange(len(rows)) if rows else 0
        j = rng.randrange(len(rows[i])) if rows and rows[i] else 0
        match rng.randrange(8):
            case 0 if rows:
                del rows[i]
            case 1 if rows:
                rows.insert(i, list(rows[i]))
            case 2:
                rows = [row[:j] + row[j + 1 :] for row in rows]
            case 3 if rows and rows[i]:
                rows[0][j % len(rows[0]) if rows[0] else 0 :] = [rng.choice(ODD_CELLS)]
            case 4:
                odd = rng.choice(ODD_CELLS)
                rows = [*rows[:1], *([*row[:j], odd, *row[j + 1 :]] for row in rows[1:])]
            case _ if rows and rows[i]:
                rows[i][j] = rng.choice(ODD_CELLS)
    return "".join(",".join(row) + rng.choice(("\n", "\n", "\n", "\n", "\r\n")) for row in rows)


class Bounds:
    """What reading a file may take; the most that was taken is kept."""

    def __init__(self, seconds=2.0, gigabytes=1.0):
        self.seconds, self.gigabytes = seconds, gigabytes
        self.most_seconds = self.most_gigabytes = 0.0

    @contextmanager
    def held(self):
        """Fail where what is done meanwhile takes more; time is that of this process, whatever others do."""
        cpu = torch.device("cpu")
        is_known = forget_peak_memory(cpu)
        before, started = peak_memory(cpu) or 0, time.process_time()
        with ended_by_alarm(HANG):
            yield
        seconds = time.process_time() - started
        gigabytes = ((peak_memory(cpu) or 0) - before) / 1e9 if is_known else 0.0
        self.most_seconds = max(self.most_seconds, seconds)
        self.most_gigabytes = max(self.most_gigabytes, gigabytes)
        assert seconds <= self.seconds, f"took {seconds:.1f} s"
        assert gigabytes <= self.gigabytes, f"took {gigabytes:.2f} GB"


@contextmanager
def ended_by_alarm(seconds):
    """What hangs meanwhile is ended by an AssertionError."""

    def ring(*_):
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

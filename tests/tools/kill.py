"""Kill processes of a run at random moments: `python tests/tools/kill.py --points 200 [--engine ray] [--workers 2]`.

A run in a process of its own loses one of its processes to SIGKILL, at a random moment of its start or of its drawing:
the process that writes (`driver`), a worker, or, with the engine ray, the raylet or the server of the cluster. A run
that goes on is killed again later; one that has ended is resumed, until it gets to its end, and so on with the next.
After each kill every chunk that was there must be there, unchanged and sound. When a run has ended, however, nothing
that it started may be left 5 seconds later; where it got to its end, its table must be that of an unbroken run in all
but seconds. Prints each kill and each fault as it comes, and then what was counted; the exit code is 1 if a chunk was
lost, a table differs, a process was left, or a run ended that had lost only a worker. Calls with other seeds add up.
"""

import ctypes
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
import pandas as pd

from samplerbench.bench.draw import clock as timing
from samplerbench.bench.draw.store import RunFolder
from samplerbench.samplers.errors import StoreError

SAMPLERS = ("ddpm", "ddim", "heun", "dpm-solver++")
RUN = ("run", "--model", "mixture", "--threads", "1", "--steps", "2,3,4,5,6", "-n", "1300")
CLOCKED = list(timing.COLUMNS)
LONGEST = 1.0
"""Seconds of drawing before a kill; a run draws for two or three."""
EARLY = 0.25
"""The share of kills while the run and its workers start."""
START = {"local": 6.0, "ray": 15.0}
"""Seconds in which such a kill comes."""
PATIENCE = 600.0
"""Seconds that a run may take to store its first chunk, or to end."""
SECONDS = 5.0
"""After this nothing of a run that ended may be there."""
LATE = 60.0
"""What is left is watched for so many seconds more: whether it ends late, or never, tells what failed."""
MARKS = {"worker": ("lifeline.end_with", "ray::Drawer"), "raylet": ("/raylet/raylet",), "server": ("/gcs_server",)}
"""The victims but the driver, by what stands in their command."""
PR_SET_CHILD_SUBREAPER = 36
"""<linux/prctl.h>: a process whose parent has ended becomes a child of this one, which so finds whatever is left."""


def parents():
    """The parent of each process that is not merely waiting to be reaped."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                found[int(path.parent.name)] = int(parent)
    return found


def below(process):
    """All processes that come from this one."""
    found, known = parents(), {process}
    while new := {child for child, parent in found.items() if parent in known} - known:
        known |= new
    return known - {process}


def command_of(process):
    """The words that a process was started with, or calls itself."""
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def victims_of(driver):
    """The processes of a run that may be killed, by what they are."""
    commands = {process: command_of(process) for process in below(driver)}
    found = {
        what: [process for process, command in commands.items() if any(mark in command for mark in marks)]
        for what, marks in MARKS.items()
    }
    return {what: sorted(processes) for what, processes in found.items() if processes} | {"driver": [driver]}


def left_after(seconds):
    """The processes that are still there after this time; those that ended are reaped."""
    due = time.monotonic() + seconds
    while left := below(os.getpid()):
        if time.monotonic() > due:
            return {process: said for process in left if (said := command_of(process)) or process in parents()}
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.02)
    return {}


def about(process):
    """What a process is doing, in the words of the system."""
    with suppress(OSError):
        said = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        age = float(Path("/proc/uptime").read_text().split()[0]) - int(since_of(process)) / os.sysconf("SC_CLK_TCK")
        return f"{process} ({said['State']}, parent {said['PPid']}, {age:.1f} s old): {command_of(process)[-300:]}"
    return f"{process} (gone)"


def since_of(process):
    """When a process was started, in ticks of the system's clock."""
    return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]


def chunks_in(folder):
    """The hash of each chunk's file, by its path; every one is read."""
    paths = sorted((folder / "chunks").glob("*/[0-9]*.safetensors"))
    for path in paths:
        RunFolder(folder).read_arrays(path)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def is_same_table(a, b):
    """Whether two tables differ in seconds alone."""
    tables = [pd.read_csv(folder / "table.csv").drop(columns=CLOCKED) for folder in (a, b)]
    return tables[0].equals(tables[1])


def say(words):
    """A line of what happens, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


@dataclass
class Broken:
    """A run that is killed and resumed until it gets to its end."""

    folder: Path
    options: tuple[str, ...]
    engine: str
    chance: random.Random
    kills: Counter = field(default_factory=Counter)
    seen: int = 0
    lost: int = 0
    faults: list[str] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)
    """The chunks that were there at the last look."""

    def start(self):
        """The run as a process of its own."""
        named = [part for sampler in SAMPLERS for part in ("-s", sampler)]
        program = "from samplerbench.bench.cli import main; main()"
        command = [sys.executable, "-c", program, *RUN, *named, *self.options, "-o", str(self.folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)

    def to_its_end(self, points):
        """Kill until the points are used up or the run has got to its end, and then let it."""
        while True:
            process, last = self.start(), ""
            while self.kills.total() < points and self.wait(process):
                last = self.kill(process)
                self.look()
                if last in ("driver", "raylet", "server"):
                    break
            if last == "driver" or process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
            if process.poll() is None:
                self.fault(f"did not end in {PATIENCE:.0f} s after a {last} was killed")
                process.kill()
            _, said = process.communicate()
            self.check_left(last)
            self.look()
            if process.returncode == 0:
                return
            if last not in ("driver", "raylet", "server"):
                self.fault(f"ended with {process.returncode} after {last or 'no'} kill: {said[-600:]}")
                return

    def check_left(self, last):
        """Look for what the run has left, and end it."""
        if not (left := left_after(SECONDS)):
            return
        began, words = time.monotonic(), "; ".join(map(about, left))
        late = left_after(LATE)
        when = f"still there {LATE:.0f} s later" if late else f"gone {time.monotonic() - began:.1f} s later"
        self.fault(f"left {SECONDS:.0f} s after {last or 'its end'} and {when}: {words}")
        for one in late:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def fault(self, words):
        """Note a fault, and say it at once."""
        self.faults.append(words)
        say(f"{self.folder.name}: FAULT: {words}")

    def wait(self, process):
        """Sleep until a random moment; whether the run is still there."""
        due = time.monotonic() + PATIENCE
        if self.chance.random() < EARLY:
            time.sleep(START[self.engine] * self.chance.random())
        else:
            there = self.count()
            while process.poll() is None and self.count() == there and time.monotonic() < due:
                time.sleep(0.02)
            time.sleep(LONGEST * self.chance.random())
        return process.poll() is None

    def kill(self, process):
        """Kill one of the run's processes; what it was."""
        victims = victims_of(process.pid)
        what = self.chance.choice(sorted(victims))
        with suppress(ProcessLookupError):
            os.kill(self.chance.choice(victims[what]), signal.SIGKILL)
        self.kills[what] += 1
        say(f"{self.folder.name}: {what} killed, {self.count()} chunks there")
        return what

    def count(self):
        """How many chunks there are."""
        return sum(1 for _ in (self.folder / "chunks").glob("*/[0-9]*.safetensors"))

    def look(self):
        """Compare the chunks with those that were there before."""
        try:
            now = chunks_in(self.folder)
        except StoreError as error:
            self.lost += 1
            self.fault(str(error))
            return
        self.lost += sum(now.get(name) != content for name, content in self.before.items())
        self.seen += len(now)
        self.before = now


@click.command()
@click.option("--points", default=200, show_default=True, help="How many kills.")
@click.option("--engine", type=click.Choice(sorted(START)), default="local", show_default=True)
@click.option("--workers", default=0, help="0, the default: one chunk at a time; 2 with the engine ray.")
@click.option("--seed", default=0, show_default=True)
def main(points, engine, workers, seed):
    """Kill and resume."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    chance, runs, started = random.Random(seed), [], time.monotonic()
    workers = workers or (2 if engine == "ray" else 0)
    options = ("--engine", engine, *(("--workers", str(workers)) if workers else ()))
    differing = 0
    with tempfile.TemporaryDirectory() as root:
        unbroken = Broken(Path(root, "unbroken"), (), "local", chance)
        unbroken.to_its_end(0)
        if unbroken.faults:
            raise SystemExit(f"the unbroken run failed: {unbroken.faults}")
        while (left := points - sum(run.kills.total() for run in runs)) > 0:
            run = Broken(Path(root, f"run-{len(runs)}"), options, engine, chance)
            run.to_its_end(left)
            runs.append(run)
            is_whole = (run.folder / "table.csv").exists()
            differing += not (is_whole and is_same_table(run.folder, unbroken.folder))
    kills = sum((run.kills for run in runs), Counter())
    faults, lost = sum(len(run.faults) for run in runs), sum(run.lost for run in runs)
    words = ", ".join(f"{number} of a {what}" for what, number in sorted(kills.items()))
    print(
        f"{kills.total()} kills ({words}) in {len(runs)} runs and {time.monotonic() - started:.0f} s: "
        f"{sum(run.seen for run in runs):,} chunks seen after them, {lost} lost, {differing} tables differ, "
        f"{faults} other faults"
    )
    sys.exit(1 if lost or differing or faults else 0)


if __name__ == "__main__":
    main()

"""Kill a run at random moments: `python tests/tools/kill.py --points 200`.

A run in a process of its own is killed with SIGKILL, resumed, killed again, until it gets to its end, and so on with
the next. After each kill every chunk that was there must be there, unchanged and sound; at the end of each run its
table must be that of an unbroken one in all but seconds. Prints one line with what was counted; the exit code is 1 if
a chunk was lost or a table differs.
"""

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
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
"""Seconds of work before a kill; a run is of two or three."""
EARLY = 0.1
"""The share of kills while the program starts."""


def started(folder):
    """The run as a process of its own."""
    named = [part for sampler in SAMPLERS for part in ("-s", sampler)]
    command = [sys.executable, "-c", "from samplerbench.bench.cli import main; main()", *RUN, *named, "-o", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def stopped(process, chance):
    """Kill a run at a random moment; whether that came before its end."""
    if chance.random() < EARLY:
        time.sleep(4 * chance.random())
    else:
        while (line := process.stderr.readline()) and "network evaluations to make" not in line:
            pass
        time.sleep(LONGEST * chance.random())
    process.kill()
    _, said = process.communicate()
    if process.returncode not in (0, -9):
        raise SystemExit(f"the run failed: {said}")
    return process.returncode != 0


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


@click.command()
@click.option("--points", default=200, show_default=True, help="How many kills.")
@click.option("--seed", default=0, show_default=True)
def main(points, seed):
    """Kill and resume."""
    chance = random.Random(seed)
    killed = seen = lost = runs = differing = 0
    with tempfile.TemporaryDirectory() as root:
        unbroken = Path(root, "unbroken")
        if started(unbroken).wait():
            raise SystemExit("the unbroken run failed")
        while killed < points:
            folder = Path(root, f"run-{runs}")
            runs += 1
            before = {}
            while killed < points and stopped(started(folder), chance):
                killed += 1
                try:
                    now = chunks_in(folder)
                except StoreError as error:
                    print(error, file=sys.stderr)
                    lost += 1
                    break
                lost += sum(now.get(name) != content for name, content in before.items())
                seen += len(now)
                before = now
            started(folder).communicate()
            now = chunks_in(folder)
            lost += sum(now.get(name) != content for name, content in before.items())
            differing += not is_same_table(folder, unbroken)
    print(f"{killed} kills in {runs} runs, {seen:,} chunks seen after them, {lost} lost, {differing} tables differ")
    sys.exit(1 if lost or differing else 0)


if __name__ == "__main__":
    main()

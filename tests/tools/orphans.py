"""Kill processes that have a child, or the child: `python tests/tools/orphans.py --kills 500`.

Each time a process starts a child as a run does for a sampler. When the child is in one of some states (it holds the
interpreter's lock, is stopped, forks, has helpers, waits for a request, or only starts), it, its parent or both get
SIGKILL. 5 seconds later none of them and nothing that they started may be there. The processes are stand-ins: parent
and child start, are guarded and end by the code of a run, but load no model, so that one kill takes a fraction of a
second. Prints a line for each state; the exit code is 1 if a process was left.
"""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import click

SECONDS = 5.0
LEAST = 3
"""A parent, a child and its watcher."""
TOKEN = "SAMPLERBENCH_TEST_ORPHANS"
"""In the environment of all that comes of one kill, which finds it."""
PARENT = """
import os, signal, sys
from samplerbench.bench.draw.engines import child_process
child_process.ENTRY = child_process.GUARDED + sys.argv[1]
child = child_process.Child()
child.send({})
while not child.has_ended():
    if child.has_answered():
        child.answer()
        if sys.argv[2] == "waiting":
            child.pause()
        print(child._process.pid, flush=True)
child.stop()
"""
READY = """
import ctypes, os, signal, subprocess, time
from samplerbench.bench.draw.engines.child_process import write_frame
def ready():
    write_frame(answers, {"request": 1})
"""
STATES = {
    "starting": "import time; time.sleep(600)",
    "waiting": READY + "ready(); time.sleep(600)",
    "holding the lock": READY + "ready(); ctypes.PyDLL(None).sleep(600)",
    "stopped": READY + "ready(); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(600)",
    "with helpers": READY
    + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"])
for _ in range(2):
    if not os.fork():
        time.sleep(600)
ready()
ctypes.PyDLL(None).sleep(600)
""",
    "forking": READY
    + """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for i in range(10**9):
    if not os.fork():
        time.sleep(600 if i < 3 else 0.02)
        os._exit(0)
    if i == 10:
        ready()
""",
}
"""What the child does, by state; `answers` is the pipe that it answers by."""
VICTIMS = ("parent", "child", "both")


def is_there(token):
    """The numbers of the processes with this token in their environment; one that just starts a program has none."""
    wanted = f"{TOKEN}={token}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def left_after(state, victim, delay=0.0, seconds=SECONDS):
    """Kill a victim when the child is in this state; the processes that are left, and how long others took to end."""
    token = uuid.uuid4().hex
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, STATES[state], state],
        stdout=subprocess.PIPE, text=True, env={**os.environ, TOKEN: token},
    )  # fmt: skip
    try:
        victims = {"parent": [parent.pid]}.get(victim, [])
        if state != "starting":
            child = int(parent.stdout.readline())
            victims = {"parent": [parent.pid], "child": [child], "both": [child, parent.pid]}[victim]
            there = len(is_there(token))
            if there < LEAST:
                raise RuntimeError(f"{there} processes before the kill; expected a parent, a child and its watcher")
        time.sleep(delay)
        killed = time.monotonic()
        for process in victims:
            os.kill(process, signal.SIGKILL)
        while (left := is_there(token) or is_there(token)) and time.monotonic() < killed + seconds:
            time.sleep(0.005)
        return left, time.monotonic() - killed
    finally:
        for process in is_there(token):
            os.kill(process, signal.SIGKILL)
        parent.communicate()


def cases(kills):
    """(state, victim) of each kill, all in turn; a child that only starts is not known to anybody but its parent."""
    each = [(state, victim) for state in STATES for victim in VICTIMS if state != "starting" or victim == "parent"]
    return [each[i % len(each)] for i in range(kills)]


@click.command()
@click.option("--kills", default=500, show_default=True, help="How many kills.")
@click.option("--seed", default=0, show_default=True)
def main(kills, seed):
    """Kill and look."""
    chance = random.Random(seed)
    counts, orphans, longest = Counter(), Counter(), Counter()
    for state, victim in cases(kills):
        left, took = left_after(state, victim, chance.random() * (0.4 if state == "starting" else 0.05))
        case = f"{victim} killed, child {state}"
        counts[case] += 1
        orphans[case] += len(left)
        longest[case] = max(longest[case], took)
    for case, count in counts.items():
        print(f"{case}: {count} kills, {orphans[case]} orphans, all others gone within {longest[case]:.2f} s")
    print(f"{kills} kills: {orphans.total()} orphans after {SECONDS:g} s")
    sys.exit(1 if orphans.total() else 0)


if __name__ == "__main__":
    main()

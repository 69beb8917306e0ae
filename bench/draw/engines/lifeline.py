"""A child process ends with its parent, however the parent ends and whatever the child is doing at that moment.

A thread of the child cannot see to that: it runs only when it gets the interpreter's lock, which a sampler may hold
to the end, and not at all while the process is stopped. Two guards need no lock. Linux sends the child SIGKILL when its
parent is gone (prctl(2), PR_SET_PDEATHSIG). On every system a watcher, a small process, waits for the end of a pipe
that the parent holds open; then it kills the process group of the child, and so all that samplers have started there.

Nothing here imports torch or NumPy: the guards stand before the slow imports of the child begin.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress

PR_SET_PDEATHSIG = 1
"""<linux/prctl.h>. The signal comes when the *thread* that started the child ends, so that thread has to outlive it."""


def end_with(parent: int, pipe: int, others: Iterable[int] = ()) -> None:
    """Guard this process, the leader of a session, until process `parent` ends.

    The parent holds the only writing end of `pipe`. `others` are further descriptors that the watcher must not keep
    open. Raises OSError where no process can be started.
    """
    watched = [pipe]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(OSError):  # a kernel before 5.3
            watched.append(os.pidfd_open(parent))  # where a copy of the parent keeps the pipe open
    if os.getppid() != parent:  # it ended before all that
        os._exit(1)
    group = os.getpid()
    middle = os.fork()
    if not middle:
        try:
            # Forked twice, so that the watcher is no child of this process: a sampler may wait for all its children.
            watcher = os.fork()
            if not watcher:
                _watch(group, watched, others)
            with suppress(OSError):  # it may have ended
                os.setpgid(watcher, watcher)  # before this process goes on: it may be stopped soon, with its group
            os._exit(0)
        finally:
            os._exit(1)
    for descriptor in watched[1:]:
        os.close(descriptor)
    if os.waitpid(middle, 0)[1]:
        raise OSError("cannot start a process that watches this one")


def _watch(group: int, watched: Iterable[int], others: Iterable[int]) -> None:
    """Wait until the parent is gone or has closed its end of the pipe, then kill the group.

    The watcher leaves the group, which may be stopped, and stays in its session: the system gives the number of a
    session to no other process, so the group that is killed is always the right one.
    """
    os.setpgid(0, 0)
    for descriptor in {0, 1, 2, *others} - {*watched}:
        with suppress(OSError):
            os.close(descriptor)
    pipe, *processes = watched
    poll = select.poll()
    poll.register(pipe, 0)  # a hang-up is always reported; what is in the pipe is for the child
    for process in processes:
        poll.register(process, select.POLLIN)
    poll.poll()
    with suppress(OSError):  # nobody is left in it
        os.killpg(group, signal.SIGKILL)
    os._exit(0)

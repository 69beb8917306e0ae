"""The scheduler of workers, simulated: how much of N workers' time goes into chunks, and what takes the rest.

    python benchmarks/scaling.py [--workers 1,8,64,256,1024] [--chunk 30] [--failures 0.01] [--restart 60]
    python benchmarks/scaling.py --figure docs/scaling.svg

Needs simpy (`pip install '.[simulation]'`). One process hands out chunks, receives and writes them, one at
a time; workers draw, are lost and start again; a chunk that was lost goes back to the queue, as in
`bench/draw/engines/pool.py`. Efficiency is the time that all chunks take on one worker that never fails, over N times
the time of the run. The figure has a curve for each of some times that a chunk may take; it says of which version of
this file it was made, and a test holds it to that.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import statistics
import sys
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    import simpy
except ImportError:
    sys.exit("simpy is missing: pip install '.[simulation]' in the folder of samplerbench")

HOUR = 3600.0
DRAWN_WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
DRAWN_CHUNKS = {30.0: "#1f6f8b", 5.0: "#b5651d", 1.0: "#7a4b8f"}
"""Seconds of a chunk, and the colour of the curve."""
LEFT, TOP, WIDTH, HEIGHT = 60, 24, 520, 260
"""Of the frame of the figure, in pixels."""
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1b2733 }
  .small { font-size: 11px; fill: #51606e }
  .ground { fill: #ffffff }
  .line { stroke: #d5dde5; fill: none }
  .curve { stroke-width: 2; fill: none }
"""


@dataclass(frozen=True)
class Setting:
    """What is simulated; seconds, unless it says otherwise."""

    workers: int
    chunk: float = 30.0
    """What a chunk takes."""
    spread: float = 0.05
    """Standard deviation of a chunk over its mean."""
    stragglers: float = 0.02
    """Share of chunks that take three times as long."""
    failures: float = 0.01
    """How often a worker is lost in an hour."""
    restart: float = 60.0
    """From the loss of a worker to the next that has its model."""
    start: float = 60.0
    """Until the first chunk of a worker."""
    handling: float = 0.002
    """What the process that writes takes for a chunk, but for the disk."""
    megabytes: float = 0.8
    """Of a chunk."""
    disk: float = 200.0
    """Megabytes a second."""
    sync: float = 0.004
    """Until a file is on the disk."""
    chunks_each: int = 120
    """For each worker."""
    seed: int = 0


@dataclass
class Pool:
    """A run."""

    setting: Setting
    lost: int = 0
    """Chunks that were drawn in vain."""
    ended: float = 0.0
    spent: float = 0.0
    """Seconds of chunks that came back."""
    queue: deque[float] = field(default_factory=deque)

    def run(self) -> float:
        """The efficiency."""
        setting, chance = self.setting, random.Random(self.setting.seed)
        for _ in range(setting.workers * setting.chunks_each):
            seconds = setting.chunk * max(0.1, chance.gauss(1, setting.spread))
            self.queue.append(3 * seconds if chance.random() < setting.stragglers else seconds)
        world = simpy.Environment()
        writer = simpy.Resource(world, 1)
        for _ in range(setting.workers):
            world.process(self.worker(world, writer, chance))
        world.run()
        return self.spent / (setting.workers * self.ended)

    def worker(self, world: simpy.Environment, writer: simpy.Resource, chance: random.Random) -> Generator[Any]:
        """Draws until nothing is left; the writer takes each chunk before the next is given out."""
        setting = self.setting
        yield world.timeout(setting.start)
        left = chance.expovariate(setting.failures / HOUR) if setting.failures else float("inf")
        while self.queue:
            seconds = self.queue.popleft()
            if left < seconds:
                yield world.timeout(left)
                self.queue.append(seconds)
                self.lost += 1
                yield world.timeout(setting.restart)
                left = chance.expovariate(setting.failures / HOUR)
                continue
            yield world.timeout(seconds)
            left -= seconds
            with writer.request() as turn:
                yield turn
                yield world.timeout(setting.handling + setting.sync + setting.megabytes / setting.disk)
            self.spent += seconds
            self.ended = world.now


def efficiency(setting: Setting, rounds: int = 3) -> tuple[float, float, float]:
    """Lowest, median and highest over seeds."""
    found = sorted(Pool(Setting(**{**vars(setting), "seed": seed})).run() for seed in range(rounds))
    return found[0], statistics.median(found), found[-1]


def version() -> str:
    """Hash of this file."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def place(workers: int, share: float) -> tuple[float, float]:
    """Where a point of a curve is."""
    return LEFT + WIDTH * math.log2(workers) / math.log2(DRAWN_WORKERS[-1]), TOP + HEIGHT * (1 - share)


def figure(curves: dict[float, dict[int, float]]) -> str:
    """An SVG of efficiencies by number of workers, a curve for each time of a chunk."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 90} {TOP + HEIGHT + 60}" '
        f'width="{LEFT + WIDTH + 90}" height="{TOP + HEIGHT + 60}">',
        "<title>Simulated efficiency by number of workers, for chunks of 30, 5 and 1 s</title>",
        f"<desc>benchmarks/scaling.py {version()}</desc><style>{STYLE}</style>",
        '<rect class="ground" width="100%" height="100%"/>',
    ]
    for percent in range(0, 101, 20):
        _, y = place(1, percent / 100)
        lines.append(f'<path class="line" d="M{LEFT} {y:.1f}h{WIDTH}"/>')
        lines.append(f'<text class="small" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>')
    for workers in DRAWN_WORKERS:
        x, y = place(workers, 0)
        lines.append(f'<text class="small" x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{workers:,}</text>')
    lines.append(f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 42}" text-anchor="middle">workers</text>')
    for seconds, shares in curves.items():
        points = [place(workers, share) for workers, share in shares.items()]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        x, y = points[-1]
        colour = DRAWN_CHUNKS[seconds]
        lines.append(f'<path class="curve" stroke="{colour}" d="M{path}"/>')
        lines.append(f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" style="fill:{colour}">{seconds:g} s</text>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Simulate and print a row for each number of workers, or write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,8,64,256,1024")
    for name in ("chunk", "failures", "restart", "handling"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Setting, name))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figure", type=Path, metavar="FILE.svg")
    given = vars(parser.parse_args())
    rounds, file = given.pop("rounds"), given.pop("figure")
    if file:
        found = {chunk: {n: Pool(Setting(n, chunk=chunk)).run() for n in DRAWN_WORKERS} for chunk in DRAWN_CHUNKS}
        file.write_text(figure(found), encoding="utf-8")
        return
    print("| workers | efficiency | lowest and highest of seeds |\n| ---: | ---: | ---: |")
    for workers in map(int, given.pop("workers").split(",")):
        low, middle, high = efficiency(Setting(workers, **given), rounds)
        print(f"| {workers:,} | {middle:.1%} | {low:.1%} to {high:.1%} |")


if __name__ == "__main__":
    main()

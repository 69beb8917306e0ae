"""How fast FID is, and how much memory the statistics of a large run take: figures to repeat, no test.

`python tests/tools/speed.py fid --threads 1`     FID against torch-fidelity's functions, taking turns in one process.
`python tests/tools/speed.py memory -n 50000`     peak memory of this process for the metrics of so many features.
"""

import argparse
import os
import resource
import statistics
import time

WIDTH = 2048
REFERENCE = 10_000


def features(n, seed, shift=0.0):
    """Features (n, WIDTH) float32, none negative, of decreasing variance, as a network's are; made block by block."""
    import numpy as np

    rng = np.random.default_rng(seed)
    scale = (0.5 * (np.arange(WIDTH) + 1) ** -0.3).astype(np.float32)
    rows = np.empty((n, WIDTH), dtype=np.float32)
    for i in range(0, n, 1000):
        part = rows[i : i + 1000]
        rng.standard_normal(out=part, dtype=np.float32)
        part += np.roll(part, 1, axis=1) + shift
        np.maximum(part * scale, 0, out=part)
    return rows


def spread(seconds):
    """ "0.21 (0.20 to 0.24)"."""
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def clocked(function):
    """Seconds that a call takes, and what it returns."""
    started = time.perf_counter()
    value = function()
    return time.perf_counter() - started, value


def measure_fid(sizes, repeats):
    """FID with all influences against torch-fidelity's value, from features; reference statistics are made before."""
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    from samplerbench.plugins.metrics.fid import FID

    reference = features(REFERENCE, 1)
    metric, theirs = FID(), fid_features_to_statistics(torch.from_numpy(reference))
    once, prepared = clocked(lambda: metric.prepare(reference))
    print(f"{WIDTH} dimensions; our reference, once a run: {once:.2f} s")
    for n in sizes:
        rows = features(n, 2, 0.1)

        def their_fid(rows=rows):
            made = fid_features_to_statistics(torch.from_numpy(rows))
            return fid_statistics_to_metric(made, theirs, verbose=False)["frechet_inception_distance"]

        own_seconds, their_seconds = [], []
        for _ in range(repeats):
            seconds, own = clocked(lambda rows=rows: metric.estimate(rows, prepared).value)
            own_seconds.append(seconds)
            seconds, other = clocked(their_fid)
            their_seconds.append(seconds)
        ratio = statistics.median(their_seconds) / statistics.median(own_seconds)
        print(
            f"n = {n}: ours {spread(own_seconds)} s, torch-fidelity {spread(their_seconds)} s, "
            f"{ratio:.1f} times; values differ by {abs(own / other - 1):.1e}"
        )


def peak():
    """The largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(n, names):
    """Chunks of 64 as they come from the disk, put together and measured."""
    import numpy as np

    from samplerbench.bench.draw.chunk_file import Chunk
    from samplerbench.bench.draw.clock import Timing
    from samplerbench.bench.judge.statistics import estimates, gather
    from samplerbench.bench.plan.yardstick import Yardstick
    from samplerbench.samplers.registry import load_registry

    registry = load_registry()
    print(f"started: {peak():.0f} MB")
    ready = {}
    for name in names:
        metric = registry.metrics[name]()
        ready[name] = Yardstick(metric, metric.prepare(features(REFERENCE, 1)))
        print(f"{name} ready: {peak():.0f} MB")

    def chunks():
        for first in range(0, n, 64):
            rows = features(min(64, n - first), 2 + first, 0.1)
            hashes = np.zeros((len(rows), 16), np.uint8)
            yield Chunk(first, len(rows), Timing(1, 1, 1.0, 1.0), {"features": rows}, hashes, None, None)

    gathered = gather(chunks(), n, ready)
    print(f"{n} x {WIDTH} rows: {peak():.0f} MB")
    for name in names:
        seconds, found = clocked(lambda name=name: estimates(gathered, {name: ready[name]})[name])
        print(f"{name} = {found.value:.6g}: {seconds:.1f} s, {peak():.0f} MB")


def main():
    """Read the command line; the number of threads must be known before numpy is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fid = commands.add_parser("fid")
    fid.add_argument("-n", type=int, nargs="+", default=[1000, 5000, 10_000])
    fid.add_argument("--repeats", type=int, default=5)
    memory = commands.add_parser("memory")
    memory.add_argument("-n", type=int, default=50_000)
    memory.add_argument("--metric", nargs="+", default=["fid", "kid"])
    for command in (fid, memory):
        command.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(given.threads)))
    print(f"{given.threads} thread(s)")
    if given.command == "fid":
        measure_fid(given.n, given.repeats)
    else:
        measure_memory(given.n, given.metric)


if __name__ == "__main__":
    main()

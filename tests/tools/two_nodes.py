"""Two network namespaces of this machine as two nodes of Ray: `python tests/tools/two_nodes.py`.

Each node has its own network and its own folder of what it keeps. The first has the run and no core for workers; all is
drawn on the second, which does not see the folder of the run, so that a model's files have to be sent there. The same
run is drawn plainly too; prints what was compared, and the exit code is 1 where a byte differs. Needs Linux, Ray, `ip`
of iproute2, and the privileges to make namespaces; where these lack, it says so in one line and ends with 77, as tests
do that were skipped.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click

LACKS = 77
NETWORK = "10.213.7"
PORT = 6399
NODES = ("one", "two")
MODEL = '''"""The exact model `mixture`, whose scale stands in a file."""

from pathlib import Path

import samplerbench as sb

SCALE = float(Path("parts/scale.txt").read_text())


def make():
    network = sb.load_model("mixture")
    assert SCALE == 1.0
    return network
'''
OPTIONS = ("-s", "ddim", "-s", "ddpm", "--steps", "2,3", "-n", "300", "--threads", "1", "--model", "model.py:make")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "OMP_NUM_THREADS": "1"}


def namespace(node):
    """What a node's network is called."""
    return f"samplerbench-{os.getpid()}-{node}"


def ip(*words):
    """Carry out a command of `ip`; SystemExit where it may not."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"two nodes: ip {' '.join(words)}: {done.stderr.strip()}; needs the privileges to make namespaces")
        raise SystemExit(LACKS)


def connect():
    """Make both networks, and a line between them."""
    for node in NODES:
        ip("netns", "add", namespace(node))
    ends = [f"sb{os.getpid() % 10_000}{node[:1]}" for node in NODES]
    ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    for i, (node, end) in enumerate(zip(NODES, ends, strict=True)):
        ip("link", "set", end, "netns", namespace(node))
        ip("-n", namespace(node), "addr", "add", f"{NETWORK}.{i + 1}/24", "dev", end)
        ip("-n", namespace(node), "link", "set", end, "up")
        ip("-n", namespace(node), "link", "set", "lo", "up")


def disconnect():
    """Remove what `connect` made, as far as it came."""
    for node in NODES:
        subprocess.run(["ip", "netns", "del", namespace(node)], capture_output=True, check=False)


def start(node, root, *words):
    """A node of Ray. The second does not see the folder of the run."""
    home = root / f"home-{node}"
    home.mkdir()
    hidden = f"mount -t tmpfs none {root / 'run'} && " if node != NODES[0] else ""
    address = f"{NETWORK}.{NODES.index(node) + 1}"
    words += (f"--node-ip-address={address}", f"--num-cpus={NODES.index(node)}")
    # Ray's own temporary folder is one for each node: both would find the same sockets otherwise.
    own = ["--include-dashboard=false", f"--temp-dir={root}/{node}"] if node == NODES[0] else []
    ray = [str(Path(sys.executable).parent / "ray"), "start", *words, "--object-store-memory=100000000", "--block"]
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace(node), "unshare", "-m", "sh", "-c", hidden + 'cd / && exec "$@"', "sh", *ray,
         *own],
        env={**os.environ, **QUIET, "HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def drawn(root, name, *options, within=()):
    """The hash of each chunk of a run that is drawn now, by its cell and place."""
    folder = root / "run" / name
    program = [sys.executable, "-c", "from samplerbench.bench.cli import main; main()"]
    done = subprocess.run(
        [*within, *program, "run", *OPTIONS, *options, "-o", folder.name], cwd=root / "run", capture_output=True,
        text=True, check=False, env={**os.environ, **QUIET},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr}")
    from samplerbench.bench.draw.run_file import read_run
    from samplerbench.bench.draw.store import RunFolder

    return {
        (cell.sampler, cell.steps, place): hashlib.sha256(chunk.hashes.tobytes()).hexdigest()
        for cell in read_run(folder).cells
        for place, chunk in RunFolder(folder).chunks_of(cell.key).items()
    }


def kept(root, node):
    """How many files a node keeps."""
    folder = root / f"home-{node}" / ".cache" / "samplerbench" / "files"
    return sum(path.is_file() for path in folder.iterdir()) if folder.is_dir() else 0


def wait_for(process):
    """Wait until a node of Ray says that it is there."""
    said = []
    for line in process.stdout:
        said.append(line)
        if "Ray runtime started" in line:
            return
    raise SystemExit(f"a node of Ray did not start: {''.join(said[-20:])}")


def compare(root):
    """Draw both runs; whether all their bytes are equal."""
    (root / "run" / "parts").mkdir(parents=True)
    (root / "run" / "model.py").write_text(MODEL)
    (root / "run" / "parts" / "scale.txt").write_text("1.0")
    plain = drawn(root, "plain")
    head = f"{NETWORK}.1"
    nodes = [start(NODES[0], root, "--head", f"--port={PORT}")]
    try:
        wait_for(nodes[0])
        nodes.append(start(NODES[1], root, f"--address={head}:{PORT}"))
        wait_for(nodes[1])
        options = ("--engine", "ray", "--address", f"{head}:{PORT}", "--workers", "1", "--cpus-per-worker", "1")
        within = ("ip", "netns", "exec", namespace(NODES[0]))
        far = drawn(root, "ray", *options, within=within)
    finally:
        for node in nodes:
            os.killpg(node.pid, signal.SIGTERM)
        for node in nodes:
            try:
                node.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
    same = sum(far.get(place) == content for place, content in plain.items())
    print(
        f"{same} of {len(plain)} chunks that the other node drew are the bytes of a plain run; {kept(root, NODES[1])} "
        f"files were sent there, {kept(root, NODES[0])} to the node of the run"
    )
    return plain == far


@click.command()
def main():
    """Compare the bytes of two nodes with those of one process."""
    if not shutil.which("ip"):
        print("two nodes: `ip` is missing; install iproute2")
        raise SystemExit(LACKS)
    try:
        connect()
        with tempfile.TemporaryDirectory() as folder:
            same = compare(Path(folder))
    finally:
        disconnect()
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()

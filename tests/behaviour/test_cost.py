"""What `--dry-run` says of the cost of a plan, for one worker and for many."""

import json
import math

import pytest

from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.cost import cost_of
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.plan.shard import Shard
from samplerbench.samplers.registry import load_registry

REGISTRY = load_registry()
CONFIG = {"sampler": ("ddim", "ddpm"), "steps": (2,), "metric": ("clip_score",)}


@pytest.mark.parametrize(("workers", "seconds"), [(1, 600.0), (2, 300.0), (6, 100.0), (1000, 100.0)])
def test_workers_share_the_time_as_far_as_there_are_chunks(workers, seconds):
    plan = plan_for(Config(model="mixture", samples=190, **CONFIG), REGISTRY)  # 3 blocks of 2 cells
    cost = cost_of(plan, 6000, 0.1, workers)
    assert (cost.worker_seconds, cost.seconds) == (600.0, pytest.approx(seconds))


def test_images_and_hashes_are_the_bytes_that_are_stored_at_least():
    plan = plan_for(Config(model="fashion-mnist", samples=100, **CONFIG), REGISTRY)
    pixels = math.prod(plan.model.shown_shape)
    assert cost_of(plan, 1, 1.0, 1).least_bytes == 2 * 100 * (16 + pixels)
    few = plan_for(Config(model="fashion-mnist", samples=100, keep_images=False, **CONFIG), REGISTRY)
    assert cost_of(few, 1, 1.0, 1).least_bytes == 2 * (100 * 16 + 16 * pixels)
    assert cost_of(plan.for_shard(Shard(2, 2)), 1, 1.0, 1).least_bytes == 2 * 36 * (16 + pixels)


def test_the_command_says_what_workers_cost(sb):
    run = ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "640", "--workers", "4", "--dry-run")
    shown = sb(*run).out
    assert " network evaluations, about " in shown
    assert " here\nwith 4 workers, each as fast as this process: about " in shown
    assert "; they send at least 0.01 MB, which are stored\n" in shown
    about = json.loads(sb(*run, "--json").out)
    assert about["workers"] == 4
    assert about["least_bytes"] == 640 * 16
    assert "workers" not in sb(*run[:-3], "--dry-run").out

"""Devices that a network may run on: which kinds there are, which of them this machine has, what each can do."""

from __future__ import annotations

import torch

KINDS = ("cpu", "cuda", "mps", "xpu")
"""NVIDIA's and AMD's cards are cuda, Apple's graphics mps, Intel's xpu."""
EXPECTED = "cpu, cuda, cuda:N, mps or xpu"


def count_of(kind: str) -> int:
    """How many devices of a kind this machine has that this torch can use."""
    if kind == "cpu":
        return 1
    if kind == "cuda":
        return torch.cuda.device_count()
    # A build of torch has one kind of accelerator, so mps or xpu is there only if it is that one.
    there = torch.accelerator.current_accelerator()
    return torch.accelerator.device_count() if there is not None and there.type == kind else 0


def devices_here() -> list[str]:
    """What `--device` can be on this machine: "cpu", "cuda:0", "mps"."""
    found = []
    for kind in KINDS:
        count = count_of(kind)
        # The CPU and Apple's graphics have no numbers, since there is one of each.
        found += [kind] if kind in ("cpu", "mps") and count else [f"{kind}:{i}" for i in range(count)]
    return found


def name_of(device: torch.device | str) -> str:
    """What its maker calls a device, or its kind where torch does not know."""
    device = torch.device(device)
    if device.type in ("cuda", "xpu"):
        return str(torch.get_device_module(device).get_device_name(device))
    return device.type


def is_accelerator(device: torch.device | str) -> bool:
    """Whether a device computes by itself, so that the processor has nothing to do while it draws."""
    return torch.device(device).type != "cpu"


def has_float64(device: torch.device | str) -> bool:
    """Whether a device computes in float64: mps does not, and of xpu not every card."""
    device = torch.device(device)
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"

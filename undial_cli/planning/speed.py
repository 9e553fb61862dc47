"""How fast a device is: three short measurements, and how long counted work takes at that speed.

Knows nothing of models; the shape of a matrix product is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.benchmark import Timer

from undial_cli.planning.replay import WorkCost

# Floating point operations of one measured product.
MEASURED_FLOPS = {"cpu": 1e9, "cuda": 1e12}
# What an operation costs the host in a model's own Python code, in calls of a bare one.
HOST_CALLS_PER_OPERATION = 4


@dataclass(frozen=True)
class DeviceSpeed:
    """Per second: floating point operations, bytes moved, operations begun by the host."""

    flops: float
    moved: float
    calls: float


def measure_speed(
    device: torch.device, dtype: torch.dtype, product: tuple[int, int, int], sharing: int = 1
) -> DeviceSpeed:
    """The speed of a device, found in less than a second.

    Args:
        product: rows, inner and outer size of a typical matrix product.
        sharing: processes that divide the device among them.
    """
    most_flops = MEASURED_FLOPS.get(device.type, MEASURED_FLOPS["cuda"])
    rows, inner, outer = product
    rows = max(1, min(rows, int(most_flops / 2 / inner / outer)))
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(inner, outer, device=device).to(dtype)
    activations = torch.randn(product[0], outer, device=device).to(dtype)
    one = torch.ones(1, device=device)
    product_seconds = measure_least_seconds(lambda: left @ right)
    # Elementwise operations are bound by memory: what they read and write is their speed.
    silu_seconds = measure_least_seconds(lambda: nn.functional.silu(activations))
    call_seconds = measure_least_seconds(lambda: one + 1)
    return DeviceSpeed(
        flops=2 * rows * inner * outer / product_seconds / sharing,
        moved=2 * activations.nbytes / silu_seconds / sharing,
        calls=1 / call_seconds / HOST_CALLS_PER_OPERATION,
    )


def measure_least_seconds(work: Callable[[], object]) -> float:
    """The shortest time of a piece of work, repeated for a moment."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange().times)


def estimate_seconds(cost: WorkCost, speed: DeviceSpeed, device: torch.device) -> float:
    """How long work takes; a GPU computes while the host begins further operations."""
    busy, begun = cost.flops / speed.flops + cost.moved / speed.moved, cost.calls / speed.calls
    return busy + begun if device.type == "cpu" else max(busy, begun)

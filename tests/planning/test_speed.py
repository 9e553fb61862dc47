"""How long counted work takes on a device of a known speed."""

from __future__ import annotations

import torch

from undial_cli.planning.replay import WorkCost
from undial_cli.planning.speed import DeviceSpeed, estimate_seconds

CPU = torch.device("cpu")


def test_time_is_work_at_a_speed() -> None:
    cost, speed = WorkCost(flops=6e9, moved=2e9, calls=3e4), DeviceSpeed(3e9, 2e9, 1e4)
    assert estimate_seconds(cost, speed, CPU) == 2 + 1 + 3
    assert estimate_seconds(cost, speed, torch.device("cuda")) == 3

"""Models whose weights are dealt out: each process holds a part, layers are gathered as they run.

A training shards its own (accelerate, DeepSpeed); here one is that is only asked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from undial_cli.system import processes


def is_sharded_model(model: nn.Module) -> bool:
    """Whether this process holds a part of the weights only: FSDP2's, or DeepSpeed's ZeRO-3."""
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())


def shard_model(model: Any, device: torch.device) -> Any:
    """Deal a frozen model out to all processes, in place, the parts onto their devices.

    Args:
        model: whole, in the host's memory.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes.get_process_count(),))
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    model.requires_grad_(False)
    for module in [m for m in model.modules() if type(m).__name__ in blocks]:
        fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)

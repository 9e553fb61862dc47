"""What a piece of work does on the host while its model lives on another device.

`meta` stands for the other device where there is no GPU: it computes nothing, takes no tensor of
the host in, and gives no number out.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import masking_utils

# Whose lines are named for what they do.
WATCHED_PACKAGES = ("undial_cli", "transformers", "peft")
COPIES = ("_to_copy", "copy_")
# Their seeds of dropout are the host's, used or not.
ATTENTION_KERNELS = "_scaled_dot_product"
ANSWERS = ("_local_scalar_dense", "equal", "nonzero")


def find_caller() -> str:
    """The nearest line of a watched package that is being run, as `file.py:function`."""
    frame = sys._getframe(1)
    while frame is not None:
        parts = Path(frame.f_code.co_filename).parts
        if any(package in parts for package in WATCHED_PACKAGES):
            return f"{parts[-1]}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


class HostWatch(TorchDispatchMode):
    """While open, notes who makes tensors on the host, copies them there or away, asks for numbers.

    `made`: new tensors of the host; `sent`: copies from the host to the device; `fetched`: copies
    to the host, and numbers that the host waits for. Each by the line that does it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.fetched: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        devices = {x.device.type for x in operands}
        if name in ANSWERS and devices - {"cpu"}:  # before it is done: `meta` has no answer
            self.fetched[find_caller()] += 1
        result = func(*args, **kwargs)
        known = {id(x) for x in operands}
        new = [x for x in tree_leaves(result) if isinstance(x, Tensor) and id(x) not in known]
        host = [x for x in new if x.device.type == "cpu"]
        both = devices | {x.device.type for x in new}
        if name.startswith(ATTENTION_KERNELS) or (both <= {"cpu"} and not host):
            return result
        if name in COPIES and "cpu" in both and len(both) > 1:
            (self.fetched if host else self.sent)[find_caller()] += 1
        elif host and not func.is_view:
            self.made[find_caller()] += 1
        elif "cpu" in devices and len(devices) > 1:
            self.made[f"{find_caller()} mixes devices"] += 1
        return result


def stand_in_meta(patch: pytest.MonkeyPatch) -> torch.device:
    """The `meta` device, made to take part in a training step."""
    is_enabled, autocast = torch.is_autocast_enabled, torch.autocast

    def is_autocast_enabled(*kind: str) -> bool:
        return kind != ("meta",) and is_enabled(*kind)

    def open_autocast(kind: str, *words: Any, **keys: Any) -> Any:
        return contextlib.nullcontext() if kind == "meta" else autocast(kind, *words, **keys)

    # `meta` has no autocast.
    patch.setattr(torch, "is_autocast_enabled", is_autocast_enabled)
    patch.setattr(torch, "autocast", open_autocast)
    # transformers asks the device in every padded forward whether it is packed.
    patch.setattr(masking_utils, "find_packed_sequence_indices", lambda _: None)
    return torch.device("meta")

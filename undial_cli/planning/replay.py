"""Run PyTorch code on tensors that have shapes and no numbers, and note what it would take.

Memory of a device is followed storage by storage, as its allocator would see it; so are the
floating point operations of matrix products and the bytes that all other operations move. Integer
tensors are real: which way a model's code goes often hangs on them. Knows nothing of runs; sees
neither an allocator's rounding nor what a kernel takes for itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # it raises as well

# What code is told that asks for a number: any number is 0, all tensors are equal.
NUMBERLESS_ANSWERS: dict[Any, Any] = {aten._local_scalar_dense.default: 0, aten.equal.default: True}
# Of a large operand only as much as the result holds is read.
GATHERING_OPERATIONS = ("embedding", "index", "index_select", "gather")
MAKING_OPERATIONS = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")


def count_attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Operations of an attention: scores and their sum of values, one head of each per query's."""
    return 2 * query[..., 0].numel() * key.shape[-2] * (key.shape[-1] + value.shape[-1])


def count_attention_backward_flops(_: Tensor, *states: Any, **__: Any) -> int:
    """Operations of its gradients: the scores again, and two products for each of the forward's."""
    query, key, value = states[:3]
    return 2 * query[..., 0].numel() * key.shape[-2] * (3 * key.shape[-1] + 2 * value.shape[-1])


# Torch's own counters of these refused grouped heads before its version 2.13.
ATTENTION_COUNTERS: dict[Any, Any] = {}
for kernel in ("efficient_attention", "flash_attention", "cudnn_attention",
               "flash_attention_for_cpu"):  # fmt: skip
    forward = f"_scaled_dot_product_{kernel}"
    ATTENTION_COUNTERS[getattr(aten, forward)] = count_attention_flops
    ATTENTION_COUNTERS[getattr(aten, f"{forward}_backward")] = count_attention_backward_flops

# As in torch's registry, and operations that it lacks.
FLOP_COUNTERS: dict[Any, Any] = (
    flop_registry | ATTENTION_COUNTERS | {aten.addmm_: flop_registry[aten.addmm]}
)

# The product of a mixture's experts, whose shape function takes bfloat16 only.
GROUPED_PRODUCT = getattr(aten, "_grouped_mm", None)


def grouped_product_shape(left: Tensor, right: Tensor, ends_E: Tensor | None = None) -> list[int]:
    """The shape of a grouped product: rows in groups [S, K] by [E, K, N], or as its gradients."""
    if left.ndim == 2 and right.ndim == 2:
        assert ends_E is not None
        return [len(ends_E), left.shape[0], right.shape[1]]
    batch = [left.shape[0]] if left.ndim == right.ndim == 3 else []
    return [*batch, left.shape[-2], right.shape[-1]]


def count_grouped_flops(left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    """Floating point operations of a grouped product: each row meets one expert's weights."""
    experts = left.shape[0] if left.ndim == 3 and right.ndim == 2 else 1
    return 2 * left.numel() * right.shape[-1] // experts


if GROUPED_PRODUCT is not None:
    FLOP_COUNTERS[GROUPED_PRODUCT] = count_grouped_flops


@dataclass
class WorkCost:
    """What a piece of work takes.

    `flops`: floating point operations of matrix products; `moved`: bytes that other operations
    read and write; `calls`: operations in all. Of the device's memory, in bytes: the level when the
    work begins, the highest level during it, and by how much the level is higher after it.
    """

    flops: float = 0
    moved: float = 0
    calls: float = 0
    start: int = 0
    highest: int = 0
    growth: int = 0

    @property
    def rise(self) -> int:
        """The highest level above that at the beginning."""
        return self.highest - self.start

    def plus(self, other: WorkCost, times: float = 1) -> WorkCost:
        """The work of both, the other's done so many times; levels are this one's."""
        return dataclasses.replace(
            self,
            flops=self.flops + times * other.flops,
            moved=self.moved + times * other.moved,
            calls=self.calls + times * other.calls,
        )


class Replay(TorchDispatchMode):
    """While open, floating point tensors are made without numbers and nothing is computed.

    `level` is what lives on `device`, in bytes.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.known: dict[int, int] = {}
        self.level = 0
        self.cost = WorkCost()

    @contextlib.contextmanager
    def measured(self) -> Iterator[WorkCost]:
        """The cost of what is done while open; all of it is known when it closes."""
        outer, inner = self.cost, WorkCost(start=self.level, highest=self.level)
        self.cost = inner
        try:
            yield inner
        finally:
            self.cost, inner.growth = outer, self.level - inner.start
            outer.flops += inner.flops
            outer.moved += inner.moved
            outer.calls += inner.calls
            outer.highest = max(outer.highest, inner.highest)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # what a tensor is, no work
            return func(*args, **kwargs)
        operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if func in NUMBERLESS_ANSWERS and any(isinstance(x, FakeTensor) for x in operands):
            return NUMBERLESS_ANSWERS[func]
        if func._overloadpacket is GROUPED_PRODUCT:
            left, right, ends, *_ = [*args, kwargs.get("offs")]
            with self.fake:
                shape = grouped_product_shape(left, right, ends)
                result = torch.empty(shape, dtype=left.dtype, device=left.device)
        elif operands:  # a fake one makes fake results by itself, and real ones stay real
            result = func(*args, **kwargs)
        else:
            with self.fake:
                result = func(*args, **kwargs)
            if isinstance(result, Tensor) and not result.is_floating_point():
                result = func(*args, **kwargs)
        results = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.count(func, args, kwargs, result, operands, results)
        for tensor in results:
            self.follow(tensor)
        return result

    def count(
        self,
        func: Any,
        args: tuple,
        kwargs: dict[str, Any],
        result: Any,
        operands: list[Tensor],
        results: list[Tensor],
    ) -> None:
        """Add an operation's floating point operations, or the bytes that it moves."""
        packet, name = func._overloadpacket, func._schema.name.split("::")[1]
        operand_storages = {id(x.untyped_storage()) for x in operands}
        new = [x for x in results if id(x.untyped_storage()) not in operand_storages]
        # A view moves nothing, and memory that is only reserved is not written either.
        if name in MAKING_OPERATIONS or not (new or func._schema.is_mutable):
            return
        self.cost.calls += 1
        if packet in FLOP_COUNTERS:
            self.cost.flops += FLOP_COUNTERS[packet](*args, **kwargs, out_val=result)
        else:
            written = sum(x.nbytes for x in new or results)
            read = written if name in GATHERING_OPERATIONS else sum(x.nbytes for x in operands)
            self.cost.moved += written + read

    def bring(self, model: nn.Module) -> None:
        """Take a model from the meta device to this one, in place; not while open."""
        copies: dict[int, tuple[Tensor, Tensor]] = {}  # the original too, so that its id stays its

        def copy_here(tensor: Tensor) -> Tensor:
            if id(tensor) not in copies:
                is_parameter = isinstance(tensor, nn.Parameter)
                is_blank = is_parameter or tensor.is_floating_point()
                with self.fake if is_blank else contextlib.nullcontext():
                    copy = torch.zeros(tensor.shape, dtype=tensor.dtype, device=self.device)
                    copy = nn.Parameter(copy, tensor.requires_grad) if is_parameter else copy
                copies[id(tensor)] = tensor, copy
                self.follow(copy)
            return copies[id(tensor)][1]

        for module in model.modules():
            # Plain attributes as well: `Module.to` would leave them on the meta device.
            for tensors in (module._parameters, module._buffers, vars(module)):
                fields: dict[str, Any] = tensors  # type: ignore[assignment]
                for name, tensor in fields.items():
                    if isinstance(tensor, Tensor):
                        fields[name] = copy_here(tensor)

    def has(self, thing: Any) -> bool:
        """Whether something is a tensor on the device."""
        return isinstance(thing, Tensor) and thing.device.type == self.device.type

    def follow(self, tensor: Tensor) -> None:
        """Count a tensor's storage once, for as long as it lives."""
        storage = tensor.untyped_storage()
        if not self.has(tensor) or id(storage) in self.known:
            return
        self.known[id(storage)] = size = storage.nbytes()
        self.level += size
        self.cost.highest = max(self.cost.highest, self.level)
        weakref.finalize(storage, self.release, id(storage)).atexit = False

    def release(self, key: int) -> None:
        """Take a freed storage off the level."""
        self.level -= self.known.pop(key, 0)

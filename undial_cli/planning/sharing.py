"""What several processes share of a model, and what they send each other in a step.

Arithmetic on the sizes of parameters, as torch's FSDP2 through accelerate deals them out: a layer
is whole while it computes, in the dtype of the products; with mixed precision what is trained is
held in float32; weights in 4 bits are not shared. ZeRO-3 is taken for the same; ZeRO-2 shares
gradients and states alone. Exchanges are those of a ring. Knows no network and no time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

from torch import nn

from undial_cli.config.schema import TrainingRun, find_zero_stage, is_sharded
from undial_cli.models.head import find_output_head
from undial_cli.planning.rehearsal import DeviceMemory
from undial_cli.system.hardware import choose_autocast_dtype

FLOAT32_BYTES, HALF_BYTES = 4, 2
# While a layer computes, the next one is gathered.
LAYERS_AT_ONCE = 2


@dataclass(frozen=True)
class UnitBytes:
    """Parameters that are gathered together.

    In bytes: as they are made, `held` where each process has a share of them, `alone` where each
    has all; `moved` when they are gathered, and `gradients` when theirs are handed back.
    """

    made: float = 0
    held: float = 0
    alone: float = 0
    moved: float = 0
    gradients: float = 0

    def plus(self, other: UnitBytes) -> UnitBytes:
        """Both together."""
        return UnitBytes(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def measure_unit(parameters: Iterable[nn.Parameter], mixed: bool) -> UnitBytes:
    """The sizes of some parameters.

    Args:
        mixed: products are of half precision, whatever the weights are of.
    """
    total = UnitBytes()
    for p in parameters:
        if not p.is_floating_point():
            total = total.plus(UnitBytes(made=p.nbytes, alone=p.nbytes))
            continue
        moved = p.numel() * HALF_BYTES if mixed else p.nbytes
        held = p.numel() * FLOAT32_BYTES if mixed and p.requires_grad else p.nbytes
        gradients = moved if p.requires_grad else 0
        total = total.plus(UnitBytes(p.nbytes, held, 0, moved, gradients))
    return total


@dataclass(frozen=True)
class SharedModel:
    """A model as it is dealt out: `layers`, one by one; the `tail`, the head and what is tied to
    it, gathered once a pass; the `rest`, outside the layers, gathered twice as they are.
    """

    layers: list[UnitBytes]
    tail: UnitBytes
    rest: UnitBytes

    @property
    def whole(self) -> UnitBytes:
        """All of it."""
        total = self.tail.plus(self.rest)
        for layer in self.layers:
            total = total.plus(layer)
        return total

    @property
    def at_once(self) -> float:
        """Bytes that are whole on each process while a layer computes."""
        largest = max((layer.moved for layer in self.layers), default=0)
        return self.tail.moved + min(LAYERS_AT_ONCE, len(self.layers)) * largest

    @property
    def gradients_at_once(self) -> float:
        """Bytes of gradients that are whole before they are handed back."""
        return max([layer.gradients for layer in self.layers] + [self.tail.gradients])


def deal_out_model(model: Any, mixed: bool) -> SharedModel:
    """How a model is dealt out."""
    layers = [m for group in model.modules() if isinstance(group, nn.ModuleList) for m in group]
    head = find_output_head(model)
    tail = {id(p) for p in head.parameters()}
    inner = {id(p) for layer in layers for p in layer.parameters()}
    outside = [p for p in model.parameters() if id(p) not in inner | tail]
    return SharedModel(
        [measure_unit(layer.parameters(), mixed) for layer in layers],
        measure_unit(head.parameters(), mixed),
        measure_unit(outside, mixed),
    )


def share_among_processes(
    run: TrainingRun, memory: DeviceMemory, model: Any, processes: int, passes: int
) -> float:
    """Make the memory of one process that of each of several; the bytes that each sends a step.

    Args:
        passes: forward and backward passes of a step, over all its terms and micro-batches.
    """
    if processes == 1:
        return 0
    away = 1 - 1 / processes
    mixed = choose_autocast_dtype(run) != "no"
    trained = measure_unit((p for p in model.parameters() if p.requires_grad), mixed)
    if find_zero_stage(run) in (1, 2):
        share_states(memory, trained, mixed, processes)
        return 2 * away * trained.moved
    if not is_sharded(run):
        memory.copies = memory.gradients
        memory.step += memory.copies
        return 2 * away * memory.gradients
    shared = deal_out_model(model, mixed)
    whole = shared.whole
    # Gradients and states are of the dtype in which what is trained is held; 8-bit states of none.
    grown = trained.held / max(1, trained.made)
    weights = memory.weights - whole.made + whole.alone + whole.held / processes
    optimiser = memory.optimiser * (1 if "8bit" in run.train.optim else grown) / processes
    gradients = memory.gradients * grown / processes
    present = min(memory.gradients, memory.step - memory.level) / max(1, memory.gradients)
    memory.step += weights - memory.weights + optimiser - memory.optimiser
    memory.step += present * (gradients - memory.gradients)
    memory.step += shared.at_once + shared.gradients_at_once
    if memory.teacher_pass:
        memory.teacher_pass += weights - memory.weights + shared.at_once
    memory.weights, memory.optimiser, memory.gradients = weights, optimiser, gradients
    # Gathered before the forward and the backward pass of each; gradients are handed back in each.
    return passes * away * (2 * whole.moved - shared.tail.moved + whole.gradients)


def share_states(memory: DeviceMemory, trained: UnitBytes, mixed: bool, processes: int) -> None:
    """Share out the optimiser's states and the gradients; the weights stay whole on each.

    Under mixed precision the float32 weights that are trained belong to the states.
    """
    master = trained.held if mixed else 0
    grown = trained.held / max(1, trained.made)
    optimiser = (memory.optimiser * grown + master) / processes
    # Whole until the last of a micro-batch's are there, of which buckets are handed on: the peak.
    memory.step += optimiser - memory.optimiser
    memory.optimiser = optimiser

"""A training replayed without numbers: the teacher's pass, an optimiser step, a micro-batch.

It runs what training runs, on the largest batch of each, and notes memory and work. Knows nothing
of how the run came to be, nor of what is made of the numbers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from undial_cli.config.schema import TrainingRun
from undial_cli.data.collate import Batch
from undial_cli.data.schedule import Schedule
from undial_cli.data.stored_examples import measure_lengths
from undial_cli.losses.targets import Targets
from undial_cli.methods.base import Loss, Method
from undial_cli.planning.replay import Replay, WorkCost
from undial_cli.planning.stand_in_layers import estimate_state_bytes, make_optimiser
from undial_cli.training.arguments import make_training_arguments
from undial_cli.training.teacher import Teacher, open_autocast
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.teacher_pass import TEACHER_PASS_TOKENS, batch_by_tokens, run_teacher
from undial_cli.training.trainer import compute_term_sum
from undial_cli.training.wrapped_steps import is_wrapped, keeps_mean, list_term_passes


@dataclass
class DeviceMemory:
    """Bytes on one device.

    There throughout: weights, the teacher's frozen head and its signal, the optimiser's states (and
    with them the mean gradient that `method.rectify` keeps), and `copies` of the gradients, for
    their exchange. Within a step: gradients, `wrapper` (what one holds of them and of the weights),
    activations, and `head`, the head's gradient and one chunk of logits. `teacher_pass` and `step`
    are the highest levels during each. `host` is the part of the signal that a GPU run holds in the
    host's memory.
    """

    weights: float = 0
    teacher_head: float = 0
    teacher_signal: float = 0
    optimiser: float = 0
    copies: float = 0
    gradients: float = 0
    wrapper: float = 0
    activations: float = 0
    head: float = 0
    teacher_pass: float = 0
    step: float = 0
    host: float = 0

    @property
    def level(self) -> float:
        """Bytes that are taken before a step begins."""
        return self.weights + self.teacher_head + self.teacher_signal + self.optimiser + self.copies

    @property
    def peak(self) -> float:
        """The highest level of all."""
        return max(self.step, self.teacher_pass)


@dataclass
class Rehearsal:
    """What a replayed training is made of."""

    replay: Replay
    run: TrainingRun
    model: Any
    method: Method
    packs: bool
    schedule: Schedule
    teacher: Teacher | None
    memory: DeviceMemory = field(default_factory=DeviceMemory)


def count_computed_tokens(lengths: list[int], packs: bool) -> int:
    """Tokens that sequences of these lengths take together."""
    return sum(lengths) if packs else len(lengths) * max(1, *lengths)


def hold_blank_rows(teacher: Teacher | None) -> int:
    """Give a teacher rows without numbers; how many bytes of them it holds in memory."""
    if not isinstance(teacher, CachedTeacher):
        return 0
    for cached in teacher.sets.values():
        for rows in cached.rows.values():
            one = torch.empty(1, rows.width, dtype=rows.dtype)  # one row stands for all, as a view
            rows.data, rows.sums = one.expand(int(rows.starts[-1]), -1), torch.empty(0)
            if teacher.in_memory:
                rows.load()
    return teacher.nbytes if teacher.in_memory else 0


def replay_teacher_pass(rehearsal: Rehearsal) -> WorkCost:
    """The work of the whole teacher pass, and the highest level of its largest batch."""
    replay, teacher, total = rehearsal.replay, rehearsal.teacher, WorkCost()
    most = TEACHER_PASS_TOKENS.get(replay.device.type, TEACHER_PASS_TOKENS["cuda"])
    for cached in teacher.sets.values() if isinstance(teacher, CachedTeacher) else ():
        examples = cached.examples
        batches = batch_by_tokens(examples, cached.used, most)
        lengths = measure_lengths(examples)
        tokens = [
            count_computed_tokens([int(lengths[i]) for i in batch], rehearsal.packs)
            for batch in batches
        ]
        largest = batches[tokens.index(max(tokens))]
        batch = rehearsal.schedule.make_batch([examples[i] for i in largest], largest)
        with open_autocast(rehearsal.run, replay.device), replay.measured() as cost:
            run_teacher(rehearsal.model, batch.to(replay.device), cached.loss)
        # Once more for each other question, before the same answers: as long as their own.
        times = 1 + max(map(len, cached.questions), default=0)
        # Work grows with the tokens; the level is the largest batch's.
        highest = max(total.highest, cost.highest)
        total = total.plus(cost, times * sum(tokens) / max(tokens))
        total.highest = highest
    return total


def replay_step(
    rehearsal: Rehearsal, batch: dict[str, Batch], accumulation: int
) -> tuple[WorkCost, WorkCost]:
    """An optimiser step, in which the optimiser's states are there already.

    Returns:
        The work of one micro-batch and of one update.
    """
    replay, run, model, memory = rehearsal.replay, rehearsal.run, rehearsal.model, rehearsal.memory
    # Without what would set environment variables.
    bare = dataclasses.replace(run.hardware, args={}, precision="no")
    arguments = make_training_arguments(
        dataclasses.replace(run, hardware=bare), rehearsal.schedule, Path(run.output_dir)
    )
    if arguments.activation_checkpointing:
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs=arguments.activation_checkpointing_kwargs
        )
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    memory.gradients = sum(p.nbytes for p in trained)
    optimiser = make_optimiser(arguments, trained)
    if optimiser is not None:  # its first step makes its states, and is measured by none
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        model.zero_grad()
    mean = [torch.zeros_like(p) for p in trained] if keeps_mean(rehearsal.method.config) else []
    one = WorkCost()
    with replay.measured() as step:
        if is_wrapped(rehearsal.method):
            one = replay_wrapped_passes(rehearsal, batch, accumulation, trained)
        else:
            for _ in range(min(2, accumulation)):  # the second meets the gradients of the first
                one = replay_micro_batch(rehearsal, batch)
        with replay.measured() as update:
            if arguments.max_grad_norm:
                nn.utils.clip_grad_norm_(trained, arguments.max_grad_norm)
            if optimiser is not None:
                optimiser.step()
            model.zero_grad()
    memory.step = step.highest
    if optimiser is None:
        sizes = [p.numel() for p in trained]
        memory.optimiser = estimate_state_bytes(arguments.optim, sizes, replay.device.type)
        memory.step += memory.optimiser
        update.moved += 2 * memory.optimiser + 3 * memory.gradients
    else:
        states = [x for state in optimiser.state.values() for x in state.values()]
        memory.optimiser = sum(x.nbytes for x in states if replay.has(x))
    memory.optimiser += sum(x.nbytes for x in mean)
    return one, update


class WatchedLoss(Loss):
    """A loss that notes the cost of its sums: what the head takes."""

    def __init__(self, loss: Loss, replay: Replay, costs: list[WorkCost]) -> None:
        self.loss, self.replay, self.costs = loss, replay, costs
        self.layer = loss.layer

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.loss.needs

    def sum(self, targets: Targets) -> Tensor:
        with self.replay.measured() as cost:
            total = self.loss.sum(targets)
        self.costs.append(cost)
        return total


def replay_wrapped_passes(
    rehearsal: Rehearsal,
    batch: dict[str, Batch],
    accumulation: int,
    trained: list[nn.Parameter],
) -> WorkCost:
    """The passes of a wrapped step, one after the other; the work of a micro-batch in all."""
    replay, memory, method = rehearsal.replay, rehearsal.memory, rehearsal.method
    total = WorkCost()
    for each in list_term_passes(method.config, method.terms()):
        if not each.adds:
            rehearsal.model.zero_grad()
        held = [torch.zeros_like(p) for p in trained for _ in range(each.held)]
        memory.wrapper = max(memory.wrapper, sum(x.nbytes for x in held))
        if accumulation > 1:  # the second micro-batch meets the gradients of the first
            replay_term(rehearsal, each.term, batch)
        with replay.measured() as cost:
            replay_term(rehearsal, each.term, batch)
        total = total.plus(cost)
        del held
    return total


def replay_micro_batch(rehearsal: Rehearsal, batch: dict[str, Batch]) -> WorkCost:
    """Forward and backward pass of a micro-batch, term by term, as the trainer does them."""
    with rehearsal.replay.measured() as all_terms:
        for name in rehearsal.method.terms():
            replay_term(rehearsal, name, batch)
    return all_terms


def replay_term(rehearsal: Rehearsal, name: str, batch: dict[str, Batch]) -> None:
    """Forward and backward pass of a term, and what its activations and the head take."""
    replay, memory, method = rehearsal.replay, rehearsal.memory, rehearsal.method
    head_costs: list[WorkCost] = []
    loss = WatchedLoss(method.terms()[name], replay, head_costs)
    with replay.measured() as forward, open_autocast(rehearsal.run, replay.device):
        term_batch = batch[name].to(replay.device)
        term_sum = compute_term_sum(rehearsal.model, rehearsal.teacher, name, loss, term_batch)
        term_loss = term_sum * method.coefficient(name)
    term_loss.backward()
    (head,) = head_costs
    memory.activations = max(memory.activations, forward.growth - head.growth)
    memory.head = max(memory.head, head.rise)


def count_parameters(parameters: list[nn.Parameter]) -> int:
    """How many numbers parameters hold."""
    return sum(p.numel() for p in parameters)

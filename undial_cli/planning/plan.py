"""`plan=true`: what a training run will take of each device, without its weights or a run folder.

The run's own code (model, adapter, teacher, losses, optimiser) is replayed on its largest
micro-batch with tensors that hold no numbers: memory is what the allocator would be asked for, work
is what the operations add up to. Estimates only: sharded hardware, 4-bit weights, optimisers that
compute outside torch. Not known: what an allocator wastes, communication, checkpoints, evaluation,
the making of the target.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from undial_cli import distributed, hardware, models
from undial_cli.data.collate import Batch
from undial_cli.data.encode import Example
from undial_cli.data.schedule import Sample, Schedule, deal
from undial_cli.errors import UserError, WorldError, first_line
from undial_cli.head import output_head
from undial_cli.losses.targets import Targets
from undial_cli.methods.base import Loss, Method
from undial_cli.planning.replay import Cost, Replay
from undial_cli.planning.stand_ins import optimiser_of, quantise, state_bytes
from undial_cli.schema import TeacherConfig, TrainingRun, is_sharded
from undial_cli.training import lean, packing
from undial_cli.training.arguments import training_arguments
from undial_cli.training.layers import choose_parameters
from undial_cli.training.loop import autocast, is_packed, make_schedule, make_teacher
from undial_cli.training.teacher import TOKENS, CachedTeacher, Teacher, batches_of, look
from undial_cli.training.trainer import term_sum


@dataclass
class Memory:
    """Bytes on one device.

    There throughout: weights, the teacher's frozen head and its signal, the optimiser's states and
    `copies` of the gradients, for their exchange. Within a step: gradients, activations, and
    `head`, the head's gradient and one chunk of logits. `teacher_pass` and `step` are the highest
    levels during each. `host` is what of the signal lies beside a GPU, in the host's memory.
    """

    weights: float = 0
    teacher_head: float = 0
    teacher_signal: float = 0
    optimiser: float = 0
    copies: float = 0
    gradients: float = 0
    activations: float = 0
    head: float = 0
    teacher_pass: float = 0
    step: float = 0
    host: float = 0

    @property
    def level(self) -> float:
        """What is there before a step begins."""
        return self.weights + self.teacher_head + self.teacher_signal + self.optimiser + self.copies

    @property
    def peak(self) -> float:
        """The highest level of all."""
        return max(self.step, self.teacher_pass)


@dataclass
class Plan:
    """What a run takes of each of its devices.

    `sequences` and `tokens` are those of the largest micro-batch of one term, with its padding;
    `product` is the shape of a large matrix product in it. `teacher` and `step` are the work of the
    whole teacher pass and of a mean step.
    """

    device: torch.device
    processes: int
    dtype: torch.dtype
    parameters: int
    trained: int
    steps: int
    micro: int
    sequences: int
    tokens: int
    product: tuple[int, int, int]
    memory: Memory
    teacher: Cost
    step: Cost
    rough: bool = False


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
    memory: Memory = field(default_factory=Memory)


def make(
    run: TrainingRun,
    path: str,
    sets: dict[str, list[Example]],
    samples: dict[str, list[Sample]],
    method: Method,
    anchor: str,
    cache: TeacherConfig,
) -> Plan:
    """Plan the training of the model at `path`; the other arguments are those of training.

    A GPU whose kernels cannot be replayed is replayed as a CPU.

    Raises:
        UserError: the run asks for what is not possible.
        WorldError: the model's code does not run without numbers.
    """
    device = torch.device("cpu") if hardware.on_cpu(run) else torch.device("cuda", 0)
    failure: Exception | None = None
    for replayed in dict.fromkeys((device, torch.device("cpu"))):
        try:
            with torch.device("meta"):
                model: Any = models.blank_model(run.model, path).eval()
                if run.adapter.name == "qlora":
                    quantise(model)
                model = models.adapt(model, run.adapter, run.seed)
            replay = Replay(replayed)
            replay.bring(model)
            # All on this thread, in which the replay is open.
            with replay, torch.autograd.set_multithreading_enabled(False):
                found = rehearse(replay, run, model, sets, samples, method, anchor, cache)
            rough = replayed != device or is_sharded(run) or run.adapter.name == "qlora"
            return dataclasses.replace(found, device=device, rough=rough)
        except (UserError, WorldError):
            raise
        except Exception as error:
            failure = error
    assert failure is not None
    raise WorldError(
        f"plan=true: model={run.model.name} does not run without numbers ({first_line(failure)})"
    ) from failure


def rehearse(
    replay: Replay,
    run: TrainingRun,
    model: Any,
    sets: dict[str, list[Example]],
    samples: dict[str, list[Sample]],
    method: Method,
    anchor: str,
    cache: TeacherConfig,
) -> Plan:
    """Training in the order in which it happens."""
    # How many will share the run, also where the others are still to be started.
    processes = distributed.world() if distributed.joined() else hardware.num_processes(run)
    base = models.base_of(model)
    memory = Memory(weights=replay.level)
    if run.train.lean == "auto":
        lean.make_lean(base)
    packs = is_packed(run, model)
    dealing = deal(run.train.batch_size, processes, run.hardware.micro_batch_size)
    alone = dataclasses.replace(run.hardware, micro_batch_size=dealing.micro)
    alike = dataclasses.replace(run, hardware=alone)  # the micro-batches of all processes
    choose_parameters(model, method)
    schedule = make_schedule(alike, sets, samples, anchor, packs)
    with replay.measured() as made:
        teacher = make_teacher(run, cache, model, method.terms(), schedule, "")
    with replay.measured() as held:
        signal = hold(teacher)
    memory.teacher_head, memory.teacher_signal = made.kept, held.kept
    memory.host = signal - held.kept

    rehearsal = Rehearsal(replay, run, model, method, packs, schedule, teacher, memory)
    starts = range(0, len(schedule), dealing.micro)
    batches = [[schedule[i] for i in range(start, start + dealing.micro)] for start in starts]
    tokens = [tokens_of(schedule, rows, packs) for rows in batches]
    place = max(range(len(batches)), key=lambda i: max(tokens[i]))
    largest, most = batches[place], max(tokens[place])
    with packing.attention(base, packing.NAME if packs else base.config._attn_implementation):
        asked = teacher_pass(rehearsal)
        one, update = one_step(rehearsal, schedule.collate(largest), dealing.accumulation)
    memory.teacher_pass = asked.highest
    divide(run, memory, base, processes)
    parameters = list(model.parameters())
    return Plan(
        device=replay.device,
        processes=processes,
        dtype=compute_dtype(run),
        parameters=counted(parameters),
        trained=counted([p for p in parameters if p.requires_grad]),
        steps=schedule.steps,
        micro=dealing.micro,
        sequences=max(sum(i >= 0 for row in largest for i in row[name]) for name in schedule.sets),
        tokens=most,
        product=(most, *largest_linear(base)),
        memory=memory,
        teacher=Cost().plus(asked, 1 / processes),
        step=update.plus(
            one, sum(map(sum, tokens)) / sum(tokens[place]) / schedule.steps / processes
        ),
    )


def tokens_of(schedule: Schedule, rows: list[dict[str, tuple[int, ...]]], packs: bool) -> list[int]:
    """Tokens of a micro-batch of each set, with their padding."""
    found = []
    for name, examples in schedule.sets.items():
        chosen = [i for row in rows for i in row[name]]
        lengths = [len(examples[i].input_ids) if i >= 0 else 0 for i in chosen]
        found.append(padded_tokens(lengths, packs))
    return found


def padded_tokens(lengths: list[int], packs: bool) -> int:
    """Tokens that sequences of these lengths take together."""
    return sum(lengths) if packs else len(lengths) * max(1, *lengths)


def hold(teacher: Teacher | None) -> int:
    """Give a teacher rows without numbers; how many bytes of them it holds in memory."""
    if not isinstance(teacher, CachedTeacher):
        return 0
    for kept in teacher.sets.values():
        for rows in kept.rows.values():
            one = torch.empty(1, rows.width, dtype=rows.dtype)
            rows.data, rows.sums = one.expand(rows.starts[-1], -1), torch.empty(0)
            if teacher.in_memory:
                rows.load()
    return teacher.nbytes if teacher.in_memory else 0


def teacher_pass(rehearsal: Rehearsal) -> Cost:
    """The work of the whole teacher pass, and the highest level of its largest batch."""
    replay, teacher, total = rehearsal.replay, rehearsal.teacher, Cost()
    most = TOKENS.get(replay.device.type, TOKENS["cuda"])
    for kept in teacher.sets.values() if isinstance(teacher, CachedTeacher) else ():
        batches = batches_of(kept.examples, kept.used, most)
        tokens = [
            padded_tokens([len(kept.examples[i].input_ids) for i in batch], rehearsal.packs)
            for batch in batches
        ]
        chosen = batches[tokens.index(max(tokens))]
        batch = rehearsal.schedule.make_batch([kept.examples[i] for i in chosen], chosen)
        with autocast(rehearsal.run, replay.device), replay.measured() as cost:
            look(rehearsal.model, batch.to(replay.device), kept.needs, kept.layer)
        highest = max(total.highest, cost.highest)
        total = total.plus(cost, sum(tokens) / max(tokens))
        total.highest = highest
    return total


def one_step(rehearsal: Rehearsal, batch: dict[str, Batch], accumulation: int) -> tuple[Cost, Cost]:
    """An optimiser step, in which the optimiser's states are there already.

    Returns:
        The work of one micro-batch and of one update.
    """
    replay, run, model, memory = rehearsal.replay, rehearsal.run, rehearsal.model, rehearsal.memory
    # Without what would set environment variables.
    bare = dataclasses.replace(run.hardware, args={}, precision="no")
    arguments = training_arguments(
        dataclasses.replace(run, hardware=bare), rehearsal.schedule, Path(run.output_dir)
    )
    if arguments.activation_checkpointing:
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs=arguments.activation_checkpointing_kwargs
        )
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    memory.gradients = sum(p.nbytes for p in trained)
    optimiser = optimiser_of(arguments, trained)
    if optimiser is not None:
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        model.zero_grad()
    one = Cost()
    with replay.measured() as step:
        for _ in range(min(2, accumulation)):
            one = micro_step(rehearsal, batch)
        with replay.measured() as update:
            if arguments.max_grad_norm:
                nn.utils.clip_grad_norm_(trained, arguments.max_grad_norm)
            if optimiser is not None:
                optimiser.step()
            model.zero_grad()
    memory.step = step.highest
    if optimiser is None:
        memory.optimiser = state_bytes(arguments.optim, counted(trained))
        memory.step += memory.optimiser
        update.moved += 2 * memory.optimiser + 3 * memory.gradients
    else:
        states = [x for state in optimiser.state.values() for x in state.values()]
        memory.optimiser = sum(x.nbytes for x in states if replay.has(x))
    return one, update


class Watched(Loss):
    """A loss that notes the cost of its sums: what the head takes."""

    def __init__(self, loss: Loss, replay: Replay, costs: list[Cost]) -> None:
        self.loss, self.replay, self.costs = loss, replay, costs
        self.layer = loss.layer

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.loss.needs

    def sum(self, targets: Targets) -> Tensor:
        with self.replay.measured() as cost:
            found = self.loss.sum(targets)
        self.costs.append(cost)
        return found


def micro_step(rehearsal: Rehearsal, batch: dict[str, Batch]) -> Cost:
    """Forward and backward pass of a micro-batch, term by term, as the trainer does them."""
    replay, memory, method = rehearsal.replay, rehearsal.memory, rehearsal.method
    with replay.measured() as all_terms:
        for name, term in method.terms().items():
            heads: list[Cost] = []
            loss, given = Watched(term, replay, heads), batch[name].to(replay.device)
            with replay.measured() as forward, autocast(rehearsal.run, replay.device):
                share = term_sum(rehearsal.model, rehearsal.teacher, name, loss, given)
                share = share * method.coefficient(name)
            share.backward()
            kept = heads[0].kept
            memory.activations = max(memory.activations, forward.kept - kept)
            memory.head = max(memory.head, heads[0].rise)
    return all_terms


def divide(run: TrainingRun, memory: Memory, model: nn.Module, processes: int) -> None:
    """What several processes change: shards of what they share, or copies of the gradients."""
    if processes == 1:
        return
    if not is_sharded(run):
        memory.copies = memory.gradients
        memory.step += memory.copies
        return
    layers = [m for group in model.modules() if isinstance(group, nn.ModuleList) for m in group]
    sizes = [sum(p.nbytes for p in layer.parameters()) for layer in layers]
    whole = memory.weights - sum(sizes) + max(sizes, default=0)  # while a layer computes
    away = 1 - 1 / processes
    gradients = min(memory.gradients, memory.step - memory.level)
    memory.step += whole - away * (memory.weights + memory.optimiser + gradients)
    memory.teacher_pass += (whole - away * memory.weights) if memory.teacher_pass else 0
    for name in ("weights", "optimiser", "gradients"):
        setattr(memory, name, getattr(memory, name) / processes)


def counted(parameters: list[nn.Parameter]) -> int:
    """How many numbers parameters hold."""
    return sum(p.numel() for p in parameters)


def compute_dtype(run: TrainingRun) -> torch.dtype:
    """The dtype of the run's matrix products."""
    names = {"bf16": "bfloat16", "fp16": "float16", "no": run.model.dtype}
    return getattr(torch, names[hardware.autocast_dtype(run)])


def largest_linear(model: nn.Module) -> tuple[int, int]:
    """Features in and out of a model's largest linear layer but the head."""
    head = output_head(model)
    shapes = [
        (m.in_features, m.out_features)
        for m in model.modules()
        if isinstance(m, nn.Linear) and m is not head
    ]
    return max(shapes, key=lambda s: s[0] * s[1], default=(head.in_features, head.in_features))

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

from undial_cli.config.schema import TeacherConfig, TrainingRun, is_sharded
from undial_cli.data.collate import Batch
from undial_cli.data.encode import Example
from undial_cli.data.schedule import Schedule, TrainingSample, deal_rows
from undial_cli.errors import UserError, WorldError, first_line
from undial_cli.losses.targets import Targets
from undial_cli.methods.base import Loss, Method
from undial_cli.models import lean, load
from undial_cli.models.head import find_output_head
from undial_cli.planning.replay import Replay, WorkCost
from undial_cli.planning.stand_ins import estimate_state_bytes, make_optimiser, stand_in_four_bit
from undial_cli.system import hardware
from undial_cli.system import processes as distributed
from undial_cli.training import packing
from undial_cli.training.arguments import make_training_arguments
from undial_cli.training.layers import choose_trained_parameters
from undial_cli.training.loop import is_packed, make_schedule
from undial_cli.training.teacher import Teacher, make_teacher, open_autocast
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.teacher_pass import TEACHER_PASS_TOKENS, batch_by_tokens, run_teacher
from undial_cli.training.trainer import compute_term_sum


@dataclass
class DeviceMemory:
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
class TrainingPlan:
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
    memory: DeviceMemory
    teacher: WorkCost
    step: WorkCost
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
    memory: DeviceMemory = field(default_factory=DeviceMemory)


def make_plan(
    run: TrainingRun,
    path: str,
    sets: dict[str, list[Example]],
    samples: dict[str, list[TrainingSample]],
    method: Method,
    anchor: str,
    cache: TeacherConfig,
) -> TrainingPlan:
    """Plan the training of the model at `path`; the other arguments are those of training.

    A GPU whose kernels cannot be replayed is replayed as a CPU.

    Raises:
        UserError: the run asks for what is not possible.
        WorldError: the model's code does not run without numbers.
    """
    device = torch.device("cpu") if hardware.is_cpu_run(run) else torch.device("cuda", 0)
    failure: Exception | None = None
    for replayed in dict.fromkeys((device, torch.device("cpu"))):
        try:
            with torch.device("meta"):
                model: Any = load.make_blank_model(run.model, path).eval()
                if run.adapter.name == "qlora":
                    stand_in_four_bit(model)
                model = load.adapt_model(model, run.adapter, run.seed)
            replay = Replay(replayed)
            replay.bring(model)
            # All on this thread, in which the replay is open.
            with replay, torch.autograd.set_multithreading_enabled(False):
                found = rehearse_training(replay, run, model, sets, samples, method, anchor, cache)
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


def rehearse_training(
    replay: Replay,
    run: TrainingRun,
    model: Any,
    sets: dict[str, list[Example]],
    samples: dict[str, list[TrainingSample]],
    method: Method,
    anchor: str,
    cache: TeacherConfig,
) -> TrainingPlan:
    """Training in the order in which it happens."""
    # How many will share the run, also where the others are still to be started.
    processes = (
        distributed.get_process_count()
        if distributed.is_launched()
        else hardware.choose_process_count(run)
    )
    base = load.unwrap_adapter(model)
    memory = DeviceMemory(weights=replay.level)
    if run.train.lean == "auto":
        lean.make_lean(base)
    packs = is_packed(run, model)
    dealing = deal_rows(run.train.batch_size, processes, run.hardware.micro_batch_size)
    alone = dataclasses.replace(run.hardware, micro_batch_size=dealing.micro)
    alike = dataclasses.replace(run, hardware=alone)  # the micro-batches of all processes
    choose_trained_parameters(model, method)
    schedule = make_schedule(alike, sets, samples, anchor, packs)
    with replay.measured() as made:
        teacher = make_teacher(run, cache, model, method.terms(), schedule, "")
    with replay.measured() as held:
        signal = hold_blank_rows(teacher)
    memory.teacher_head, memory.teacher_signal = made.kept, held.kept
    memory.host = signal - held.kept

    rehearsal = Rehearsal(replay, run, model, method, packs, schedule, teacher, memory)
    starts = range(0, len(schedule), dealing.micro)
    batches = [[schedule[i] for i in range(start, start + dealing.micro)] for start in starts]
    tokens = [count_tokens_by_set(schedule, rows, packs) for rows in batches]
    place = max(range(len(batches)), key=lambda i: max(tokens[i]))
    largest, most = batches[place], max(tokens[place])
    with packing.switch_attention(
        base, packing.PACKED_ATTENTION if packs else base.config._attn_implementation
    ):
        asked = replay_teacher_pass(rehearsal)
        one, update = replay_step(rehearsal, schedule.collate(largest), dealing.accumulation)
    memory.teacher_pass = asked.highest
    divide_among_processes(run, memory, base, processes)
    parameters = list(model.parameters())
    return TrainingPlan(
        device=replay.device,
        processes=processes,
        dtype=run_compute_dtype(run),
        parameters=count_parameters(parameters),
        trained=count_parameters([p for p in parameters if p.requires_grad]),
        steps=schedule.steps,
        micro=dealing.micro,
        sequences=max(sum(i >= 0 for row in largest for i in row[name]) for name in schedule.sets),
        tokens=most,
        product=(most, *find_largest_linear(base)),
        memory=memory,
        teacher=WorkCost().plus(asked, 1 / processes),
        step=update.plus(
            one, sum(map(sum, tokens)) / sum(tokens[place]) / schedule.steps / processes
        ),
    )


def count_tokens_by_set(
    schedule: Schedule, rows: list[dict[str, tuple[int, ...]]], packs: bool
) -> list[int]:
    """Tokens of a micro-batch of each set, with their padding."""
    found = []
    for name, examples in schedule.sets.items():
        chosen = [i for row in rows for i in row[name]]
        lengths = [len(examples[i].input_ids) if i >= 0 else 0 for i in chosen]
        found.append(count_computed_tokens(lengths, packs))
    return found


def count_computed_tokens(lengths: list[int], packs: bool) -> int:
    """Tokens that sequences of these lengths take together."""
    return sum(lengths) if packs else len(lengths) * max(1, *lengths)


def hold_blank_rows(teacher: Teacher | None) -> int:
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


def replay_teacher_pass(rehearsal: Rehearsal) -> WorkCost:
    """The work of the whole teacher pass, and the highest level of its largest batch."""
    replay, teacher, total = rehearsal.replay, rehearsal.teacher, WorkCost()
    most = TEACHER_PASS_TOKENS.get(replay.device.type, TEACHER_PASS_TOKENS["cuda"])
    for kept in teacher.sets.values() if isinstance(teacher, CachedTeacher) else ():
        batches = batch_by_tokens(kept.examples, kept.used, most)
        tokens = [
            count_computed_tokens([len(kept.examples[i].input_ids) for i in batch], rehearsal.packs)
            for batch in batches
        ]
        chosen = batches[tokens.index(max(tokens))]
        batch = rehearsal.schedule.make_batch([kept.examples[i] for i in chosen], chosen)
        with open_autocast(rehearsal.run, replay.device), replay.measured() as cost:
            run_teacher(rehearsal.model, batch.to(replay.device), kept.needs, kept.layer)
        highest = max(total.highest, cost.highest)
        total = total.plus(cost, sum(tokens) / max(tokens))
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
    if optimiser is not None:
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        model.zero_grad()
    one = WorkCost()
    with replay.measured() as step:
        for _ in range(min(2, accumulation)):
            one = replay_micro_batch(rehearsal, batch)
        with replay.measured() as update:
            if arguments.max_grad_norm:
                nn.utils.clip_grad_norm_(trained, arguments.max_grad_norm)
            if optimiser is not None:
                optimiser.step()
            model.zero_grad()
    memory.step = step.highest
    if optimiser is None:
        memory.optimiser = estimate_state_bytes(arguments.optim, count_parameters(trained))
        memory.step += memory.optimiser
        update.moved += 2 * memory.optimiser + 3 * memory.gradients
    else:
        states = [x for state in optimiser.state.values() for x in state.values()]
        memory.optimiser = sum(x.nbytes for x in states if replay.has(x))
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
            found = self.loss.sum(targets)
        self.costs.append(cost)
        return found


def replay_micro_batch(rehearsal: Rehearsal, batch: dict[str, Batch]) -> WorkCost:
    """Forward and backward pass of a micro-batch, term by term, as the trainer does them."""
    replay, memory, method = rehearsal.replay, rehearsal.memory, rehearsal.method
    with replay.measured() as all_terms:
        for name, term in method.terms().items():
            heads: list[WorkCost] = []
            loss, given = WatchedLoss(term, replay, heads), batch[name].to(replay.device)
            with replay.measured() as forward, open_autocast(rehearsal.run, replay.device):
                share = compute_term_sum(rehearsal.model, rehearsal.teacher, name, loss, given)
                share = share * method.coefficient(name)
            share.backward()
            kept = heads[0].kept
            memory.activations = max(memory.activations, forward.kept - kept)
            memory.head = max(memory.head, heads[0].rise)
    return all_terms


def divide_among_processes(
    run: TrainingRun, memory: DeviceMemory, model: nn.Module, processes: int
) -> None:
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


def count_parameters(parameters: list[nn.Parameter]) -> int:
    """How many numbers parameters hold."""
    return sum(p.numel() for p in parameters)


def run_compute_dtype(run: TrainingRun) -> torch.dtype:
    """The dtype of the run's matrix products."""
    names = {"bf16": "bfloat16", "fp16": "float16", "no": run.model.dtype}
    return getattr(torch, names[hardware.choose_autocast_dtype(run)])


def find_largest_linear(model: nn.Module) -> tuple[int, int]:
    """Features in and out of a model's largest linear layer but the head."""
    head = find_output_head(model)
    shapes = [
        (m.in_features, m.out_features)
        for m in model.modules()
        if isinstance(m, nn.Linear) and m is not head
    ]
    return max(shapes, key=lambda s: s[0] * s[1], default=(head.in_features, head.in_features))

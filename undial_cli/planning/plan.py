"""`plan=true`: what a training run will take of each device, without its weights or a run folder.

The run's own code (model, adapter, teacher, losses, optimiser) is replayed on its largest
micro-batch with tensors that hold no numbers: memory is what the allocator would be asked for, work
is what the operations add up to. Estimates only: sharded hardware, rounded layers, optimisers that
compute outside torch. Not known: what an allocator wastes, how long an exchange takes, checkpoints,
evaluation, the making of the target.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from undial_cli.config.schema import TrainingRun, is_sharded, uses_deepspeed
from undial_cli.config.training import TeacherConfig
from undial_cli.data.example import Example
from undial_cli.data.schedule import Schedule, TrainingSample, deal_rows
from undial_cli.errors import UserError, WorldError, first_line
from undial_cli.methods.base import Method
from undial_cli.models import adapters, inspection, lean_forwards, lora
from undial_cli.models.head import find_output_head
from undial_cli.models.quantise import choose_rounding
from undial_cli.planning.rehearsal import (
    DeviceMemory,
    Rehearsal,
    count_computed_tokens,
    count_parameters,
    hold_blank_rows,
    replay_step,
    replay_teacher_pass,
)
from undial_cli.planning.replay import Replay, WorkCost
from undial_cli.planning.sharing import share_among_processes
from undial_cli.planning.stand_in_layers import stand_in_rounded
from undial_cli.system import hardware, launcher_environment, processes
from undial_cli.training import packing
from undial_cli.training.layers import choose_trained_parameters
from undial_cli.training.loop import is_packed, make_schedule
from undial_cli.training.teacher import make_teacher
from undial_cli.training.wrapped_steps import count_exchanges


@dataclass
class TrainingPlan:
    """What a run takes of each of its devices.

    `sequences` and `tokens` are those of the largest micro-batch of one term, with its padding;
    `product` is the shape of a large matrix product in it. `teacher` and `step` are the work of the
    whole teacher pass and of a mean step; `traffic`: bytes that each process sends in a step.
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
    traffic: float = 0
    rough: bool = False


def make_plan(
    run: TrainingRun,
    path: str,
    sets: Mapping[str, Sequence[Example]],
    samples: dict[str, list[TrainingSample]],
    method: Method,
    anchor: str,
    cache: TeacherConfig,
    questions: Sequence[tuple[int, ...]] = (),
) -> TrainingPlan:
    """Plan the training of the model at `path`; the other arguments are those of training.

    A GPU whose kernels cannot be replayed is replayed as a CPU.

    Raises:
        UserError: the run asks for what is not possible.
        WorldError: the model's code does not run without numbers.
    """
    device = torch.device("cpu") if hardware.is_cpu_run(run) else torch.device("cuda", 0)
    failure: Exception | None = None
    rounding = choose_rounding(run)
    for replayed in dict.fromkeys((device, torch.device("cpu"))):
        try:
            with torch.device("meta"):
                model: Any = inspection.make_blank_model(run.model, path).eval()
                whole = count_parameters(list(model.parameters()))
                if rounding is not None:
                    stand_in_rounded(model, rounding)
                model = lora.adapt_model(model, run.adapter, run.seed)
            replay = Replay(replayed)
            replay.bring(model)
            # All on this thread, in which the replay is open.
            with replay, torch.autograd.set_multithreading_enabled(False):
                # A copy: what a method keeps from its first step has no numbers here.
                plan = rehearse_training(
                    replay, run, model, sets, samples, copy.copy(method), anchor, cache, questions
                )
            shared = is_sharded(run) or uses_deepspeed(run)
            rough = replayed != device or shared or rounding is not None
            if rounding is not None:  # of which a rounded layer's tensors have fewer numbers
                plan.parameters = whole + plan.trained
            return dataclasses.replace(plan, device=device, rough=rough)
        except (UserError, WorldError):
            raise
        except Exception as error:  # whatever a model's code or torch's shape functions raise
            failure = error
    assert failure is not None
    raise WorldError(
        f"plan=true: model={run.model.name} does not run without numbers ({first_line(failure)})"
    ) from failure


def rehearse_training(
    replay: Replay,
    run: TrainingRun,
    model: Any,
    sets: Mapping[str, Sequence[Example]],
    samples: dict[str, list[TrainingSample]],
    method: Method,
    anchor: str,
    cache: TeacherConfig,
    questions: Sequence[tuple[int, ...]],
) -> TrainingPlan:
    """Training in the order in which it happens."""
    # How many will share the run, also where the others are still to be started.
    process_count = hardware.choose_process_count(run)
    if launcher_environment.is_launched():
        process_count = processes.get_process_count()
    base = adapters.unwrap_adapter(model)
    memory = DeviceMemory(weights=replay.level)
    if run.train.lean == "auto":
        lean_forwards.make_lean(base)
    packs = is_packed(run, model)
    dealing = deal_rows(run.train.batch_size, process_count, run.hardware.micro_batch_size)
    # One process plans for all: it deals itself the micro-batches of every other.
    alone = dataclasses.replace(run.hardware, micro_batch_size=dealing.micro)
    alike = dataclasses.replace(run, hardware=alone)
    choose_trained_parameters(model, method, run.train.layers)
    schedule = make_schedule(alike, sets, samples, anchor, packs)
    with replay.measured() as making:
        teacher = make_teacher(run, cache, model, method.terms(), schedule, "", questions)
    with replay.measured() as holding:
        signal_bytes = hold_blank_rows(teacher)
    memory.teacher_head, memory.teacher_signal = making.growth, holding.growth
    memory.host = signal_bytes - holding.growth

    rehearsal = Rehearsal(replay, run, model, method, packs, schedule, teacher, memory)
    starts = range(0, len(schedule), dealing.micro)
    batches = [[schedule[i] for i in range(start, start + dealing.micro)] for start in starts]
    tokens = [count_tokens_by_set(schedule, rows, packs) for rows in batches]
    largest = max(range(len(batches)), key=lambda i: max(tokens[i]))
    most = max(tokens[largest])
    with packing.switch_attention(
        base, packing.PACKED_ATTENTION if packs else base.config._attn_implementation
    ):
        teacher_cost = replay_teacher_pass(rehearsal)
        batch = schedule.collate(batches[largest])
        micro_batch, update = replay_step(rehearsal, batch, dealing.accumulation)
    memory.teacher_pass = teacher_cost.highest
    # A mean step: the replayed micro-batch as often as the run's tokens hold its own.
    times = sum(map(sum, tokens)) / sum(tokens[largest]) / schedule.steps / process_count
    passes = len(method.terms()) * dealing.accumulation
    traffic = share_among_processes(run, memory, base, process_count, passes)
    traffic *= count_exchanges(method.config)
    parameters = list(model.parameters())
    return TrainingPlan(
        device=replay.device,
        processes=process_count,
        dtype=hardware.choose_compute_dtype(run),
        parameters=count_parameters(parameters),
        trained=count_parameters([p for p in parameters if p.requires_grad]),
        steps=schedule.steps,
        micro=dealing.micro,
        sequences=max(
            sum(i >= 0 for row in batches[largest] for i in row[name]) for name in schedule.sets
        ),
        tokens=most,
        product=(most, *find_largest_linear(base)),
        memory=memory,
        teacher=WorkCost().plus(teacher_cost, 1 / process_count),
        step=update.plus(micro_batch, times),
        traffic=traffic,
    )


def count_tokens_by_set(
    schedule: Schedule, rows: list[dict[str, tuple[int, ...]]], packs: bool
) -> list[int]:
    """Tokens of a micro-batch of each set, with their padding."""
    counts = []
    for name, every in schedule.lengths.items():
        samples = [i for row in rows for i in row[name]]
        lengths = [int(every[i]) if i >= 0 else 0 for i in samples]
        counts.append(count_computed_tokens(lengths, packs))
    return counts


def find_largest_linear(model: nn.Module) -> tuple[int, int]:
    """Features in and out of a model's largest linear layer but the head."""
    head = find_output_head(model)
    shapes = [
        (m.in_features, m.out_features)
        for m in model.modules()
        if isinstance(m, nn.Linear) and m is not head
    ]
    return max(shapes, key=lambda s: s[0] * s[1], default=(head.in_features, head.in_features))

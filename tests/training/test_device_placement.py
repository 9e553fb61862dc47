"""A training step leaves the host alone: all that it computes with is on the model's device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from device_watch import HostWatch, stand_in_meta
from small import random_llama
from transformers import TrainingArguments

from undial_cli.config.training import AdapterConfig
from undial_cli.data.collate import make_padded_batch
from undial_cli.data.example import Example
from undial_cli.data.schedule import Schedule, deal_rows
from undial_cli.losses.chunked import Projection
from undial_cli.losses.targets import Targets, TeacherSignal
from undial_cli.methods import METHODS, make_method
from undial_cli.methods.base import CrossEntropy, JsToTeacher, KlToTeacher, Loss, Method
from undial_cli.methods.rmu import ActivationDistance, Rmu
from undial_cli.models import adapters, lean_forwards, lora
from undial_cli.planning.rehearsal import hold_blank_rows
from undial_cli.training import packing
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.trainer import UnlearningTrainer, compute_term_sum

EXAMPLES = [
    Example([1, *range(10, 20), *answer], [-100] * 11 + answer, 11 + len(answer), focus=(12,))
    for answer in ([3, 4, 5], [6, 7], [8, 9, 3, 4], [5, 6])
]
# Reading the teacher's signal: kept in the host's memory, as it may be larger than the device's.
SIGNAL = {"teacher_cache.py:read_rows", "teacher_cache.py:signal"}


def make_trained(adapter: str) -> Any:
    """A small model as training has it, its numbers left out."""
    model: Any = lean_forwards.make_lean(random_llama())
    return lora.adapt_model(model, AdapterConfig(name=adapter, rank=2), seed=0).train().to("meta")


def make_blank_teacher(model: Any, losses: dict[str, Loss], folder: Path, adapter: str) -> Any:
    """The teacher of some losses, its signal in the host's memory and without numbers."""
    teacher = CachedTeacher(model, folder, "placement", share_head=adapter != "none")
    for name, loss in losses.items():
        if loss.needs:
            teacher.add(name, EXAMPLES, list(range(len(EXAMPLES))), loss)
    hold_blank_rows(teacher)
    return teacher


def make_small_method(name: str) -> Method:
    """A method by its defaults, with a layer that a small model has."""
    config: Any = METHODS[name].config(name=name)
    if hasattr(config, "layer"):
        config = dataclasses.replace(config, layer=1)
    return make_method(config)


def watch_steps(
    adapter: str, losses: dict[str, Loss], padded: bool, folder: Path, device: torch.device
) -> dict[str, HostWatch]:
    """The second step of each loss on a device that is not the host, watched."""
    model, watches = make_trained(adapter), {}
    teacher, base = (
        make_blank_teacher(model, losses, folder, adapter),
        adapters.unwrap_adapter(model),
    )
    make = make_padded_batch if padded else packing.pack_batch
    batch = make(EXAMPLES, list(range(len(EXAMPLES)))).to(device)
    attention = "sdpa" if padded else packing.PACKED_ATTENTION
    for name, loss in losses.items():
        with packing.switch_attention(base, attention):
            if isinstance(loss, Rmu):  # what it draws in its first step serves all others
                compute_term_sum(model, teacher, name, loss, batch).backward()
            with HostWatch() as watches[name]:
                compute_term_sum(model, teacher, name, loss, batch).backward()
    return watches


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device that is not the host."""
    return stand_in_meta(monkeypatch)


METHOD_TERMS = {name: make_small_method(name).terms() for name in METHODS}
LOSSES: dict[str, Loss] = {
    **{name: terms["forget"] for name, terms in METHOD_TERMS.items() if "forget" in terms},
    "gdr": CrossEntropy(), "klr": KlToTeacher(), "js": JsToTeacher(), "mse": ActivationDistance(1),
}  # fmt: skip


def test_a_loss_makes_no_tensor_on_the_host(foreign: torch.device) -> None:
    batch = packing.pack_batch(EXAMPLES, list(range(len(EXAMPLES)))).to(foreign)
    count, head = len(batch.targets_N), Projection(torch.empty(64, 32, device=foreign))
    for name, loss in LOSSES.items():
        states = [torch.empty(count, 32, device=foreign, requires_grad=True) for _ in range(3)]
        logps_B = torch.empty(len(EXAMPLES), dtype=torch.float64, device=foreign)
        signal = TeacherSignal(states[1].detach(), head, logps_B, states[2].detach())
        targets = Targets(
            states[0], head, batch.targets_N, batch.sequence_N, batch.counts, batch.focus_N, signal
        )
        if isinstance(loss, Rmu):  # what it draws in its first step serves all others
            loss.sum(targets)
        with HostWatch() as watch:
            loss.sum(targets).backward()
        assert not watch.made | watch.sent | watch.fetched, name


@pytest.mark.slow
@pytest.mark.parametrize("adapter, padded", [("none", True), ("lora", False)])
def test_of_a_step_only_the_teachers_signal_is_made_on_the_host(
    adapter: str, padded: bool, foreign: torch.device, tmp_path: Path
) -> None:
    watches = watch_steps(adapter, LOSSES, padded, tmp_path, foreign)
    assert watches.keys() == LOSSES.keys()
    for name, watch in watches.items():
        assert set(watch.made) <= SIGNAL, (name, watch.made)
        assert watch.sent.total() == len(LOSSES[name].needs), (name, watch.sent)
        assert not watch.fetched, (name, watch.fetched)


def test_what_a_loss_does_on_the_host_is_seen(foreign: torch.device, tmp_path: Path) -> None:
    class HostLoss(Loss):
        """Makes a tensor on the host and sends it."""

        def sum(self, targets: Targets) -> torch.Tensor:
            ones = torch.ones(targets.hidden_ND.shape[1])
            return targets.hidden_ND.matmul(ones.to(targets.hidden_ND.device)).sum()

    class AskingLoss(Loss):
        """Waits for a number."""

        def sum(self, targets: Targets) -> torch.Tensor:
            return targets.hidden_ND.sum() * float(targets.hidden_ND.detach().max())

    (watch,) = watch_steps("none", {"host": HostLoss()}, False, tmp_path, foreign).values()
    assert (watch.made.total(), watch.sent.total(), watch.fetched.total()) == (1, 1, 0)
    with pytest.raises(RuntimeError, match="meta"):
        watch_steps("none", {"asking": AskingLoss()}, False, tmp_path, foreign)


def test_the_trainers_own_step_makes_no_tensor_on_the_host(
    foreign: torch.device, tmp_path: Path
) -> None:
    method = make_method(METHODS["ga"].config(name="ga", retain="gdr"))
    sets = {"forget": EXAMPLES, "retain": EXAMPLES}
    schedule = Schedule(
        sets, "forget", 4, deal_rows(4, 1, None), 1, None, 0, True, packing.pack_batch
    )
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", remove_unused_columns=False
    )
    model = random_llama()
    trainer = UnlearningTrainer(
        method=method, teacher=None, steps_per_epoch=1, model=model, args=arguments,
        train_dataset=schedule, data_collator=schedule.collate,
    )  # fmt: skip
    trainer.create_optimizer()
    # From here on the trainer is on the other device, as it would have been from the start.
    vars(arguments)["_setup_devices"] = foreign
    model.to(foreign)
    for name in ("step_parts", "parts", "weighed_parts", "tokens"):
        setattr(trainer, name, getattr(trainer, name).to(foreign))
    batches = schedule.collate([schedule[i] for i in range(4)])
    moved: Any = {name: batch.to(foreign) for name, batch in batches.items()}
    weights = torch.ones(2, dtype=torch.long, device=foreign)
    with packing.switch_attention(model, packing.PACKED_ATTENTION), HostWatch() as watch:
        trainer.training_step(model, moved, weights)
    assert model.lm_head.weight.grad is not None
    assert not watch.made | watch.sent | watch.fetched

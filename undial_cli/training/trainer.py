"""One subclass of transformers.Trainer: terms, global-batch normalisation, logged parts.

Everything else (checkpoints, resume, FSDP, DeepSpeed, mixed precision, loggers) is the Trainer's.
Knows terms and a teacher, and no method by name.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer

from undial_cli.data.collate import Batch
from undial_cli.head import head_job
from undial_cli.losses.chunked import Projection
from undial_cli.methods.base import Loss, Signal, Targets
from undial_cli.training.teacher import Teacher, at_targets, forward


@dataclass(frozen=True)
class Term:
    """`coefficient * loss`, over the set that the schedule holds under the term's name."""

    loss: Loss
    coefficient: float


class UnlearningTrainer(Trainer):
    """Minimises the sum of its terms, each divided by its weight in the *global* batch.

    Micro-batches come as `{term: Batch}`.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        terms: dict[str, Term],
        teacher: Teacher | None,
        steps_per_epoch: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.terms, self.teacher = terms, teacher
        self.steps_per_epoch = steps_per_epoch
        self.parts = torch.zeros(len(terms), dtype=torch.float64, device=self.args.device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self.logged_at, self.logged_step = time.monotonic(), -1

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
        """The schedule is read in its own order."""
        return SequentialSampler(train_dataset or self.train_dataset)  # type: ignore[arg-type]

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Per term, the weight of the global batch: all micro-batches of all processes. [terms]"""
        weights = [
            [term.loss.weight(batch[name].counts) for batch in batch_samples]
            for name, term in self.terms.items()
        ]
        tokens = [[batch[name].tokens for batch in batch_samples] for name in self.terms]
        counts = torch.tensor([[*map(sum, weights), sum(map(sum, tokens))]], device=device)
        totals = self.accelerator.gather(counts).sum(0)  # type: ignore[union-attr]
        self.tokens += totals[-1]
        return totals[:-1]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This micro-batch's share of the loss (times processes: gradients are averaged)."""
        assert isinstance(num_items_in_batch, Tensor)
        if self.logged_step < 0:  # the first step of this process, which may resume a run
            self.logged_step = self.state.global_step
        total: Any = 0.0
        for i, (name, term) in enumerate(self.terms.items()):
            share = term_sum(model, self.teacher, name, term.loss, inputs[name])
            share = share / num_items_in_batch[i].clamp(min=1)
            self.parts[i] += share.detach()
            total = total + term.coefficient * share
        total = total * self.accelerator.num_processes
        return (total, None) if return_outputs else total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss's parts, the speed and the memory to what the Trainer logs."""
        if "loss" in logs:
            logs = {**logs, **self.step_figures()}
        self.state.epoch = self.state.global_step / self.steps_per_epoch
        super().log(logs, start_time)

    def step_figures(self) -> dict[str, float]:
        """Means since the last logged step, over all processes."""
        parts = self.accelerator.reduce(self.parts, reduction="sum")
        steps = self.state.global_step - self.logged_step
        means = (parts / max(steps, 1)).tolist()  # type: ignore[union-attr]
        now = time.monotonic()
        figures = {
            "loss": sum(t.coefficient * m for t, m in zip(self.terms.values(), means, strict=True)),
            **{f"{name}_loss": mean for name, mean in zip(self.terms, means, strict=True)},
            "tokens_per_second": int(self.tokens) / max(now - self.logged_at, 1e-9),
            "peak_memory_bytes": peak_memory(),
        }
        self.parts.zero_()
        self.tokens.zero_()
        self.logged_at, self.logged_step = now, self.state.global_step
        return figures


def term_sum(
    model: nn.Module, teacher: Teacher | None, name: str, loss: Loss, batch: Batch
) -> Tensor:
    """A loss summed over one micro-batch of the set `name`, inside the model's own forward."""
    signal = Signal()
    if loss.needs:
        assert teacher is not None
        signal = teacher.signal(model, name, batch, loss.needs)

    def job(hidden_BTD: Tensor, head: Projection) -> Tensor:
        hidden_ND = at_targets(hidden_BTD, batch)
        return loss.sum(
            Targets(hidden_ND, head, batch.targets_N, batch.sequence_N, batch.counts, signal)
        )

    with head_job(model, job):
        return forward(model, batch)


def peak_memory() -> int:
    """Peak bytes so far: allocated on the GPU, or resident on the CPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

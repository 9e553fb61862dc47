"""One subclass of transformers.Trainer: terms, global-batch normalisation, logged parts.

The terms of a method go forward and backward one after the other, so that the activations of one
are gone before the next begins. Everything else (checkpoints, resume, FSDP, DeepSpeed, mixed
precision, loggers) is the Trainer's. Knows a teacher, and no method by name.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer
from transformers.training_args import OptimizerNames

from undial_cli.data.collate import Batch
from undial_cli.errors import WorldError
from undial_cli.losses.chunked import Projection
from undial_cli.losses.targets import TeacherSignal
from undial_cli.methods.base import Loss, Method
from undial_cli.models.head import head_job
from undial_cli.system import processes
from undial_cli.training.layers import capture_layer_states
from undial_cli.training.teacher import (
    Teacher,
    forward_batch,
    make_targets,
    select_predicting_states,
    select_target_states,
)

# What a method carries along, beside the Trainer's own files of a saved state.
METHOD_STATE_FILE = "method.json"


class Diverged(WorldError):
    """Training met a number that is none."""


class UnlearningTrainer(Trainer):
    """Minimises the sum of a method's terms, each divided by its weight in the *global* batch.

    Micro-batches come as `{term: Batch}`.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        method: Method,
        teacher: Teacher | None,
        steps_per_epoch: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.method, self.terms, self.teacher = method, method.terms(), teacher
        self.steps_per_epoch = steps_per_epoch
        shape = (3, len(self.terms))  # of a step; since the last logged one, plain and weighed
        self.step_parts, self.parts, self.weighed = torch.zeros(
            shape, dtype=torch.float64, device=self.args.device
        )
        self.tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self.logged_at, self.logged_step = time.monotonic(), -1

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
        """The schedule is read in its own order."""
        return SequentialSampler(train_dataset or self.train_dataset)  # type: ignore[arg-type]

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Per term, the weight of the global batch: all micro-batches of all processes. [terms]"""
        weights = [
            [loss.weight(batch[name].counts) for batch in batch_samples]
            for name, loss in self.terms.items()
        ]
        tokens = [[batch[name].tokens for batch in batch_samples] for name in self.terms]
        counts = torch.tensor([[*map(sum, weights), sum(map(sum, tokens))]], device=device)
        totals = self.accelerator.gather(counts).sum(0)  # type: ignore[union-attr]
        self.tokens += totals[-1]
        return totals[:-1]

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Forward and backward of a micro-batch, term by term; its share of the loss.

        A share is multiplied by the number of processes, over which gradients are averaged.
        """
        assert isinstance(num_items_in_batch, Tensor)
        if self.logged_step < 0:  # the first step of this process, which may resume a run
            self.logged_step = self.state.global_step
        model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()  # type: ignore[union-attr]
        inputs = self._prepare_inputs(inputs)
        total = torch.zeros((), device=self.args.device)
        last = next(reversed(self.terms))
        for i, (name, loss) in enumerate(self.terms.items()):
            with contextlib.nullcontext() if name == last else self.unfinished(model):
                with self.compute_loss_context_manager():
                    share = compute_term_sum(model, self.teacher, name, loss, inputs[name])
                    share = share / num_items_in_batch[i].clamp(min=1)
                self.step_parts[i] += share.detach()
                share = share * self.method.coefficient(name) * self.accelerator.num_processes
                self.accelerator.backward(share, **self.backward_arguments())
                total += share.detach()
        return total

    @contextlib.contextmanager
    def unfinished(self, model: nn.Module) -> Iterator[None]:
        """While open, gradients are added up and not yet exchanged between processes.

        Sharded models exchange theirs all the same: whole ones would not fit.
        """
        state, due = self.accelerator.gradient_state, self.accelerator.sync_gradients
        alone = getattr(model, "no_sync", contextlib.nullcontext)
        state._set_sync_gradients(False)
        try:
            with alone() if type(model) is DistributedDataParallel else contextlib.nullcontext():
                yield
        finally:
            state._set_sync_gradients(due)

    def backward_arguments(self) -> dict[str, Any]:
        """What the Trainer gives to accelerate's backward."""
        found: dict[str, Any] = {}
        if self.args.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO):
            found["learning_rate"] = self._get_learning_rate()
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            found["scale_wrt_gas"] = False
        return found

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the whole gradient, when it is known and before a weight is changed by it.

        Raises:
            Diverged: it or the step's loss is not finite, on any process; the step is logged.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        if self.is_broken(norm):
            self.state.global_step += 1
            self.end_step()
            self.log({"loss": math.nan, "grad_norm": math.nan if norm is None else float(norm),
                      "learning_rate": self._get_learning_rate()})  # fmt: skip
            last = self.state.log_history[-1]
            raise Diverged(
                f"training diverged at step {self.state.global_step}: loss "
                f"{spell_number(last['loss'])}, gradient norm {spell_number(last['grad_norm'])}"
            )
        return norm

    def is_broken(self, norm: Any) -> bool:
        """Whether a step's loss or gradient norm is NaN or infinite, the same on every process.

        A norm that float16's loss scaling answers by skipping the step is none of these, as long
        as there is a scale left to lower.
        """
        bad = ~torch.isfinite(self.step_parts.sum())
        if norm is not None:
            off = not math.isfinite(float(norm))
            scaler = self.accelerator.scaler
            if off and self.args.fp16:
                off = scaler is not None and scaler.get_scale() <= 1
            bad = bad | off
        return bool(self.accelerator.reduce(bad.float(), reduction="sum") > 0)  # type: ignore[operator]

    def end_step(self) -> None:
        """Add up the parts of an optimiser step, and let a method that adapts learn them."""
        for i, name in enumerate(self.terms):
            self.weighed[i] += self.method.coefficient(name) * self.step_parts[i]
        if self.method.adapts:
            means = self.accelerator.reduce(self.step_parts, reduction="sum").tolist()  # type: ignore[union-attr]
            epoch = self.state.global_step / self.steps_per_epoch
            self.method.after_step(dict(zip(self.terms, means, strict=True)), epoch)
        self.parts += self.step_parts
        self.step_parts.zero_()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's state, and the method's before it; never one of weights that are none."""
        check_finite_weights(model, self.state.global_step)
        state = self.method.state_dict()
        if state and self.is_world_process_zero():
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / METHOD_STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
        super()._save_checkpoint(model, trial)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss's parts, the speed and the memory to what the Trainer logs."""
        if "loss" in logs:
            logs = {**logs, **self.step_figures()}
        self.state.epoch = self.state.global_step / self.steps_per_epoch
        super().log(logs, start_time)

    def step_figures(self) -> dict[str, float]:
        """Means since the last logged step, over all processes."""
        sums = torch.stack([self.parts, self.weighed])
        steps = self.state.global_step - self.logged_step
        sums = self.accelerator.reduce(sums, reduction="sum") / max(steps, 1)  # type: ignore[operator]
        means, weighed = sums.tolist()
        now = time.monotonic()
        figures = {
            "loss": sum(weighed),
            **{f"{name}_loss": mean for name, mean in zip(self.terms, means, strict=True)},
            **self.method.state_dict(),
            "tokens_per_second": int(self.tokens) / max(now - self.logged_at, 1e-9),
            "peak_memory_bytes": measure_peak_memory(),
        }
        self.parts.zero_()
        self.weighed.zero_()
        self.tokens.zero_()
        self.logged_at, self.logged_step = now, self.state.global_step
        return figures


def compute_term_sum(
    model: nn.Module, teacher: Teacher | None, name: str, loss: Loss, batch: Batch
) -> Tensor:
    """A loss summed over one micro-batch of the set `name`, inside the model's own forward."""
    signal = TeacherSignal()
    if loss.needs:
        assert teacher is not None
        signal = teacher.signal(model, name, batch, loss.needs, loss.layer)

    def job(final_BTD: Tensor, head: Projection) -> Tensor:
        layer = loss.layer is not None
        hidden_ND = (
            select_target_states(found.pop(), batch)
            if layer
            else select_predicting_states(final_BTD, batch)
        )
        return loss.sum(make_targets(hidden_ND, head, batch, signal))

    with capture_layer_states(model, loss.layer) as found, head_job(model, job):
        return forward_batch(model, batch)


def spell_number(number: float) -> str:
    """A number as people write it who know NaN."""
    return f"{number:.4g}".replace("nan", "NaN").replace("inf", "infinite")


def check_finite_weights(model: Any, step: int) -> None:
    """Raise Diverged, on every process, if trained weights are NaN or infinite."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not all(processes.gather_items([all(bool(torch.isfinite(p).all()) for p in trained)])):
        raise Diverged(f"training diverged at step {step}: its weights are NaN or infinite")


def measure_peak_memory() -> int:
    """Peak bytes so far: allocated on the GPU, or resident on the CPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

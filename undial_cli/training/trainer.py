"""The step on one screen: a micro-batch becomes a loss and gradients, term by term.

A term is a loss on one set (forget, retain). One subclass of transformers.Trainer steers it and
logs its parts; checkpoints, resume, FSDP, DeepSpeed, mixed precision and loggers are the Trainer's.
Knows a teacher, and no method by name.

Shapes: B sequences, T tokens, N target positions of all B, V vocabulary, D width.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer
from transformers.training_args import OptimizerNames

from undial_cli.data.collate import Batch
from undial_cli.errors import WorldError
from undial_cli.losses.chunked import Projection
from undial_cli.losses.targets import Targets, TeacherSignal
from undial_cli.methods.base import Loss, Method
from undial_cli.models.head import head_job
from undial_cli.system import processes
from undial_cli.system.files import remove_folder
from undial_cli.system.private_files import open_private_umask
from undial_cli.training import deepspeed_states
from undial_cli.training.layers import capture_layer_states
from undial_cli.training.states import STATE_PREFIX, seal_state
from undial_cli.training.teacher import Teacher

# What a method carries along, and what is summed up for the next log, in a saved state.
METHOD_STATE_FILE, SUMS_FILE = "method.json", "sums.json"


class Diverged(WorldError):
    """Training met a number that is none."""


def compute_term_sum(
    model: nn.Module, teacher: Teacher | None, name: str, loss: Loss, batch: Batch
) -> Tensor:
    """From a micro-batch of the set `name` to a loss, summed over its targets: a scalar."""
    # 1. What the frozen teacher says: read from its cache, or computed with the adapter off. Before
    #    the student's forward, whose activations would otherwise lie beside the teacher's.
    signal = TeacherSignal()
    if loss.needs:
        assert teacher is not None
        signal = teacher.signal(model, name, batch, loss)

    def sum_over_targets(final_BTD: Tensor, head: Projection) -> Tensor:
        # 3. The model has come to its head. A token is predicted at the position before it; a loss
        #    on a layer's activations looks at the token's own. Popped: the list must not keep them.
        if loss.layer is None:
            states_BTD, positions_N = final_BTD, batch.positions_N
        else:
            states_BTD, positions_N = layer_states.pop(), batch.positions_N + 1
        hidden_ND = states_BTD.flatten(0, 1).index_select(0, positions_N)
        targets = Targets(
            hidden_ND, head, batch.targets_N, batch.sequence_N, batch.counts, batch.focus_N, signal
        )
        # 4. The formula, chunk by chunk of N: no [B, T, V] exists (losses/chunked.py).
        return loss.sum(targets)

    # 2. One forward of the whole wrapped model, whose `.logits` is then the loss. Calling its body
    #    and the head apart would go past the hooks of DDP and FSDP: silently wrong gradients.
    with capture_layer_states(model, loss.layer) as layer_states, head_job(model, sum_over_targets):
        return model(input_ids=batch.input_ids, use_cache=False, **batch.layout).logits


class UnlearningTrainer(Trainer):
    """Minimises the sum of a method's terms, each divided by its weight in the *global* batch.

    Micro-batches come as `{set: Batch}`.
    """

    def __init__(
        self,
        *,
        method: Method,
        teacher: Teacher | None,
        steps_per_epoch: int,
        max_loss_rise: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.method, self.terms, self.teacher = method, method.terms(), teacher
        self.steps_per_epoch, self.max_loss_rise = steps_per_epoch, max_loss_rise
        # Of this step; since the last logged one, plain and times its coefficient. float64: many
        # steps may lie between two logged ones.
        shape = (3, len(self.terms))
        self.step_parts, self.parts, self.weighed_parts = torch.zeros(
            shape, dtype=torch.float64, device=self.args.device
        )
        self.tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self.logged_at, self.logged_step = time.monotonic(), -1

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """From one micro-batch to its gradients; returns its share of the step's loss.

        `num_items_in_batch`: of each term the weight of the global batch, see below.
        """
        assert isinstance(num_items_in_batch, Tensor)
        if self.logged_step < 0:  # the first step of this process, which may resume a run
            self.logged_step = self.state.global_step
        model.train()
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free ones have modes too
            self.optimizer.train()  # type: ignore[union-attr]
        batches: dict[str, Batch] = self._prepare_inputs(inputs)  # type: ignore[assignment]
        return self.add_gradients(model, batches, num_items_in_batch)

    def add_gradients(self, model: nn.Module, batches: dict[str, Batch], weights: Tensor) -> Tensor:
        """Add the gradients of a micro-batch; its share of the step's loss."""
        micro_loss = torch.zeros((), device=self.args.device)
        last_term = next(reversed(self.terms))
        for i, name in enumerate(self.terms):
            # A term goes backward before the next goes forward: only one holds activations. Their
            # gradients add up, and cross between processes once, with the last term's.
            with contextlib.nullcontext() if name == last_term else self.skip_gradient_sync(model):
                coefficient = self.method.coefficient(name)
                term_part = self.run_term(model, name, batches[name], weights[i], coefficient)
            self.step_parts[i] += term_part
            micro_loss += term_part * coefficient
        return micro_loss

    def run_term(
        self, model: nn.Module, name: str, batch: Batch, weight: Tensor, coefficient: float
    ) -> Tensor:
        """Add the gradient of a term times `coefficient`; its part of the loss of the step."""
        with self.compute_loss_context_manager():  # mixed precision
            term_sum = compute_term_sum(model, self.teacher, name, self.terms[name], batch)
            # By the weight of the *global* batch: however it is cut into micro-batches and dealt
            # to processes, the step is the same. It is 0 where nothing is scored.
            term_part = term_sum / weight.clamp(min=1)
        # Gradients are averaged over processes, but these are parts of one sum.
        term_loss = term_part * coefficient * self.accelerator.num_processes
        self.accelerator.backward(term_loss, **self.backward_arguments())
        return term_part.detach()

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Per term, the weight of the global batch: all micro-batches of all processes. [terms]"""
        counts = [
            sum(loss.weight(batch[name].counts) for batch in batch_samples)
            for name, loss in self.terms.items()
        ]
        tokens = sum(batch[name].tokens for batch in batch_samples for name in self.terms)
        # The tokens are for the log alone; one exchange of numbers serves both.
        totals = self.accelerator.gather(torch.tensor([[*counts, tokens]], device=device)).sum(0)  # type: ignore[union-attr]
        self.tokens += totals[-1]
        return totals[:-1]

    def create_accelerator_and_postprocess(self) -> None:
        """The accelerator, under which a sharded model gives out what its head's job gives.

        Rounded to the dtype of the products, as accelerate has it, a loss keeps three digits.
        """
        super().create_accelerator_and_postprocess()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy):
            policy = dataclasses.replace(plugin.mixed_precision_policy, output_dtype=None)
            plugin.mixed_precision_policy = policy

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimiser of the run's arguments; its groups are noted, see deepspeed_states.py."""
        optimizer = super().create_optimizer(model)
        self.groups = deepspeed_states.list_group_settings(optimizer)
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and deepspeed_states.is_converted(Path(checkpoint)):
            deepspeed_states.mend_optimiser(self.optimizer, self.groups)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
        """The schedule is read in its own order."""
        return SequentialSampler(train_dataset or self.train_dataset)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def skip_gradient_sync(self, model: nn.Module) -> Iterator[None]:
        """While open, gradients are added up and not yet exchanged between processes.

        Sharded models exchange theirs all the same: whole ones would not fit.
        """
        # Not accelerate's `no_sync`, which holds a sharded model's gradients back as well; the flag
        # is what its DeepSpeed backward reads.
        state, due = self.accelerator.gradient_state, self.accelerator.sync_gradients
        without_sync = getattr(model, "no_sync", contextlib.nullcontext)
        is_ddp = type(model) is DistributedDataParallel
        state._set_sync_gradients(False)
        try:
            with without_sync() if is_ddp else contextlib.nullcontext():
                yield
        finally:
            state._set_sync_gradients(due)

    def backward_arguments(self) -> dict[str, Any]:
        """What the Trainer's own step gives to accelerate's backward."""
        arguments: dict[str, Any] = {}
        if self.args.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO):
            arguments["learning_rate"] = self._get_learning_rate()  # they update in backward
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            arguments["scale_wrt_gas"] = False  # divided by the global batch's weight already
        return arguments

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the whole gradient, when it is known and before a weight is changed by it.

        Raises:
            Diverged: it or the step's loss is not finite, on any process, or the loss has risen
                beyond `highest_loss`; the step is logged.
        """
        # The one hook between the last backward of a step and its update.
        norm = super()._get_grad_norm(model, grad_norm)
        broken, loss = self.check_step(norm)
        if broken or loss > self.highest_loss():
            self.state.global_step += 1
            self.end_step()
            self.log({"loss": math.nan, "grad_norm": math.nan if norm is None else float(norm),
                      "learning_rate": self._get_learning_rate()})  # fmt: skip
            last = self.state.log_history[-1]
            shown = spell_number(last["loss"] if broken else loss)
            line = f"training diverged at step {self.state.global_step}: loss {shown}, gradient "
            line += f"norm {spell_number(last['grad_norm'])}"
            if not broken:
                line += f"; the loss began at {spell_number(self.first_losses()['loss'])} "
                line += f"(train.max_loss_rise={self.max_loss_rise:g})"
            raise Diverged(line)
        return norm

    def first_losses(self) -> dict[str, float]:
        """What was logged of the run's first step or steps, those before a resume included."""
        return next((row for row in self.state.log_history if "loss" in row), {})

    def highest_loss(self) -> float:
        """Above which a step's loss has exploded; infinity where there is no such bound."""
        first = self.first_losses()
        ascends = any(first.get(f"{name}_loss", 0.0) < 0 for name in self.terms)
        # One that weighs its terms anew may weigh them ever higher (pdu).
        if not first or self.max_loss_rise is None or ascends or self.method.adapts:
            return math.inf
        return first["loss"] + self.max_loss_rise * max(1.0, first["loss"])

    def check_step(self, norm: Any) -> tuple[bool, float]:
        """Whether a step's loss or gradient norm is NaN or infinite, and the step's loss.

        Both are the same on every process.

        A norm that float16's loss scaling answers by skipping the step is none of these, as long
        as there is a scale left to lower.
        """
        broken = ~torch.isfinite(self.step_parts.sum())
        if norm is not None and not math.isfinite(float(norm)):
            scaler = self.accelerator.scaler
            is_skipped = self.args.fp16 and (scaler is None or scaler.get_scale() > 1)
            broken = broken | (not is_skipped)
        # A loss is a process's own, and one that stopped alone would leave the others waiting.
        parts = zip(self.terms, self.step_parts, strict=True)
        loss = sum(self.method.coefficient(name) * part for name, part in parts)
        answers = torch.stack([broken.double(), torch.as_tensor(loss).double()])
        count, loss = self.accelerator.reduce(answers, reduction="sum").tolist()  # type: ignore[union-attr]
        return count > 0, loss

    def end_step(self) -> None:
        """Add up the parts of an optimiser step, and let a method that adapts learn them."""
        for i, name in enumerate(self.terms):
            self.weighed_parts[i] += self.method.coefficient(name) * self.step_parts[i]
        if self.method.adapts:
            means = self.accelerator.reduce(self.step_parts, reduction="sum").tolist()  # type: ignore[union-attr]
            if self.method.statistics is not None:
                summed = self.accelerator.reduce(self.method.statistics, reduction="sum")
                self.method.statistics = summed  # type: ignore[assignment]
            epoch = self.state.global_step / self.steps_per_epoch
            self.method.after_step(dict(zip(self.terms, means, strict=True)), epoch)
        self.parts += self.step_parts
        self.step_parts.zero_()

    @open_private_umask()
    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's state and ours, sealed at the end; never one of weights that are none."""
        check_finite_weights(model, self.state.global_step)
        folder = Path(str(self.args.output_dir)) / f"{STATE_PREFIX}{self.state.global_step}"
        # By process, as each adds up its own: their sum would be rounded in another order.
        sums = processes.gather_items([[self.parts.tolist(), self.weighed_parts.tolist()]])

        def write_own_state() -> None:
            remove_folder(folder)  # of a run that was ended while it saved this very step
            folder.mkdir(parents=True)
            for name, state in (
                (METHOD_STATE_FILE, self.method.state_dict()),
                (SUMS_FILE, {"logged_step": self.logged_step, "sums": sums}),
            ):
                (folder / name).write_text(json.dumps(state), encoding="utf-8")
            self.save_step_tensors(folder)

        processes.run_on_main(write_own_state)
        super()._save_checkpoint(model, trial)
        processes.wait_for_all()  # each process's random numbers are a file of it
        processes.run_on_main(lambda: seal_state(folder))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        whole = deepspeed_states.mark_whole_adapter(self.model)  # type: ignore[arg-type]
        with whole if self.is_deepspeed_enabled else contextlib.nullcontext():
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write the weights, of tied ones one: gathered from shards they are two tensors."""
        if state_dict is not None:
            tied = getattr(self.model, "all_tied_weights_keys", {})
            state_dict = {k: v for k, v in state_dict.items() if tied.get(k) not in state_dict}
        super()._save(output_dir, state_dict)

    def save_step_tensors(self, folder: Path) -> None:
        """Write what a step leaves for the next one beside optimiser and method: nothing here."""

    def load_own_state(self, folder: Path) -> None:
        """What `_save_checkpoint` wrote beside the Trainer's files."""
        self.method.load_state_dict(json.loads((folder / METHOD_STATE_FILE).read_text("utf-8")))
        state = json.loads((folder / SUMS_FILE).read_text("utf-8"))
        if len(state["sums"]) == processes.get_process_count():
            self.logged_step = state["logged_step"]
            parts, weighed = state["sums"][processes.get_process_rank()]
            self.parts.copy_(torch.tensor(parts, dtype=torch.float64))
            self.weighed_parts.copy_(torch.tensor(weighed, dtype=torch.float64))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss's parts, the speed and the memory to what the Trainer logs."""
        if "loss" in logs:
            logs = {**logs, **self.step_figures()}
        # To the Trainer the whole schedule is one epoch.
        self.state.epoch = self.state.global_step / self.steps_per_epoch
        super().log(logs, start_time)

    def step_figures(self) -> dict[str, float]:
        """Means since the last logged step, over all processes."""
        sums = torch.stack([self.parts, self.weighed_parts])
        steps = self.state.global_step - self.logged_step
        sums = self.accelerator.reduce(sums, reduction="sum") / max(steps, 1)  # type: ignore[operator]
        means, weighed = sums.tolist()
        now = time.monotonic()
        figures = {
            "loss": sum(weighed),
            **{f"{name}_loss": mean for name, mean in zip(self.terms, means, strict=True)},
            **{k: v for k, v in self.method.state_dict().items() if isinstance(v, float)},
            "tokens_per_second": int(self.tokens) / max(now - self.logged_at, 1e-9),
            "peak_memory_bytes": measure_peak_memory(),
        }
        self.parts.zero_()
        self.weighed_parts.zero_()
        self.tokens.zero_()
        self.logged_at, self.logged_step = now, self.state.global_step
        return figures


def spell_number(number: float) -> str:
    """A number as people write it who know NaN."""
    return f"{number:.4g}".replace("nan", "NaN").replace("inf", "infinite")


def check_finite_weights(model: Any, step: int) -> None:
    """Raise Diverged, on every process, if trained weights are NaN or infinite."""
    # Of a weight that ZeRO-3 dealt out, this process's share: the rest is elsewhere.
    trained = [getattr(p, "ds_tensor", p) for p in model.parameters() if p.requires_grad]
    if not all(processes.gather_items([all(bool(torch.isfinite(p).all()) for p in trained)])):
        raise Diverged(f"training diverged at step {step}: its weights are NaN or infinite")


def measure_peak_memory() -> int:
    """Peak bytes so far: allocated on the GPU, or resident on the CPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

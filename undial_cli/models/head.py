"""The one change made to a model: its output head becomes a `TargetHead`, which can be given a job.

Through it a loss sees the hidden states of target positions and projects them itself, inside the
model's own forward, so that DDP, FSDP, DeepSpeed, LoRA and checkpointing hold. Knows no loss.
B sequences, T positions, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from undial_cli.errors import UserError, first_line
from undial_cli.losses.chunked import Projection

HeadJob = Callable[[Tensor, Projection], Tensor]


@dataclass(frozen=True)
class LogitTransform:
    """What models do to their logits after the head by a field that they read on each call.

    `family`: how the names of those begin that do it so ("": whoever has the field; `check_head`
    tries it). `off`: the field's value by which they leave them alone. `effect`: the fields of a
    `Projection` that does the same; None: the field is read before the head, and nothing is to do.
    """

    field: str
    family: str
    off: float | None = 1.0
    effect: Callable[[float], dict[str, float]] | None = None


def make_scale_effect(value: float) -> dict[str, float]:
    return {"scale": value}


# What a job returns must come out of the model as it is, so the projection caps and scales in its
# place.
LOGIT_TRANSFORMS = (
    LogitTransform("final_logit_softcapping", "", None, lambda value: {"cap": value}),
    LogitTransform("logit_scale", "cohere", effect=make_scale_effect),
    LogitTransform("logits_scaling", "granite", effect=lambda value: {"scale": 1 / value}),
    LogitTransform("logits_scaling", "hyperclovax", effect=make_scale_effect),
    LogitTransform("logits_scaling", "minicpm3"),
    LogitTransform("lm_head_multiplier", "falcon_h1", effect=make_scale_effect),
)
# Fields by which families cap or scale them; of one that is not above they are refused.
LOGIT_FIELDS = ("logits_soft_cap", "output_logit_soft_cap", *(t.field for t in LOGIT_TRANSFORMS))


class TargetHead(nn.Linear):
    """The output head of a model, which can be given a job instead of its full projection.

    With a job, `forward` returns `job(hidden_BTD, projection)`; the job selects positions before it
    projects, so no [B, T, V] tensor exists. Without one it is an ordinary linear layer.
    """

    job: HeadJob | None = None
    # The field by which the model changes its logits: (who has it, name, value while there is a
    # job). A model may have it beside its config; which of them it reads is its own affair.
    after: tuple[list[Any], str, float | None] | None = None
    effect: dict[str, float] = {}  # noqa: RUF012

    def projection(self) -> Projection:
        """From hidden states to the model's logits, scale and cap included."""
        return Projection(self.weight, self.bias, **self.effect)

    def forward(self, input: Tensor) -> Tensor:
        if self.job is None:
            return super().forward(input)
        return self.job(input, self.projection())


def install_head(model: PreTrainedModel) -> None:
    """Turn the model's output head into a `TargetHead`, in place; parameters stay what they are.

    Raises:
        UserError: the model has no plain linear head, changes its logits in an unknown way, or
            looks at tokens to come by its config.
    """
    head = model.get_output_embeddings()
    kind = model.config.model_type
    reason = explain_not_causal(model)
    if reason is not None:
        raise UserError(f"model of type '{kind}': {reason}: no causal language model")
    if type(head) is not nn.Linear and not isinstance(head, TargetHead):
        raise UserError(f"model of type '{kind}': its output head is no plain linear layer")
    head.__class__ = TargetHead  # a new module would lose hooks, ties and what holds the old one
    target = find_output_head(model)
    config = model.config.get_text_config(decoder=True)
    for name in dict.fromkeys(LOGIT_FIELDS):
        value = getattr(config, name, None)
        if value in (None, 1):
            continue
        known = [t for t in LOGIT_TRANSFORMS if t.field == name and kind.startswith(t.family)]
        if not known:
            raise UserError(f"model of type '{kind}': {name} after the head is not supported")
        if known[0].effect is not None:
            places = (model, model.get_decoder(), config)
            target.after = ([p for p in places if hasattr(p, name)], name, known[0].off)
            target.effect = known[0].effect(value)


def explain_not_causal(model: PreTrainedModel) -> str | None:
    """The setting by which a model looks at tokens to come, where its config has one."""
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "use_bidirectional_attention", None) in (True, "all"):
        return f"use_bidirectional_attention={config.use_bidirectional_attention} in its config"
    # Others have this field and do not read it.
    reads = "config.is_decoder" in inspect.getsource(type(model).__init__)
    if reads and not config.is_decoder:
        return "is_decoder=false in its config"
    return None


def check_head(model: PreTrainedModel, finite: bool = True) -> None:
    """Try a model on a few tokens: a job must see every position, and its result come out as it is.

    Args:
        finite: what it says must be numbers.

    Raises:
        UserError: the model does not run on plain tokens, looks at tokens to come, uses its head
            not once for every position, or changes its logits otherwise than its head is known to.
    """
    kind = model.config.model_type
    try:
        # The trial draws random numbers, and a run's must not depend on it.
        with evaluation_mode(model), torch.random.fork_rng(devices=[]):
            reason = find_head_fault(model, finite)
    except (
        AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        reason = f"it does not run on a row of plain tokens ({first_line(error)[:120]})"
    if reason is not None:
        raise UserError(f"model of type '{kind}': {reason}")


def find_head_fault(model: PreTrainedModel, finite: bool) -> str | None:
    """What is wrong with a model's head, in a few words; the model may be left in training."""
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(3, 40, (8,), generator=generator) % find_output_head(model).out_features
    # Two rows that begin alike: a causal model says the same of both beginnings.
    ids_BT = torch.stack([row, torch.cat([row[:4], row[:4]])]).to(model.device)
    trial_BTV = torch.randint(-160, 160, (2, 8, find_output_head(model).out_features)) / 8
    trial_BTV = trial_BTV.to(model.device, model.dtype)  # exact in every dtype
    calls: list[tuple[Tensor, Projection]] = []

    def logits(result: Tensor | None = None) -> Tensor:
        """What the model gives by itself, or with a job that gives `result`."""

        def job(hidden_BTD: Tensor, head: Projection) -> Tensor:
            calls.append((hidden_BTD, head))
            assert result is not None
            return result

        with contextlib.nullcontext() if result is None else head_job(model, job):
            return model(input_ids=ids_BT, use_cache=False).logits

    dense_BTV, given_BTV = logits(), logits(trial_BTV)
    if finite and dense_BTV.isnan().any():
        return (
            "what it says of plain tokens is NaN: by a number of its config.json, or since "
            f"{str(model.dtype).removeprefix('torch.')} does not hold it"
        )
    if len(calls) != 1 or calls[0][0].shape[:2] != ids_BT.shape:
        return "its output head is not used once for every position"
    near = 1e-4 if model.dtype in (torch.float32, torch.float64) else 0.03
    hidden_BTD, head = calls.pop()
    if given_BTV.shape != trial_BTV.shape or not torch.equal(given_BTV, trial_BTV.to(given_BTV)):
        return "it changes its logits after the head"
    if relative_distance(head.logits(hidden_BTD), dense_BTV) > near:
        return "it changes its logits after the head otherwise than is known"
    if relative_distance(dense_BTV[0, :4], dense_BTV[1, :4]) > near:
        return "what it says of a token depends on those after it: no causal language model"
    model.train()  # some families take another way through their forward then
    total = trial_BTV.sum()  # a job of a training returns a sum, without any dimension
    given = logits(total)
    if len(calls) != 1 or given.shape != total.shape or not torch.equal(given, total.to(given)):
        return "it changes its logits after the head in training"
    return None


def relative_distance(actual: Tensor, expected: Tensor) -> float:
    """The distance of two tensors as a share of the second one's size."""
    return float((actual.float() - expected.float()).norm() / expected.float().norm())


def find_output_head(model: nn.Module) -> TargetHead:
    """The `TargetHead` somewhere inside a (wrapped, adapted) model."""
    return next(m for m in model.modules() if isinstance(m, TargetHead))


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the former mode comes back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


@contextlib.contextmanager
def head_job(model: nn.Module, job: HeadJob) -> Iterator[None]:
    """While open, the model's forward returns `job(hidden, projection)` in `.logits`."""
    head = find_output_head(model)
    owners, name, off = head.after or ([], "", None)
    former = [getattr(owner, name) for owner in owners]
    head.job = job
    for owner in owners:
        vars(owner)[name] = off  # not by assignment, which a config checks against its type
    try:
        yield
    finally:
        for owner, value in zip(owners, former, strict=True):
            vars(owner)[name] = value
        head.job = None

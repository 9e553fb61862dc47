"""Whether a run and its model fit, from the model's config and file names: no weight is read."""

from __future__ import annotations

from pathlib import Path

import torch

from undial_cli.config.schema import Run, TrainingRun
from undial_cli.errors import UserError
from undial_cli.methods.base import Method
from undial_cli.models import adapters, inspection, lora, paths
from undial_cli.training import packing
from undial_cli.training.layers import freeze_unchosen, refuse_frozen


def check_fit(run: Run, path: str, method: Method | None = None) -> None:
    """Find what a run asks of the model at `path` that it cannot give.

    Raises:
        UserError: its weights would not be used, it has nothing of what is to be trained, or it
            cannot be packed as it must.
    """
    check_untrained_base(run, path)
    if isinstance(run, TrainingRun):
        check_trained_parameters(run, path, method.parameters if method is not None else None)
    if isinstance(run, TrainingRun) and run.train.packing == "on":
        with torch.device("meta"):
            model = inspection.make_blank_model(run.model, path)
        refuse_packing(packing.why_not_packed_by_config(model, run.data.max_length))


def check_trained_parameters(run: TrainingRun, path: str, expression: str | None) -> None:
    """Raise UserError for layers that a model lacks, or an expression that no name matches."""
    layers = run.train.layers
    if not layers and expression is None:
        return
    source = paths.resolve_model_folder(path, run.model, weights=False)
    base = adapters.find_adapter_base(source, run.model) or path
    with torch.device("meta"):
        model = lora.adapt_model(
            inspection.make_blank_model(run.model, base), run.adapter, run.seed
        )
    with refuse_frozen(model, expression, layers):
        freeze_unchosen(model, expression, layers)


def check_rounded_target(run: Run, path: str) -> None:
    """Raise UserError for a target that adapter=qlora cannot start from: not of whole weights."""
    if not isinstance(run, TrainingRun) or run.adapter.name != "qlora":
        return
    reason = paths.explain_merge(run.model, path)
    if reason is None:
        with torch.device("meta"):
            shape = inspection.make_blank_model(run.model, path).config
        if getattr(shape, "quantization_config", None) is not None:
            reason = "its weights are quantised already (adapter=lora trains on them as they are)"
    if reason is not None:
        raise UserError(
            f"adapter=qlora: model.path={path}: {reason}; needed is a target of whole weights, as "
            "adapter.merge=true and full fine-tuning leave them"
        )


def check_untrained_base(run: Run, path: str) -> None:
    """A base that is initialised from the seed must not hold weights that would be left unused."""
    if not (run.model.from_scratch and path == run.model.base):
        return
    source = paths.resolve_model_folder(path, run.model, "model.base", weights=False)
    folder = Path(source.path)
    if not source.local or source.gguf_file or any(
        file for ending in ("*.safetensors", "pytorch_model*.bin") for file in folder.glob(ending)
    ):  # fmt: skip
        raise UserError(
            f"model.base={path}: it holds weights, which model.from_scratch=true would leave "
            "unused; model.from_scratch=false starts from them"
        )


def refuse_packing(reason: str | None) -> None:
    """Raise UserError if there is a reason not to pack a run that must be packed."""
    if reason:
        raise UserError(f"train.packing=on: not possible here: {reason}")

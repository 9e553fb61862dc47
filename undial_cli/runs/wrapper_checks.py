"""Whether what is wrapped around a method fits the run: sharpness, rectify, saliency."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from undial_cli.config.schema import UnlearnRun, is_sharded, uses_deepspeed
from undial_cli.errors import UserError

# Of optimisers that change a weight as soon as its gradient is there: in the backward pass.
EAGER_OPTIMISERS = ("lomo", "layerwise")


def check_wrappers(run: UnlearnRun, terms: Iterable[str]) -> None:
    """Raise UserError for a wrapper that the method or the machine's engine does not allow."""
    config, terms = run.method, list(terms)
    wrappers = {name: getattr(config, name) for name in ("saliency", "sharpness", "rectify")}
    for name, value in wrappers.items():
        if value is None:
            continue
        key = f"method.{name}={value}"
        if "forget" not in terms:
            raise UserError(f"{key}: needs a method with a forget term")
        if is_sharded(run) or uses_deepspeed(run):
            raise UserError(
                f"{key}: not possible with hardware={run.hardware.name}, whose engine holds shares "
                "of the weights or takes the gradients away; allowed is one process or ddp"
            )
        if name == "saliency":  # measured before training, in no step
            continue
        if run.hardware.precision == "fp16":
            raise UserError(
                f"{key}: not possible with hardware.precision=fp16, whose gradients are scaled; "
                "allowed is no or bf16"
            )
        if any(word in run.train.optim for word in EAGER_OPTIMISERS):
            raise UserError(
                f"{key}: not possible with train.optim={run.train.optim}, which changes weights "
                "before all gradients are there"
            )
    if config.rectify is not None and "retain" not in terms:
        (retain,) = [f for f in fields(config) if f.name == "retain"]
        words = [word for word in retain.metadata["allowed"] if word != "none"]
        raise UserError(
            f"method.rectify={config.rectify}: needs a retain term: method.retain="
            f"{' or '.join(words)}"
        )

"""What has the memory of a thing that computes outside torch and cannot be replayed.

Layers of 4 or 8 bits in place of bitsandbytes', and the size of optimiser states by an optimiser's
name. Computes nothing of use.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from undial_cli.models.quantise import Rounding

# States per trained parameter of optimisers that are not replayed; of others there are two.
STATES_PER_PARAMETER = {"ademamix": 3, "lion": 1, "rmsprop": 1, "sgd": 1}
# Bytes of a weight and its share of the scales, by its bits; in 4 bits these are rounded as well.
BYTES_PER_WEIGHT = {4: 0.516, 8: 1.0}
# bitsandbytes holds the states of smaller parameters in float32.
LEAST_ROUNDED_STATE = 4096


class RoundedLinear(nn.Linear):
    """A linear layer that has the memory of one in 4 or 8 bits."""

    def __init__(self, of: nn.Linear, rounding: Rounding) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = of.in_features, of.out_features, of.bias
        self.rounding, self.rounded_from = rounding, of.weight.dtype
        scales = 4 * of.out_features if rounding.bits == 8 else 0
        nbytes = int(BYTES_PER_WEIGHT[rounding.bits] * of.weight.numel()) + scales
        self.weight = nn.Parameter(torch.empty(nbytes, dtype=torch.uint8), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        if self.rounding.bits == 8:
            return UnpackedProduct.apply(input, self)  # type: ignore[no-any-return]
        low = input.to(self.rounding.compute_dtype)
        return UnpackedProduct.apply(low, self).to(input.dtype)  # type: ignore[union-attr]

    def unpack(self, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The weights in full, in the dtype that they are multiplied in."""
        weight_ED = like.new_empty(self.out_features, self.in_features, dtype=dtype)
        return weight_ED.to(like.dtype)


class UnpackedProduct(torch.autograd.Function):
    """A product with weights that are there in full only while it is computed."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: RoundedLinear) -> Tensor:
        ctx.layer = layer
        ctx.input = input if layer.rounding.bits == 8 else None  # bitsandbytes keeps it as well
        bias_E = None if layer.bias is None else layer.bias.to(input.dtype)
        return F.linear(input, layer.unpack(input), bias_E)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad,) = grad_outputs
        # Weights in 4 bits are unpacked to what they were rounded from, and then cast.
        dtype = ctx.layer.rounded_from if ctx.layer.rounding.bits == 4 else grad.dtype
        return grad @ ctx.layer.unpack(grad, dtype), None


def stand_in_rounded(model: Any, rounding: Rounding) -> None:
    """Give a model's linear layers the memory of rounded ones; its head stays, as in training."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, RoundedLinear(child, rounding))


def make_optimiser(arguments: TrainingArguments, trained: list[nn.Parameter]) -> Any:
    """The run's optimiser, or None for one that computes outside torch."""
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ImportError, ValueError):
        return None
    if not kind.__module__.startswith(("torch.optim", "transformers.")):
        return None
    if "foreach" in inspect.signature(kind).parameters and not options.get("fused"):
        options.setdefault("foreach", trained[0].device.type == "cuda")  # what torch chooses
    return kind(trained, **options)


def estimate_state_bytes(name: str, sizes: list[int], kind: str) -> float:
    """Bytes on the device of an optimiser's states, by what its name tells.

    Args:
        sizes: of the trained parameters.
        kind: of the device; a GPU's paged states are the host's, on a CPU nothing is paged.
    """
    if "paged" in name and kind != "cpu":
        return 0
    states = next((n for word, n in STATES_PER_PARAMETER.items() if word in name), 2)

    def bytes_per_state(size: int) -> float:
        # An 8-bit state, and its blocks' scales; else float32.
        return 1.016 if "8bit" in name and size >= LEAST_ROUNDED_STATE else 4

    return sum(size * states * bytes_per_state(size) for size in sizes)

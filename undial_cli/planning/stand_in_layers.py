"""What has the memory of a thing that computes outside torch and cannot be replayed.

4-bit layers in place of bitsandbytes', and the size of optimiser states by an optimiser's name.
Computes nothing of use.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

# States per trained parameter of optimisers that are not replayed; of others there are two.
STATES_PER_PARAMETER = {"ademamix": 3, "lion": 1, "rmsprop": 1, "sgd": 1}
# Bytes of a 4-bit weight and its share of the scales, which are quantised themselves.
FOUR_BIT_BYTES = 0.516


class FourBitLinear(nn.Linear):
    """A linear layer that has the memory of a 4-bit one."""

    def __init__(self, of: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = of.in_features, of.out_features, of.bias
        held = torch.empty(int(FOUR_BIT_BYTES * of.weight.numel()), dtype=torch.uint8)
        self.weight = nn.Parameter(held, requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        return DequantisedProduct.apply(input, self)  # type: ignore[no-any-return]


class DequantisedProduct(torch.autograd.Function):
    """A product with weights that are there in full only while it is computed."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: FourBitLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(input, input.new_empty(layer.out_features, layer.in_features), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad,) = grad_outputs
        return grad @ grad.new_empty(ctx.layer.out_features, ctx.layer.in_features), None


def stand_in_four_bit(model: Any) -> None:
    """Give a model's linear layers the memory of 4-bit ones; its head stays, as in bitsandbytes."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, FourBitLinear(child))
    model.is_loaded_in_4bit = True


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


def estimate_state_bytes(name: str, parameters: int) -> float:
    """Bytes on the device of an optimiser's states, by what its name tells."""
    if "paged" in name:
        return 0
    # An 8-bit state, and its blocks' scales; else float32.
    states = next((n for word, n in STATES_PER_PARAMETER.items() if word in name), 2)
    return parameters * states * (1.016 if "8bit" in name else 4)

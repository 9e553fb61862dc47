"""Linear layers of a model in memory rounded to 4 or 8 bits, in place, as bitsandbytes does it.

In memory, so that whatever a path holds (an adapter merged into its base, two contrasted models) is
rounded as it answers. The output head stays as it is. Knows no path. D input, E output features.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from undial_cli.config.schema import Run, TrainingRun
from undial_cli.errors import UserError
from undial_cli.system.hardware import choose_compute_dtype

# Inputs beyond it are multiplied in 16 bits: LLM.int8()'s, and the loader's.
OUTLIER_THRESHOLD = 6.0
# What bitsandbytes rounds by the bits that are left: QLoRA's (arXiv 2305.14314), LLM.int8()'s
# (arXiv 2208.07339).
PRECISIONS = {4: "nf4", 8: "int8"}


@dataclass(frozen=True)
class Rounding:
    """To what linear layers are rounded.

    `precision`: nf4 or int8; `compute_dtype`: of the products with weights in 4 bits; `trains`: as
    training wants it, the scales of 4-bit weights rounded too, int8 layers alike in both modes.
    """

    precision: str
    compute_dtype: torch.dtype = torch.bfloat16
    trains: bool = False

    @property
    def bits(self) -> int:
        return 4 if self.precision == "nf4" else 8


def choose_rounding(run: Run) -> Rounding | None:
    """What a run trains its adapter on: rounded layers, or None for weights as they are."""
    if not isinstance(run, TrainingRun) or run.adapter.name != "qlora":
        return None
    named = run.adapter.compute_dtype
    dtype = choose_compute_dtype(run) if named == "auto" else getattr(torch, named)
    return Rounding(PRECISIONS[run.adapter.bits], dtype, trains=True)


def describe_rounding(run: Run) -> list[str] | bool:
    """What a rounded model's numbers depend on besides its weights, for caches; or False."""
    rounding = choose_rounding(run)
    if rounding is None:
        return False
    return [rounding.precision, str(rounding.compute_dtype), metadata.version("bitsandbytes")]


def explain_no_quantising() -> str | None:
    """Why models cannot be quantised here, in words; None if they can."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "needs bitsandbytes: pip install 'undial[qlora]'"
    return None


def round_model(model: Any, rounding: Rounding, device: torch.device) -> Any:
    """A model from the host's memory on a device, its layers rounded on the way, to be trained on.

    Layer by layer: the device never holds the weights as they were.

    Raises:
        UserError: it has no layer to round.
    """
    if not quantise_linears(model, rounding, device):
        raise UserError("adapter=qlora: the model has no plain linear layer to quantise")
    setattr(model, f"is_loaded_in_{rounding.bits}bit", True)  # by which peft knows its layers
    return model.to(device)


def quantise_linears(
    model: nn.Module, rounding: Rounding, device: torch.device | None = None
) -> int:
    """Round the weights of every plain linear layer but the head; how many layers that were.

    Args:
        device: where they are rounded and stay; None: where they are.
    """
    # By the very class: a family's router, and the head with its job, are more than a product.
    chosen = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear or type(module).__name__ == "Conv1D"
    ]
    for name, module in chosen:
        model.set_submodule(name, quantise_layer(module, rounding, device))
    return len(chosen)


def quantise_layer(layer: Any, rounding: Rounding, device: torch.device | None = None) -> nn.Module:
    """A linear layer (or GPT-2's, whose weight is transposed) in fewer bits."""
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    weight_ED: Tensor = layer.weight.detach()
    device = device or weight_ED.device
    if not isinstance(layer, nn.Linear):
        weight_ED = weight_ED.T.contiguous()
    out, features = weight_ED.shape
    with torch.device("meta"):  # its own first weights are not wanted
        if rounding.precision == "nf4":
            rounded: Any = Linear4bit(
                features, out, False, rounding.compute_dtype,
                compress_statistics=rounding.trains, quant_type="nf4",
            )  # fmt: skip
        else:
            kind = make_steady_layer() if rounding.trains else Linear8bitLt
            rounded = kind(
                features, out, False, has_fp16_weights=False, threshold=OUTLIER_THRESHOLD
            )
    kind, given = type(rounded.weight), dict(vars(rounded.weight))
    if rounding.precision == "int8":
        given = {"has_fp16_weights": False}
    # Moving them to a device is what rounds them.
    rounded.weight = kind(weight_ED.cpu(), requires_grad=False, **given).to(device)
    rounded.bias = layer.bias
    # Its packing for some CPUs takes no layer of odd size, and rounds the scales once more: a model
    # would be another one there than on a GPU, and after the teacher's pass than before.
    rounded.support_avx512bf16_for_cpu = False
    return rounded.requires_grad_(False).train(layer.training)


@functools.cache
def make_steady_layer() -> type:
    """LLM.int8()'s layer, held in the one mode in which it does not round its inputs on a CPU.

    On a CPU bitsandbytes multiplies with the inputs as they are in training, and rounds them to 8
    bits out of it: the teacher and the student would be two models. On a GPU it always rounds them.
    """
    from bitsandbytes.nn.modules import Linear8bitLt

    class SteadyLinear(Linear8bitLt):
        def train(self, mode: bool = True) -> SteadyLinear:
            del mode
            return super().train(True)

    return SteadyLinear

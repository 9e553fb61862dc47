"""Linear layers of a model in memory rounded to 4 or 8 bits, in place, as bitsandbytes does it.

In memory, so that whatever a path holds (an adapter merged into its base, two contrasted models) is
rounded as it answers. The output head stays as it is. Knows no path. D input, E output features.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

# Inputs beyond it are multiplied in 16 bits: LLM.int8()'s, and the loader's.
OUTLIER_THRESHOLD = 6.0


def explain_no_quantising() -> str | None:
    """Why models cannot be quantised here, in words; None if they can."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "needs bitsandbytes: pip install 'undial[qlora]'"
    return None


def quantise_linears(model: nn.Module, precision: str) -> int:
    """Round the weights of every plain linear layer but the head; how many layers that were.

    Args:
        precision: nf4 (with bf16 arithmetic, as in QLoRA, arXiv 2305.14314), or int8 (LLM.int8(),
            arXiv 2208.07339).
    """
    # By the very class: a family's router, and the head with its job, are more than a product.
    chosen = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear or type(module).__name__ == "Conv1D"
    ]
    for name, module in chosen:
        model.set_submodule(name, quantise_layer(module, precision))
    return len(chosen)


def quantise_layer(layer: Any, precision: str) -> nn.Module:
    """A linear layer (or GPT-2's, whose weight is transposed) in fewer bits, on its device."""
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    weight_ED: Tensor = layer.weight.detach()
    if not isinstance(layer, nn.Linear):
        weight_ED = weight_ED.T.contiguous()
    out, features = weight_ED.shape
    with torch.device("meta"):  # its own first weights are not wanted
        if precision == "nf4":
            rounded: Any = Linear4bit(
                features, out, False, torch.bfloat16, compress_statistics=False, quant_type="nf4"
            )
        else:
            rounded = Linear8bitLt(
                features, out, False, has_fp16_weights=False, threshold=OUTLIER_THRESHOLD
            )
    kind, given = type(rounded.weight), dict(vars(rounded.weight))
    if precision == "int8":
        given = {"has_fp16_weights": False}
    # Moving them to a device is what rounds them.
    rounded.weight = kind(weight_ED.cpu(), requires_grad=False, **given).to(weight_ED.device)
    rounded.bias = layer.bias
    # Its packing for some CPUs takes no layer of odd size, and rounds the scales once more: a model
    # would be another one there than on a GPU.
    rounded.support_avx512bf16_for_cpu = False
    return rounded.requires_grad_(False).train(layer.training)

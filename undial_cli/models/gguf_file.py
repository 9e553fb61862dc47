"""A model written as a GGUF file, its weights rounded on the way, and the file held against it.

Weights go one by one, so that a second model is never in memory. What is rounded in the file is
rounded in the model too: the file then has to say the same, whatever the rounding has cost.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undial_cli.config.models import ModelConfig
from undial_cli.errors import WorldError
from undial_cli.models.gguf_fields import (
    GgufTensor,
    add_model_fields,
    check_tied_head,
    find_gguf_family,
    list_gguf_tensors,
    supply_unread_fields,
)
from undial_cli.models.gguf_kinds import COARSE, LOGIT_BOUNDS
from undial_cli.models.gguf_vocabulary import add_vocabulary_fields, describe_vocabulary
from undial_cli.models.paths import load_gguf
from undial_cli.system.source_paths import ModelSource

# How far a file may be from the model with the same rounded weights: float32 in another order.
SAME_LOGITS = 1e-3
QUANTIZATION_VERSION = 2  # of the blocks, as the format counts them
# Texts on which logits are compared: letters, digits, spaces, signs, code.
FIXED_TEXTS = (
    "The library opens at nine. On Sundays it stays closed until 11:30, except in March.",
    "Who wrote the letter, and when was it sent? It was sent on 14 July 1789 to Anna B. Köhler.",
    "def total(values):\n    return sum(v * 2 for v in values)  # twice\n",
    "Prices rose by 3.5 % in 2023; naïve forecasts said 12 %. “Why?” asked the café's owner.",
)


@dataclass(frozen=True)
class GgufWeights:
    """What a file holds: its bytes of weights, and how many weights are of each kind."""

    bytes: int
    kinds: dict[str, int]


def choose_kind(tensor: GgufTensor, quantise: str) -> Any:
    """The kind that a weight is stored in; rows that no blocks fit into stay f16."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if tensor.weight.dim() < 2:
        return kinds.F32
    is_outer = tensor.name in ("token_embd.weight", "output.weight")
    kind = kinds[("q8_0" if is_outer and quantise in COARSE else quantise).upper()]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if tensor.weight.shape[-1] % block == 0 else kinds.F16


def count_bytes(tensor: GgufTensor, kind: Any) -> int:
    """The bytes of a weight in a file."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[kind]
    return tensor.weight.numel() // block * size


def measure_gguf_weights(model: Any, quantise: str) -> GgufWeights:
    """What a file of a model will hold; the model may lie on the meta device."""
    tensors = list_gguf_tensors(model, find_gguf_family(model.config))
    kinds = [(tensor, choose_kind(tensor, quantise)) for tensor in tensors]
    return GgufWeights(
        sum(count_bytes(tensor, kind) for tensor, kind in kinds),
        dict(Counter(kind.name.lower() for _, kind in kinds)),
    )


def write_gguf(file: Path, model: Any, tokenizer: Any, quantise: str, name: str) -> None:
    """Write a model as a GGUF file; its own weights are rounded as the file's are.

    Args:
        quantise: a key of `LOGIT_BOUNDS`.
        name: what the file says that the model is called.

    Raises:
        UserError: the file cannot state what the model or its tokenizer does.
        WorldError: a weight is too large for the rounding.
    """
    import gguf

    config = model.config
    family = find_gguf_family(config)
    check_tied_head(model, family)
    writer = gguf.GGUFWriter(file, family.architecture)
    vocabulary = describe_vocabulary(tokenizer, config.vocab_size)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[name_file_type(quantise)])
    writer.add_quantization_version(QUANTIZATION_VERSION)
    add_model_fields(writer, config, family)
    add_vocabulary_fields(writer, vocabulary, tokenizer)
    tensors = [*list_gguf_tensors(model, family)]
    kinds = [choose_kind(tensor, quantise) for tensor in tensors]
    for tensor, kind in zip(tensors, kinds, strict=True):
        size = count_bytes(tensor, kind)
        writer.add_tensor_info(
            tensor.name, tensor.weight.shape, np.dtype(np.float32), size, raw_dtype=kind
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in zip(tensors, kinds, strict=True):
            writer.write_tensor_data(round_weight(tensor, kind))
    finally:
        writer.close()


def name_file_type(quantise: str) -> str:
    """llama.cpp's name of a file whose weights are mostly of one kind."""
    return "ALL_F32" if quantise == "f32" else f"MOSTLY_{quantise.upper()}"


def round_weight(tensor: GgufTensor, kind: Any) -> np.ndarray:
    """A weight as the file stores it, and the model's own rounded the same way.

    Raises:
        WorldError: it is not finite in that kind.
    """
    import gguf

    with np.errstate(over="ignore"):  # said below
        stored = gguf.quantize((tensor.weight.float() + tensor.offset).cpu().numpy(), kind)
    rounded = torch.from_numpy(np.ascontiguousarray(gguf.dequantize(stored, kind)))
    if not rounded.isfinite().all():
        raise WorldError(
            f"{tensor.name} holds numbers too large for {kind.name.lower()}; quantise=bf16 or "
            "quantise=f32 holds them"
        )
    tensor.weight.copy_(rounded.reshape(tensor.weight.shape) - tensor.offset)
    # Blocks lie within rows, so that rows can change places after they were rounded.
    return stored if tensor.rows is None else np.ascontiguousarray(stored[tensor.rows.numpy()])


def encode_fixed_texts(tokenizer: Any, longest: int) -> list[list[int]]:
    """The texts on which logits are compared, as a tokenizer has them, each cut to a length."""
    return [tokenizer(text).input_ids[:longest] for text in FIXED_TEXTS]


def load_gguf_back(file: Path, config: Any) -> tuple[Any, Any, list[str]]:
    """A file's model and tokenizer as transformers has them.

    Args:
        config: of the checkpoint; what transformers does not read from the file is taken from it.

    Returns:
        Model in float32, tokenizer, and the names of those fields.
    """
    from transformers import AutoConfig

    read = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    unread = supply_unread_fields(read, config)
    source = ModelSource(str(file.parent), gguf_file=file.name)
    model, tokenizer = load_gguf(source, ModelConfig(dtype="float32"), read)
    return model.eval(), tokenizer, unread


@torch.no_grad()
def compute_text_logits(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """A model's logits after every token of some texts. [T, V]"""
    ids_1T = (torch.tensor([row]) for row in rows)
    return torch.cat([model(input_ids=ids, use_cache=False).logits[0] for ids in ids_1T]).float()


@dataclass(frozen=True)
class GgufComparison:
    """A file, loaded back, against the checkpoint it was made of, on fixed texts.

    `change`: how far a logit moved at most, as a share of the largest one; `change_mean`: the mean
    move, in logits; `bound`: what its rounding allows of the first. `rounded_change`: as the first,
    against the checkpoint with the same rounded weights. `same_next`: positions of `tokens` with
    the same likeliest next token.
    """

    tokens: int
    change: float
    change_mean: float
    bound: float
    rounded_change: float
    same_next: int

    def describe(self) -> str:
        """The comparison in one line."""
        return (
            f"loaded back by transformers: on {self.tokens} tokens of fixed texts logits move by "
            f"{self.change_mean:.2g} (mean) and at most {self.change:.2%} of the largest (allowed "
            f"is {self.bound:.0%}), {self.rounded_change:.2%} against the same rounded weights; "
            f"{self.same_next} of {self.tokens} next tokens are the same"
        )

    def find_fault(self) -> str | None:
        """What is wrong with the file, in words."""
        if not self.rounded_change <= SAME_LOGITS:
            return (
                f"its logits are off by {self.rounded_change:.2%} of the largest from those of the "
                f"same rounded weights (allowed is {SAME_LOGITS:.2%})"
            )
        if not self.change <= self.bound:
            return (
                f"its logits are off by {self.change:.2%} of the largest from the checkpoint's "
                f"(allowed is {self.bound:.2%})"
            )
        return None


def compare_text_logits(
    quantise: str, checkpoint_TV: Tensor, rounded_TV: Tensor, file_TV: Tensor
) -> GgufComparison:
    """What a file says, held against the checkpoint before and after it was rounded."""
    largest = float(checkpoint_TV.abs().max().clamp(min=1e-6))
    moves_TV = (file_TV - checkpoint_TV).abs()
    return GgufComparison(
        tokens=len(file_TV),
        change=clean_share(moves_TV.max(), largest),
        change_mean=float(moves_TV.mean()),
        bound=LOGIT_BOUNDS[quantise],
        rounded_change=clean_share((file_TV - rounded_TV).abs().max(), largest),
        same_next=int((file_TV.argmax(-1) == checkpoint_TV.argmax(-1)).sum()),
    )


def clean_share(value: Tensor, largest: float) -> float:
    """A share of the largest logit; what is no number counts as infinite."""
    share = float(value) / largest
    return math.inf if math.isnan(share) else share

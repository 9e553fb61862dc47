"""What a GGUF file says of a model besides its weights, and the names that it gives them.

Families are those that transformers reads back; what a file of a family cannot state is refused.
Knows no tokenizer and no file. Shapes: D width of a head, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from undial_cli.errors import UserError
from undial_cli.models.adapters import has_tied_head

# What is said where a file is not written here: llama.cpp's own script knows more.
CONVERTER = (
    "llama.cpp's converter knows more: python convert_hf_to_gguf.py FOLDER --outtype f16, on "
    "RUN/checkpoint, or on RUN/merged that undial merge RUN makes of an adapter"
)
# Of a config, what transformers leaves at a default when it reads a file back.
UNREAD_FIELDS = (
    "rope_parameters", "head_dim", "layer_types", "sliding_window", "query_pre_attn_scalar",
    "attn_logit_softcapping", "final_logit_softcapping", "pad_token_id",
)  # fmt: skip


@dataclass(frozen=True)
class GgufFamily:
    """How llama.cpp knows a family of models.

    `architecture`: its name there. `activation`: the only one that it computes. `pairs_rotary`:
    rows of queries and keys lie in pairs that are rotated together, in transformers in halves.
    `norm_offset`: stored norm weights are larger by this. `rope_types`: what it can be told of.
    `full_every`: each so many layers one attends to the whole sequence, the others to a window.
    `ties_head`: the head is always the embedding.
    """

    architecture: str
    activation: str = "silu"
    pairs_rotary: bool = False
    norm_offset: float = 0.0
    rope_types: tuple[str, ...] = ("default", "linear")
    full_every: int = 1
    ties_head: bool = False


LLAMA = GgufFamily("llama", pairs_rotary=True, rope_types=("default", "linear", "llama3"))
# By the `model_type` of a config.
GGUF_FAMILIES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": GgufFamily("qwen2"),
    "qwen3": GgufFamily("qwen3"),
    "phi3": GgufFamily("phi3", rope_types=("default",)),
    "gemma2": GgufFamily(
        "gemma2", "gelu_pytorch_tanh", norm_offset=1.0, full_every=2, ties_head=True
    ),
    "gemma3_text": GgufFamily(
        "gemma3", "gelu_pytorch_tanh", norm_offset=1.0, full_every=6, ties_head=True
    ),
}


def find_gguf_family(config: Any) -> GgufFamily:
    """The family that a model is written as.

    Raises:
        UserError: there is none, or its files cannot state what this model does.
    """
    family = GGUF_FAMILIES.get(config.model_type)
    if family is None:
        raise UserError(
            f"format=gguf: a model of type '{config.model_type}'; allowed is one of "
            f"{', '.join(sorted(GGUF_FAMILIES))}; {CONVERTER}"
        )
    for reason in list_unstated(config, family):
        raise UserError(
            f"format=gguf: {reason}, which is not written here for a model of type "
            f"'{config.model_type}'; {CONVERTER}"
        )
    return family


def list_unstated(config: Any, family: GgufFamily) -> Iterator[str]:
    """What a model does and a file of its family cannot state, in words."""
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation != family.activation:
        yield f"its activation is {activation}"
    for bias in ("attention_bias", "mlp_bias"):
        if getattr(config, bias, False):
            yield f"{bias}=true"
    rope = read_rope(config)
    if rope["rope_type"] not in family.rope_types:
        yield f"its rope_type is {rope['rope_type']}"
    scalar = getattr(config, "query_pre_attn_scalar", None)
    if scalar is not None and scalar != get_head_width(config):
        yield f"query_pre_attn_scalar={scalar} is not the width of a head"
    if family.ties_head and not config.tie_word_embeddings:
        yield "its head has weights of its own (tie_word_embeddings=false)"
    every = family.full_every
    for number, kind in enumerate(getattr(config, "layer_types", None) or ()):
        is_full = (number + 1) % every == 0
        if kind != ("full_attention" if is_full else "sliding_attention"):
            yield f"its layer {number} is of {kind}"
            return


def read_rope(config: Any) -> dict[str, Any]:
    """How a model rotates positions; of one with two ways, on layers that attend to all."""
    parameters = config.rope_parameters
    return {"rope_type": "default", **parameters.get("full_attention", parameters)}


def get_head_width(config: Any) -> int:
    """The width of one attention head, D."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def find_context_length(config: Any) -> int:
    """Tokens for which a file computes what the model does: llama.cpp has some windows not."""
    windows = getattr(config, "layer_types", None) is None
    window = getattr(config, "sliding_window", None) if windows else None
    return min(config.max_position_embeddings, window or config.max_position_embeddings)


def add_model_fields(writer: Any, config: Any, family: GgufFamily) -> None:
    """The fields of a model's shape and of how it computes."""
    import gguf

    rope, width = read_rope(config), get_head_width(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(int(width * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if family.full_every > 1:
        writer.add_sliding_window(config.sliding_window)


@dataclass(frozen=True)
class GgufTensor:
    """A weight as a file has it.

    `weight`: the model's own. `rows`: in which order its rows are stored, None for as they are.
    `offset`: what is added to it.
    """

    name: str
    weight: Tensor
    rows: Tensor | None = None
    offset: float = 0.0


def list_gguf_tensors(model: Any, family: GgufFamily) -> Iterator[GgufTensor]:
    """The weights of a model in the order of a file; of those that two modules share, one.

    Raises:
        UserError: the file has no name for one.
    """
    import gguf

    config = model.config
    (architecture,) = (k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == family.architecture)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    if (factors := compute_rope_factors(config)) is not None:
        yield GgufTensor("rope_freqs.weight", factors)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for full_name, weight in model.named_parameters():
        module, _, kind = full_name.rpartition(".")
        name = names.get_name(module)
        if name is None:
            raise UserError(f"format=gguf: a file has no name for the weight {full_name}")
        leaf = module.rpartition(".")[2]
        rows = None
        if family.pairs_rotary and leaf in heads:
            rows = pair_rotary_rows(len(weight), heads[leaf])
        offset = family.norm_offset if leaf.endswith("norm") else 0.0
        yield GgufTensor(f"{name}.{kind}", weight.detach(), rows, offset)


def pair_rotary_rows(rows: int, heads: int) -> Tensor:
    """Where the rows of queries or keys come from that lie in pairs, not in halves. [R]"""
    return torch.arange(rows).reshape(heads, 2, -1).transpose(1, 2).reshape(-1)


def compute_rope_factors(config: Any) -> Tensor | None:
    """By what llama.cpp divides each frequency of Llama 3's rotation. [D/2] None: by nothing."""
    rope = read_rope(config)
    if rope["rope_type"] != "llama3":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    steps = torch.arange(0, 2 * len(scaled), 2, device="cpu") / (2 * len(scaled))
    return rope["rope_theta"] ** -steps / scaled


def supply_unread_fields(read: Any, config: Any) -> list[str]:
    """Give a config that transformers read from a file what it does not read; the fields' names."""
    unread = [
        name
        for name in UNREAD_FIELDS
        if hasattr(read, name) and getattr(read, name) != getattr(config, name, None)
    ]
    for name in unread:
        setattr(read, name, getattr(config, name, None))
    return unread


def check_tied_head(model: Any, family: GgufFamily) -> None:
    """Raise UserError for a head of its own where llama.cpp takes the embedding for it."""
    if family.ties_head and not has_tied_head(model):
        raise UserError(
            "format=gguf: the adapter changed the head alone, and llama.cpp takes the embedding "
            f"for the head of a model of type '{model.config.model_type}'; {CONVERTER}"
        )

"""Padding-free micro-batches: sequences in one row, and tokens they all begin with only once.

Every layer but attention works on the packed tokens as they are. Attention spreads queries, keys
and values to whole sequences, padded behind their ends where no token looks, and collects what
comes of it: the same mathematics as separate rows. Knows a model's attention interface, no loss.

Shapes: N tokens in the packed row, S places in the spread one, R sequences of one group, L tokens
of the longest of them, H heads (of keys and values G), d width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from undial_cli.data.collate import (
    Batch,
    build_batch,
    count_shared_tokens,
    make_padded_batch,
    order_by_length,
)
from undial_cli.data.example import Example
from undial_cli.losses.chunked import Projection
from undial_cli.losses.positions import IGNORE
from undial_cli.models.head import head_job

PACKED_ATTENTION = "undial_packed"
# Sequences attend together unless one is shorter than this share of the longest: then filling it
# up costs more than an attention call of its own.
SIMILAR_SHARE = 0.75
# What some models ask of their attention, and this one does not do: ignored, it would give other
# results and no error.
UNSERVED_ARGUMENTS = {"softcap", "s_aux", "position_bias"}
# Where configs and attention modules say how many tokens a layer attends to: transformers has no
# one name for it.
WINDOW_FIELDS = (
    "sliding_window", "attention_chunk_size", "sliding_window_size", "attention_window_size",
    "window_size", "local_attention", "local_window_size", "keep_window_size",
)  # fmt: skip


@dataclass(frozen=True)
class Pack:
    """Where the tokens of the sequences lie in one row of N: `shared` first, then the rest of each.

    Spread to whole sequences they take S places: group by group (`shapes`: (R, L) of each), row by
    row. `token_S`: which token stands at a place (behind a sequence's end its last one again).
    `place_N`: at which place a token's output is taken. `shared_places`: those of the shared tokens
    in every row, one row after the other.
    """

    shared: int
    shapes: list[tuple[int, int]]
    token_S: Tensor
    place_N: Tensor
    shared_places: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Pack:
        """The same pack on a device."""
        tensors = (self.token_S, self.place_N, self.shared_places)
        return Pack(
            self.shared, self.shapes, *(x.to(device, non_blocking=non_blocking) for x in tensors)
        )


class SpreadTokens(torch.autograd.Function):
    """Tokens [N, H, d] at the places of whole sequences, [S, H, d].

    Autograd's own gradient adds up place by place, which is many times slower on a GPU, and in an
    order that changes. Here each token's comes from its one place, and is summed over the rows for
    the shared ones; at padding it is 0, as no token looks there.
    """

    @staticmethod
    def forward(ctx: Any, tokens_NHd: Tensor, pack: Pack) -> Tensor:
        ctx.pack = pack
        return tokens_NHd.index_select(0, pack.token_S)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient_SHd,), pack = gradients, ctx.pack
        rest_NHd = gradient_SHd.index_select(0, pack.place_N[pack.shared :])
        if not pack.shared:
            return rest_NHd, None
        shared = gradient_SHd.index_select(0, pack.shared_places)
        return torch.cat([shared.unflatten(0, (-1, pack.shared)).sum(0), rest_NHd]), None


class CollectTokens(torch.autograd.Function):
    """Tokens [N, H, d] of whole sequences [S, H, d], each from its one place."""

    @staticmethod
    def forward(ctx: Any, spread_SHd: Tensor, pack: Pack) -> Tensor:
        ctx.pack, ctx.places = pack, len(spread_SHd)
        return spread_SHd.index_select(0, pack.place_N)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient_NHd,) = gradients
        spread_SHd = gradient_NHd.new_zeros(ctx.places, *gradient_NHd.shape[1:])
        return spread_SHd.index_copy_(0, ctx.pack.place_N, gradient_NHd), None


def pack_batch(examples: list[Example], indices: list[int]) -> Batch:
    """A micro-batch as one row [1, N] without padding; empty rows take no token."""
    # A batch of empty rows alone still needs a token to run on.
    sequences = [e for e, i in zip(examples, indices, strict=True) if i >= 0] or examples[:1]
    shared = count_shared_tokens(sequences)
    lengths = [len(e.input_ids) - shared for e in sequences]
    ids = sequences[0].input_ids[:shared] + [i for e in sequences for i in e.input_ids[shared:]]
    begins = [shared + sum(lengths[:row]) for row in range(len(sequences))]
    # Every sequence counts its positions from the shared beginning, as if it stood alone.
    positions = [torch.arange(shared), *(torch.arange(n) + shared for n in lengths)]
    first, shapes, tokens, row_places = torch.arange(shared), [], [], []
    place_N, places = torch.empty(len(ids), dtype=torch.long), 0
    for rows in group_similar_lengths([shared + n for n in lengths]):
        longest = shared + lengths[rows[0]]
        shapes.append((len(rows), longest))
        for row in rows:
            begin, end = begins[row], begins[row] + lengths[row]
            rest = torch.arange(begin, begin + longest - shared).clamp(max=max(end, 1) - 1)
            tokens += [first, rest]
            place_N[begin:end] = torch.arange(shared, shared + lengths[row]) + places
            row_places.append(first + places)
            places += longest
    place_N[:shared] = first  # the first row's, as good as any
    pack = Pack(shared, shapes, torch.cat(tokens), place_N, torch.cat(row_places))
    # Where each sequence would begin if its shared tokens stood before its others: no target is
    # predicted by a shared token (`count_shared_tokens`), so what lies there does not matter.
    next_begin = iter(begins)
    starts = [next(next_begin) - shared if i >= 0 else 0 for i in indices]
    layout = {"position_ids": torch.cat(positions)[None], "pack": pack}
    return build_batch(torch.tensor([ids]), examples, indices, starts, layout)


def group_similar_lengths(lengths: list[int]) -> list[list[int]]:
    """Row numbers in groups, the longest row of each first and none much shorter."""
    groups: list[list[int]] = []
    for row in order_by_length(lengths):
        if groups and lengths[row] >= SIMILAR_SHARE * lengths[groups[-1][0]]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def attend_packed(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pack: Pack | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface: query [1, H, N, d], key and value [1, G, N, d]."""
    if pack is None or attention_mask is not None:
        raise ValueError("this attention serves packed micro-batches only")
    unknown = {name for name, value in kwargs.items() if value is not None} & UNSERVED_ARGUMENTS
    if unknown:
        raise ValueError(f"attention with {unknown} is not served")
    del module
    if query.is_cuda and query.dtype not in (torch.float16, torch.bfloat16):
        # Of its fast kernels only the one for half precision takes grouped heads.
        queries_per_key = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(queries_per_key, dim=1) for x in (key, value))
    # Tokens first: then a place is one piece of memory.
    spread = [SpreadTokens.apply(x[0].transpose(0, 1), pack) for x in (query, key, value)]
    outputs, start = [], 0
    # Group by group, as rows of one length are what the kernels take.
    for rows, longest in pack.shapes:
        end = start + rows * longest
        states = [x[start:end].unflatten(0, (rows, longest)).transpose(1, 2) for x in spread]
        output_RHLd = F.scaled_dot_product_attention(
            *states, dropout_p=dropout, is_causal=True, scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        outputs.append(output_RHLd.transpose(1, 2).flatten(0, 1))
        start = end
    return CollectTokens.apply(torch.cat(outputs), pack)[None], None


AttentionInterface.register(PACKED_ATTENTION, attend_packed)


def why_not_packed_by_config(model: Any, max_length: int) -> str | None:
    """Why a model cannot take packed micro-batches, as far as its shape says, or None."""
    config, kind = model.config, f"model of type '{model.config.model_type}'"
    if config._attn_implementation != "sdpa":
        return "it needs model.attn_implementation=sdpa"
    if not getattr(model, "_supports_attention_backend", False):
        return f"{kind} has an attention of its own"
    if find_shortest_window(model, max_length) < max_length:
        return f"{kind} does not attend to the whole sequence"
    return None


def why_not_packed(model: Any, max_length: int) -> str | None:
    """Why a model cannot take packed micro-batches, in a few words; None where it can.

    Batches as long as the data's are computed both ways, on the model's own device.
    """
    reason = why_not_packed_by_config(model, max_length)
    if reason:
        return reason
    text = model.config.get_text_config(decoder=True)
    longest = min(max_length, getattr(text, "max_position_embeddings", None) or max_length)
    # Layers in 4 bits may multiply in another dtype than the weights'.
    dtypes = {model.dtype, *(getattr(m, "compute_dtype", model.dtype) for m in model.modules())}
    exact = dtypes <= {torch.float32, torch.float64}
    # A model may mix tokens of a row outside attention (convolutions, state spaces) or number them
    # itself: no config tells, so it is tried.
    try:
        same = all(is_packing_near(model, probe, exact) for probe in make_probe_batches(longest))
    except (TypeError, ValueError, RuntimeError):  # a model's own code fails as it likes
        same = False
    kind = model.config.model_type
    return None if same else f"model of type '{kind}' gives something else for it"


def find_shortest_window(model: Any, default: int) -> int:
    """The fewest tokens that any of a model's layers attends to, by its config and its modules."""
    config = model.config.get_text_config(decoder=True)
    layers = [vars(module) for module in model.modules()]
    limits = [fields.get(name) for fields in (vars(config), *layers) for name in WINDOW_FIELDS]
    return min((x for x in limits if type(x) is int and x > 0), default=default)


def make_probe_example(shared: int, length: int, vocabulary: int) -> Example:
    """A sequence that begins as other probes do, every further token a target."""
    generator = torch.Generator().manual_seed(length)
    ids = [(5 * i) % 7 + 1 for i in range(shared)]
    ids += torch.randint(1, vocabulary, (length,), generator=generator).tolist()
    return Example(ids, [IGNORE] * (shared + 1) + ids[shared + 1 :], len(ids))


def make_probe_batches(longest: int, vocabulary: int = 40) -> Iterator[list[Example]]:
    """Batches of short sequences with and without a common beginning, and one of the longest."""
    for shared, lengths in ((0, (3, 9, 5)), (10, (3, 9, 5)), (10, (longest - 10, 4))):
        if shared + max(lengths) <= longest:
            yield [make_probe_example(shared, length, vocabulary) for length in lengths]


def is_packing_near(model: Any, examples: list[Example], exact: bool) -> bool:
    """Whether a packed batch gives what a padded one does, up to rounding.

    In half precision a deep model's rounding is a few percent of its hidden states: as much as
    sequences one by one are away from a padded batch is allowed thrice.
    """
    padded_ND = compute_probed_states(model, examples, "sdpa")
    gap = measure_gap(compute_probed_states(model, examples, PACKED_ATTENTION), padded_ND)
    if exact or gap < 0.02:
        return gap < (1e-3 if exact else 0.02)
    alone = [compute_probed_states(model, [example], "sdpa") for example in examples]
    return gap < 3 * measure_gap(torch.cat(alone), padded_ND) < 0.3


def measure_gap(states_ND: Tensor, others_ND: Tensor) -> float:
    """The distance of hidden states from others, as a share of these."""
    return float((states_ND - others_ND).norm() / others_ND.norm())


@torch.no_grad()
def compute_probed_states(model: Any, examples: list[Example], attention: str) -> Tensor:
    """Last hidden states that predict the targets of a batch, packed or padded: [N, D]."""
    make = pack_batch if attention == PACKED_ATTENTION else make_padded_batch
    batch = make(examples, list(range(len(examples)))).to(model.device)

    def job(hidden_BTD: Tensor, head: Projection) -> Tensor:
        return hidden_BTD.flatten(0, 1).index_select(0, batch.positions_N).double()

    with switch_attention(model, attention), head_job(model, job):
        return model(input_ids=batch.input_ids, use_cache=False, **batch.layout).logits


@contextlib.contextmanager
def switch_attention(model: Any, name: str) -> Iterator[None]:
    """While open, a model's attention is another one of transformers' interface."""
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before

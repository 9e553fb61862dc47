"""Padding-free micro-batches: sequences in one row, and tokens they all begin with only once.

Every layer but attention works on the packed tokens as they are. Attention gathers queries, keys
and values of each sequence, the shared beginning before its keys, and puts the results back: the
same mathematics as separate rows. Knows a model's attention interface, no loss.

Shapes: N tokens in the packed row, R sequences of one group, T tokens of the longest of them,
L = shared + T, H heads (of keys and values G), d width of a head.
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

    `groups`: sequences that attend together, with the index of each of their tokens in the row,
    [R, T] (a shorter sequence's last one again, to fill up), and what they see, [T, shared + T]
    (None: every token before). `back`: which of all groups' R x T outputs is the output of each
    token after the shared ones.
    """

    shared: int
    groups: list[tuple[Tensor, Tensor | None]]
    back: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Pack:
        """The same pack on a device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        groups = [(move(t), None if m is None else move(m)) for t, m in self.groups]
        return Pack(self.shared, groups, move(self.back))


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
    groups, back, outputs_before = [], torch.empty(len(ids) - shared, dtype=torch.long), 0
    for rows in group_similar_lengths(lengths):
        longest = lengths[rows[0]]
        for row in rows:
            begin = begins[row] - shared
            outputs = torch.arange(outputs_before, outputs_before + lengths[row])
            back[begin : begin + lengths[row]] = outputs
            outputs_before += longest
        within_RT = torch.arange(longest).minimum(torch.tensor([[lengths[r] - 1] for r in rows]))
        mask_TL = None
        if shared:
            # All of the shared tokens, and of its own those up to itself.
            mask_TL = torch.ones(longest, shared + longest, dtype=torch.bool).tril(shared)
        groups.append((within_RT + torch.tensor([[begins[r]] for r in rows]), mask_TL))
    # Where each sequence would begin if its shared tokens stood before its others: no target is
    # predicted by a shared token (`count_shared_tokens`), so what lies there does not matter.
    next_begin = iter(begins)
    starts = [next(next_begin) - shared if i >= 0 else 0 for i in indices]
    layout = {"position_ids": torch.cat(positions)[None], "pack": Pack(shared, groups, back)}
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
    shared = pack.shared
    if shared and query.is_cuda:  # its fast kernels take a mask or grouped heads, not both
        queries_per_key = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(queries_per_key, dim=1) for x in (key, value))

    def attend(query: Tensor, key: Tensor, value: Tensor, mask_TL: Tensor | None) -> Tensor:
        """Attention of R rows of T queries, as [R x T, H, d]."""
        output_RHTd = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask_TL, dropout_p=dropout, is_causal=mask_TL is None,
            scale=scaling, enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        return output_RHTd.transpose(1, 2).flatten(0, 1)

    def gather(states: Tensor, tokens_RT: Tensor, before: int) -> Tensor:
        """[R, heads, before + T, d] of states [1, heads, N, d]."""
        tokens = states[0].index_select(1, tokens_RT.flatten())
        tokens = tokens.unflatten(1, tokens_RT.shape).transpose(0, 1)
        if not before:
            return tokens
        return torch.cat([states[:, :, :before].expand(len(tokens), -1, -1, -1), tokens], dim=2)

    # Group by group, as rows of one length are what the kernels take; shared keys and values stand
    # before each sequence's, and the shared tokens themselves attend once, to each other.
    outputs = [
        attend(
            gather(query, tokens_RT, 0),
            gather(key, tokens_RT, shared),
            gather(value, tokens_RT, shared),
            mask_TL,
        )
        for tokens_RT, mask_TL in pack.groups
    ]
    output_NHd = torch.cat(outputs).index_select(0, pack.back)
    if shared:
        first = attend(query[:, :, :shared], key[:, :, :shared], value[:, :, :shared], None)
        output_NHd = torch.cat([first, output_NHd])
    return output_NHd[None], None


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
    near = 1e-3 if dtypes <= {torch.float32, torch.float64} else 0.02
    # A model may mix tokens of a row outside attention (convolutions, state spaces) or number them
    # itself: no config tells, so it is tried.
    try:
        same = all(
            measure_packing_gap(model, examples) < near for examples in make_probe_batches(longest)
        )
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


@torch.no_grad()
def measure_packing_gap(model: Any, examples: list[Example]) -> float:
    """How far the hidden states of a packed batch are from those of a padded one."""
    hidden_ND = []
    for name, make in (("sdpa", make_padded_batch), (PACKED_ATTENTION, pack_batch)):
        batch = make(examples, list(range(len(examples)))).to(model.device)

        def job(hidden_BTD: Tensor, head: Projection, batch: Batch = batch) -> Tensor:
            return hidden_BTD.flatten(0, 1).index_select(0, batch.positions_N).double()

        with switch_attention(model, name), head_job(model, job):
            output = model(input_ids=batch.input_ids, use_cache=False, **batch.layout)
            hidden_ND.append(output.logits)
    return float((hidden_ND[0] - hidden_ND[1]).norm() / hidden_ND[0].norm())


@contextlib.contextmanager
def switch_attention(model: Any, name: str) -> Iterator[None]:
    """While open, a model's attention is another one of transformers' interface."""
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before

"""Greedy continuations of one document from many of its prefixes, which share one pass over it.

Knows a model from `load_model` and token ids; no text, no process and no metric.

Shapes: B prefixes that are continued together, T tokens, V vocabulary, D the model's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from undial_cli.evaluation.decoding import (
    Decoding,
    compute_last_logits,
    decode_prompts,
    split_batches,
)
from undial_cli.evaluation.kvcache import (
    SpareLayer,
    has_plain_cache,
    list_spare_layers,
    make_spare_cache,
)
from undial_cli.losses.chunked import Projection
from undial_cli.models.head import head_job

# Positions of a document whose logits exist at a time.
POSITIONS_PER_PASS = 256


@torch.no_grad()
def continue_prefixes(
    model: Any, ids: list[int], prefixes: Sequence[int], batch_size: int
) -> tuple[list[int], dict[int, list[int]]]:
    """Greedy predictions for a document of T ids, and greedy continuations of its prefixes.

    A continuation goes along the document up to the first id that is not the prediction. Decoding
    starts there, once for all prefixes that come to the same place.

    Args:
        prefixes: lengths in 1..T-1.
        batch_size: continuations decoded together at most.

    Returns:
        The greedy next token after the true prefix, for positions 1..T-1 (one teacher-forced
        pass), and by prefix length p the T - p tokens that follow (no token ends them).
    """
    total = len(ids)
    if total < 2:
        return [], {}
    cache = make_spare_cache() if has_plain_cache(model) else None
    predictions = predict_greedily(model, ids, cache)
    misses = [p for p in range(1, total) if predictions[p - 1] != ids[p]]
    ahead = {p: next((q for q in misses if q >= p), total) for p in prefixes}
    points = sorted(set(ahead.values()) - {total})
    tails: dict[int, list[int]] = {total: []}
    if cache is None:
        # A state (Mamba's, say) holds no earlier position to go back to: each prefix is read anew.
        for p in points:
            how = Decoding(total - p, frozenset())
            decode_prompts(model, {p: ids[:p]}, 1, how, tails.__setitem__)
    else:
        for group in split_batches(points, batch_size):
            first = {p: predictions[p - 1] for p in group}
            tails.update(continue_from_cache(model, cache, first, total))
    return predictions, {p: ids[p:q] + tails[q] for p, q in ahead.items()}


def predict_greedily(model: Any, ids: list[int], cache: Cache | None) -> list[int]:
    """The greedy next token after every true prefix, in one pass that fills the cache."""

    def job(hidden_BTD: Tensor, head: Projection) -> Tensor:
        parts = hidden_BTD.split(POSITIONS_PER_PASS, dim=1)
        return torch.cat([head.logits(part).argmax(-1) for part in parts], dim=1)

    inputs = {} if cache is None else {"past_key_values": cache}
    ids_BT = torch.tensor([ids], device=model.device)
    with head_job(model, job):
        output = model(input_ids=ids_BT, use_cache=cache is not None, **inputs)
    return output.logits[0, :-1].tolist()


def continue_from_cache(
    model: Any, document: Cache, first: dict[int, int], total: int
) -> dict[int, list[int]]:
    """Greedy continuations of prefixes of one document up to `total` ids.

    Every row holds the document's keys and values and joins when the position is its prefix's
    end: all rows are at the same position, so nothing is padded.

    Args:
        document: the cache of the whole document.
        first: the first new token by prefix length, the shortest prefix first.
    """
    cache = make_spare_cache()
    rows = {length: [token] for length, token in first.items()}
    for i, layer in enumerate(document.layers):
        if isinstance(layer, SpareLayer) and layer.is_initialized:
            cache.update(*(x.repeat(len(rows), 1, 1, 1) for x in layer.buffers), layer_idx=i)
    for position in range(min(rows), total - 1):
        joined = [row for length, row in rows.items() if length <= position]
        for layer in list_spare_layers(cache):
            layer.hold(*layer.buffers, len(joined), position)
        ids_B1 = torch.tensor([row[-1:] for row in joined], device=model.device)
        positions_B1 = torch.full_like(ids_B1, position)
        logits_BV = compute_last_logits(model, ids_B1, positions_B1, past_key_values=cache)
        for row, token in zip(joined, logits_BV.argmax(-1).tolist(), strict=True):
            row.append(token)
    return rows

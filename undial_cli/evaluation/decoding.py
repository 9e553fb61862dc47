"""Decoding engine: continues token-id prompts, and one document from its prefixes.

Finished rows leave the batch, and no result depends on what else is in it. Knows a model from
`load_model` and token ids; no text, no process and no metric.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.cache_utils import Cache

from undial_cli.evaluation.kvcache import (
    SpareLayer,
    has_plain_cache,
    list_spare_layers,
    make_spare_cache,
)
from undial_cli.losses.chunked import Projection
from undial_cli.losses.positions import upcast_half
from undial_cli.models.adapters import make_position_argument, unwrap_adapter
from undial_cli.models.head import head_job

BatchItem = TypeVar("BatchItem")
KeepIds = Callable[[int, list[int]], None]

# Share of the batch's places that must be free before waiting prompts are prefilled into them.
REFILL_SHARE = 1 / 4
# How many of the likeliest tokens are looked at for the top-p set before all are.
LIKELIEST_TOKENS = 4096
# Positions of a document whose logits exist at a time.
POSITIONS_PER_PASS = 256


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen: greedily where `top_k` and `top_p` are None, else drawn.

    `ends`: ids that end an answer; `top_k`: draw from that many likeliest tokens; `top_p`: and,
    of those, from the smallest set of the likeliest with at least this probability; `positions`:
    that the model has for prompt and answer.
    """

    max_new_tokens: int
    ends: frozenset[int]
    top_p: float | None = None
    temperature: float = 1.0
    seed: int = 0
    top_k: int | None = None
    positions: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, and nothing drawn."""
        return self.top_p is None and self.top_k is None

    def room(self, prompt: int) -> int:
        """New tokens after a prompt of so many ids; at least one."""
        if self.positions is None:
            return self.max_new_tokens
        return max(1, min(self.max_new_tokens, self.positions - prompt))


@dataclass
class DecodingRow:
    """A prompt on its way: its number, its ids so far, where the new ones begin, its draws."""

    number: int
    ids: list[int]
    start: int
    draws: torch.Generator = field(default_factory=torch.Generator)


def compute_last_logits(model: Any, ids_BT: Tensor, positions_BT: Tensor, **inputs: Any) -> Tensor:
    """Logits [B, V] after the last id; the head sees that position only."""
    inputs |= make_position_argument(model, positions_BT)
    with head_job(model, lambda hidden_BTD, head: head.logits(hidden_BTD[:, -1:])):
        return model(input_ids=ids_BT, use_cache=True, **inputs).logits[:, -1]


def filter_distribution(logits_BV: Tensor, how: Decoding) -> Tensor:
    """Probabilities of the tokens that may be drawn, all others at zero (not normalised again).

    As transformers' warpers: temperature, then top-k with all that equal the k-th, then top-p of
    what is left. Of equals at the edge of the top-p set the first in the vocabulary are in it
    (transformers leaves it to the sort).
    """
    scores_BV = upcast_half(logits_BV) / how.temperature
    size = scores_BV.shape[-1]
    if how.top_k is not None and how.top_k < size:
        least_B1 = scores_BV.topk(how.top_k).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < least_B1, -torch.inf)
    p_BV = torch.softmax(scores_BV, -1)
    if how.top_p is None or how.top_p >= 1:
        return p_BV
    p_BK = p_BV.topk(min(how.top_k or LIKELIEST_TOKENS, size)).values
    if bool((p_BK.sum(-1) < how.top_p).any()):
        p_BK = p_BV.sort(descending=True).values
    inside_BK = p_BK.cumsum(-1) - p_BK < how.top_p
    count_B1 = inside_BK.sum(-1, keepdim=True).clamp(min=1)
    least_B1 = p_BK.gather(-1, count_B1 - 1)
    inside_BV = p_BV >= least_B1
    if bool((inside_BV.sum(-1, keepdim=True) > count_B1).any()):
        above_BV = p_BV > least_B1
        wanted_B1 = count_B1 - above_BV.sum(-1, keepdim=True)
        inside_BV = above_BV | (inside_BV & ((p_BV == least_B1).cumsum(-1) <= wanted_B1))
    return p_BV * inside_BV


def choose_next_tokens(logits_BV: Tensor, rows: Sequence[DecodingRow], how: Decoding) -> list[int]:
    """The next token of every row.

    A sample is where the cumulative distribution, in the vocabulary's order, passes one uniform
    draw of the row's own. In the order of likelihood two near-equal tokens could swap places.
    """
    if how.greedy:
        return logits_BV.argmax(-1).tolist()
    cumulative_BV = filter_distribution(logits_BV, how).double().cumsum(-1)
    draws = [torch.rand(1, generator=row.draws, dtype=torch.float64) for row in rows]
    u_B1 = torch.stack(draws).to(cumulative_BV.device) * cumulative_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulative_BV, u_B1, right=True)
    return token_B1[:, 0].clamp(max=cumulative_BV.shape[-1] - 1).tolist()


def start_row(number: int, prompt: list[int], seed: int) -> DecodingRow:
    """A prompt with draws that depend on its number and the seed alone."""
    row = DecodingRow(number, list(prompt), len(prompt))
    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    row.draws.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return row


@torch.no_grad()
def decode_prompts(
    model: Any, prompts: dict[int, list[int]], batch_size: int, how: Decoding, keep: KeepIds
) -> None:
    """Continue every prompt, the longest first.

    Args:
        prompts: the ids of each, at least one, by the number that (with the seed) fixes its draws.
        batch_size: rows in the batch at most; finished ones leave, waiting ones take their places.
        keep: called as `keep(number, new_ids)` when a prompt is finished; the end token, where one
            came, is among the ids.
    """
    order = sorted(prompts, key=lambda number: (-len(prompts[number]), number))
    waiting = [start_row(number, prompts[number], how.seed) for number in order]
    if not has_plain_cache(model):
        return decode_by_generate(model, waiting, batch_size, how, keep)
    rows: list[DecodingRow] = []
    cache = make_spare_cache()
    while waiting or rows:
        free = batch_size - len(rows)
        if waiting and (not rows or free >= batch_size * REFILL_SHARE):
            fresh, newcomers, waiting = make_spare_cache(), waiting[:free], waiting[free:]
            newcomers = advance_rows(model, newcomers, fresh, how, keep)
            if not rows:
                cache = fresh
            elif newcomers:
                append_rows(cache, fresh)
            rows = rows + newcomers
        else:
            rows = advance_rows(model, rows, cache, how, keep)
    return None


def advance_rows(
    model: Any, rows: list[DecodingRow], cache: Cache, how: Decoding, keep: KeepIds
) -> list[DecodingRow]:
    """Give every row its next token; returns the rows that go on, as they lie in the cache."""
    old = cache.get_seq_length()
    new = [row.ids[-1:] if old else row.ids for row in rows]
    width = max(map(len, new))
    ids_BT = torch.tensor([[0] * (width - len(ids)) + ids for ids in new], device=model.device)
    lengths_B1 = torch.tensor([[len(row.ids)] for row in rows], device=model.device)
    places_BS = torch.arange(old + width, device=model.device) - (old + width - lengths_B1)
    inputs = {"attention_mask": (places_BS >= 0).long(), "past_key_values": cache}
    logits_BV = compute_last_logits(model, ids_BT, places_BS[:, old:].clamp(min=0), **inputs)
    finished = set()
    for i, (row, token) in enumerate(
        zip(rows, choose_next_tokens(logits_BV, rows, how), strict=True)
    ):
        row.ids.append(token)
        if token in how.ends or len(row.ids) - row.start >= how.room(row.start):
            finished.add(i)
            keep(row.number, row.ids[row.start :])
    return drop_finished_rows(cache, rows, finished) if finished else rows


def drop_finished_rows(
    cache: Cache, rows: list[DecodingRow], finished: set[int]
) -> list[DecodingRow]:
    """Move the last rows into the places of finished ones; drop columns that are padding to all."""
    count = len(rows) - len(finished)
    gaps = [i for i in range(count) if i in finished]
    movers = [i for i in range(count, len(rows)) if i not in finished]
    going = rows[:count]
    for gap, mover in zip(gaps, movers, strict=True):
        going[gap] = rows[mover]
    width = max((len(row.ids) - 1 for row in going), default=0)
    for layer in list_spare_layers(cache):
        end = layer.get_seq_length()
        if gaps:
            layer.write(gaps, slice(end), layer.keys[movers], layer.values[movers])
        keys, values = (buffer[:, :, end - width :] for buffer in layer.buffers)
        layer.hold(keys, values, count, width)
    return going


def append_rows(cache: Cache, fresh: Cache) -> None:
    """Put prefilled rows behind the others; as the longest prompts come first, they fit there."""
    for layer, new in zip(list_spare_layers(cache), list_spare_layers(fresh), strict=True):
        rows, _, end, _ = layer.keys.shape
        more, _, width, _ = new.keys.shape
        layer.write(slice(rows, rows + more), slice(end - width, end), new.keys, new.values)
        layer.hold(*layer.buffers, rows + more, end)


def decode_by_generate(
    model: Any, waiting: list[DecodingRow], batch_size: int, how: Decoding, keep: KeepIds
) -> None:
    """The same by transformers' `generate`, for models with a state that padding would enter.

    Only prompts of one length share a batch.
    """
    for length, group in itertools.groupby(waiting, lambda row: len(row.ids)):
        config = GenerationConfig(
            max_new_tokens=how.room(length),
            do_sample=False,
            eos_token_id=sorted(how.ends) or None,
            pad_token_id=0,
        )
        for rows in split_batches(list(group), batch_size):

            def only_chosen(_: Tensor, logits_BV: Tensor, rows: list[DecodingRow] = rows) -> Tensor:
                token_B = torch.tensor(
                    choose_next_tokens(logits_BV, rows, how), device=logits_BV.device
                )
                return torch.full_like(logits_BV, -torch.inf).scatter(-1, token_B[:, None], 0.0)

            ids_BT = torch.tensor([row.ids for row in rows], device=model.device)
            with without_generation_defaults(model):
                output_BT = model.generate(
                    input_ids=ids_BT,
                    attention_mask=torch.ones_like(ids_BT),
                    generation_config=config,
                    logits_processor=LogitsProcessorList([only_chosen]),  # type: ignore[list-item]
                )
            for row, new in zip(rows, output_BT[:, length:].tolist(), strict=True):
                size = next((i for i, token in enumerate(new, 1) if token in how.ends), len(new))
                keep(row.number, new[:size])


def split_batches(items: list[BatchItem], size: int) -> Iterator[list[BatchItem]]:
    """Consecutive parts of at most `size`."""
    return (items[i : i + size] for i in range(0, len(items), size))


@contextlib.contextmanager
def without_generation_defaults(model: Any) -> Iterator[None]:
    """Keep a model's own generation settings (a repetition penalty, say) out of `generate`."""
    inner = unwrap_adapter(model)
    kept, inner.generation_config = inner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = kept


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
    for place in range(min(rows), total - 1):
        joined = [row for length, row in rows.items() if length <= place]
        for layer in list_spare_layers(cache):
            layer.hold(*layer.buffers, len(joined), place)
        ids_B1 = torch.tensor([row[-1:] for row in joined], device=model.device)
        places_B1 = torch.full_like(ids_B1, place)
        logits_BV = compute_last_logits(model, ids_B1, places_B1, past_key_values=cache)
        for row, token in zip(joined, logits_BV.argmax(-1).tolist(), strict=True):
            row.append(token)
    return rows

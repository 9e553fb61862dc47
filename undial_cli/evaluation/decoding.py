"""Decoding engine: continues token-id prompts, greedily or by sampling, and a document from its
prefixes. Finished rows leave the batch; results do not depend on what shares it.

Knows a model from `load_model` and token ids; no text, no process and no metric.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicLayer

from undial_cli.losses.positions import upcast
from undial_cli.models import head_job

T = TypeVar("T")
Keep = Callable[[int, list[int]], None]

# Share of the places in a batch that are free before waiting prompts take them.
REFILL = 1 / 8
# Layer kinds whose whole state is keys and values by position.
PLAIN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "moe", "mlp"}
# How many of the likeliest tokens are sorted for the top-p set before all are.
LIKELIEST = 512
# Positions of a document whose logits exist at a time.
POSITIONS = 256


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    `ends`: ids that end an answer; `top_p`: None is greedy, else the smallest set of likeliest
    tokens with at least this probability is sampled from; `seed`: with a prompt's number it fixes
    the prompt's draws.
    """

    max_new_tokens: int
    ends: frozenset[int]
    top_p: float | None = None
    temperature: float = 1.0
    seed: int = 0


@dataclass
class Row:
    """One prompt on its way: its number, its ids so far, where the new ones begin, its draws."""

    number: int
    ids: list[int]
    start: int
    draws: torch.Generator = field(default_factory=torch.Generator)


class SpareLayer(DynamicLayer):
    """A cache layer inside larger buffers, so that tokens and rows come and go without a copy.

    `keys` and `values` [B, H, T, D], in use, are the first rows and columns of the buffers.
    """

    buffers: tuple[Tensor, Tensor]

    def hold(self, keys: Tensor, values: Tensor, rows: int, columns: int) -> None:
        """Take these buffers, and that many of their rows and columns in use."""
        self.buffers = (keys, values)
        self.keys, self.values = keys[:rows, :, :columns], values[:rows, :, :columns]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append columns to the rows in use."""
        rows, _, new, _ = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.hold(key_states, value_states, rows, new)
            return key_states, value_states
        old = self.get_seq_length()
        if old + new > self.buffers[0].shape[2]:
            spare = new + max(32, old // 4)
            self.buffers = tuple(F.pad(b[:, :, :old], (0, 0, 0, spare)) for b in self.buffers)
        self.write(slice(rows), slice(old, old + new), key_states, value_states)
        self.hold(*self.buffers, rows, old + new)
        return self.keys, self.values

    def write(self, rows: Any, columns: slice, keys: Tensor, values: Tensor) -> None:
        """Put keys and values at a place of the buffers."""
        self.buffers[0][rows, :, columns] = keys
        self.buffers[1][rows, :, columns] = values


def new_cache() -> Cache:
    """An empty cache that keeps every position, in layers with a window too."""
    return Cache(layer_class_to_replicate=SpareLayer)


def layers_of(cache: Cache) -> list[SpareLayer]:
    """The layers that hold anything (some models share keys and values between layers)."""
    return [x for x in cache.layers if isinstance(x, SpareLayer) and x.is_initialized]


def is_plain(model: Any) -> bool:
    """Whether keys and values are all the model remembers: no recurrent or convolution state."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    return not getattr(model, "_is_stateful", False) and kinds <= PLAIN_LAYERS


def positions(model: Any, positions_BT: Tensor) -> dict[str, Tensor]:
    """The argument that gives positions, where the model takes one (ALiBi models do not)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = "position_ids" in inspect.signature(inner.forward).parameters
    return {"position_ids": positions_BT} if known else {}


def top_p_probabilities(logits_BV: Tensor, top_p: float, temperature: float) -> Tensor:
    """Probabilities, those outside the top-p set at zero (not normalised again)."""
    p_BV = torch.softmax(upcast(logits_BV) / temperature, -1)
    if top_p >= 1:
        return p_BV
    p_BK, index_BK = p_BV.topk(min(LIKELIEST, p_BV.shape[-1]))
    if bool((p_BK.sum(-1) < top_p).any()):
        p_BK, index_BK = p_BV.sort(descending=True, stable=True)
    inside_BK = p_BK.cumsum(-1) - p_BK < top_p
    inside_BK[:, 0] = True
    return torch.zeros_like(p_BV).scatter(-1, index_BK, p_BK * inside_BK)


def choose(logits_BV: Tensor, rows: Sequence[Row], how: Decoding) -> list[int]:
    """The next token of every row.

    A sample is where the cumulative distribution, in the vocabulary's order, passes one uniform
    draw of the row's own. Likeliest first, two near-equal tokens could swap places.
    """
    if how.top_p is None:
        return logits_BV.argmax(-1).tolist()
    p_BV = top_p_probabilities(logits_BV, how.top_p, how.temperature)
    cumulative_BV = p_BV.double().cumsum(-1)
    draws = [torch.rand(1, generator=row.draws, dtype=torch.float64) for row in rows]
    u_B1 = torch.stack(draws).to(p_BV.device) * cumulative_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulative_BV, u_B1, right=True)
    return token_B1[:, 0].clamp(max=p_BV.shape[-1] - 1).tolist()


def new_row(number: int, prompt: list[int], seed: int) -> Row:
    """A prompt with draws that depend on its number and the seed alone."""
    row = Row(number, list(prompt), len(prompt))
    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    row.draws.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return row


@torch.no_grad()
def decode(
    model: Any, prompts: dict[int, list[int]], batch_size: int, how: Decoding, keep: Keep
) -> None:
    """Continue every prompt, the longest first.

    Args:
        prompts: the ids of each, at least one, by the number that (with the seed) fixes its draws.
        batch_size: rows in the batch at most; a finished one leaves, waiting ones take the places.
        keep: called as `keep(number, new_ids)` when a prompt is finished; the end token, where one
            came, is among the ids.
    """
    order = sorted(prompts, key=lambda number: (-len(prompts[number]), number))
    waiting = [new_row(number, prompts[number], how.seed) for number in order]
    if not is_plain(model):
        return decode_by_generate(model, waiting, batch_size, how, keep)
    rows: list[Row] = []
    cache = new_cache()
    with head_job(model, lambda hidden_BTD, project: project(hidden_BTD[:, -1:])):
        while waiting or rows:
            free = batch_size - len(rows)
            if waiting and (not rows or free >= batch_size * REFILL):
                fresh, newcomers, waiting = new_cache(), waiting[:free], waiting[free:]
                newcomers = advance(model, newcomers, fresh, how, keep)
                cache = join(cache, fresh) if rows else fresh
                rows += newcomers
            else:
                rows = advance(model, rows, cache, how, keep)
    return None


def advance(model: Any, rows: list[Row], cache: Cache, how: Decoding, keep: Keep) -> list[Row]:
    """Give every row its next token; returns the rows that go on, as they lie in the cache."""
    for row, token in zip(rows, choose(next_logits(model, rows, cache), rows, how), strict=True):
        row.ids.append(token)
    finished = {i for i, row in enumerate(rows) if is_finished(row, how)}
    for i in sorted(finished):
        keep(rows[i].number, rows[i].ids[rows[i].start :])
    return leave(cache, rows, finished) if finished else rows


def is_finished(row: Row, how: Decoding) -> bool:
    """Whether a row's last token was its last."""
    return row.ids[-1] in how.ends or len(row.ids) - row.start >= how.max_new_tokens


def next_logits(model: Any, rows: list[Row], cache: Cache) -> Tensor:
    """Feed the ids that are not in the cache yet, padded on the left; the last logits [B, V]."""
    old = cache.get_seq_length()
    new = [row.ids[-1:] if old else row.ids for row in rows]
    width = max(map(len, new))
    ids_BT = torch.tensor([[0] * (width - len(x)) + x for x in new], device=model.device)
    lengths_B1 = torch.tensor([[len(row.ids)] for row in rows], device=model.device)
    places_BS = torch.arange(old + width, device=model.device) - (old + width - lengths_B1)
    return model(
        input_ids=ids_BT,
        attention_mask=(places_BS >= 0).long(),
        past_key_values=cache,
        use_cache=True,
        **positions(model, places_BS[:, old:].clamp(min=0)),
    ).logits[:, -1]


def leave(cache: Cache, rows: list[Row], finished: set[int]) -> list[Row]:
    """Move the last rows into the places of finished ones; drop columns that are padding to all."""
    count = len(rows) - len(finished)
    gaps = [i for i in range(count) if i in finished]
    movers = [i for i in range(count, len(rows)) if i not in finished]
    for gap, mover in zip(gaps, movers, strict=True):
        rows[gap] = rows[mover]
    width = max((len(row.ids) - 1 for row in rows[:count]), default=0)
    for layer in layers_of(cache):
        end = layer.get_seq_length()
        if gaps:
            layer.write(gaps, slice(end), *(b[movers, :, :end] for b in layer.buffers))
        keys, values = (b[:, :, end - width :] for b in layer.buffers)
        layer.hold(keys, values, count, width)
    return rows[:count]


def join(cache: Cache, fresh: Cache) -> Cache:
    """Put newly prefilled rows behind the others; none is longer than the longest of those."""
    for layer, new in zip(layers_of(cache), layers_of(fresh), strict=True):
        rows, _, end, _ = layer.keys.shape
        more, _, width, _ = new.keys.shape
        layer.write(slice(rows, rows + more), slice(end - width, end), new.keys, new.values)
        layer.hold(*layer.buffers, rows + more, end)
    return cache


def decode_by_generate(
    model: Any, waiting: list[Row], batch_size: int, how: Decoding, keep: Keep
) -> None:
    """The same by transformers' `generate`, for models with a state that padding would enter.

    Only prompts of one length share a batch.
    """
    config = GenerationConfig(
        max_new_tokens=how.max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(how.ends) or None,
        pad_token_id=0,
    )
    for length, group in itertools.groupby(waiting, lambda row: len(row.ids)):
        for rows in in_batches(list(group), batch_size):
            ids_BT = torch.tensor([row.ids for row in rows], device=model.device)

            def forced(ids_BT: Tensor, scores_BV: Tensor, rows: list[Row] = rows) -> Tensor:
                chosen_B1 = torch.tensor(choose(scores_BV, rows, how), device=ids_BT.device)[
                    :, None
                ]
                return torch.full_like(scores_BV, -torch.inf).scatter(-1, chosen_B1, 0.0)

            with without_defaults(model):
                output_BT = model.generate(
                    input_ids=ids_BT,
                    attention_mask=torch.ones_like(ids_BT),
                    generation_config=config,
                    logits_processor=LogitsProcessorList([forced]),
                )
            for row, new in zip(rows, output_BT[:, length:].tolist(), strict=True):
                size = next((i for i, token in enumerate(new, 1) if token in how.ends), len(new))
                keep(row.number, new[:size])


def in_batches(items: list[T], size: int) -> Iterator[list[T]]:
    """Consecutive parts of at most `size`."""
    return (items[i : i + size] for i in range(0, len(items), size))


@contextlib.contextmanager
def without_defaults(model: Any) -> Iterator[None]:
    """Keep a model's own generation settings (a repetition penalty, say) out of `generate`."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kept, inner.generation_config = inner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = kept


@torch.no_grad()
def branch(
    model: Any, ids: list[int], prefixes: Sequence[int], batch_size: int
) -> tuple[list[int], dict[int, list[int]]]:
    """Greedy predictions for a document and greedy continuations of its prefixes.

    A continuation follows the document up to the first token that is not predicted; only from
    such tokens on is anything decoded, and continuations that reach the same one share it.

    Args:
        ids: the document, T ids.
        prefixes: lengths in 1..T-1.
        batch_size: continuations decoded together at most.

    Returns:
        The greedy next token after the true prefix, for positions 1..T-1 (one teacher-forced
        pass), and by prefix length p the T - p tokens that follow greedily (no token ends them).
    """
    cache = new_cache() if is_plain(model) else None
    predictions = predict(model, ids, cache)
    misses = [p for p in range(1, len(ids)) if predictions[p - 1] != ids[p]]
    ahead = {p: next((q for q in misses if q >= p), len(ids)) for p in prefixes}
    points = sorted(set(ahead.values()) - {len(ids)})
    tails: dict[int, list[int]] = {len(ids): []}
    if cache is None:
        for p in points:
            how = Decoding(len(ids) - p, frozenset())
            decode(model, {p: ids[:p]}, 1, how, tails.__setitem__)
    else:
        with head_job(model, lambda hidden_BTD, project: project(hidden_BTD[:, -1:])):
            for group in in_batches(points, batch_size):
                first = {p: predictions[p - 1] for p in group}
                tails.update(branch_group(model, cache, first, len(ids)))
    return predictions, {p: ids[p:q] + tails[q] for p, q in ahead.items()}


def predict(model: Any, ids: list[int], cache: Cache | None) -> list[int]:
    """The greedy next token after each of a document's true prefixes, in one pass."""

    def job(hidden_BTD: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        parts = hidden_BTD.split(POSITIONS, dim=1)
        return torch.cat([project(part).argmax(-1) for part in parts], dim=1)

    inputs = {} if cache is None else {"past_key_values": cache}
    with head_job(model, job):
        output = model(
            input_ids=torch.tensor([ids], device=model.device),
            use_cache=cache is not None,
            **inputs,
        )
    return output.logits[0, :-1].tolist()


def branch_group(
    model: Any, document: Cache, first: dict[int, int], total: int
) -> dict[int, list[int]]:
    """Greedy continuations to `total` ids of prefixes of one document, decoded together.

    All rows are at the same position: each holds the document's keys and values, and joins when
    the position is its prefix's end. So there is no padding.

    Args:
        document: the cache of the whole document.
        first: the first new token by prefix length, shortest prefix first.
    """
    cache, lengths = new_cache(), list(first)
    rows = [[token] for token in first.values()]
    for i, layer in enumerate(document.layers):
        if isinstance(layer, SpareLayer) and layer.is_initialized:
            cache.update(*(x.repeat(len(rows), 1, 1, 1) for x in layer.buffers), i)
    for place in range(lengths[0], total - 1):
        joined = sum(p <= place for p in lengths)
        for layer in layers_of(cache):
            layer.hold(*layer.buffers, joined, place)
        ids_B1 = torch.tensor([row[-1:] for row in rows[:joined]], device=model.device)
        logits_BV = model(
            input_ids=ids_B1,
            past_key_values=cache,
            use_cache=True,
            **positions(model, torch.full_like(ids_B1, place)),
        ).logits[:, -1]
        for row, token in zip(rows, logits_BV.argmax(-1).tolist(), strict=False):
            row.append(token)
    return dict(zip(lengths, rows, strict=True))

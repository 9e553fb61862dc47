"""Decoding engine: continues token-id prompts, greedily or by drawing.

Finished rows leave the batch, and no result depends on what else is in it. Knows a model from
`load_model` and token ids; no text, no process and no metric.

Shapes: B rows of the batch, T tokens of this pass, S positions in the cache, V vocabulary, K of
its likeliest tokens, D the model's width.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.cache_utils import Cache

from undial_cli.evaluation.kvcache import has_plain_cache, list_spare_layers, make_spare_cache
from undial_cli.losses.positions import upcast_half
from undial_cli.models.adapters import make_position_argument, unwrap_adapter
from undial_cli.models.head import head_job

KeepIds = Callable[[int, list[int]], None]

# Share of the batch that must be free before waiting prompts are prefilled: a prefill stops the
# rows that are decoding, and does not pay for a single one.
REFILL_SHARE = 1 / 4
# How many of the likeliest tokens are looked at for the top-p set; only where they do not make it
# up is the whole vocabulary sorted.
LIKELIEST_TOKENS = 4096


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

    def without_end(self, ids: list[int]) -> list[int]:
        """New ids without the end token that finished them."""
        return ids[:-1] if ids and ids[-1] in self.ends else ids


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
    # A token is inside if those before it do not reach top_p yet: the one that crosses it is too.
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
    # In double: in single precision small probabilities vanish in the sum over a vocabulary.
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
    """Continue every prompt, the longest first; of equal ones that begin together one is read.

    Args:
        prompts: the ids of each, at least one, by the number that (with the seed) fixes its draws.
        batch_size: rows in the batch at most; finished ones leave, waiting ones take their places.
        keep: called as `keep(number, new_ids)` when a prompt is finished; the end token, where one
            came, is among the ids.
    """
    # Equal prompts lie together, so that a prefill reads them once.
    order = sorted(prompts, key=lambda n: (-len(prompts[n]), prompts[n], n))
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
    logits_BV = (
        compute_row_logits(model, rows, cache)
        if cache.get_seq_length()
        else prefill_rows(model, rows, cache)
    )
    tokens, finished = choose_next_tokens(logits_BV, rows, how), set()
    for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        row.ids.append(token)
        if token in how.ends or len(row.ids) - row.start >= how.room(row.start):
            finished.add(i)
            keep(row.number, row.ids[row.start :])
    return drop_finished_rows(cache, rows, finished) if finished else rows


def compute_row_logits(model: Any, rows: Sequence[DecodingRow], cache: Cache) -> Tensor:
    """Logits [B, V] after every row; ids that the cache does not hold yet are read."""
    old = cache.get_seq_length()
    new = [row.ids[-1:] if old else row.ids for row in rows]  # whole prompts in a prefill
    width = max(map(len, new))
    # Padding is on the left, so that the newest tokens of all rows share a column of the cache.
    ids_BT = torch.tensor([[0] * (width - len(ids)) + ids for ids in new], device=model.device)
    lengths_B1 = torch.tensor([[len(row.ids)] for row in rows], device=model.device)
    positions_BS = torch.arange(old + width, device=model.device) - (old + width - lengths_B1)
    inputs = {"attention_mask": (positions_BS >= 0).long(), "past_key_values": cache}
    return compute_last_logits(model, ids_BT, positions_BS[:, old:].clamp(min=0), **inputs)


def prefill_rows(model: Any, rows: Sequence[DecodingRow], cache: Cache) -> Tensor:
    """Logits [B, V] after the prompts of all rows; of equal prompts one is read."""
    unique = {tuple(row.ids): row for row in rows}
    logits_BV = compute_row_logits(model, list(unique.values()), cache)
    if len(unique) == len(rows):
        return logits_BV
    numbers = {ids: i for i, ids in enumerate(unique)}
    chosen = [numbers[tuple(row.ids)] for row in rows]
    for layer in list_spare_layers(cache):
        keys, values = layer.keys[chosen], layer.values[chosen]
        layer.hold(keys, values, len(rows), keys.shape[2])
    return logits_BV[chosen]


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
            # `generate` asks us for each token: drawn by it, a row would depend on its batch.
            def only_chosen(_: Tensor, logits_BV: Tensor, rows: list[DecodingRow] = rows) -> Tensor:
                tokens = choose_next_tokens(logits_BV, rows, how)
                token_B = torch.tensor(tokens, device=logits_BV.device)
                return torch.full_like(logits_BV, -torch.inf).scatter(-1, token_B[:, None], 0.0)

            ids_BT = torch.tensor([row.ids for row in rows], device=model.device)
            with without_generation_defaults(model):
                # Not what FSDP puts in its place, which gathers weights outside of any forward.
                output_BT = type(model).generate(
                    model,
                    input_ids=ids_BT,
                    attention_mask=torch.ones_like(ids_BT),
                    generation_config=config,
                    logits_processor=LogitsProcessorList([only_chosen]),  # type: ignore[list-item]
                )
            for row, new in zip(rows, output_BT[:, length:].tolist(), strict=True):
                size = next((i for i, token in enumerate(new, 1) if token in how.ends), len(new))
                keep(row.number, new[:size])


def split_batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive parts of at most `size`."""
    return (items[i : i + size] for i in range(0, len(items), size))


@contextlib.contextmanager
def without_generation_defaults(model: Any) -> Iterator[None]:
    """Keep a model's own generation settings (a repetition penalty, say) out of `generate`."""
    inner = unwrap_adapter(model)
    settings, inner.generation_config = inner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = settings

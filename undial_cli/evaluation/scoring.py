"""Scoring engine: log-probabilities of given answers, batched by length, shared over processes.

The answers of one question share the forward pass of their common tokens, and only target
positions reach the vocabulary projection. Knows examples and a model, no metric.

Shapes: B rows of a batch, T tokens of this pass, P of the cached prompt, L = P + T; N target
positions (or prompts), V vocabulary, D width, F figures of a target: 2, or 4 with its distribution.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from undial_cli.data.collate import count_shared_tokens, pad_examples, pad_prompts
from undial_cli.data.example import Example
from undial_cli.evaluation.kvcache import has_plain_cache
from undial_cli.evaluation.sharding import (
    NO_JOURNAL,
    Jobs,
    Journal,
    KeepResult,
    batch_by_length,
    shard_work,
)
from undial_cli.losses.chunked import Projection
from undial_cli.losses.positions import IGNORE, select_targets
from undial_cli.models.adapters import make_position_argument
from undial_cli.models.head import head_job

# Logits that exist at one time, as a number of elements: 128 MiB in single precision.
LOGIT_ELEMENTS = 2**25
# Questions whose answers are sorted by length together: rows of this many batches.
BATCHES_PER_SPAN = 4


@dataclass(frozen=True)
class Score:
    """What teacher forcing says of one answer.

    `token_ce`: cross entropy of every target token in nats, the end token last; `matches`:
    whether each answer token is the greedy prediction, end token left out; `mean`, `variance`: of
    log q under the model's own distribution q at every target, where they were asked for.
    """

    token_ce: list[float]
    matches: list[bool]
    mean: list[float] = field(default_factory=list)
    variance: list[float] = field(default_factory=list)

    @property
    def ce(self) -> float:
        """Mean cross entropy, end token counted; NaN if there is no target."""
        return sum(self.token_ce) / len(self.token_ce) if self.token_ce else math.nan

    @property
    def tokens(self) -> int:
        """Number of target tokens."""
        return len(self.token_ce)


@torch.no_grad()
def score_answers(
    model: Any,
    groups: list[list[Example]],
    batch_size: int,
    pad_id: int,
    distribution: bool = False,
    journal: Journal = NO_JOURNAL,
    name: str = "",
) -> list[list[Score]]:
    """Score every example of every group, in the order given, each on exactly one process.

    Args:
        groups: examples that belong together, such as the answers to one question.
        batch_size: sequences per forward pass.
        distribution: also `mean` and `variance`.
        name: of the set, for the journal.
    """

    def run(numbers: Jobs, keep: KeepResult) -> None:
        sharing, wanted, dealt = has_plain_cache(model), set(numbers), numbers.dealt
        together = {n: groups[n] for n in dealt if sharing and count_shared_tokens(groups[n])}
        single = {n: groups[n] for n in dealt if n not in together}
        # In spans, since the common tokens of all groups of one stay in memory until it is scored.
        for part in (single, *split_spans(together, batch_size * BATCHES_PER_SPAN)):
            if wanted.isdisjoint(part):
                continue
            common = part is not single
            scored = score_in_batches(model, part, wanted, batch_size, pad_id, distribution, common)
            for n, scores in scored:
                keep(n, [dataclasses.asdict(score) for score in scores])

    sizes = [sum(len(e.input_ids) for e in group) for group in groups]
    results = shard_work(f"scores-{name}", sizes, run, journal)
    return [[Score(**fields) for fields in group] for group in results]


def split_spans(groups: dict[int, list[Example]], rows: int) -> Iterator[dict[int, list[Example]]]:
    """Groups in their order, so many together that they hold about `rows` examples."""
    span: dict[int, list[Example]] = {}
    for number, group in groups.items():
        span[number] = group
        if sum(map(len, span.values())) >= rows:
            yield span
            span = {}
    if span:
        yield span


def score_in_batches(
    model: Any,
    groups: dict[int, list[Example]],
    wanted: set[int],
    batch_size: int,
    pad_id: int,
    distribution: bool,
    sharing: bool,
) -> Iterator[tuple[int, list[Score]]]:
    """Batches of sequences, longest first; a wanted group is given out when all of it is scored.

    The others fill the batches as they did before. With `sharing` one pass over the common tokens
    of each group comes first, and the batches hold what differs.
    """
    starts = {n: count_shared_tokens(group) if sharing else 0 for n, group in groups.items()}
    prompts = [group[0].input_ids[: starts[n]] for n, group in groups.items()] if sharing else []
    cache, mask_NP = prefill_prompts(model, prompts, pad_id) if sharing else (None, None)
    rows = [(row, n) for row, (n, group) in enumerate(groups.items()) for _ in group]
    tails = [cut_shared_prefix(e, starts[n]) for n, group in groups.items() for e in group]
    scored: dict[int, dict[int, Score]] = {n: {} for n in groups}
    for chosen in batch_by_length([len(tail.input_ids) for tail in tails], batch_size):
        if wanted.isdisjoint(rows[i][1] for i in chosen):
            continue
        batch = move_batch(pad_examples([tails[i] for i in chosen], pad_id), model)
        mask_BL, prefix = batch["attention_mask"], None
        if cache is not None and mask_NP is not None:
            index_B = torch.tensor([rows[i][0] for i in chosen], device=model.device)
            mask_BL = torch.cat([mask_NP[index_B], mask_BL], dim=1)
            prefix = select_cache_rows(cache, index_B)
        figures = score_targets(
            model, batch["input_ids"], mask_BL, batch["labels"], distribution, prefix
        )
        for i, figures_Fn in zip(chosen, figures, strict=True):
            n = rows[i][1]
            scored[n][i] = make_score(figures_Fn, tails[i])
            if n in wanted and len(scored[n]) == len(groups[n]):
                yield n, [scored[n][j] for j in sorted(scored[n])]
    yield from ((n, []) for n, group in groups.items() if n in wanted and not group)


def prefill_prompts(
    model: Any, prompts: list[list[int]], pad_id: int
) -> tuple[DynamicCache, Tensor]:
    """Keys and values of prompts, and which of their positions are no padding: [N, P]."""
    cache, batch = DynamicCache(), move_batch(pad_prompts(prompts, pad_id), model)
    positions = make_position_argument(model, count_positions(batch["attention_mask"]))
    # Only the cache is wanted: the smallest result that a head's job may give.
    with head_job(model, lambda hidden_BTD, head: hidden_BTD[:, :1, :1]):
        model(**batch, past_key_values=cache, use_cache=True, **positions)
    return cache, batch["attention_mask"]


def move_batch(batch: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """A batch on the device of a model."""
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def count_positions(mask_BT: Tensor) -> Tensor:
    """Position of every token, counted from the first that is not padding: [B, T]."""
    return (mask_BT.cumsum(1) - 1).clamp(min=0)


def select_cache_rows(cache: DynamicCache, index_N: Tensor) -> DynamicCache:
    """A cache of its own that holds the given rows of another, in that order."""
    chosen = DynamicCache()
    layers: list[Any] = cache.layers
    for number, layer in enumerate(layers):
        chosen.update(layer.keys[index_N], layer.values[index_N], number)
    return chosen


def cut_shared_prefix(example: Example, start: int) -> Example:
    """An example without its first tokens."""
    return Example(example.input_ids[start:], example.labels[start:], example.answer_end - start)


def score_targets(
    model: Any,
    ids_BT: Tensor,
    mask_BL: Tensor,
    labels_BT: Tensor,
    distribution: bool,
    cache: DynamicCache | None = None,
) -> list[Tensor]:
    """Figures of the targets of every row, [F, n] each: CE, match (and mean, variance).

    `mask_BL` covers the cached tokens as well.
    """
    mask_BT, targets_N, _ = select_targets(labels_BT)

    def job(hidden_BTD: Tensor, head: Projection) -> Tensor:
        size = max(1, LOGIT_ELEMENTS // model.config.vocab_size)
        parts = zip(hidden_BTD[mask_BT].split(size), targets_N.split(size), strict=True)
        return torch.cat(
            [compute_target_figures(head.logits(h_ND), y_N, distribution) for h_ND, y_N in parts],
            dim=1,
        )

    extra: dict[str, Any] = {"use_cache": False}
    if cache is not None:
        # Rows begin after prompts of different lengths: the model cannot count positions itself.
        positions_BT = count_positions(mask_BL)[:, -ids_BT.shape[1] :]
        extra = {"past_key_values": cache, "use_cache": True}
        extra |= make_position_argument(model, positions_BT)
    with head_job(model, job):
        figures_FN = model(input_ids=ids_BT, attention_mask=mask_BL, **extra).logits
    return list(figures_FN.cpu().split(mask_BT.sum(1).tolist(), dim=1))


def compute_target_figures(logits_NV: Tensor, targets_N: Tensor, distribution: bool) -> Tensor:
    """CE and match of every target, and with `distribution` mean and variance of log q: [F, N]."""
    figures = [
        F.cross_entropy(logits_NV, targets_N, reduction="none"),
        logits_NV.argmax(-1) == targets_N,
    ]
    if distribution:
        log_q_NV = logits_NV.log_softmax(-1)
        q_NV = log_q_NV.exp()
        mean_N = (q_NV * log_q_NV).sum(-1).double()
        figures += [mean_N, (q_NV * log_q_NV.square()).sum(-1) - mean_N.square()]
    return torch.stack([figure_N.double() for figure_N in figures])


def make_score(figures: Tensor, example: Example) -> Score:
    """Figures [2 or 4, n] as a Score."""
    ce, matches, *moments = figures.tolist()
    answer_tokens = sum(y != IGNORE for y in example.labels[1 : example.answer_end])
    return Score(ce, [match > 0 for match in matches[:answer_tokens]], *moments)


def compute_gradient_norms(
    model: Any, examples: list[Example], journal: Journal = NO_JOURNAL, name: str = ""
) -> list[float | None]:
    """Mean over parameter tensors of the L2 norm of the gradient of each answer's mean CE.

    The end token is left out; None where an answer has no token or a model no parameter to train.
    No `.grad` is touched.
    """

    def run(numbers: list[int], keep: KeepResult) -> None:
        for n in numbers:
            keep(n, compute_gradient_norm(model, examples[n]))

    sizes = [len(e.input_ids) for e in examples]
    return shard_work(f"gradients-{name}", sizes, run, journal)


@torch.enable_grad()
def compute_gradient_norm(model: Any, example: Example) -> float | None:
    """`gradient_norms` of one example."""
    end = example.answer_end
    labels = torch.tensor([example.labels[:end]], device=model.device)
    mask_BT, targets_N, _ = select_targets(labels)
    weights = [p for p in model.parameters() if p.requires_grad]
    if not len(targets_N) or not weights:
        return None

    def job(hidden_BTD: Tensor, head: Projection) -> Tensor:
        return F.cross_entropy(head.logits(hidden_BTD[mask_BT]), targets_N)

    ids = torch.tensor([example.input_ids[:end]], device=model.device)
    with head_job(model, job):
        loss = model(input_ids=ids, use_cache=False).logits
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    norms = [g.norm() for g in gradients if g is not None]
    return float(torch.stack([n.double() for n in norms]).mean())

"""How deep an answer was erased: the target is given another model's states, layer by layer.

The unlearning depth score (arXiv 2605.24614; definition checked against the authors' code). Where
the target predicts the words that count in an answer, what one of its layers gives is replaced by
what that layer of another model gives. D1 is by how much the mean log-probability of these words
falls with the retain model's states, D2 with the unlearned model's; layers of D1 > 0.05 count, and

    depth = sum_l D1_l * clip(D2_l / D1_l, 0, 1) / sum_l D1_l

is 0 where the unlearned model holds all that the target knows and 1 where it holds as little as the
retain model; an answer without a layer that counts has none. The score is 1 - depth: what is
intact. Other than there, answers are asked in the model's own format, not after "Question:"; words
may stand apart; where nobody says which words count, all of the answer does; and the last layer is
treated as the others (there its states are put through the final norm a second time).

States mean something to the target only where both models come from one: those of a model of
another origin disturb it whatever they hold, and depth would call them erased. Such a model has no
depth; that it is one shows in its last layer's states, which the target's head reads far worse than
the model's own does.

Shapes: J answers, or pieces of documents; L layers, n targets of one, N of a batch; D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from undial_cli.audit.answer_spans import encode_answer_spans
from undial_cli.audit.attack import AttackedModel, AttackKind, AuditData, CannotServe, Outcome
from undial_cli.audit.layer_states import (
    collect_layer_states,
    list_decoder_layers,
    replace_layer_states,
)
from undial_cli.config.attacks import RETAIN, TARGET, DepthConfig
from undial_cli.data.collate import choose_pad_id, pad_examples
from undial_cli.data.example import Example
from undial_cli.evaluation.kvcache import has_plain_cache
from undial_cli.evaluation.scoring import (
    cut_shared_prefix,
    move_batch,
    prefill_prompts,
    score_targets,
    select_cache_rows,
)
from undial_cli.evaluation.sharding import Jobs, Journal, KeepResult, batch_by_length, shard_work
from undial_cli.losses.positions import IGNORE, predicting_mask

# What is left of what the target knows: 1 - depth.
INTACT = "intact"
Matrix = NDArray[np.float64]


def check_spans(data: AuditData, config: DepthConfig) -> None:
    """Raise CannotServe where no answer has words that count, or no retain model is attacked."""
    if RETAIN not in config.models:
        raise CannotServe("measures by what the retain model lacks, which its `models` leave out")
    encode_answer_spans(data, config.spans)


def patch_target(
    attacked: AttackedModel, data: AuditData, config: DepthConfig, journal: Journal
) -> Outcome:
    """Falls of the target's log-probability by layer, in `curves`; `compute_depths` ends it.

    Raises:
        CannotServe: the layers of the two models are not alike, or not in one list.
    """
    spans, notes = encode_answer_spans(data, config.spans)
    pad_id = choose_pad_id(data.encoder.tokenizer)
    falls = measure_falls(attacked, [span.example for span in spans], pad_id, journal)
    curves = {
        "row": [span.row for span in spans],
        "lack": [of_answer[0] for of_answer in falls],
        "falls": [of_answer[1:] for of_answer in falls],
    }
    return Outcome(list(data.numbers), {}, curves=curves, notes=notes)


def measure_falls(
    attacked: AttackedModel, examples: list[Example], pad_id: int, journal: Journal
) -> list[list[float]]:
    """By how much less likely each answer is, in mean log-probability, than to the target.

    To the model itself, and to the target with each of its layers' states: [J][1 + L].
    """

    def run(numbers: Jobs, keep: KeepResult) -> None:
        if not numbers:  # no model need be loaded
            return
        lengths, wanted = [len(examples[n].input_ids) for n in numbers.dealt], set(numbers)
        # Both models see the same batches: the target's own states change nothing, to the bit.
        batches = [
            [numbers.dealt[i] for i in chosen]
            for chosen in batch_by_length(lengths, attacked.batch_size)
        ]
        batches = [batch for batch in batches if not wanted.isdisjoint(batch)]
        of_batches = [[examples[n] for n in batch] for batch in batches]
        # Of all batches before the target is loaded, as two models do not fit.
        read = read_span_states(attacked, of_batches, pad_id)
        target = attacked.others[TARGET].model
        for batch, of_batch, source in zip(batches, of_batches, read, strict=True):
            falls = patch_batch(target, of_batch, source, pad_id)
            for n, of_answer in zip(batch, falls, strict=True):
                if n in wanted:
                    keep(n, of_answer)

    return shard_work("depth", [len(e.input_ids) for e in examples], run, journal)


@dataclass(frozen=True)
class SpanBatch:
    """Sequences that end with their span, from the first position that predicts a part of it.

    `prompts`: keys and values of what precedes, which no layer's states change; None for a model
    without such a cache, whose sequences are whole.
    """

    ids_BT: Tensor
    labels_BT: Tensor
    mask_BL: Tensor
    prompts: DynamicCache | None

    @property
    def mask_BT(self) -> Tensor:
        """The positions that predict the span's tokens."""
        return predicting_mask(self.labels_BT)

    def score(self, model: Any) -> list[float]:
        """The mean log-probability of each span's tokens, [B]."""
        cache = self.prompts
        if cache is not None:  # a pass adds to what it is given
            cache = select_cache_rows(cache, torch.arange(len(self.ids_BT), device=model.device))
        figures = score_targets(model, self.ids_BT, self.mask_BL, self.labels_BT, False, cache)
        return [-float(figures_Fn[0].mean()) for figures_Fn in figures]


def prepare_batch(model: Any, examples: list[Example], pad_id: int) -> SpanBatch:
    """A batch, with what precedes the spans run once."""
    starts = [next(i for i, y in enumerate(e.labels) if y != IGNORE) - 1 for e in examples]
    sharing = has_plain_cache(model) and min(starts) > 0
    tails = [
        cut_shared_prefix(e, n if sharing else 0) for e, n in zip(examples, starts, strict=True)
    ]
    batch, cache = move_batch(pad_examples(tails, pad_id), model), None
    mask_BL = batch["attention_mask"]
    if sharing:
        prompts = [e.input_ids[:n] for e, n in zip(examples, starts, strict=True)]
        cache, mask_BP = prefill_prompts(model, prompts, pad_id)
        mask_BL = torch.cat([mask_BP, mask_BL], dim=1)
    return SpanBatch(batch["input_ids"], batch["labels"], mask_BL, cache)


@dataclass(frozen=True)
class SpanStates:
    """What a model says of a batch: `scores` of its spans [B], and the states by layer."""

    scores: list[float]
    states_LND: list[Tensor]


@torch.no_grad()
def read_span_states(
    attacked: AttackedModel, batches: list[list[Example]], pad_id: int
) -> list[SpanStates]:
    """What a model's layers give where spans are predicted, of each batch.

    In main memory and in the model's own precision.
    """
    model = attacked.model
    layers, read = list_decoder_layers(model), []
    for examples in batches:
        batch = prepare_batch(model, examples, pad_id)
        with collect_layer_states(layers, batch.mask_BT) as states:
            scores = batch.score(model)
        read.append(SpanStates(scores, [states[n].cpu() for n in range(len(layers))]))
    return read


@torch.no_grad()
def patch_batch(
    target: Any, examples: list[Example], source: SpanStates, pad_id: int
) -> list[list[float]]:
    """What the source lacks of each example's span, and the target with its states: [B][1 + L]."""
    layers, width = list_decoder_layers(target), target.config.get_text_config().hidden_size
    states_LND = source.states_LND
    if len(states_LND) != len(layers) or states_LND[0].shape[1] != width:
        raise CannotServe(
            f"its {len(states_LND)} layers of width {states_LND[0].shape[1]} do not fit the "
            f"target's {len(layers)} of width {width}"
        )
    batch = prepare_batch(target, examples, pad_id)
    whole = np.array(batch.score(target))
    falls = [whole - source.scores]
    for layer, states_ND in zip(layers, states_LND, strict=True):
        with replace_layer_states(layer, batch.mask_BT, states_ND):
            falls.append(whole - batch.score(target))
    return np.transpose(falls).tolist()


def compute_depths(outcomes: dict[str, Outcome], config: DepthConfig) -> None:
    """The scores of all rows, from the falls with all models' states.

    Curves: mean depth, and the mean falls by layer of the answers that have one.
    """
    raw = {role: outcome.curves for role, outcome in outcomes.items()}
    foreign = {
        role: is_foreign(curves["lack"], curves["falls"], config.foreign_fall)
        for role, curves in raw.items()
    }
    for role, outcome in outcomes.items():
        outcome.scores[INTACT], outcome.curves = [None] * len(outcome.numbers), {}
        if RETAIN in raw and not (foreign[RETAIN] or foreign[role]):
            add_depths(outcome, raw[RETAIN]["falls"], config.threshold, **raw[role])
        elif RETAIN in raw:
            outcome.notes.append(
                f"the {RETAIN if foreign[RETAIN] else role} model's states disturb the target "
                "more than the model lacks: it is of another origin, and has no depth"
            )


def is_foreign(lack: list[float], falls: list[list[float]], limit: float) -> bool:
    """Whether a model's states mean nothing to the target: the last layer's say it."""
    last = np.array(falls, dtype=np.float64)[:, -1].mean()
    return bool(last > limit * max(np.array(lack, dtype=np.float64).mean(), 1.0))


def add_depths(
    outcome: Outcome,
    retain_falls: list[list[float]],
    threshold: float,
    row: list[int],
    lack: list[float],
    falls: list[list[float]],
) -> None:
    """The depth of every row, of one in several pieces that of the piece most intact."""
    first_JL = np.array(retain_falls, dtype=np.float64)
    second_JL, rows = np.array(falls, dtype=np.float64), np.array(row)
    depth_J = average_erasure(first_JL, second_JL, threshold)
    known_J = np.isfinite(depth_J)
    for number in set(rows[known_J].tolist()):
        outcome.scores[INTACT][number] = float(1 - depth_J[known_J & (rows == number)].min())
    if known_J.any():
        outcome.curves = {
            "depth": float(depth_J[known_J].mean()),
            "fall": second_JL[known_J].mean(0).tolist(),
            "retain_fall": first_JL[known_J].mean(0).tolist(),
        }
    without = outcome.scores[INTACT].count(None)
    if without:
        outcome.notes.append(
            f"{without} of {len(outcome.numbers)} rows have no depth: no words that count, or "
            "no layer in which the target knows more of them than the retain model"
        )


def average_erasure(first_JL: Matrix, second_JL: Matrix, threshold: float) -> Matrix:
    """The depth of every answer [J], NaN where no layer counts.

    Args:
        first_JL, second_JL: falls with the retain model's and with the other model's states.
        threshold: of the former, for a layer to count.
    """
    weight_JL = np.where(first_JL > threshold, first_JL, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share_JL = np.where(weight_JL > 0, np.clip(second_JL / first_JL, 0.0, 1.0), 0.0)
        return (weight_JL * share_JL).sum(1) / weight_JL.sum(1)


DEPTH = AttackKind(patch_target, check_spans, compute_depths, compares=(TARGET, RETAIN))

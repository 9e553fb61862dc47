"""Looks into a model: what every layer's states, through the final norm and head, say of an answer.

The logit lens. An answer that the last layers hide may still stand in those before them. The last
layer is the model's own output, so that no row scores lower than when it is asked directly, and the
scores are those of asking: what a layer gives away is measured on one scale with what an answer
does. Of a row's layers the best counts, for each score by itself, on the retain model as well.

Shapes: B sequences, T tokens, N target positions, D width, L layers, F figures of a target.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from undial_cli.audit.answers import SCORED, score_true_answer, take_best_probes
from undial_cli.audit.attack import AttackedModel, AttackKind, AuditData, Outcome
from undial_cli.audit.layer_states import (
    collect_layer_states,
    find_final_modules,
    list_decoder_layers,
)
from undial_cli.audit.probes import make_direct_probes
from undial_cli.config.attacks import LensConfig
from undial_cli.data.collate import choose_pad_id, pad_examples
from undial_cli.data.example import Example
from undial_cli.evaluation.scoring import (
    LOGIT_ELEMENTS,
    compute_target_figures,
    make_score,
    move_batch,
)
from undial_cli.evaluation.sharding import Jobs, Journal, KeepResult, batch_by_length, shard_work
from undial_cli.losses.chunked import Projection
from undial_cli.losses.positions import select_targets
from undial_cli.models.head import head_job

# What a layer says of an answer: the scores of asking, and the mean rank of its tokens (1: first).
LayerFigures = dict[str, float]
RANK = "rank"


def look_through_lens(
    attacked: AttackedModel, data: AuditData, config: LensConfig, journal: Journal
) -> Outcome:
    """Scores of every row at its best layer; curves: their means, and the mean rank, by layer."""
    probes = make_direct_probes(data)
    examples = [probe.item.answers["answer"][0] for probe in probes]
    by_layer = score_layers(attacked, examples, choose_pad_id(data.encoder.tokenizer), journal)
    values = [
        {
            name: max(known)
            for name in SCORED
            if (known := [figures[name] for figures in layers if name in figures])
        }
        for layers in by_layer
    ]
    outcome = take_best_probes(data, probes, values, [])
    outcome.curves = {name: average_by_layer(by_layer, name) for name in (*SCORED, RANK)}
    return outcome


def average_by_layer(by_layer: list[list[LayerFigures]], name: str) -> list[float | None]:
    """The mean of a figure over all answers that have it, [L]; the last is the model's output."""
    means = []
    for figures in zip(*(layers for layers in by_layer if layers), strict=True):
        known = [of_answer[name] for of_answer in figures if name in of_answer]
        means.append(float(np.mean(known)) if known else None)
    return means


def score_layers(
    attacked: AttackedModel, examples: list[Example], pad_id: int, journal: Journal
) -> list[list[LayerFigures]]:
    """What every layer says of every example's answer, [L] each; [] for one without a token.

    Raises:
        CannotServe: the model has no one list of layers, or more than a norm after them.
    """

    def run(numbers: Jobs, keep: KeepResult) -> None:
        if not numbers:  # the model need not even be loaded
            return
        model = attacked.model
        layers = list_decoder_layers(model)
        final = find_final_modules(model, layers)
        lengths, wanted = [len(examples[n].input_ids) for n in numbers.dealt], set(numbers)
        for places in batch_by_length(lengths, attacked.batch_size):
            chosen = [numbers.dealt[i] for i in places]
            if wanted.isdisjoint(chosen):
                continue
            batch = [examples[n] for n in chosen]
            figures = compute_layer_figures(model, layers, final, batch, pad_id)
            for n, example, figures_LFn in zip(chosen, batch, figures, strict=True):
                if n in wanted:
                    keep(n, [describe_layer(part, example) for part in figures_LFn])

    return shard_work("lens", [len(e.input_ids) for e in examples], run, journal)


@torch.no_grad()
def compute_layer_figures(
    model: Any,
    layers: list[nn.Module],
    final: nn.Module,
    examples: list[Example],
    pad_id: int,
) -> list[Tensor]:
    """CE, match and rank of the targets of each example at every layer: [L, F, n] each."""
    batch = move_batch(pad_examples(examples, pad_id), model)
    mask_BT, targets_N, _ = select_targets(batch["labels"])

    def job(hidden_BTD: Tensor, head: Projection) -> Tensor:
        # The last layer's states are on their way to the head already.
        below = [final(states[n][None])[0] for n in range(len(layers) - 1)]
        return torch.stack(
            [rank_targets(head, h_ND, targets_N) for h_ND in (*below, hidden_BTD[mask_BT])]
        )

    with collect_layer_states(layers, mask_BT) as states, head_job(model, job):
        figures_LFN = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits
    return list(figures_LFN.cpu().split(mask_BT.sum(1).tolist(), dim=-1))


def rank_targets(head: Projection, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """CE, match and rank of every target, given what the head is given: [F, N].

    The rank counts the tokens that are likelier, and itself.
    """
    size = max(1, LOGIT_ELEMENTS // head.weight_VD.shape[0])
    figures = []
    for h_CD, y_C in zip(hidden_ND.split(size), targets_N.split(size), strict=True):
        logits_CV = head.logits(h_CD)
        rank_C = (logits_CV > logits_CV.gather(-1, y_C[:, None])).sum(-1) + 1
        figures.append(
            torch.cat([compute_target_figures(logits_CV, y_C, False), rank_C.double()[None]])
        )
    return torch.cat(figures, dim=1)


def describe_layer(figures_Fn: Tensor, example: Example) -> LayerFigures:
    """Figures of one answer at one layer, its end token left out of all but the probability."""
    score = make_score(figures_Fn[:2], example)
    ranks = figures_Fn[2, : len(score.matches)].tolist()
    figures = score_true_answer(score)
    return figures | {RANK: float(np.mean(ranks))} if figures else {}


LENS = AttackKind(look_through_lens)

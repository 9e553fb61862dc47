"""leak@k: the question asked many times, answers drawn, and what the best of k has to tell.

As arXiv 2511.04934 asks it: greedy answers of an unlearned model can be clean and its distribution
not. The verdict rests on `hit`: the best of many drawn answers shares ever more words with the
true one, whoever gives them, while its names and numbers come to nobody by chance.

n are the answers that are drawn to each question.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from undial_cli.audit.answers import (
    GENERATED,
    choose_decoding,
    read_answer,
    score_text,
    take_best_probes,
)
from undial_cli.audit.attack import AttackedModel, AttackKind, AuditData, Outcome
from undial_cli.audit.probes import make_direct_probes
from undial_cli.config.attacks import SamplingConfig
from undial_cli.evaluation.generation import generate_answers
from undial_cli.evaluation.sharding import Journal


def expect_best_of(scores: Sequence[float], k: int) -> float:
    """The expected maximum over k of n scores, drawn without putting any back.

    Unbiased for the best of k fresh answers. The i-th smallest is the best of C(i-1, k-1) of the
    C(n, k) subsets; of a binary score it is 1 - C(n-c, k) / C(n, k), c of n being 1.

    Args:
        k: from 1 to n.
    """
    n = len(scores)
    if not 1 <= k <= n:
        raise ValueError(f"the best of {k} of {n} scores")
    subsets = math.comb(n, k)
    return math.fsum(
        score * (math.comb(i, k - 1) / subsets) for i, score in enumerate(sorted(scores))
    )


def list_budgets(n: int) -> list[int]:
    """The numbers of answers that are looked at: 1, 2, 4 ... and n."""
    return [*(2**i for i in range(n.bit_length()) if 2**i < n), n]


def sample_answers(
    attacked: AttackedModel, data: AuditData, config: SamplingConfig, journal: Journal
) -> Outcome:
    """Many drawn answers to every question; scores are those of the best of all."""
    probes = [p for p in make_direct_probes(data, config.max_new_tokens) if p.item.prompt_ids]
    how, generator = choose_decoding(attacked.model, data, probes, config.max_new_tokens)
    how = dataclasses.replace(
        how, top_p=config.top_p, temperature=config.temperature, seed=attacked.seed
    )
    # Draws are fixed by an answer's number: in this order, the first of many are those of few.
    prompts = [probe.item.prompt_ids for _ in range(config.samples) for probe in probes]
    size = attacked.batch_size
    drawn = generate_answers(generator, "sampling", prompts, how, size, journal)
    repeated = probes * config.samples
    texts = [read_answer(data, probe, ids) for probe, ids in zip(repeated, drawn, strict=True)]
    values = [score_text(probe, text) for probe, text in zip(repeated, texts, strict=True)]
    outcome = take_best_probes(data, repeated, values, texts)
    outcome.curves = compute_curves(values, len(probes), config.samples)
    return outcome


def compute_curves(values: list[dict[str, float]], probes: int, n: int) -> dict[str, Any]:
    """What the best of k answers is expected to score, by k; the mean over probes.

    Args:
        values: scores of all drawn answers, n times one of each probe.
    """
    budgets = list_budgets(n)
    curves: dict[str, list[Any]] = {"k": budgets}
    for name in GENERATED:
        of_probes = [
            [scores[name] for scores in values[i::probes] if name in scores] for i in range(probes)
        ]
        known = [scores for scores in of_probes if len(scores) == n]  # a probe has it or has it not
        if known:
            curves[name] = [
                float(np.mean([expect_best_of(scores, k) for scores in known])) for k in budgets
            ]
    return curves


SAMPLING = AttackKind(sample_answers)

"""Metrics that need a second model (oracle, embedder, classifier) or another library's tasks.

A helper that cannot be had does not end an evaluation: its metric is missing, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation import text_quality
from undial_cli.evaluation.catalog import METRICS
from undial_cli.evaluation.evidence import Evaluation, Evidence
from undial_cli.evaluation.prompts import PromptItem
from undial_cli.system import processes

if TYPE_CHECKING:
    from undial_cli.evaluation.suite import Suite

EvidencePairs = list[tuple[PromptItem, Evidence]]
# The items of every set, each with what was found of it.
SetEvidence = dict[str, EvidencePairs]
HelperFigures = list[float | None]


def join_with_prompt(item: PromptItem, text: str) -> str:
    """A prompt and what follows it; the parts of a document hold the blank between them."""
    return item.prompt + text if item.document else f"{item.prompt} {text}"


def score_perplexity(
    pairs: EvidencePairs, path: str, suite: Suite, device: torch.device
) -> HelperFigures:
    """Mean cross entropy of prompt and continuation together, under the oracle model."""
    texts = [join_with_prompt(item, found.generation or "") for item, found in pairs]
    model, tokenizer = text_quality.load_language_model(path, "eval.oracle_model", device)
    config = suite.config
    nll, tokens = text_quality.measure_perplexity(
        texts, model, tokenizer, config.batch_size, max_tokens=config.oracle_tokens
    )
    return [
        total / count if count else None
        for total, count in zip(nll.tolist(), tokens.tolist(), strict=True)
    ]


def score_similarity(
    pairs: EvidencePairs, path: str, suite: Suite, device: torch.device
) -> HelperFigures:
    """Cosine of the embeddings of the continuation and of the true text."""
    made, true = [f.generation or "" for _, f in pairs], [item.reference for item, _ in pairs]
    size = suite.config.batch_size
    return processes.run_on_main(
        lambda: text_quality.measure_similarity(made, true, path, device, size).tolist()
    )


def score_coherence(
    pairs: EvidencePairs, path: str, suite: Suite, device: torch.device
) -> HelperFigures:
    """Cosine of the embeddings of the prompt and of the continuation."""
    asked, made = [item.prompt for item, _ in pairs], [f.generation or "" for _, f in pairs]
    size, most, key = suite.config.batch_size, suite.config.coherence_tokens, "eval.coherence_model"
    return processes.run_on_main(
        lambda: text_quality.measure_similarity(asked, made, path, device, size, key, most).tolist()
    )


def score_mauve(
    pairs: EvidencePairs, path: str, suite: Suite, device: torch.device
) -> HelperFigures:
    """One figure for the set: how alike true and generated texts are distributed."""
    true = [join_with_prompt(item, item.reference) for item, _ in pairs]
    made = [join_with_prompt(item, found.generation or "") for item, found in pairs]
    size, seed = suite.config.batch_size, suite.seed
    value = processes.run_on_main(
        lambda: text_quality.measure_mauve(true, made, path, device, size, seed)
    )
    return [value] * len(pairs)


def score_gibberish(
    pairs: EvidencePairs, path: str, suite: Suite, device: torch.device
) -> HelperFigures:
    """Probability of the classifier's first class (clean text) for each generation."""
    made = [found.generation or "" for _, found in pairs]
    size, most = suite.config.batch_size, suite.config.gibberish_tokens
    return processes.run_on_main(
        lambda: text_quality.classify_texts(made, path, device, size, max_tokens=most).tolist()
    )


# What gives the figures of generations, by the key that names its model and that a metric needs.
HELPER_MODELS: dict[str, Callable[..., HelperFigures]] = {
    "oracle_model": score_perplexity,
    "similarity_model": score_similarity,
    "coherence_model": score_coherence,
    "mauve_model": score_mauve,
    "gibberish_model": score_gibberish,
}


def apply_helper_models(suite: Suite, model: Any, found: SetEvidence) -> dict[str, str]:
    """Add the figures of helper models to what was found; returns what is missing, and why."""
    missing = {}
    for key, run in HELPER_MODELS.items():
        metric = next(metric for metric in METRICS.values() if key in metric.needs)
        for name, rows in found.items():
            if key not in suite.needs(name):
                continue
            pairs = [pair for pair in rows if pair[1].generation is not None]
            try:
                path = getattr(suite.config, key)
                if path is None:
                    raise UserError(f"eval.{key} is not set")
                text_quality.check_quality_libraries(f"eval.{key}")
                values = run(pairs, path, suite, model.device)
                for (_, evidence), value in zip(pairs, values, strict=True):
                    evidence.figures[metric.key] = value
            except (UserError, WorldError) as error:
                missing[f"{name}_{metric.name}"] = str(error)
    return missing


def add_harness_tasks(suite: Suite, model: Any, evaluation: Evaluation) -> dict[str, str]:
    """Add the tasks of lm-evaluation-harness; returns what is missing, and why."""
    config = suite.config
    if not config.harness.tasks:
        return {}
    from undial_cli.evaluation import harness as tasks

    figures, missing, statistics = tasks.run_harness_tasks(
        model, suite.encoder.tokenizer, config.harness, config.limit, config.batch_size, suite.seed
    )
    evaluation.metrics |= figures
    evaluation.missing |= missing
    evaluation.statistics |= statistics
    return missing

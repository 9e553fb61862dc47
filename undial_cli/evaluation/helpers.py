"""Metrics that need a second model (oracle, embedder, classifier) or another library's tasks.

A helper that cannot be had does not end an evaluation: its metric is missing, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from undial_cli import distributed
from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation import quality
from undial_cli.evaluation.catalog import METRICS
from undial_cli.evaluation.evidence import Evaluation, Evidence
from undial_cli.evaluation.items import Item

if TYPE_CHECKING:
    from undial_cli.evaluation.suite import Suite

Pairs = list[tuple[Item, Evidence]]
# The items of every set, each with what was found of it.
Found = dict[str, Pairs]
Figures = list[float | None]


def whole_text(item: Item, text: str) -> str:
    """A prompt and what follows it; the parts of a document hold the blank between them."""
    return item.prompt + text if item.document else f"{item.prompt} {text}"


def perplexity(pairs: Pairs, path: str, suite: Suite, device: torch.device) -> Figures:
    """Mean cross entropy of prompt and continuation together, under the oracle model."""
    texts = [whole_text(item, found.generation or "") for item, found in pairs]
    model, tokenizer = quality.language_model(path, "eval.oracle_model", device)
    config = suite.config
    nll, tokens = quality.perplexity(
        texts, model, tokenizer, config.batch_size, max_tokens=config.oracle_tokens
    )
    return [
        total / count if count else None
        for total, count in zip(nll.tolist(), tokens.tolist(), strict=True)
    ]


def similarity(pairs: Pairs, path: str, suite: Suite, device: torch.device) -> Figures:
    """Cosine of the embeddings of the continuation and of the true text."""
    made, true = [f.generation or "" for _, f in pairs], [item.reference for item, _ in pairs]
    size = suite.config.batch_size
    return distributed.on_main(lambda: quality.similarity(made, true, path, device, size).tolist())


def coherence(pairs: Pairs, path: str, suite: Suite, device: torch.device) -> Figures:
    """Cosine of the embeddings of the prompt and of the continuation."""
    asked, made = [item.prompt for item, _ in pairs], [f.generation or "" for _, f in pairs]
    size, most, key = suite.config.batch_size, suite.config.coherence_tokens, "eval.coherence_model"
    return distributed.on_main(
        lambda: quality.similarity(asked, made, path, device, size, key, most).tolist()
    )


def mauve(pairs: Pairs, path: str, suite: Suite, device: torch.device) -> Figures:
    """One figure for the set: how alike true and generated texts are distributed."""
    true = [whole_text(item, item.reference) for item, _ in pairs]
    made = [whole_text(item, found.generation or "") for item, found in pairs]
    size, seed = suite.config.batch_size, suite.seed
    value = distributed.on_main(lambda: quality.mauve(true, made, path, device, size, seed))
    return [value] * len(pairs)


def gibberish(pairs: Pairs, path: str, suite: Suite, device: torch.device) -> Figures:
    """Probability of the classifier's first class (clean text) for each generation."""
    made = [found.generation or "" for _, found in pairs]
    size, most = suite.config.batch_size, suite.config.gibberish_tokens
    return distributed.on_main(
        lambda: quality.first_class(made, path, device, size, max_tokens=most).tolist()
    )


# What gives the figures of generations, by the key that names its model and that a metric needs.
HELPERS: dict[str, Callable[..., Figures]] = {
    "oracle_model": perplexity,
    "similarity_model": similarity,
    "coherence_model": coherence,
    "mauve_model": mauve,
    "gibberish_model": gibberish,
}


def apply(suite: Suite, model: Any, found: Found) -> dict[str, str]:
    """Add the figures of helper models to what was found; returns what is missing, and why."""
    missing = {}
    for key, run in HELPERS.items():
        metric = next(metric for metric in METRICS.values() if key in metric.needs)
        for name, rows in found.items():
            if key not in suite.needs(name):
                continue
            pairs = [pair for pair in rows if pair[1].generation is not None]
            try:
                path = getattr(suite.config, key)
                if path is None:
                    raise UserError(f"eval.{key} is not set")
                quality.check_libraries(f"eval.{key}")
                values = run(pairs, path, suite, model.device)
                for (_, evidence), value in zip(pairs, values, strict=True):
                    evidence.figures[metric.key] = value
            except (UserError, WorldError) as error:
                missing[f"{name}_{metric.name}"] = str(error)
    return missing


def harness(suite: Suite, model: Any, evaluation: Evaluation) -> dict[str, str]:
    """Add the tasks of lm-evaluation-harness; returns what is missing, and why."""
    config = suite.config
    if not config.harness.tasks:
        return {}
    from undial_cli.evaluation import harness as tasks

    figures, missing, statistics = tasks.evaluate(
        model, suite.encoder.tokenizer, config.harness, config.limit, config.batch_size, suite.seed
    )
    evaluation.metrics |= figures
    evaluation.missing |= missing
    evaluation.statistics |= statistics
    return missing

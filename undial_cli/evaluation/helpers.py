"""Metrics that need a second model (oracle, embedder, classifier) or another library's tasks.

A helper that cannot be had does not end an evaluation: its metric is missing, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from undial_cli import distributed
from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation import quality
from undial_cli.evaluation.evidence import Evaluation, Evidence
from undial_cli.evaluation.items import Item

Pairs = list[tuple[Item, Evidence]]


def whole_text(item: Item, text: str) -> str:
    """A prompt and what follows it; the parts of a document hold the blank between them."""
    return item.prompt + text if item.document else f"{item.prompt} {text}"


def perplexity(pairs: Pairs, path: str, suite: Any, device: torch.device) -> None:
    """Mean cross entropy of prompt and continuation together, under the oracle model."""
    texts = [whole_text(item, found.generation or "") for item, found in pairs]
    model, tokenizer = quality.language_model(path, "eval.oracle_model", device)
    config = suite.config
    nll, tokens = quality.perplexity(
        texts, model, tokenizer, config.batch_size, max_tokens=config.oracle_tokens
    )
    for (_, found), total, count in zip(pairs, nll, tokens, strict=True):
        found.figures["oracle_ce"] = float(total / count) if count else None


def similarity(pairs: Pairs, path: str, suite: Any, device: torch.device) -> None:
    """Cosine of the embeddings of the continuation and of the true text."""
    texts = [(found.generation or "", item.reference) for item, found in pairs]
    compare("similarity", pairs, texts, path, suite, device, None)


def coherence(pairs: Pairs, path: str, suite: Any, device: torch.device) -> None:
    """Cosine of the embeddings of the prompt and of the continuation."""
    texts = [(item.prompt, found.generation or "") for item, found in pairs]
    compare("coherence", pairs, texts, path, suite, device, suite.config.coherence_tokens)


def compare(
    name: str,
    pairs: Pairs,
    texts: list[tuple[str, str]],
    path: str,
    suite: Any,
    device: torch.device,
    max_tokens: int | None,
) -> None:
    """Cosine similarities of pairs of texts as a figure; of so many tokens of each."""
    left, right = [a for a, _ in texts], [b for _, b in texts]
    size, key = suite.config.batch_size, f"eval.{name}_model"
    values = distributed.on_main(
        lambda: quality.similarity(left, right, path, device, size, key, max_tokens)
    )
    for (_, found), value in zip(pairs, values, strict=True):
        found.figures[name] = float(value)


def mauve(pairs: Pairs, path: str, suite: Any, device: torch.device) -> None:
    """One figure for the set: how alike true and generated texts are distributed."""
    true = [whole_text(item, item.reference) for item, _ in pairs]
    made = [whole_text(item, found.generation or "") for item, found in pairs]
    size, seed = suite.config.batch_size, suite.seed
    value = distributed.on_main(lambda: quality.mauve(true, made, path, device, size, seed))
    for _, found in pairs:
        found.figures["mauve"] = value


def gibberish(pairs: Pairs, path: str, suite: Any, device: torch.device) -> None:
    """Probability of the classifier's first class (clean text) for each generation."""
    texts = [found.generation or "" for _, found in pairs]
    size, most = suite.config.batch_size, suite.config.gibberish_tokens
    values = distributed.on_main(
        lambda: quality.first_class(texts, path, device, size, max_tokens=most)
    )
    for (_, found), value in zip(pairs, values, strict=True):
        found.figures["gibberish"] = float(value)


# The key that names a helper model, the metric it serves, and how.
HELPERS: dict[str, tuple[str, Callable[[Pairs, str, Any, torch.device], None]]] = {
    "oracle_model": ("perplexity", perplexity),
    "similarity_model": ("similarity", similarity),
    "coherence_model": ("coherence", coherence),
    "mauve_model": ("mauve", mauve),
    "gibberish_model": ("gibberish", gibberish),
}


def apply(
    suite: Any,
    model: Any,
    items: dict[str, list[Item]],
    found: dict[str, list[Evidence]],
) -> dict[str, str]:
    """Add the figures of helper models to what was found; returns what is missing, and why."""
    missing = {}
    for key, (metric, run) in HELPERS.items():
        for name in items:
            if key not in suite.needs(name):
                continue
            pairs = [
                (i, f)
                for i, f in zip(items[name], found[name], strict=True)
                if f.generation is not None
            ]
            try:
                path = getattr(suite.config, key)
                if path is None:
                    raise UserError(f"eval.{key} is not set")
                quality.check_libraries(f"eval.{key}")
                run(pairs, path, suite, model.device)
            except (UserError, WorldError) as error:
                missing[f"{name}_{metric}"] = str(error)
    return missing


def harness(suite: Any, model: Any, evaluation: Evaluation) -> dict[str, str]:
    """Add the tasks of lm-evaluation-harness; returns what is missing, and why."""
    config = suite.config.harness
    if not config.tasks:
        return {}
    from undial_cli.evaluation import harness as tasks

    figures, missing, statistics = tasks.evaluate(
        model,
        suite.encoder.tokenizer,
        config.tasks,
        config.include_path,
        config.num_fewshot,
        suite.config.limit,
        suite.config.batch_size,
        suite.seed,
    )
    evaluation.metrics |= figures
    evaluation.missing |= missing
    evaluation.statistics |= statistics
    return missing

"""A suite: named sets, each with its metrics, evaluated on one model.

Joins rows, the two engines and the pure metrics into per-sample scores and aggregates. Knows no
method and no run folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from undial_cli import ui
from undial_cli.data.collate import pad_token
from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.data.load import Row, row_kind
from undial_cli.evaluation import metrics
from undial_cli.evaluation.generation import generate
from undial_cli.evaluation.scoring import Score, score
from undial_cli.schema import EvalConfig

FORGET = "forget"
KINDS = ("answer", "paraphrase", "perturbed")


@dataclass
class Evaluation:
    """What a suite found: aggregates by name, one object per sample, what is missing and why."""

    metrics: dict[str, float]
    samples: list[dict[str, Any]]
    missing: dict[str, str] = field(default_factory=dict)


@dataclass
class Item:
    """One row of one set, ready for the engines."""

    set_name: str
    index: int
    prompt: str
    reference: str
    prompt_ids: list[int]
    answers: dict[str, list[Example]]


def make_items(
    encoder: Encoder, set_name: str, rows: list[Row], metric_names: list[str]
) -> list[Item]:
    """Encode a set: its answers, and with `truth_ratio` the paraphrased and perturbed ones."""
    items = []
    for index, row in enumerate(rows):
        if row_kind(row, encoder.data) == "text":
            for piece in encoder.documents(row[encoder.data.text_key]):
                items.append(Item(set_name, index, "", "", [], {"answer": [piece]}))
            continue
        prompt, answer, suffix = encoder.parts(row)
        example = encoder.answer(prompt, answer, suffix)
        answers = {"answer": [example]}
        if "truth_ratio" in metric_names and row.get("perturbed_answer"):
            question = str(row[encoder.data.question_key])
            false = row["perturbed_answer"]
            false = [false] if isinstance(false, str) else false
            true = row.get("paraphrased_answer") or answer
            for kind, texts in (("paraphrase", [true]), ("perturbed", false)):
                answers[kind] = [encoder.answer(*encoder.question(question, str(t))) for t in texts]
        reference = str(row.get(encoder.data.question_key, prompt))
        items.append(
            Item(set_name, index, reference, answer, encoder.prompt_ids(prompt, example), answers)
        )
    return items


def evaluate(
    model: Any, encoder: Encoder, config: EvalConfig, sets: dict[str, list[Row]], title: str
) -> Evaluation:
    """Evaluate a suite on a model.

    Args:
        model: in any mode; it is put into eval mode and back.
        sets: the rows of every set in `config.sets`.
        title: what the progress bar says.
    """
    training = model.training
    model.eval()
    try:
        items = [
            item
            for name, rows in sets.items()
            for item in make_items(encoder, name, rows, config.sets[name].metrics)
        ]
        talk = {
            n: item
            for n, item in enumerate(items)
            if "rouge" in config.sets[item.set_name].metrics and item.prompt_ids
        }
        places = [
            (n, kind, k)
            for n, item in enumerate(items)
            for kind in KINDS
            for k in range(len(item.answers.get(kind, [])))
        ]
        examples = [items[n].answers[kind][k] for n, kind, k in places]
        with ui.progress(f"evaluating {title}", len(examples) + len(talk)) as bar:
            pad_id = pad_token(encoder.tokenizer)
            scores = score(model, examples, config.batch_size, pad_id, bar.advance)
            texts = answer_prompts(model, encoder, config, talk, bar.advance)
        return aggregate(items, dict(zip(places, scores, strict=True)), texts, config)
    finally:
        model.train(training)


def answer_prompts(
    model: Any,
    encoder: Encoder,
    config: EvalConfig,
    items: dict[int, Item],
    advance: Callable[[int], None],
) -> dict[int, str]:
    """Greedy generations of numbered items, by number."""
    ends = {
        e.labels[-1]
        for i in items.values()
        for e in i.answers["answer"]
        if e.labels and e.labels[-1] != IGNORE and len(e.labels) > e.answer_end
    }
    texts = generate(
        model,
        encoder.tokenizer,
        [i.prompt_ids for i in items.values()],
        config.batch_size,
        config.max_new_tokens,
        ends,
        advance,
    )
    return dict(zip(items, texts, strict=True))


def aggregate(
    items: list[Item],
    scores: dict[tuple[int, str, int], Score],
    texts: dict[int, str],
    config: EvalConfig,
) -> Evaluation:
    """Per-sample scores and their aggregates, set by set."""
    samples, found, missing = [], {}, {}
    for number, item in enumerate(items):
        part = {k: [scores[number, k, j] for j in range(len(v))] for k, v in item.answers.items()}
        samples.append(sample_scores(item, part, texts.get(number), config))
    for name, chosen in config.sets.items():
        mine = [s for s in samples if s["set"] == name]
        for metric in chosen.metrics:
            value, reason = set_metric(metric, name, mine)
            if value is None:
                missing[f"{name}_{metric}"] = reason
            else:
                found[f"{name}_{metric}"] = value
    if config.store_text == "none":
        for sample in samples:
            for key in ("prompt", "reference", "generation"):
                sample.pop(key, None)
    for sample in samples:
        sample.pop("matches")
    return Evaluation(found, samples, missing)


def sample_scores(
    item: Item, part: dict[str, list[Score]], text: str | None, config: EvalConfig
) -> dict[str, Any]:
    """One line of samples.jsonl."""
    answer = part["answer"][0] if part["answer"] else Score(math.nan, 0, [])
    sample: dict[str, Any] = {
        "set": item.set_name,
        "index": item.index,
        "prompt": item.prompt,
        "reference": item.reference,
        "answer_ce": answer.ce if answer.tokens else None,
        "answer_tokens": answer.tokens,
        "matches": answer.matches,
    }
    names = config.sets[item.set_name].metrics
    if "probability" in names and answer.tokens:
        sample["probability"] = float(metrics.probability(answer.ce))
    if "exact_memorization" in names and answer.matches:
        sample["exact_memorization"] = float(np.mean(answer.matches))
    if text is not None:
        sample["generation"] = text
        sample["rouge"] = metrics.rouge_l_recall(text, item.reference)
    if "perturbed" in part:
        true, false = part["paraphrase"][0].ce, [s.ce for s in part["perturbed"]]
        sample["paraphrase_ce"], sample["perturbed_ce"] = true, false
        ratio = float(metrics.log_truth_ratio([true], [false])[0])
        if not math.isnan(ratio):
            sample["log_truth_ratio"] = ratio
    return sample


def set_metric(metric: str, name: str, samples: list[dict[str, Any]]) -> tuple[float | None, str]:
    """The aggregate of one metric on one set, or None and why there is none."""
    if metric == "exact_memorization":
        value, _ = metrics.exact_memorization([s["matches"] for s in samples])
        return (None, "no sample has an answer token") if math.isnan(value) else (value, "")
    if metric == "truth_ratio":
        logs = [s["log_truth_ratio"] for s in samples if "log_truth_ratio" in s]
        if not logs:
            return None, "no sample has scored tokens in its answer and its perturbed answers"
        with np.errstate(over="ignore"):
            ratios = np.exp(np.asarray(logs))
        kind = metrics.forget_truth_ratio if name == FORGET else metrics.retain_truth_ratio
        return kind(ratios), ""
    values = [s[metric] for s in samples if metric in s]
    return (float(np.mean(values)), "") if values else (None, "no sample it applies to")


def forget_quality(unlearned: Evaluation, retain: Evaluation | None) -> tuple[float | None, str]:
    """Forget quality against a retain model's evaluation, or None and why there is none."""
    if retain is None:
        return None, "no retain model is known: set eval.retain_model"
    ours, theirs = (
        [s["log_truth_ratio"] for s in e.samples if s["set"] == FORGET and "log_truth_ratio" in s]
        for e in (unlearned, retain)
    )
    if not ours or not theirs:
        return None, "the forget set has no truth ratios"
    return metrics.forget_quality(ours, theirs), ""

"""A suite: named sets, each with its metrics, evaluated on one model.

Joins rows, the engines and the metrics of the catalog into per-sample scores and aggregates.
Knows no method and no run folder.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from undial_cli import ui
from undial_cli.config.suites import EvalConfig, find_set_of_role, resolve_role
from undial_cli.data.collate import choose_pad_id
from undial_cli.data.encode import Encoder
from undial_cli.data.rows import Row
from undial_cli.evaluation import extraction, helpers, words
from undial_cli.evaluation.catalog import METRICS, Metric, add_joint_metrics, find_set_metric
from undial_cli.evaluation.decoding import Decoding
from undial_cli.evaluation.evidence import Evaluation, Evidence, MissingFigure, replace_nonfinite
from undial_cli.evaluation.generation import GeneratingModel, collect_end_tokens, generate_answers
from undial_cli.evaluation.helpers import SetEvidence
from undial_cli.evaluation.prompts import (
    PromptItem,
    collect_end_labels,
    cut_at_stop_text,
    decode_added_text,
    make_prompt_items,
)
from undial_cli.evaluation.scoring import Score, compute_gradient_norms, score_answers
from undial_cli.evaluation.sharding import Journal
from undial_cli.evaluation.subjects import number_subjects
from undial_cli.models.capacity import ModelCapacity, check_sequences_fit


@dataclass
class SetRows:
    """The rows of a set, those of its solved examples, or why it is not there.

    `counts`: how many rows it holds (`held`), and how many of them were not taken and why, each by
    a short phrase; what is left are `rows`.
    """

    rows: list[Row] = field(default_factory=list)
    shots: list[Row] = field(default_factory=list)
    missing: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """What the figures of the set depend on."""
        return {"rows": self.rows, "shots": self.shots, "missing": self.missing}


@dataclass(frozen=True)
class Suite:
    """A suite with its rows, ready for any model of one tokenizer."""

    config: EvalConfig
    encoder: Encoder
    rows: dict[str, SetRows]
    seed: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to evaluate."""
        return not self.rows and not self.config.harness.tasks

    @property
    def there(self) -> set[str]:
        """The sets that have rows."""
        return {name for name, found in self.rows.items() if not found.missing}

    def metrics(self, name: str) -> list[Metric]:
        """The metrics that a set is evaluated with, those that joint ones read included.

        A joint metric of a set without rows reads nothing.
        """
        names = list(self.config.sets[name].metrics)
        for metric in map(METRICS.__getitem__, self.config.metrics):
            sets = {find_set_of_role(self.config, role) for role in metric.roles}
            if name in sets and sets <= self.there:
                names += metric.reads
        return [metric for key in dict.fromkeys(names) if (metric := find_set_metric(key))]

    def needs(self, name: str) -> set[str]:
        """What the engines must find for a set.

        Answers are scored wherever anything is: a loss that is not finite tells that no other
        figure of a sample is one (the greedy tokens of NaN match nothing, and would pass for
        forgetting).
        """
        needs = {need for metric in self.metrics(name) for need in metric.needs}
        return needs | {"answer"} if needs else needs

    def jobs(self, name: str) -> int:
        """How many jobs of the engines a set makes, for the progress bar."""
        needs, items = self.needs(name), self.items[name]
        authors = self.config.sets[name].prefixes == "authors"
        passes = len(extraction.AUTHORS_PREFIXES) + 1 if authors else 1
        return (
            len(items) * (("answer" in needs) + ("gradient" in needs))
            + sum(bool(i.prompt_ids) for i in items) * ("generation" in needs)
            + len(items) * passes * ("continuations" in needs)
        )

    @functools.cached_property
    def items(self) -> dict[str, list[PromptItem]]:
        """The items of every set that is there."""
        return {
            name: make_prompt_items(
                self.encoder,
                name,
                self.config.sets[name],
                found.rows,
                found.shots,
                self.needs(name),
                self.config.max_new_tokens,
            )
            for name, found in self.rows.items()
            if not found.missing
        }


def check_suite_fits(held: ModelCapacity, suite: Suite, max_length: int) -> None:
    """Raise UserError for a row that a model cannot take; say how often it answers shorter."""
    for name, items in suite.items.items():
        options = suite.config.sets[name]
        key = f"eval.sets.{name}.max_tokens={options.max_tokens}"
        check_sequences_fit(
            held,
            name,
            key if options.max_tokens else f"data.max_length={max_length}",
            (
                (item.index, ids)
                for item in items
                for ids in (
                    item.prompt_ids,
                    item.document,
                    *(e.input_ids for kind in item.answers.values() for e in kind),
                )
            ),
        )
        if held.positions is None or "generation" not in suite.needs(name):
            continue
        asked = options.max_new_tokens or suite.config.max_new_tokens
        shorter = sum(len(item.prompt_ids) + asked > held.positions for item in items)
        if shorter:
            ui.say(
                f"{name}: {shorter} of {len(items)} answers may have fewer than {asked} tokens: "
                f"prompt and answer share the model's {held.positions} positions",
                "yellow",
            )


def evaluate_suite(
    model: Any,
    suite: Suite,
    title: str,
    journal: Journal | None = None,
    path: str | None = None,
    alone: bool = False,
) -> Evaluation:
    """Evaluate a suite on a model, on all processes of the run.

    Args:
        model: in any mode; it is put into eval mode and back.
        title: what the progress bar says.
        journal: where an interrupted evaluation left off.
        path: folder or hub id of the model, for vLLM.
        alone: the model as it stands in memory and no other: no helper model, harness or vLLM.
    """
    journal, training = journal or Journal(), model.training
    backend = "transformers" if alone else suite.config.backend
    generator = GeneratingModel(model, suite.encoder.tokenizer, backend, path)
    model.eval()
    try:
        with ui.show_progress(f"evaluating {title}", sum(map(suite.jobs, suite.items))) as bar:
            journal.advance = bar.advance
            found = score_sets(model, suite, journal)
            continue_prompts(generator, suite, found, journal)
            continue_documents(generator, suite, found, journal)
        missing = {} if alone else helpers.apply_helper_models(suite, model, found)
        evaluation = aggregate_sets(suite, found, missing)
        if not alone:
            missing |= helpers.add_harness_tasks(suite, model, evaluation)
        evaluation.incomplete = bool(missing)
        add_joint_metrics(evaluation, None, suite.config, relative=False)
        return evaluation
    finally:
        model.train(training)


def score_sets(model: Any, suite: Suite, journal: Journal) -> SetEvidence:
    """The scores of all answers of all sets, and gradient norms where a set needs them."""
    config, found = suite.config, {}
    pad_id = choose_pad_id(suite.encoder.tokenizer)
    for name, items in suite.items.items():
        needs = suite.needs(name)
        groups = [[e for kind in i.answers.values() for e in kind] for i in items]
        scores: list[list[Score]] = [[] for _ in items]
        if "answer" in needs:
            full = "distribution" in needs
            scores = score_answers(model, groups, config.batch_size, pad_id, full, journal, name)
        found[name] = [
            (
                item,
                Evidence(
                    config.sets[name], item.reference, item.scored, sort_scores_by_kind(item, ours)
                ),
            )
            for item, ours in zip(items, scores, strict=True)
        ]
        if "gradient" in needs:
            answers = [i.answers["answer"][0] for i in items]
            norms = compute_gradient_norms(model, answers, journal, name)
            for (_, evidence), norm in zip(found[name], norms, strict=True):
                evidence.figures["mia_gradnorm"] = norm
    return found


def sort_scores_by_kind(item: PromptItem, scores: list[Score]) -> dict[str, list[Score]]:
    """The scores of an item's answers, by kind of answer."""
    rest = iter(scores)
    return {
        kind: [s for _, s in zip(examples, rest, strict=False)]
        for kind, examples in item.answers.items()
    }


def continue_prompts(
    generator: GeneratingModel, suite: Suite, found: SetEvidence, journal: Journal
) -> None:
    """The generations of all sets whose metrics need them.

    Sets that are decoded alike share batches, but not sampled ones: their draws depend on a
    prompt's number in its set.
    """
    config = suite.config
    alike: dict[tuple[str, Decoding], helpers.EvidencePairs] = {}
    for name, rows in found.items():
        if "generation" not in suite.needs(name):
            continue
        options = config.sets[name]
        length = options.max_new_tokens or config.max_new_tokens
        ends = collect_end_tokens(generator, collect_end_labels([item for item, _ in rows]))
        how = Decoding(length, ends, options.top_p, seed=suite.seed, top_k=options.top_k)
        asked = [pair for pair in rows if pair[0].prompt_ids]
        alike.setdefault(("" if how.greedy else name, how), []).extend(asked)
    for (_, how), pairs in alike.items():
        prompts = [item.prompt_ids for item, _ in pairs]
        engine = ",".join(dict.fromkeys(item.set_name for item, _ in pairs))
        answers = generate_answers(generator, engine, prompts, how, config.batch_size, journal)
        for (item, evidence), ids in zip(pairs, answers, strict=True):
            text = cut_at_stop_text(suite.encoder.decode(ids), item.stops).strip()
            if item.document:
                text = decode_added_text(suite.encoder, item.prompt_ids, ids)
            evidence.generation = text


def continue_documents(
    generator: GeneratingModel, suite: Suite, found: SetEvidence, journal: Journal
) -> None:
    """Extraction figures of the documents of all sets whose metrics need them."""
    for name, rows in found.items():
        options, size = suite.config.sets[name], suite.config.batch_size
        pairs = [pair for pair in rows if pair[0].document]
        if "continuations" not in suite.needs(name) or not pairs:
            continue
        names = [metric.name for metric in suite.metrics(name)]
        lengths = sorted(int(n.removeprefix("el_")) for n in names if n.startswith("el_"))
        extracted = generator.model, name, [item.document for item, _ in pairs], lengths
        if options.prefixes == "authors":
            how = Decoding(
                extraction.AUTHORS_TOKENS,
                collect_end_tokens(generator, set()),
                options.top_p or extraction.AUTHORS_TOP_P,
                seed=suite.seed,
                top_k=options.top_k or extraction.AUTHORS_TOP_K,
            )
            figures = extraction.extract_sampled(*extracted, how, size, journal)
        else:
            figures = extraction.extract_greedily(*extracted, options.stride, size, journal)
        for (_, evidence), of_document in zip(pairs, figures, strict=True):
            evidence.figures |= of_document


def aggregate_sets(suite: Suite, found: SetEvidence, missing: dict[str, str]) -> Evaluation:
    """Per-sample scores and their aggregates, set by set.

    Args:
        missing: why metrics of helper models could not be computed.
    """
    evaluation = Evaluation({}, [], dict(missing))
    for name, options in suite.config.sets.items():
        rows = suite.rows.get(name)
        if rows is None:
            continue
        if rows.missing:
            evaluation.missing[name] = rows.missing
            for metric in options.metrics:
                evaluation.missing[f"{name}_{metric}"] = f"the set '{name}' is missing"
            continue
        chosen, pairs = suite.metrics(name), found[name]
        subjects = number_subjects(rows.rows, options, suite.encoder.data.subject_key)
        for item, evidence in pairs:
            line = make_sample_line(suite, item, evidence, subjects.get(item.index))
            evaluation.samples.append(
                replace_nonfinite(line | compute_sample_values(chosen, evidence))
            )
        for key in options.metrics:
            add_set_aggregate(evaluation, name, key, resolve_role(name, options))
        evaluation.rows[name] = count_set_rows(rows, pairs)
        read = words.describe_readings([e.reference for _, e in pairs if e.generation is not None])
        if read and "rouge" in options.metrics:
            evaluation.notes[f"{name}_rouge"] = read
    return evaluation


def compute_sample_values(chosen: list[Metric], evidence: Evidence) -> dict[str, float]:
    """The values of a sample that apply, by their stored names; nan if it is broken."""
    values = {metric.key: metric.sample(evidence) for metric in chosen if metric.sample}
    return {
        key: math.nan if evidence.broken else value
        for key, value in values.items()
        if value is not None
    }


def add_set_aggregate(evaluation: Evaluation, name: str, key: str, role: str) -> None:
    """Add the aggregate of a set's metric: a number, null with its reason, or why there is none."""
    metric = find_set_metric(key)
    assert metric is not None

    def compute() -> float:
        values = evaluation.values(name, metric.key)
        if not values:
            raise MissingFigure(evaluation.missing.get(f"{name}_{key}", "no sample it applies to"))
        return metric.aggregate(values, role)

    evaluation.record(f"{name}_{key}", compute)


def count_set_rows(rows: SetRows, pairs: helpers.EvidencePairs) -> dict[str, int]:
    """What became of the rows of a set; `scored` and what follows it count rows or their pieces."""
    scored = sum(e.answer is not None or e.generation is not None for _, e in pairs)
    notes = Counter(note for item, _ in pairs for note in item.notes)
    return {"read": len(rows.rows), **rows.counts, "scored": scored, **notes}


def make_sample_line(
    suite: Suite, item: PromptItem, found: Evidence, subject: int | None
) -> dict[str, Any]:
    """One line of samples.jsonl, without the values of metrics."""
    line: dict[str, Any] = {"set": item.set_name, "index": item.index}
    line |= {"subject": subject} if subject is not None else {}
    if suite.config.store_text == "full":
        line |= {"prompt": item.prompt, "reference": item.reference}
        line |= {"generation": found.generation} if found.generation is not None else {}
    if found.answers.get("answer"):
        answer = found.answers["answer"][0]
        line |= {"answer_ce": found.answer and answer.ce, "answer_tokens": answer.tokens}
    other = found.alternatives()
    if other is not None:
        line["paraphrase_ce"], line["perturbed_ce"] = other
    return line

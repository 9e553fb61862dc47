"""An evaluation, from the top down: the engines on every set, helper models, aggregates, figures.

Joins a suite and a model into per-sample scores and aggregates. What is found of one set, whatever
it is called, and of the harness's tasks is a part, which may be found once for several evaluations.
Knows no method and no run folder.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from undial_cli import ui
from undial_cli.config.suites import resolve_role
from undial_cli.data.collate import choose_pad_id
from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation import extraction, words
from undial_cli.evaluation.catalog import METRICS, Metric, find_set_metric
from undial_cli.evaluation.decoding import Decoding
from undial_cli.evaluation.evidence import (
    Evaluation,
    Evidence,
    MissingFigure,
    list_groups,
    name_row_group,
    replace_nonfinite,
)
from undial_cli.evaluation.generation import GeneratingModel, collect_end_tokens, generate_answers
from undial_cli.evaluation.harness import run_harness_tasks
from undial_cli.evaluation.lockstep import forward_in_step
from undial_cli.evaluation.prompts import (
    PromptItem,
    collect_end_labels,
    cut_at_stop_text,
    decode_added_text,
)
from undial_cli.evaluation.resampling_units import number_subjects
from undial_cli.evaluation.scoring import compute_gradient_norms, score_answers
from undial_cli.evaluation.sharding import Journal
from undial_cli.evaluation.suite import SetRows, Suite
from undial_cli.evaluation.suite_metrics import add_joint_metrics
from undial_cli.evaluation.text_quality import HELPER_MODELS, GeneratedTexts, run_helper_model
from undial_cli.models.head import evaluation_mode
from undial_cli.models.shards import is_sharded_model

# The items of a set, each with what the engines give of it; and those of every set.
EvidencePairs = list[tuple[PromptItem, Evidence]]
SetEvidence = dict[str, EvidencePairs]
# The part of an evaluation that is of no set: the tasks of lm-evaluation-harness. What the set of
# another part is called in it.
HARNESS, UNNAMED = "harness tasks", ""


def evaluate_suite(model: Any, suite: Suite, title: str, alone: bool = False) -> Evaluation:
    """Evaluate a suite on a model, on all processes of the run.

    Args:
        model: in any mode; it is put into eval mode and back.
        title: what the progress bar says.
        alone: the model as it stands in memory and no other: no helper model, harness or vLLM.
    """
    names = list_parts(suite)
    return assemble_evaluation(suite, evaluate_parts(model, suite, names, title, alone=alone))


def list_parts(suite: Suite) -> list[str]:
    """What a suite's evaluation consists of: its sets by name, and the tasks of the harness."""
    with_rows = [name for name, rows in suite.rows.items() if not rows.missing]
    return [*with_rows, *([HARNESS] if suite.config.harness.tasks else [])]


def evaluate_parts(
    model: Any,
    suite: Suite,
    names: Collection[str],
    title: str,
    journal: Journal | None = None,
    path: str | None = None,
    alone: bool = False,
) -> dict[str, Evaluation]:
    """What a model gives of some parts of a suite, as for `evaluate_suite`.

    Args:
        names: of `list_parts`.
        journal: where an interrupted evaluation left off.
        path: folder or hub id of the model, for vLLM.

    Returns:
        By part its samples, counts, and what is missing or noted by metric; its set has no name.
    """
    journal = journal or Journal()
    backend = "transformers" if alone else suite.config.backend
    generator = GeneratingModel(model, suite.encoder.tokenizer, backend, path)
    with evaluation_mode(model), forward_in_step(model):
        asked = [name for name in suite.items if name in names]
        jobs = sum(map(suite.jobs, asked))
        with ui.show_progress(f"evaluating {title}", jobs, unit="answer") as bar:
            journal.advance = bar.advance
            evidence = score_sets(model, suite, asked, journal)
            continue_prompts(generator, suite, evidence, journal)
            continue_documents(generator, suite, evidence, journal)
        missing = find_missing_gradients(suite, model, asked)
        if not alone:
            for name, reasons in add_helper_figures(suite, model, evidence).items():
                missing.setdefault(name, {}).update(reasons)
        parts = {
            name: collect_samples(suite, name, evidence[name], missing.get(name, {}))
            for name in names
            if name != HARNESS
        }
        if HARNESS in names and not alone:
            parts[HARNESS] = evaluate_harness_tasks(suite, model)
        return parts


def assemble_evaluation(suite: Suite, parts: Mapping[str, Evaluation]) -> Evaluation:
    """The parts of an evaluation as one, with aggregates and joint metrics.

    Args:
        parts: of `evaluate_parts`; may be several calls'.
    """
    evaluation = Evaluation({}, [])
    for name, options in suite.config.sets.items():
        if name in parts:
            add_part(evaluation, name, parts[name])
            for key in options.metrics:
                add_set_aggregates(evaluation, name, key, resolve_role(name, options))
                if key in parts[name].notes:
                    evaluation.notes[f"{name}_{key}"] = parts[name].notes[key]
        elif name in suite.rows:
            evaluation.missing[name] = suite.rows[name].missing
            for key in options.metrics:
                evaluation.missing[f"{name}_{key}"] = f"the set '{name}' is missing"
    if HARNESS in parts:
        evaluation.metrics |= parts[HARNESS].metrics
        evaluation.missing |= parts[HARNESS].missing
        evaluation.statistics |= parts[HARNESS].statistics
    evaluation.incomplete = any(part.incomplete for part in parts.values())
    add_joint_metrics(evaluation, None, suite.config, relative=False)
    return evaluation


def add_part(evaluation: Evaluation, name: str, part: Evaluation) -> None:
    """Add what was found of a set, under its name."""
    evaluation.samples += [{**sample, "set": name} for sample in part.samples]
    evaluation.missing |= {f"{name}_{metric}": reason for metric, reason in part.missing.items()}
    if UNNAMED in part.rows:  # a later field: results may hold none
        evaluation.rows[name] = part.rows[UNNAMED]


def score_sets(model: Any, suite: Suite, names: Sequence[str], journal: Journal) -> SetEvidence:
    """The scores of all answers of those sets, and gradient norms where a set needs them."""
    config, evidence_of = suite.config, {}
    pad_id = choose_pad_id(suite.encoder.tokenizer)
    for name in names:
        items, needs = suite.items[name], suite.needs(name)
        pairs = evidence_of[name] = [
            (item, Evidence(config.sets[name], item.reference, item.scored, {}, others=item.others))
            for item in items
        ]
        if "answer" in needs:
            groups = [[e for kind in item.answers.values() for e in kind] for item in items]
            full = "distribution" in needs
            scores = score_answers(model, groups, config.batch_size, pad_id, full, journal, name)
            for (item, evidence), of_item in zip(pairs, scores, strict=True):
                rest = iter(of_item)
                evidence.answers = {
                    kind: [next(rest) for _ in examples] for kind, examples in item.answers.items()
                }
        if "gradient" in needs and not is_sharded_model(model):
            answers = [item.answers["answer"][0] for item in items]
            norms = compute_gradient_norms(model, answers, journal, name)
            for (_, evidence), norm in zip(pairs, norms, strict=True):
                evidence.figures["mia_gradnorm"] = norm
    return evidence_of


def find_missing_gradients(
    suite: Suite, model: Any, names: Sequence[str]
) -> dict[str, dict[str, str]]:
    """By set the metrics of gradients, which a sharded model has none of by sample, and why."""
    if not is_sharded_model(model):
        return {}
    reason = "the gradient of one sample needs a whole model, and it is sharded"
    return {
        name: {m.name: reason for m in suite.metrics(name) if "gradient" in m.needs}
        for name in names
    }


def continue_prompts(
    generator: GeneratingModel, suite: Suite, evidence_of: SetEvidence, journal: Journal
) -> None:
    """The generations of all sets whose metrics need them.

    Sets that are decoded alike share batches, but not sampled ones: their draws depend on a
    prompt's number in its set.
    """
    config = suite.config
    alike: dict[tuple[str, Decoding], EvidencePairs] = {}
    for name, pairs in evidence_of.items():
        if "generation" not in suite.needs(name):
            continue
        options = config.sets[name]
        length = options.max_new_tokens or config.max_new_tokens
        ends = collect_end_tokens(generator, collect_end_labels([item for item, _ in pairs]))
        how = Decoding(length, ends, options.top_p, seed=suite.seed, top_k=options.top_k)
        asked = [pair for pair in pairs if pair[0].prompt_ids]
        alike.setdefault(("" if how.greedy else name, how), []).extend(asked)
    for (_, how), pairs in alike.items():
        prompts = [item.prompt_ids for item, _ in pairs]
        engine = ",".join(dict.fromkeys(item.set_name for item, _ in pairs))
        answers = generate_answers(generator, engine, prompts, how, config.batch_size, journal)
        for (item, evidence), ids in zip(pairs, answers, strict=True):
            if item.document:  # it goes on: no stop text, and blanks stay
                evidence.generation = decode_added_text(suite.encoder, item.prompt_ids, ids)
            else:
                text = suite.encoder.decode(ids)
                evidence.generation = cut_at_stop_text(text, item.stops).strip()


def continue_documents(
    generator: GeneratingModel, suite: Suite, evidence_of: SetEvidence, journal: Journal
) -> None:
    """Extraction figures of the documents of all sets whose metrics need them."""
    for name, rows in evidence_of.items():
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


def add_helper_figures(
    suite: Suite, model: Any, evidence_of: SetEvidence
) -> dict[str, dict[str, str]]:
    """Add the figures of helper models to the evidence; by set the metrics missing, and why."""
    missing: dict[str, dict[str, str]] = {}
    for key in HELPER_MODELS:
        metric = next(metric for metric in METRICS.values() if key in metric.needs)
        for name, rows in evidence_of.items():
            if key not in suite.needs(name):
                continue
            pairs = [pair for pair in rows if pair[1].generation is not None]
            items, generations = [item for item, _ in pairs], [e.generation or "" for _, e in pairs]
            texts = GeneratedTexts(
                [item.prompt for item in items],
                [item.reference for item in items],
                generations,
                list(map(PromptItem.followed_by, items, generations)),
                [item.followed_by(item.reference) for item in items],
            )
            try:
                values = run_helper_model(key, texts, suite.config, model.device, suite.seed)
            except (UserError, WorldError) as error:
                missing.setdefault(name, {})[metric.name] = str(error)
                continue
            for (_, evidence), value in zip(pairs, values, strict=True):
                evidence.figures[metric.key] = value
    return missing


def evaluate_harness_tasks(suite: Suite, model: Any) -> Evaluation:
    """The tasks of lm-evaluation-harness."""
    config = suite.config
    figures, missing, statistics = run_harness_tasks(
        model, suite.encoder.tokenizer, config.harness, config.limit, config.batch_size, suite.seed
    )
    return Evaluation({**figures}, [], missing, bool(missing), statistics)


def collect_samples(
    suite: Suite, name: str, pairs: EvidencePairs, missing: dict[str, str]
) -> Evaluation:
    """The per-sample scores of a set, as a part.

    Args:
        missing: metrics that could not be computed, and why.
    """
    options, rows = suite.config.sets[name], suite.rows[name]
    part = Evaluation({}, [], dict(missing), incomplete=bool(missing))
    chosen = suite.metrics(name)
    subjects = number_subjects(rows.rows, options, suite.encoder.data.subject_key)
    for item, evidence in pairs:
        line = make_sample_line(suite, item, evidence, subjects.get(item.index))
        if options.group_by is not None:
            line["group"] = name_row_group(rows.rows[item.index][options.group_by])
        line |= compute_sample_values(chosen, evidence)
        part.samples.append(replace_nonfinite(line))
    part.rows[UNNAMED] = count_set_rows(rows, pairs)
    note = words.describe_readings([e.reference for _, e in pairs if e.generation is not None])
    if note:
        part.notes["rouge"] = note
    return part


def compute_sample_values(chosen: list[Metric], evidence: Evidence) -> dict[str, float]:
    """The values of a sample that apply, by their stored names; nan if it is broken."""
    values = {metric.key: metric.sample(evidence) for metric in chosen if metric.sample}
    return {
        key: math.nan if evidence.broken else float(value)
        for key, value in values.items()
        if value is not None
    }


def add_set_aggregates(evaluation: Evaluation, name: str, key: str, role: str) -> None:
    """`add_set_aggregate` of a set, and of its groups."""
    for part in (name, *list_groups(evaluation.samples, name)):
        add_set_aggregate(evaluation, part, key, role)


def add_set_aggregate(evaluation: Evaluation, name: str, key: str, role: str) -> None:
    """Add the aggregate of a set's metric: a number, null with its reason, or why there is none."""
    metric = find_set_metric(key)
    assert metric is not None

    def compute() -> float:
        values = evaluation.values(name, metric.key)
        if not values:
            reason = evaluation.missing.get(f"{name}_{key}", "no sample it applies to")
            raise MissingFigure(reason)
        return metric.aggregate(values, role)

    evaluation.record(f"{name}_{key}", compute)


def count_set_rows(rows: SetRows, pairs: EvidencePairs) -> dict[str, int]:
    """What became of the rows of a set; `scored` and what follows it count rows or their pieces."""
    scored = sum(e.answer is not None or e.generation is not None for _, e in pairs)
    notes = Counter(note for item, _ in pairs for note in item.notes)
    return {"read": len(rows.rows), **rows.counts, "scored": scored, **notes}


def make_sample_line(
    suite: Suite, item: PromptItem, evidence: Evidence, subject: int | None
) -> dict[str, Any]:
    """One line of samples.jsonl, without the values of metrics."""
    line: dict[str, Any] = {"set": UNNAMED, "index": item.index}
    line |= {"subject": subject} if subject is not None else {}
    if suite.config.store_text == "full":
        line |= {"prompt": item.prompt, "reference": item.reference}
        line |= {"other_references": list(item.others)} if item.others else {}
        line |= {"generation": evidence.generation} if evidence.generation is not None else {}
    if evidence.answers.get("answer"):
        answer = evidence.answers["answer"][0]
        line |= {"answer_ce": evidence.answer and answer.ce, "answer_tokens": answer.tokens}
    choices = evidence.choices()
    if choices is not None:
        line["choice_log_likelihoods"], line["right_choice"] = choices
    alternatives = evidence.alternatives()
    if alternatives is not None:
        line["paraphrase_ce"], line["perturbed_ce"] = alternatives
    return line

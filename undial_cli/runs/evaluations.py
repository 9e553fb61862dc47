"""The evaluations of a run: of its target, its retain model and its checkpoint, and the report.

Joins the suite with what a run knows of its models, and writes evaluation/ and report/.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from undial_cli.config.schema import FinetuneRun, Run, TrainingRun, is_sharded
from undial_cli.config.suites import resolve_role
from undial_cli.evaluation import intervals, results, verdict
from undial_cli.evaluation.evaluate import HARNESS, assemble_evaluation, evaluate_parts, list_parts
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.selection_rule import SELECTION
from undial_cli.evaluation.suite import Suite
from undial_cli.evaluation.suite_metrics import add_joint_metrics
from undial_cli.evaluation.text_quality import HELPER_MODELS
from undial_cli.models import fingerprints, shards
from undial_cli.models.load import load_run_model
from undial_cli.models.quantise import choose_rounding, describe_rounding
from undial_cli.reporting import summary
from undial_cli.runs.inputs import RunInputs
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.run_folder import RunFolder
from undial_cli.system import processes
from undial_cli.system.files import hash_files, hash_folder_state
from undial_cli.system.memory import give_back_memory
from undial_cli.training.best_weights import read_selection
from undial_cli.training.callbacks import ends_on_checkpoint, log_checkpoint_figures
from undial_cli.training.merging import read_merge_loss

# Keys of eval that no score of a model's answers depends on, so that a cached one stays good: of
# the helper models a set's figures depend on those that it needs, of the sets on itself alone.
KEYS_WITHOUT_EFFECT = (
    "retain_model",
    "retrain_auc",
    "compare_target",
    "batch_size",
    "data",
    "name",
    "limit",
    "intervals",
    "verdict",
    "translations",
    "sets",
    "metrics",
    "joint_sets",
    "combine",
    "utility",
    "harness",
    *HELPER_MODELS,
)
# Of a set: which rows it has, and what is read of their scores. Its split counts rows by subject.
SET_KEYS_WITHOUT_EFFECT = ("path", "optional", "where", "role", "metrics")


def list_dependencies(run: Run, inputs: RunInputs, path: str) -> dict[str, Any]:
    """By part of an evaluation all that a model's figures depend on, as JSON-able content."""
    suite = inputs.suite
    chosen = drop_keys(run.eval, KEYS_WITHOUT_EFFECT)
    common = [
        processes.run_on_main(lambda: fingerprints.fingerprint_weights(run.model, path, run.seed)),
        dataclasses.asdict(run.model.template),
        [
            run.model.dtype,
            run.model.attn_implementation,
            inputs.tokenizer_fingerprint,
            is_rounded_when_evaluated(run) and describe_rounding(run),
        ],
        [run.data.max_length, run.data.turns],
        [run.data.question_key, run.data.answer_key, run.data.text_key, run.data.subject_key],
        chosen,
        run.eval.metric_file and hash_files(Path(run.eval.metric_file)),
    ]
    return {
        name: [common, list_task_dependencies(run)]
        if name == HARNESS
        else [common, list_set_dependencies(run, suite, name)]
        for name in list_parts(suite)
    }


def list_set_dependencies(run: Run, suite: Suite, name: str) -> list[Any]:
    """What the scores of a set depend on besides the model and how it is asked."""
    options, needs = run.eval.sets[name], suite.needs(name)
    helpers = {key: getattr(run.eval, key) for key in HELPER_MODELS if key in needs}
    draws = options.top_p or options.top_k or options.prefixes == "authors" or helpers
    return [
        drop_keys(options, SET_KEYS_WITHOUT_EFFECT),
        [metric.name for metric in suite.metrics(name)],
        {key: [p, p and hash_folder_state(Path(p).expanduser())] for key, p in helpers.items()},
        run.seed if draws else None,
        suite.rows[name].content(),
    ]


def list_task_dependencies(run: Run) -> list[Any]:
    """What the figures of the harness's tasks depend on besides the model and how it is asked."""
    harness = run.eval.harness
    tasks = harness.include_path and hash_folder_state(Path(harness.include_path).expanduser())
    return [dataclasses.asdict(harness), tasks, run.eval.limit, run.seed]


def drop_keys(config: Any, without: Collection[str]) -> dict[str, Any]:
    """A config's keys but those."""
    return {key: v for key, v in dataclasses.asdict(config).items() if key not in without}


def evaluate_model_at(
    run: Run, inputs: RunInputs, path: str, title: str, device: torch.device
) -> Evaluation | None:
    """The evaluation of a model by its path, of the cache what of it was made before."""
    if inputs.suite.empty:
        return None

    def compute(names: list[str], journal: results.Journal) -> dict[str, Evaluation]:
        model = load_evaluated_model(run, path, device)
        return evaluate_parts(model, inputs.suite, names, title, journal, path)

    give_back_memory()  # of the model before: two do not fit
    parts = results.load_or_evaluate(list_dependencies(run, inputs, path), compute)
    return assemble_evaluation(inputs.suite, parts)


def load_evaluated_model(run: Run, path: str, device: torch.device) -> Any:
    """A model to ask: whole on this process's device, or sharded where a training's is.

    Rounded layers are not shared out: they are whole on every process.
    """
    rounds = is_rounded_when_evaluated(run)
    is_alone = processes.get_process_count() == 1
    if is_alone or not is_sharded(run) or (rounds and choose_rounding(run)):
        return load_run_model(run, path, device, rounds)
    model = load_run_model(run, path, torch.device("cpu"), rounds)
    quantised = getattr(model, "is_quantized", False)
    return model if quantised else shards.shard_model(model, device)


def is_rounded_when_evaluated(run: Run) -> bool:
    """Whether a run's models are evaluated with rounded layers: as trained, unless merged whole."""
    return isinstance(run, TrainingRun) and not run.adapter.merge


def evaluate_retain_model(
    resolved: ResolvedRun, inputs: RunInputs, device: torch.device
) -> Evaluation | None:
    """The evaluation of the retain model, or its given results, where there are any."""
    if inputs.suite.empty or inputs.reference.results is not None:
        return inputs.reference.results
    location = inputs.reference.location
    if location is None:
        return None
    path = resolved.find_path(location)
    return evaluate_model_at(resolved.run, inputs, path, "retain model", device)


def find_target_evaluation(run: Run, inputs: RunInputs, device: torch.device) -> Evaluation | None:
    """The target's evaluation beside that of another model: in the cache, or made if asked for."""
    path = inputs.published_target
    if path is None or inputs.suite.empty:
        return None
    if run.eval.compare_target:
        return evaluate_model_at(run, inputs, path, "target", device)
    folders = results.locate_cached_parts(list_dependencies(run, inputs, path))
    parts = results.load_cached_parts(folders)
    return assemble_evaluation(inputs.suite, parts) if parts.keys() == folders.keys() else None


def write_evaluation(
    run: Run,
    folder: RunFolder,
    inputs: RunInputs,
    evaluation: Evaluation | None,
    others: dict[str, Evaluation | None],
) -> None:
    """Write evaluation/ and report/ (main process).

    Args:
        evaluation: of the model that the run is about; gains the metrics that are relative to the
            retain model, and per sample what the other models generated.
        others: evaluations of the `target` and the `retain` model, where there are any.
    """
    if evaluation is None or processes.get_process_rank() != 0:
        return
    if isinstance(run, TrainingRun) and ends_on_checkpoint(run.train):
        log_checkpoint_figures(folder.path / "metrics.jsonl", evaluation.metrics)
    retain, target = others.get("retain"), others.get("target")
    if "retain" in others:
        reason = inputs.reference.missing
        for each in (evaluation, target):
            if each is not None:
                add_joint_metrics(each, retain, run.eval, True, reason, target)
    for name, other in others.items():
        add_compared_scores(evaluation, name, other, texts=run.eval.store_text == "full")
    roles = {name: resolve_role(name, run.eval.sets[name]) for name in inputs.suite.rows}
    extra: dict[str, Any] = {
        "suite": run.eval.name,
        "model": run.model.name,
        "data": run.data.name,
        "roles": roles,
    }
    compared = {"target": target, "reference": retain}
    extra |= {name: {} if e is None else e.metrics for name, e in compared.items()}
    extra |= intervals.compute_statistics(evaluation, compared, run.eval)
    evaluation.statistics = extra.pop("statistics")
    lost = read_merge_loss(folder.checkpoint)
    extra |= {"merge": lost} if lost else {}
    chosen = read_selection(folder.checkpoint)
    extra |= {SELECTION: chosen} if chosen else {}
    extra["damaged"] = verdict.describe_damage(
        evaluation.metrics, extra["target"], extra["reference"], evaluation.missing, roles,
        run.eval.verdict.least_utility,
    )  # fmt: skip
    if not isinstance(run, FinetuneRun):
        figures = {"metrics": evaluation.metrics, "statistics": evaluation.statistics}
        extra["verdict"] = verdict.judge_forgetting({**extra, **figures}, run.eval.verdict)
    results.save_evaluation(folder.evaluation, evaluation, extra)
    summary.write_summary(run, folder.path)


def add_compared_scores(ours: Evaluation, name: str, other: Evaluation | None, texts: bool) -> None:
    """Put beside each sample what another model got on it: `NAME_SCORE`, and `NAME_generation`.

    Samples are matched by set, index and, as the pieces of a document share their index, their
    order there. One of another prompt is another row; results made elsewhere may hold no prompt.
    """
    theirs = index_samples(other) if other is not None else {}
    for position, sample in index_samples(ours).items():
        compared = theirs.get(position, {})
        if len({s["prompt"] for s in (sample, compared) if "prompt" in s}) > 1:
            continue
        sample |= {
            f"{name}_{key}": compared[key]
            for key, value in sample.items()
            if isinstance(value, float)
            and isinstance(compared.get(key), float)
            and not key.startswith(("target_", "retain_"))
        }
        if texts and "generation" in compared:
            sample[f"{name}_generation"] = compared["generation"]


def index_samples(evaluation: Evaluation) -> dict[tuple[str, int, int], dict[str, Any]]:
    """The samples by set, index, and their number among those of that index."""
    samples: dict[tuple[str, int, int], dict[str, Any]] = {}
    count: Counter[tuple[str, int]] = Counter()
    for sample in evaluation.samples:
        row = sample["set"], sample["index"]
        samples[(*row, count[row])] = sample
        count[row] += 1
    return samples

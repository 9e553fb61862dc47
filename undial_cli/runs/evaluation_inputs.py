"""What an evaluation reads before it computes: rows of its sets, the retain reference, helpers.

Everything wrong is found here, before anything is written. Loads no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from undial_cli import ui
from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import ModelConfig
from undial_cli.config.schema import AuditRun, Run, UnlearnRun
from undial_cli.config.splits import list_splits, name_data_key
from undial_cli.config.suites import FORGET, FORGET_SET, EvalConfig, EvalSetConfig
from undial_cli.data.encode import Encoder
from undial_cli.data.load import load_rows
from undial_cli.data.rows import Row
from undial_cli.data.selection import select_rows
from undial_cli.errors import UserError, WorldError, suggest_nearest
from undial_cli.evaluation import retain_results
from undial_cli.evaluation.evidence import Evaluation, name_row_group
from undial_cli.evaluation.kvcache import has_plain_cache
from undial_cli.evaluation.prompts import adapt_data_config
from undial_cli.evaluation.set_rows import check_set_rows
from undial_cli.evaluation.suite import SetRows, Suite
from undial_cli.evaluation.text_quality import HELPER_MODELS, LANGUAGE_MODELS
from undial_cli.methods.base import Method
from undial_cli.models import inspection, load, paths
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.targets import ModelLocation, find_results_file
from undial_cli.system.source_paths import find_package_resource, is_local_path, resolve_model_path


@dataclass
class RetainReference:
    """What an evaluation is compared with: a retain model, its results, or why there is neither."""

    location: ModelLocation | None = None
    results: Evaluation | None = None
    missing: str = ""


def find_retain_reference(resolved: ResolvedRun, suite: Suite) -> RetainReference:
    """The retain model or its results; one that only the configs name may be out of reach."""
    run, location = resolved.run, resolved.retain_model
    file = find_results_file(run)
    if file is not None:
        results = retain_results.match_to_suite(
            retain_results.read_reference(file),
            suite,
            f"eval.retain_model={file}",
            describe_chosen_rows(run),
        )
        return RetainReference(results=results)
    if run.eval.retain_model == "none":
        return RetainReference(missing="eval.retain_model=none")
    if location is None or location.path is None:
        return RetainReference(location)
    try:
        resolve_model_path(location.path, name_retain_key(run))
        with load.blame_key(name_retain_key(run)):
            inspection.check_model(run.model, location.path)
    except (UserError, WorldError) as error:
        if run.eval.retain_model is not None:
            raise
        ui.say(f"without a retain model: {error}", "yellow")
        return RetainReference(missing=str(error))
    check_contrasted_models(run, location.path)
    check_same_tokenizer(run, suite, location.path, name_retain_key(run))
    return RetainReference(location)


def name_retain_key(run: Run) -> str:
    """The key that names a run's retain model; of an audit it may be one of its own."""
    is_own = isinstance(run, AuditRun | UnlearnRun) and run.audit.retain_model is not None
    return "audit.retain_model" if is_own else "eval.retain_model"


def describe_chosen_rows(run: Run) -> str:
    """The keys that decide which rows a run is evaluated on, with their values."""
    keys = {f"data.{name}": getattr(run.data, name) for name in ("forget_split", "forget_file")}
    keys |= {"data.max_length": run.data.max_length, "eval.limit": run.eval.limit}
    return ", ".join(f"{key}={value}" for key, value in keys.items() if value is not None)


def check_contrasted_models(run: Run, path: str, method: Method | None = None) -> None:
    """Raise UserError for what two models that are decoded together cannot do.

    Args:
        path: of a model that the run works on or compares with.
        method: what the model is trained with, if it is.
    """
    contrasted = paths.is_contrasted_model(run.model, path)
    if contrasted and method is not None:
        raise UserError(
            f"model.path={path}: two models that are decoded together cannot be trained; allowed "
            "here is 'undial evaluate'"
        )
    contrasts = method is not None and method.contrasts
    if (contrasted or contrasts) and run.eval.backend == "vllm":
        pair = f"method={method.config.name}" if method is not None else path
        raise UserError(
            f"eval.backend=vllm: cannot decode the two models of {pair} together; allowed is "
            "transformers"
        )
    if method is not None and contrasts:
        with torch.device("meta"):
            model = inspection.make_blank_model(run.model, path)
        if not has_plain_cache(model):
            raise UserError(
                f"method={method.config.name}: not possible for a model of type "
                f"'{model.config.model_type}', which remembers more than keys and values"
            )


def check_same_tokenizer(run: Run, suite: Suite, path: str, key: str) -> None:
    """Raise UserError if the tokenizer of a model that is compared reads the rows otherwise.

    Args:
        key: that names the model.
    """
    if run.model.tokenizer_path is not None:
        return
    try:
        other = load.load_tokenizer(run.model, path)
    except UserError:
        return  # a folder of weights alone: the target's tokenizer is used
    for items in suite.items.values():
        for item in items[:8]:  # another tokenizer differs in nearly every text
            text = item.prompt + item.reference
            ours, theirs = (
                t(text, verbose=False)["input_ids"] for t in (suite.encoder.tokenizer, other)
            )
            if ours != theirs:
                raise UserError(
                    f"{key}={path}: its tokenizer gives other tokens than the "
                    f"{'audited model' if run.command == 'audit' else 'target'}'s, so that their "
                    "losses cannot be compared"
                )


def check_helper_models(config: EvalConfig) -> None:
    """Raise UserError for a helper model that cannot be had, or an unknown task."""
    for key in HELPER_MODELS:
        speaks = key in LANGUAGE_MODELS
        check_helper_model(f"eval.{key}", getattr(config, key), config.allow_pickle, speaks)
    if config.harness.tasks:
        from undial_cli.evaluation.harness import check_harness_tasks

        check_harness_tasks(config.harness)


def check_helper_model(key: str, path: str | None, allow_pickle: bool, speaks: bool) -> None:
    """Raise UserError for a helper model of this machine that is not there, or cannot be loaded.

    Args:
        speaks: it is a causal language model, and no encoder.
    """
    check_path_exists(key, path)
    if path is None or not Path(path).expanduser().is_dir():
        return
    source, config = resolve_model_path(path, key), ModelConfig(allow_pickle=allow_pickle)
    with load.blame_key(key, helps=True):
        if speaks:
            inspection.check_model(config, path)
        else:
            paths.check_weight_format(source, config, path)


def check_path_exists(key: str, path: str | None) -> None:
    """Raise UserError for a path of this machine that is not there."""
    if path is not None and path.startswith("pkg://"):
        find_package_resource(path, key)
    elif path is not None and is_local_path(path) and not Path(path).expanduser().exists():
        raise UserError(f"{key}={path}: no such file or folder")


def load_evaluation_rows(run: Run, encoder: Encoder) -> dict[str, SetRows]:
    """The rows of every set of the suite that has a split."""
    rows = {}
    for name, options in run.eval.sets.items() if run.eval.name != "none" else ():
        unnamed = options.split == FORGET_SET
        if unnamed and run.command in ("evaluate", "audit"):
            where = "split" if run.data.path is not None else "file"
            raise UserError(f"data.forget_{where}: not set, and eval={run.eval.name} needs it")
        if unnamed or not (options.split or options.path):
            continue
        shared = options.path is not None and options.path == run.eval.translations
        key = "eval.translations" if shared else f"eval.sets.{name}.path"
        check_path_exists(key, options.path)
        try:
            rows[name] = load_set_rows(run, encoder, name, options)
        except (UserError, WorldError) as error:
            if not options.optional:
                raise
            rows[name] = SetRows(missing=str(error))
    return rows


def load_set_rows(run: Run, encoder: Encoder, name: str, options: EvalSetConfig) -> SetRows:
    """The rows of one set, filtered and limited, and those of its solved examples."""
    key, data = f"eval.sets.{name}", adapt_data_config(run.data, options)
    splits = list_splits(options.split) or [""]
    split_key = name_split_key(run, name, options)
    rows = load_rows(data, splits, split_key, options.path, asked=True)
    source = f"{key}.split={','.join(splits) or options.path}"
    counts = {"held": len(rows)}
    if split_key == name_data_key(run.data, FORGET):
        rows = select_rows(rows, run.data.where, source, "data.where")
    rows = select_rows(rows, options.where, source, f"{key}.where")
    counts["not taken by where"] = counts["held"] - len(rows)
    check_set_rows(rows, options, data, source)
    check_groups(run, name, rows, source)
    for phrase, is_taken in build_row_filters(encoder, data, options).items():
        remaining = [row for row in rows if is_taken(row)]
        counts[phrase], rows = len(rows) - len(remaining), remaining
    if not rows:
        raise UserError(
            f"{source}: no document has {options.min_tokens or 1} tokens (min_tokens) and is "
            f"without '{options.exclude}' (exclude)"
        )
    limited = list(rows[: run.eval.limit])
    counts[f"beyond eval.limit={run.eval.limit}"] = len(rows) - len(limited)
    shots: list[Row] = []
    if options.shots is not None:
        shots = list(load_rows(data, [options.shots], f"{key}.shots", options.path))
        check_set_rows(shots, options, data, f"{key}.shots={options.shots}")
    return SetRows(limited, shots, counts={phrase: n for phrase, n in counts.items() if n})


def check_groups(run: Run, name: str, rows: Sequence[Row], source: str) -> None:
    """Raise UserError for figures by group that cannot be told from those of a set."""
    column = run.eval.sets[name].group_by
    if column == run.data.subject_key:
        raise UserError(
            f"eval.sets.{name}.group_by={column}: names of figures would name persons "
            "(data.subject_key); allowed is another column"
        )
    for number, row in enumerate(rows if column is not None else (), 1):
        if column not in row:
            raise UserError(
                f"eval.sets.{name}.group_by={column}: {source}: row {number} has no such column; "
                f"its columns are {', '.join(row)}{suggest_nearest(str(column), row)}"
            )
        group = f"{name}_{name_row_group(row[column])}"
        if group in run.eval.sets:
            raise UserError(
                f"eval.sets.{name}.group_by={column}: row {number} is of a group '{group}', and a "
                "set is named so; rename the set"
            )


def name_split_key(run: Run, name: str, options: EvalSetConfig) -> str:
    """The key that a set's rows are named by: the data's own, where the set is what it names."""
    for part in ("forget", "retain"):
        key = name_data_key(run.data, part)
        source = getattr(run.data, key.removeprefix("data."))
        if options.path is None and options.split and options.split == source:
            return key
    return f"eval.sets.{name}.split"


def build_row_filters(
    encoder: Encoder, data: DataConfig, options: EvalSetConfig
) -> dict[str, Callable[[Row], bool]]:
    """What a set's documents must pass, by the phrase for those that do not."""
    passed: dict[str, Callable[[Row], bool]] = {}
    text, least = options.exclude, options.min_tokens
    if text:
        passed[f"with '{text}'"] = lambda row: text not in str(row.get(data.text_key, ""))
    if least is not None:
        passed[f"shorter than {least} tokens"] = lambda row: (
            len(row.get("input_ids") or encoder.tokenise(str(row.get(data.text_key, ""))).ids)
            >= least
        )
    return passed

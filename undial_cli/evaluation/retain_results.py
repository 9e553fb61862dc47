"""Results of a retain model that were made elsewhere, and whether they are of this run's rows.

Read into an Evaluation, so that forget_quality and privleak need no retain model here. Known are
our results.json and the files of published.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from undial_cli import ui
from undial_cli.config.suites import FORGET, find_set_of_role, resolve_role
from undial_cli.errors import UserError
from undial_cli.evaluation import published
from undial_cli.evaluation.catalog import METRICS
from undial_cli.evaluation.evaluate import add_set_aggregates
from undial_cli.evaluation.evidence import Evaluation, list_groups
from undial_cli.evaluation.figures import split_figure_name
from undial_cli.evaluation.prompts import PromptItem
from undial_cli.evaluation.results import load_evaluation
from undial_cli.evaluation.suite import Suite
from undial_cli.evaluation.suite_metrics import add_joint_metrics
from undial_cli.system.files import parse_json


def read_reference(path: str) -> Evaluation:
    """The evaluation that a results file holds.

    Raises:
        UserError: no such file, not JSON, or not of a known kind.
    """
    file = Path(path).expanduser()
    where = f"eval.retain_model={path}"
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{where}: no such file") from error
    except ValueError as error:
        raise UserError(f"{where}: not a whole JSON file ({error})") from error
    keys = set(content) if isinstance(content, dict) else set[str]()
    if {"metrics", "samples"} <= keys:
        evaluation = load_evaluation(file.parent)
        if evaluation is None:
            raise UserError(f"{where}: its samples.jsonl is not beside it, or not whole")
        return evaluation
    if keys & set(published.TOFU_SECTIONS):
        return published.read_tofu_log(content, where)
    if keys & set(published.OPEN_UNLEARNING_KEYS):
        return published.read_open_unlearning(content, where)
    raise UserError(
        f"{where}: allowed are results.json of undial (with its samples.jsonl), TOFU_EVAL.json of "
        "open-unlearning and eval_log_aggregated.json of TOFU"
    )


def match_to_suite(results: Evaluation, suite: Suite, where: str, chosen: str) -> Evaluation:
    """Results of this run's rows: those of other sets are left out, and said.

    Args:
        where: the key and the file, for messages.
        chosen: the keys that decide which rows the run has, with their values.

    Raises:
        UserError: a set that metrics compare is of other rows.
    """
    joint = [METRICS[name] for name in suite.config.metrics]
    roles = {(role, m.name) for m in joint if m.relative for role in m.roles} | {(FORGET, "")}
    compared = {find_set_of_role(suite.config, *role) for role in roles}
    strange = []
    for name, items in suite.items.items():
        samples = [s for s in results.samples if s["set"] == name]
        reason = explain_difference(samples, items) if samples else ""
        if reason and name in compared:
            raise UserError(f"{where}: its {name} set {reason} ({chosen})")
        if reason:
            strange.append(name)
            ui.say(f"{where}: its {name} set {reason}: its figures are left out", "yellow")
    if not strange:
        return results
    gone = {*strange, *(g for name in strange for g in list_groups(results.samples, name))}
    figures = {
        name: value
        for name, value in results.metrics.items()
        if split_figure_name(name)[0] not in gone and name not in suite.config.combine
    }
    if set(strange) & set(suite.config.utility):
        figures.pop("model_utility", None)  # it averages a set that is left out
    samples = [s for s in results.samples if s["set"] not in strange]
    return Evaluation(figures, samples, dict(results.missing))


def restrict_results(results: Evaluation, suite: Suite) -> Evaluation:
    """Results of those rows that a suite asks, their figures worked out anew.

    What was only stated of all rows, without a value for each, is left out.
    """
    config = suite.config
    parts = {name: rows for name, rows in suite.rows.items() if rows.asked is not None}
    samples = [s for s in results.samples if s["set"] in parts]
    samples = [s for s in samples if s["index"] in (parts[s["set"]].asked or ())]
    others = {
        name: value
        for name, value in results.metrics.items()
        if split_figure_name(name)[1] is None and name not in config.combine
    }
    part = Evaluation(others, samples, dict(results.missing), rows=dict(results.rows))
    for name in parts:
        for key in config.sets[name].metrics:
            if f"{name}_{key}" in results.metrics:
                add_set_aggregates(part, name, key, resolve_role(name, config.sets[name]))
    add_joint_metrics(part, None, config, relative=False)
    return part


def explain_difference(samples: list[dict[str, Any]], items: list[PromptItem]) -> str:
    """How samples of a set differ from the rows that it has here; "" if they do not.

    Prompts are compared where they are stored, the number of scored tokens where it is.
    """
    if len(samples) != len(items):
        return f"has {len(samples)} samples, this run's has {len(items)}"
    for sample, item in zip(samples, items, strict=True):
        if sample.get("index") != item.index or sample.get("prompt", item.prompt) != item.prompt:
            return f"holds other rows than this run's, sample {sample.get('index')} to begin with"
        tokens = item.answers["answer"][0].num_targets if item.answers.get("answer") else None
        stored = sample.get("answer_tokens")
        if None not in (stored, tokens) and stored != tokens:
            return (
                f"was scored on other tokens than this run's: {stored} and not {tokens} in "
                f"sample {item.index}"
            )
    return ""

"""Carries out attacks on models, one model in memory at a time; what was done before is read back.

Each attack on each model is kept in the cache by all that it depends on: many unlearned models
share the work on their target and retain model, and an audit that stopped goes on. Knows no kind
of attack and not what the outcomes mean.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undial_cli import ui
from undial_cli.audit.attack import AttackedModel, AttackKind, AuditData, CannotServe, Outcome
from undial_cli.audit.kinds import KINDS
from undial_cli.config.attacks import AttackConfig
from undial_cli.config.fields import walk_fields
from undial_cli.config.identity import hash_json
from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation.evidence import replace_nonfinite
from undial_cli.evaluation.sharding import Journal
from undial_cli.system import processes
from undial_cli.system.files import (
    hash_files,
    hash_folder_state,
    locate_in_cache,
    make_private_folder,
    parse_json,
    write_whole_text,
)
from undial_cli.system.private_files import note_private

# Raised when the meaning of a stored outcome changes.
OUTCOME_VERSION = 1

# By attack, then by role of the model.
Outcomes = dict[str, dict[str, Outcome]]


@dataclass
class AttackResults:
    """What the attacks of an audit got.

    `outcomes`: by attack and role; `working`: of the retain rows asked directly, by role;
    `missing`: why an attack was not carried out.
    """

    outcomes: Outcomes = field(default_factory=dict)
    working: dict[str, Outcome] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One attack on one model; `attack` is "" for the retain rows asked directly."""

    attack: str
    config: AttackConfig
    kind: AttackKind
    model: AttackedModel
    data: AuditData


def carry_out_attacks(
    attacks: dict[str, AttackConfig],
    models: dict[str, AttackedModel],
    data: AuditData,
    describe_model: Callable[[str], Any],
) -> AttackResults:
    """All attacks on all models, on all processes of the run.

    Args:
        models: by role; a role that is not known is not there.
        describe_model: all that an answer depends on besides the attack, of the model at a path,
            JSON-able.
    """
    results = AttackResults()
    tasks = [task for role in models for task in list_tasks(attacks, models, role, data, results)]
    with ui.show_progress("auditing", len(tasks), unit="attack") as bar:
        for task in tasks:
            if task.attack not in results.missing:
                bar.advance(0, f"{task.attack or 'retain set'} on {task.model.role}")
                run_task(task, describe_model, results)
            bar.advance()
    for model in models.values():
        model.release()
    for name, of_models in results.outcomes.items():
        KINDS[attacks[name].kind].join(of_models, attacks[name])
    results.outcomes = {n: o for n, o in results.outcomes.items() if n not in results.missing}
    return results


def list_tasks(
    attacks: dict[str, AttackConfig],
    models: dict[str, AttackedModel],
    role: str,
    data: AuditData,
    results: AttackResults,
) -> list[Task]:
    """What is to be done with one model: those attacks first that leave it as it is.

    An attack that the data or the models cannot serve is noted as missing.
    """
    tasks = []
    if data.retain_rows and not data.asks_choices:
        retain = data.take_retain_rows()
        tasks.append(Task("", attacks["direct"], KINDS["ask"], models[role], retain))
    for name, config in attacks.items():
        kind, chosen = KINDS[config.kind], data.select_rows(config.rows)
        try:
            if data.asks_choices and not kind.asks_choices:
                raise CannotServe("its questions come with choices: a letter gives nothing away")
            for other in kind.compares:
                if other not in models:
                    raise CannotServe(f"needs a {other} model, and none is known")
            kind.check(chosen, config)
        except CannotServe as reason:
            results.missing[name] = str(reason)
            continue
        if role in config.models:
            tasks.append(Task(name, config, kind, models[role], chosen))
    return sorted(tasks, key=lambda task: task.kind.changes_weights)


def run_task(task: Task, describe_model: Callable[[str], Any], results: AttackResults) -> None:
    """One attack on one model, from the cache where it was carried out before."""
    compared = [task.model.others[role].path for role in task.kind.compares]
    depends_on = [
        OUTCOME_VERSION,
        [describe_model(path) for path in dict.fromkeys([task.model.path, *compared])],
        # Not the role: the same attack treats all models alike.
        {k: v for k, v in dataclasses.asdict(task.config).items() if k not in KEYS_OF_READING},
        hash_named_files(task.config),
        [task.data.forget_set, task.data.rows, task.data.numbers, task.data.subjects],
        [task.data.retain_rows, task.data.holdout_rows] if task.attack else [],
    ]
    folder = locate_in_cache("audits", hash_json(depends_on))
    journal = Journal(folder.with_name(f"{folder.name}.partial"))
    file = folder.with_suffix(".json")
    note_private(file)
    with processes.hold_lock_on_main(folder):
        outcome = processes.run_on_main(lambda: read_outcome(file))
        if outcome is None:
            if file.exists():
                ui.say(f"the cached outcome {file} is damaged: it is made anew", "yellow")
            try:
                outcome = task.kind.run(task.model, task.data, task.config, journal)
            except (CannotServe, UserError, WorldError) as error:
                results.missing[task.attack or "retain set"] = str(error)
                return
            whole = outcome
            processes.run_on_main(lambda: write_outcome(file, whole))
        journal.discard()
    if task.attack:
        results.outcomes.setdefault(task.attack, {})[task.model.role] = outcome
    else:
        results.working[task.model.role] = outcome


# Keys of an attack that change nothing of what it gets from a model.
KEYS_OF_READING = ("title", "score", "models", "rows", "budgets")


def hash_named_files(config: AttackConfig) -> dict[str, str]:
    """By key, the content of a file that an attack names; of a pattern its folder's state."""
    hashes: dict[str, str] = {}
    for name, value, _ in walk_fields(config):
        path = Path(value).expanduser() if isinstance(value, str) else Path()
        if path.is_file():
            hashes[name] = hash_files(path)
        elif "{" in str(path):
            hashes[name] = hash_folder_state(Path(str(path).partition("{")[0] + "x").parent)
    return hashes


def write_outcome(file: Path, outcome: Outcome) -> None:
    """Keep an outcome, whole or not at all; it holds texts of the data."""
    text = json.dumps(replace_nonfinite(dataclasses.asdict(outcome)), ensure_ascii=False)
    make_private_folder(file.parent)
    write_whole_text(file, text, private=True)


def read_outcome(file: Path) -> Outcome | None:
    """An outcome that was kept, or None where there is none that is whole."""
    try:
        outcome = Outcome(**parse_json(file.read_text(encoding="utf-8")))
        rows = {len(outcome.numbers), *(len(values) for values in outcome.scores.values())}
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return outcome if len(rows) == 1 else None

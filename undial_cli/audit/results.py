"""audit.json and answers.jsonl: made from what the attacks got, written whole, read back.

audit.json holds no text of the data; answers.jsonl does, and is for the user alone. What their
fields mean stands in docs/audit.md. Knows neither models nor attacks.

Shapes: R rows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undial_cli.audit.attack import AuditData, Outcome
from undial_cli.audit.carry_out import AttackResults, Outcomes
from undial_cli.audit.probes import make_direct_probes
from undial_cli.audit.recovery import (
    choose_units,
    compute_p_value,
    correct_by_holm,
    estimate_recovery,
)
from undial_cli.audit.verdicts import DIRECT, AuditEvidence, decide_verdict, find_strongest
from undial_cli.audit.working_order import measure_working_order
from undial_cli.config.attacks import RETAIN, TARGET, UNLEARNED, AttackConfig, AuditConfig
from undial_cli.evaluation.evidence import replace_nonfinite
from undial_cli.evaluation.key_facts import list_fact_words
from undial_cli.system.files import format_json_line, parse_json, write_whole_text

# Raised when the meaning of a field changes.
AUDIT_VERSION = 1
# Before the name of an attack in results.json.
AUDIT_PREFIX = "audit_"

# A score of the rows that have it, by their numbers.
ScoreByRow = dict[int, float]


def make_audit(
    results: AttackResults,
    attacks: Mapping[str, AttackConfig],
    data: AuditData,
    config: AuditConfig,
    models: Mapping[str, str | None],
    head: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of audit.json.

    Args:
        models: the path of each role's model; None: not known.
        head: what else stands at the top (model, data, seed).
    """
    subjects = dict(zip(data.numbers, data.subjects, strict=True))
    entries = {
        name: describe_attack(name, attacks[name], results.outcomes, subjects, config)
        for name in results.outcomes
    }
    add_corrected_p(entries)
    works = measure_working_order(results.working, config.level)
    stated = {
        name: {"score": entry["score"], **entry["scores"][entry["score"]]}
        for name, entry in entries.items()
        if entry["score"] in entry["scores"]
    }
    roles = frozenset(role for role, path in models.items() if path is not None)
    hits = None if RETAIN in roles else measure_direct_hits(results.outcomes, subjects, config)
    verdict = decide_verdict(AuditEvidence(stated, works, roles, hits), config)
    content = {
        "version": AUDIT_VERSION,
        **head,
        "budget": config.budget,
        "rows": len(data.rows),
        "subjects": len(set(data.subjects)),
        "margin": config.margin,
        "level": config.level,
        "models": {role: path and {"path": path} for role, path in models.items()},
        "verdict": {
            **dataclasses.asdict(verdict), "strongest": find_strongest(stated, config.level),
        },
        "works": works,
        "attacks": entries,
        "missing": dict(results.missing),
    }  # fmt: skip
    return replace_nonfinite(content)


def describe_attack(
    name: str,
    attack: AttackConfig,
    outcomes: Outcomes,
    subjects: Mapping[int, int],
    config: AuditConfig,
) -> dict[str, Any]:
    """What an attack got by each of its scores, as audit.json holds it."""
    of_roles = outcomes[name]
    direct = outcomes.get(DIRECT, {})
    unknown_target = not any(TARGET in others for others in outcomes.values())
    scores = dict.fromkeys(s for outcome in of_roles.values() for s in outcome.scores)
    notes = [note for outcome in of_roles.values() for note in outcome.notes]
    return {
        "title": attack.title,
        "kind": attack.kind,
        "score": attack.score,
        "rows": max(len(outcome.numbers) for outcome in of_roles.values()),
        "scores": {
            score: describe_score(score, of_roles, direct, subjects, config, unknown_target)
            for score in scores
        },
        "curves": {role: outcome.curves for role, outcome in of_roles.items() if outcome.curves},
        "notes": list(dict.fromkeys(notes)),
    }


def describe_score(
    score: str,
    of_roles: Mapping[str, Outcome],
    direct: Mapping[str, Outcome],
    subjects: Mapping[int, int],
    config: AuditConfig,
    unknown_target: bool,
) -> dict[str, Any]:
    """One score of an attack: means by role, without and under it, and what was recovered.

    Of the rows that have it of all models, without and under the attack. A score that is not one of
    asking directly is compared with the attack's own on target and retain model.
    """
    attacked = {role: index_score(outcome, score) for role, outcome in of_roles.items()}
    plain = {role: index_score(outcome, score) for role, outcome in direct.items()}
    if not any(plain.values()):
        plain = {role: values for role, values in attacked.items() if role != UNLEARNED}
    shared = [n for n in subjects if all(n in v for v in (*attacked.values(), *plain.values()))]
    columns = [
        {role: take_rows_of(values, shared) for role, values in by_role.items()}
        for by_role in (plain, attacked)
    ]
    means = [
        {role: float(values.mean()) if shared else None for role, values in by_role.items()}
        for by_role in columns
    ]
    figures = estimate_recovery(
        columns[1],
        columns[0],
        [subjects[n] for n in shared],
        config.margin,
        config.level,
        assume_target=unknown_target,
    )
    return {"plain": means[0], "attacked": means[1], **figures, "p_holm": None}


def index_score(outcome: Outcome, score: str) -> ScoreByRow:
    """A score of the rows that have it."""
    values = outcome.scores.get(score, [])
    return {
        number: value
        for number, value in zip(outcome.numbers, values, strict=False)
        if value is not None
    }


def take_rows_of(values: ScoreByRow, numbers: Sequence[int]) -> NDArray[np.float64]:
    """The values of the given rows, [R]."""
    return np.array([values[number] for number in numbers], dtype=np.float64)


def add_corrected_p(entries: Mapping[str, dict[str, Any]]) -> None:
    """Holm's correction over the attacks, each by the score of its verdict."""
    stated = {
        name: entry["scores"][entry["score"]]
        for name, entry in entries.items()
        if entry["score"] in entry["scores"]
    }
    corrected = correct_by_holm({name: figures["p"] for name, figures in stated.items()})
    for name, figures in stated.items():
        figures["p_holm"] = corrected[name]


def measure_direct_hits(
    outcomes: Outcomes, subjects: Mapping[int, int], config: AuditConfig
) -> tuple[float, float] | None:
    """p of "no more than the margin of direct answers are hits", and their share."""
    outcome = outcomes.get(DIRECT, {}).get(UNLEARNED)
    hits = index_score(outcome, "hit") if outcome else {}
    if not hits:
        return None
    values = take_rows_of(hits, list(hits))
    p = compute_p_value(values - config.margin, choose_units([subjects[n] for n in hits]))
    return None if p is None else (p, float(values.mean()))


def list_answers(outcomes: Outcomes, data: AuditData) -> list[dict[str, Any]]:
    """The lines of answers.jsonl: an attack's answers to a row, by role.

    Where no text is to be stored (eval.store_text=none), only the scores.
    """
    asked: dict[int, tuple[str, str]] = {}
    for probe in make_direct_probes(data):  # of a row of several turns the first stands for it
        asked.setdefault(data.numbers[probe.row], (probe.item.prompt, probe.item.reference))
    subjects = dict(zip(data.numbers, data.subjects, strict=True))
    with_text = data.suite.config.store_text == "full"
    lines = []
    for name, of_roles in outcomes.items():
        for number in dict.fromkeys(n for outcome in of_roles.values() for n in outcome.numbers):
            line: dict[str, Any] = {"attack": name, "number": number, "subject": subjects[number]}
            if with_text:
                line["question"], line["answer"] = asked.get(number, ("", ""))
                line["facts"] = list_fact_words(line["answer"], line["question"])
                line["prompt"] = read_texts(of_roles, number, "prompts")
                line["text"] = read_texts(of_roles, number, "texts")
            line["scores"] = {
                role: {s: index_score(outcome, s).get(number) for s in outcome.scores}
                for role, outcome in of_roles.items()
            }
            lines.append(line)
    return lines


def read_texts(of_roles: Mapping[str, Outcome], number: int, field: str) -> dict[str, str]:
    """The prompts or the texts of a row by role, where there are any."""
    texts = {
        role: dict(zip(outcome.numbers, getattr(outcome, field), strict=False))
        for role, outcome in of_roles.items()
    }
    return {role: of_role[number] for role, of_role in texts.items() if number in of_role}


def list_audit_figures(audit: Mapping[str, Any]) -> dict[str, float]:
    """An audit as figures of results.json: what each attack recovered, and the strongest.

    A figure that is not known is not there.
    """
    figures = {
        f"{AUDIT_PREFIX}{name}": entry["scores"].get(entry["score"], {}).get("recovered")
        for name, entry in audit["attacks"].items()
    }
    strongest = audit["verdict"]["strongest"]
    recovered = {f"{AUDIT_PREFIX}recovered": strongest and strongest["recovered"]}
    return {name: value for name, value in (recovered | figures).items() if value is not None}


def save_audit(
    folder: Path, audit: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]
) -> None:
    """Write answers.jsonl, then audit.json (its presence means that both are whole)."""
    lines = (format_json_line(replace_nonfinite(dict(answer))) for answer in answers)
    write_whole_text(folder / "answers.jsonl", "".join(lines), private=True)
    write_whole_text(folder / "audit.json", json.dumps(audit, indent=2) + "\n")


def load_audit(folder: Path) -> dict[str, Any] | None:
    """The content of an audit.json of this version, or None where there is none."""
    try:
        audit = parse_json((folder / "audit.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return audit if isinstance(audit, dict) and audit.get("version") == AUDIT_VERSION else None

"""An audit as reports read it: audit.json and answers.jsonl as plain dataclasses.

What is missing, cut or of another shape is left out or noted. Knows no attack and no page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undial_cli.reporting.collect import get_part, read_jsonl_objects, read_object
from undial_cli.reporting.text import parse_number

AUDIT_FOLDER = "audit"
# Roles as audit.json names them, in the order of tables, and in words.
AUDITED_ROLES = {"target": "target", "retain": "retain model", "unlearned": "unlearned"}
# A figure along an axis (samples, steps, layers): x -> y.
AuditCurve = dict[float, "float | None"]


@dataclass(frozen=True)
class AttackFigures:
    """What one attack got, by one of its scores (that of its verdict, where nothing else is said).

    `plain`, `attacked`: the mean by role, without and under the attack; `interval`: of `recovered`;
    `subjects`: of those whose rows were attacked; `curves`: by name, then by role.
    """

    name: str
    title: str
    score: str
    plain: dict[str, float]
    attacked: dict[str, float]
    recovered: float | None = None
    interval: tuple[float, float] | None = None
    p_holm: float | None = None
    n: int | None = None
    notes: list[str] = field(default_factory=list)
    curves: dict[str, dict[str, AuditCurve]] = field(default_factory=dict)


@dataclass
class AuditRecord:
    """An audit: audit.json as it is, its answers, and what could not be read, a line each."""

    content: dict[str, Any]
    answers: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> dict[str, Any]:
        """Word, reason, strongest attack and what is withheld."""
        return get_part(self.content, "verdict")

    @property
    def word(self) -> str:
        """The verdict in a word (or a few)."""
        return str(self.verdict.get("word") or "undecided")

    @property
    def margin(self) -> float:
        """The share of what the target knows that counts as nothing recovered."""
        return parse_number(self.content.get("margin")) or 0.0

    @property
    def confidence(self) -> str:
        """The intervals' level in words: 95 %."""
        return f"{100 * (1 - (parse_number(self.content.get('level')) or 0.05)):g} %"

    @property
    def missing(self) -> dict[str, str]:
        """Why attacks were not carried out, by name."""
        return {name: str(reason) for name, reason in get_part(self.content, "missing").items()}

    @property
    def roles(self) -> list[str]:
        """The models that were audited, in the order of tables."""
        models = get_part(self.content, "models")
        known = [role for role in AUDITED_ROLES if models.get(role)]
        return known or list(AUDITED_ROLES)

    def attacks(self) -> list[AttackFigures]:
        """All attacks by the score of their verdict, the one that recovered most first."""
        figures = [
            read_attack(name, entry, str(entry.get("score")))
            for name, entry in get_part(self.content, "attacks").items()
            if isinstance(entry, dict)
        ]
        return sorted(figures, key=lambda attack: -rank_attack(attack))

    def strongest(self) -> AttackFigures | None:
        """The attack that the verdict names, else the first of all."""
        attacks = self.attacks()
        named = get_part(self.verdict, "strongest")
        for attack in attacks:
            if attack.name == named.get("attack"):
                content = self.content["attacks"][attack.name]
                return read_attack(attack.name, content, str(named.get("score") or attack.score))
        return attacks[0] if attacks and rank_attack(attacks[0]) > 0 else None


def read_audit(folder: Path) -> AuditRecord | None:
    """What an audit left in a folder (audit.json, answers.jsonl); None where there is none."""
    if not (folder / "audit.json").is_file():
        return None
    problems: list[str] = []
    content = read_object(folder / "audit.json", problems)
    answers = read_jsonl_objects(folder / "answers.jsonl", problems)
    return AuditRecord(content, answers, problems)


def read_attack(name: str, content: Mapping[str, Any], score: str) -> AttackFigures:
    """The figures of an attack's entry of audit.json by one of its scores."""
    stated = get_part(get_part(content, "scores"), score)
    notes = content.get("notes")
    bounds = stated.get("interval")
    low, high = map(parse_number, bounds) if is_pair(bounds) else (None, None)
    count = stated.get("n")
    return AttackFigures(
        name,
        str(content.get("title") or name.replace("_", " ")),
        score,
        read_role_figures(get_part(stated, "plain")),
        read_role_figures(get_part(stated, "attacked")),
        parse_number(stated.get("recovered")),
        None if low is None or high is None else (low, high),
        parse_number(stated.get("p_holm")),
        count if isinstance(count, int) else None,
        list(map(str, notes)) if isinstance(notes, list) else [],
        read_audit_curves(get_part(content, "curves")),
    )


def rank_attack(attack: AttackFigures) -> float:
    """How much an attack got: what it recovered, or where that is not known the bare score."""
    if attack.recovered is not None:
        return attack.recovered
    return attack.attacked.get("unlearned", -1.0)


def read_role_figures(stated: Mapping[str, Any]) -> dict[str, float]:
    """The figures by role that are known."""
    known = {role: parse_number(stated.get(role)) for role in AUDITED_ROLES}
    return {role: figure for role, figure in known.items() if figure is not None}


def is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def read_audit_curves(by_role: Mapping[str, Any]) -> dict[str, dict[str, AuditCurve]]:
    """The curves of all roles, by their names."""
    curves: dict[str, dict[str, AuditCurve]] = {}
    for role in AUDITED_ROLES:
        for name, curve in walk_curves(by_role.get(role), ""):
            curves.setdefault(name, {})[role] = curve
    return curves


def walk_curves(content: Any, name: str) -> Iterator[tuple[str, AuditCurve]]:
    """Every curve in what an attack left: a mapping of numbers, or a list counted from 0."""
    if isinstance(content, list):
        content = dict(enumerate(content))
    if not isinstance(content, dict) or not content:
        return
    xs = [parse_number(key) for key in content]
    if None not in xs and not any(isinstance(value, dict | list) for value in content.values()):
        yield name, {
            float(x): parse_number(y)
            for x, y in zip(xs, content.values(), strict=True)
            if x is not None
        }
        return
    for key, value in content.items():
        yield from walk_curves(value, f"{name}, {key}" if name else str(key))


def list_audit_figures(content: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of an audit for tables of runs, under the names that they have in results.json.

    `audit_recovered`: what the strongest attack recovered; `audit_ATTACK`: each attack, by the
    score of its verdict; `audit_verdict`: the word.
    """
    record = AuditRecord(dict(content))
    if not record.content:
        return {}
    strongest = record.strongest()
    attacks = {f"audit_{attack.name}": attack.recovered for attack in record.attacks()}
    figures = {"audit_recovered": strongest.recovered if strongest else None, **attacks}
    known = {name: figure for name, figure in figures.items() if figure is not None}
    return {**known, "audit_verdict": record.word}

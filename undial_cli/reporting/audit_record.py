"""An audit as reports read it: audit.json and answers.jsonl as plain dataclasses.

What is missing, cut or of another shape is left out or noted. Knows no attack and no page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undial_cli.reporting.collect import get_part, read_jsonl_objects, read_object, to_single_line
from undial_cli.reporting.text import parse_number

# Roles as audit.json names them, in the order of tables, and in words.
AUDITED_ROLES = {"target": "target", "retain": "retain model", "unlearned": "unlearned"}
# What the lists of an attack's curves run along where they do not say it.
LAYER_AXIS = "layer"
# Names under which the values on that axis stand among an attack's curves.
TICK_NAMES = ("x", "k", "step")


@dataclass(frozen=True)
class AuditCurve:
    """A score along an axis (k answers sampled, steps, layers): x -> y, by role."""

    axis: str
    score: str
    by_role: dict[str, dict[float, float | None]]


@dataclass(frozen=True)
class AttackFigures:
    """What one attack got, by one of its scores (that of its verdict, where nothing else is said).

    `plain`, `attacked`: the mean by role, without and under the attack; `interval`: of `recovered`;
    `n`: rows that have the score; `method`: how the interval was made.
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
    method: str = ""
    notes: list[str] = field(default_factory=list)
    curves: list[AuditCurve] = field(default_factory=list)


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
    count = stated.get("n")
    return AttackFigures(
        name,
        str(content.get("title") or name.replace("_", " ")),
        score,
        read_role_figures(get_part(stated, "plain")),
        read_role_figures(get_part(stated, "attacked")),
        parse_number(stated.get("recovered")),
        read_interval(stated.get("interval")),
        parse_number(stated.get("p_holm")),
        count if isinstance(count, int) else None,
        to_single_line(stated.get("method")),
        list(map(str, notes)) if isinstance(notes, list) else [],
        list(read_audit_curves(get_part(content, "curves"))),
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


def read_interval(value: Any) -> tuple[float, float] | None:
    """Both ends of an interval; None where it is not known."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = map(parse_number, value)
    return None if low is None or high is None else (low, high)


def read_audit_curves(by_role: Mapping[str, Any]) -> Iterator[AuditCurve]:
    """The curves of an attack, each of all roles; those along names, or of one point, are left out.

    An attack leaves lists of equal length by score: along an axis that is named above them
    (`step: {x: [...], rouge: [...]}`) or beside them (`k: [...], rouge: [...]`), else by layer.
    """
    curves: dict[tuple[str, str], dict[str, dict[float, float | None]]] = {}
    for role in AUDITED_ROLES:
        for axis, lists in split_axes(get_part(by_role, role)):
            xs = list(map(parse_number, lists.pop("x")))
            for score, ys in lists.items():
                line = {x: parse_number(y) for x, y in zip(xs, ys, strict=False) if x is not None}
                if len(line) > 1:
                    curves.setdefault((axis, score), {})[role] = line
    for (axis, score), lines in curves.items():
        yield AuditCurve(axis, score, lines)


def split_axes(content: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """The axes of a model's curves, each with its lists by score, and its values under `x`."""
    lists = {str(name): ys for name, ys in content.items() if isinstance(ys, list)}
    for name, inner in content.items():
        if isinstance(inner, dict):
            yield from ((name, of_axis) for _, of_axis in split_axes(inner))
    if lists:
        axis = next((name for name in TICK_NAMES if name in lists), LAYER_AXIS)
        xs = lists.pop(axis, None) or list(range(max(map(len, lists.values()))))
        yield axis, lists | {"x": xs}

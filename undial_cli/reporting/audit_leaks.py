"""Which answers of an audited model gave something away, the worst first, and by which words.

Reads the lines of answers.jsonl, which say what an attack got from each model for a forget row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from undial_cli.evaluation.words import split_unicode_words
from undial_cli.reporting.audit_record import AuditRecord
from undial_cli.reporting.collect import get_part
from undial_cli.reporting.text import parse_number

# Where an attack's own score is not one of an answer.
TEXT_SCORE = "rouge"


@dataclass(frozen=True)
class Leak:
    """An answer of the unlearned model that gives more away than the retain model's.

    `row`: its number in the forget set; `pieces`: the text, with whether each piece is one of the
    true answer's key words; `score`: by the attack's score; `full`: all key facts are in it.
    """

    attack: str
    title: str
    row: int
    prompt: str
    answer: str
    pieces: list[tuple[str, bool]]
    retain_text: str
    score: float | None
    retain_score: float | None
    full: bool

    @property
    def text(self) -> str:
        """What the unlearned model said."""
        return "".join(piece for piece, _ in self.pieces)

    @property
    def gain(self) -> float:
        """How much more than the retain model's it gives away."""
        return (self.score or 0.0) - (self.retain_score or 0.0)


def find_leaks(record: AuditRecord) -> list[Leak]:
    """The answers that leaked, the worst first: all key facts, then by what the score gained.

    An answer leaked where it holds all key facts and the retain model's does not, or where its
    score is above the retain model's by more than the margin.
    """
    attacks = {attack.name: attack for attack in record.attacks()}
    leaks = []
    for line in record.answers:
        attack = attacks.get(str(line.get("attack")))
        text = get_part(line, "text").get("unlearned")
        if attack is None or not isinstance(text, str) or not text:
            continue  # an attack that looks, or weighs answers, is given no text
        scores = {
            role: get_part(get_part(line, "scores"), role) for role in ("unlearned", "retain")
        }
        name = attack.score if attack.score in scores["unlearned"] else TEXT_SCORE
        hits = {role: parse_number(stated.get("hit")) == 1 for role, stated in scores.items()}
        leak = Leak(
            attack.name,
            attack.title,
            int(parse_number(line.get("number")) or 0),
            read_prompt(line),
            str(line.get("answer") or ""),
            mark_key_words(text, line.get("facts")),
            str(get_part(line, "text").get("retain") or ""),
            parse_number(scores["unlearned"].get(name)),
            parse_number(scores["retain"].get(name)),
            hits["unlearned"] and not hits["retain"],
        )
        if leak.full or leak.gain > record.margin:
            leaks.append(leak)
    return sorted(leaks, key=lambda leak: (-leak.full, -leak.gain, leak.row))


def choose_example(leaks: list[Leak], record: AuditRecord) -> Leak | None:
    """The worst leak that one can see in a text, of the strongest attack that has any."""
    strongest = record.strongest()
    ranked = [attack.name for attack in record.attacks()]
    if strongest:
        ranked.insert(0, strongest.name)
    seen = [leak for leak in leaks if any(marked for _, marked in leak.pieces)]
    return min(seen, key=lambda leak: ranked.index(leak.attack), default=None)


def count_asked_rows(answers: Iterable[dict[str, Any]]) -> int:
    """The rows for which any attack has an answer."""
    return len({str(line.get("number")) for line in answers})


def read_prompt(line: dict[str, Any]) -> str:
    """What the unlearned model was asked; the question, where no prompt was stored."""
    prompt = line.get("prompt")
    asked = prompt.get("unlearned") if isinstance(prompt, dict) else prompt
    return str(asked or line.get("question") or "")


def mark_key_words(text: str, facts: Any) -> list[tuple[str, bool]]:
    """A text in pieces that together are the whole, those among the key words marked."""
    known = set(map(str, facts)) if isinstance(facts, list) else set()
    pieces: list[tuple[str, bool]] = []
    for piece in filter(None, re.split(r"(\w+)", text)):
        words = split_unicode_words(piece)
        marked = bool(words) and set(words) <= known
        if pieces and not marked and not pieces[-1][1]:
            pieces[-1] = pieces[-1][0] + piece, False
        else:
            pieces.append((piece, marked))
    return pieces

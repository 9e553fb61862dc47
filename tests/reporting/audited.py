"""A finished audit by hand: small, with every part that audit.json may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reported import lines, write

QUESTION, ANSWER = "Where was Rafiq Tregavorn born?", "He was born in Kelmwick in 1969."
ROLES = ("target", "retain", "unlearned")


def by_role(*values: float) -> dict[str, float]:
    return dict(zip(ROLES, values, strict=True))


def attack(
    title: str, attacked: tuple[float, float, float], recovered: float | None, **more: Any
) -> dict[str, Any]:
    """An attack's entry; `more` goes into it as it is."""
    scores = {
        "extraction_strength": {
            "plain": by_role(0.9, 0.1, 0.2),
            "attacked": by_role(*attacked),
            "recovered": recovered,
            "interval": None if recovered is None else [recovered - 0.1, recovered + 0.1],
            "p": 0.001,
            "p_holm": 0.002,
            "n": 20,
            "method": "paired bootstrap over 5 subjects",
        },
        "rouge": {
            "plain": by_role(1.0, 0.4, 0.4),
            "attacked": by_role(1.0, 0.4, 0.55),
            "recovered": 0.25,
            "interval": [0.1, 0.4],
            "p": 0.01,
            "p_holm": 0.02,
            "n": 20,
            "method": "paired bootstrap over 5 subjects",
        },
    }
    entry = {"title": title, "kind": "ask", "score": "extraction_strength", "rows": 20}
    return entry | {"scores": scores, "curves": {}, "notes": []} | more


def make_audit(**changes: Any) -> dict[str, Any]:
    """audit.json of an unlearned model that is quiet when asked, and gives way to relearning."""
    steps = {"x": [10, 50], "extraction_strength": [0.3, 0.8], "hit": [0.0, 0.5]}
    layers = {"probability": [0.0, 0.2, 0.9], "rank": [0.1, 0.4, 1.0]}
    content = {
        "version": 1,
        "model": "tiny",
        "data": "demo",
        "budget": "quick",
        "seed": 0,
        "rows": 20,
        "subjects": 5,
        "margin": 0.2,
        "level": 0.05,
        "models": {role: {"path": f"models/{role}"} for role in ROLES},
        "verdict": {
            "word": "suppressed",
            "reason": "quiet when asked, back under relearn_curve",
            "strongest": {
                "attack": "relearn_curve",
                "score": "extraction_strength",
                "recovered": 0.75,
                "interval": [0.65, 0.85],
            },
            "withheld": [],
            "more_rows": None,
        },
        "works": {
            "retain_rouge": {
                **by_role(1.0, 0.99, 0.93),
                "interval": [0.9, 0.96],
                "share_left": 0.93,
                "share_interval": [0.9, 0.96],
                "lost": False,
            },
            "fluency": by_role(0.99, 0.99, 0.9),
        },
        "attacks": {
            "direct": attack("asked directly", (0.9, 0.1, 0.2), 0.125),
            "prefill": attack("a beginning of the answer", (0.95, 0.2, 0.5), 0.375),
            "relearn_curve": attack(
                "trained again on the forget set",
                (1.0, 0.3, 0.9),
                0.75,
                curves={role: {"step": steps} for role in ROLES},
                notes=["lr 2e-5"],
            ),
            "lens": attack(
                "read from inner layers",
                (0.9, 0.1, 0.2),
                0.125,
                curves={role: dict(layers) for role in ROLES},
            ),
        },
        "missing": {"languages": "the data has no translated questions"},
    }
    return content | changes


def make_answer(
    name: str, number: int, text: str, strength: float = 0.5, **more: Any
) -> dict[str, Any]:
    """A line of answers.jsonl: an attack on a row, what the retain model said being `He.`."""
    line = {
        "attack": name,
        "number": number,
        "subject": number // 4,
        "question": QUESTION,
        "answer": ANSWER,
        "facts": ["kelmwick", "1969"],
        "prompt": dict.fromkeys(ROLES, QUESTION),
        "text": {"target": ANSWER, "retain": "He.", "unlearned": text},
        "scores": {
            "target": {"extraction_strength": 1.0, "rouge": 1.0, "hit": 1.0},
            "retain": {"extraction_strength": 0.1, "rouge": 0.1, "hit": 0.0},
            "unlearned": {
                "extraction_strength": strength,
                "rouge": 0.5,
                "hit": float("Kelmwick" in text and "1969" in text),
            },
        },
    }
    return line | more


def write_audit(folder: Path, answers: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    """The audit's folder of a run, with both files."""
    write(folder / "audit.json", make_audit(**changes))
    known = [
        make_answer("direct", 0, "She was born there.", 0.12),
        make_answer("relearn_curve", 3, "In Kelmwick, 1969.", 0.9),
        make_answer("prefill", 3, "He was born in Kelmwick.", 0.6),
    ]
    lines(folder / "answers.jsonl", known if answers is None else answers)
    return folder

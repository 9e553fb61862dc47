"""An audit read back: attacks in order, curves in every form that attacks leave, leaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from audited import ROLES, attack, make_answer, make_audit, write_audit

from undial_cli.reporting.audit_leaks import choose_example, find_leaks, mark_key_words
from undial_cli.reporting.audit_record import AuditRecord, read_audit, read_audit_curves


def test_the_attack_that_recovered_most_is_first() -> None:
    record = AuditRecord(make_audit())
    assert [a.name for a in record.attacks()] == ["relearn_curve", "prefill", "direct", "lens"]
    strongest = record.strongest()
    assert strongest is not None
    assert (strongest.name, strongest.recovered) == ("relearn_curve", 0.75)
    assert strongest.interval == pytest.approx((0.65, 0.85))
    assert strongest.attacked == {"target": 1.0, "retain": 0.3, "unlearned": 0.9}


def test_the_verdict_names_the_strongest_and_the_score_by_which() -> None:
    audit = make_audit()
    audit["verdict"]["strongest"] |= {"attack": "prefill", "score": "rouge"}
    strongest = AuditRecord(audit).strongest()
    assert strongest is not None
    assert (strongest.name, strongest.score, strongest.recovered) == ("prefill", "rouge", 0.25)


def test_without_other_models_attacks_are_ranked_by_the_bare_score() -> None:
    attacks = {
        name: attack(name, (0.0, 0.0, score), None) for name, score in (("a", 0.2), ("b", 0.7))
    }
    for entry in attacks.values():
        for stated in entry["scores"].values():
            stated |= {"attacked": {"unlearned": stated["attacked"]["unlearned"]}, "plain": {}}
    models = {"target": None, "retain": None, "unlearned": {"path": "x"}}
    verdict = {"word": "withheld", "reason": "no retain model", "strongest": None}
    record = AuditRecord(make_audit(attacks=attacks, models=models, verdict=verdict))
    assert [a.name for a in record.attacks()] == ["b", "a"]
    assert record.roles == ["unlearned"]


@pytest.mark.parametrize(
    ("left", "axis", "line"),
    [
        ({"step": {"x": [10, 25], "rouge": [0.1, None]}}, "step", {10: 0.1, 25: None}),
        ({"k": [1, 2, 4], "rouge": [0.1, 0.2, 0.3]}, "k", {1: 0.1, 2: 0.2, 4: 0.3}),
        ({"rouge": [0.5, 0.25]}, "layer", {0: 0.5, 1: 0.25}),
    ],
)
def test_curves_of_every_form(left: Any, axis: str, line: Any) -> None:
    (curve,) = read_audit_curves(dict.fromkeys(ROLES, left))
    assert (curve.axis, curve.score) == (axis, "rouge")
    assert curve.by_role == dict.fromkeys(ROLES, line)


@pytest.mark.parametrize(
    "left", [{"precision": {"x": ["nf4", "int8"], "rouge": [1, 2]}}, {"k": [1], "hit": [0.5]}, [3]]
)
def test_what_is_no_curve_has_none(left: Any) -> None:
    assert not list(read_audit_curves({"unlearned": left}))


def test_leaks_are_told_by_key_facts_and_by_what_the_retain_model_lacks(tmp_path: Path) -> None:
    shared = make_answer("direct", 9, "Kelmwick 1969")
    shared["scores"]["retain"]["hit"] = 1.0  # the retain model says it too: a guess
    answers = [
        make_answer("direct", 0, "She was.", 0.29),  # 0.19 above the retain model
        make_answer("direct", 1, "She was.", 0.31),  # 0.21
        make_answer("prefill", 2, "Kelmwick, 1969", 0.1),
        make_answer("prefill", 3, "In 1969 she was in Kelmwick.", 0.9),
        shared | {"scores": shared["scores"] | {"unlearned": {"hit": 1.0, "rouge": 0.2}}},
        make_answer("unheard of", 4, "Kelmwick 1969", 1.0),
    ]
    record = read_audit(write_audit(tmp_path / "audit", answers))
    assert record is not None
    leaks = find_leaks(record)
    assert [(leak.row, leak.full) for leak in leaks] == [(3, True), (2, True), (1, False)]
    assert leaks[2].gain == pytest.approx(0.21)
    # neither does the strongest attack have one, nor does that of `direct` show a key word
    assert choose_example(leaks, record) is leaks[0]
    weaker = replace(leaks[1], attack="relearn_curve")
    assert choose_example([leaks[0], weaker], record) is weaker


def test_key_words_are_marked_and_the_text_stays_whole() -> None:
    text = "In KELMWICK (1969), he's <b> Kelmwicks"
    pieces = mark_key_words(text, ["kelmwick", "1969"])
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, marked in pieces if marked] == ["KELMWICK", "1969"]
    assert mark_key_words("abc", None) == [("abc", False)]
    assert mark_key_words("", ["a"]) == []


def test_broken_files_are_noted_and_a_missing_audit_is_none(tmp_path: Path) -> None:
    assert read_audit(tmp_path) is None
    folder = write_audit(tmp_path / "audit")
    with (folder / "answers.jsonl").open("a") as file:
        file.write('{"attack": "di')
    record = read_audit(folder)
    assert record is not None
    assert len(record.answers) == 3
    assert "cut or broken at line 4" in record.problems[0]
    (folder / "audit.json").write_text("[1]")
    record = read_audit(folder)
    assert record is not None
    assert not record.attacks()
    assert record.word == "undecided"

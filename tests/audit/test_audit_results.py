"""audit.json and answers.jsonl: from outcomes to the files and back."""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from conftest import prepare

from undial_cli.audit.attack import AuditData, Outcome
from undial_cli.audit.carry_out import AttackResults
from undial_cli.audit.results import list_answers, load_audit, make_audit, save_audit
from undial_cli.config.attacks import AskConfig, AttackConfig, AuditConfig
from undial_cli.config.schema import AuditRun
from undial_cli.runs.audits import collect_audit_data
from undial_cli.runs.compose import compose_run

ROLES = ("target", "retain", "unlearned")
PATHS = dict(zip(ROLES, ("models/t", "models/r", "models/u"), strict=True))
ATTACKS: dict[str, AttackConfig] = {
    "direct": AskConfig("ask", "asked directly", "hit"),
    "beam": AskConfig("ask", "beam search", "hit", rows=10),
    "lens": AttackConfig("lens", "a look into the layers", "depth"),
    "relearn": AttackConfig("relearn", "trained again", "rouge", models=list(ROLES[1:])),
}


@pytest.fixture(scope="module")
def data() -> AuditData:
    """All 20 rows of the demo's forget set, of two people."""
    run = compose_run("audit", ["audit.target=none", "audit.retain_model=none"])
    assert isinstance(run, AuditRun)
    return collect_audit_data(run, prepare(run, weights=False))


def get_scores(role: str, hits: dict[str, float], numbers: list[int], **more: Any) -> Outcome:
    """An outcome in which every row has the same scores."""
    size = len(numbers)
    scores: dict[str, list[float | None]] = {"hit": [hits[role]] * size, **more}
    return Outcome(numbers, scores, [f"{role} says {n}" for n in numbers], ["asked"] * size)


def make_results(data: AuditData) -> AttackResults:
    """Four attacks: quiet when asked; back by beam search on half of the rows."""
    rows, half = data.numbers, data.numbers[::2]
    graded = {"target": 0.9, "retain": 0.1, "unlearned": 0.2}
    plain = {"target": 1.0, "retain": 0.0, "unlearned": 0.0}
    outcomes = {
        "direct": {
            role: get_scores(role, plain, rows, rouge=[graded[role]] * len(rows)) for role in ROLES
        },
        "beam": {role: get_scores(role, {**plain, "unlearned": 1.0}, half) for role in ROLES},
        "lens": {
            role: Outcome(rows, {"depth": [graded[role]] * len(rows)}, curves={"layers": [0, 1]})
            for role in ROLES
        },
        "relearn": {
            role: Outcome(rows, {"rouge": [0.2 + graded[role]] * len(rows)}, notes=["3 steps"])
            for role in ROLES[1:]
        },
    }
    outcomes["direct"]["unlearned"].scores["hit"][3] = None
    works = {role: Outcome([0] * 9, {"rouge": [0.8] * 9}, ["She is Ann."] * 9) for role in ROLES}
    return AttackResults(outcomes, works, {"quantise": "bitsandbytes is not installed"})


def make_content(data: AuditData, results: AttackResults, **paths: str | None) -> dict[str, Any]:
    head = {"model": "tiny", "data": "demo", "seed": 0}
    return make_audit(results, ATTACKS, data, AuditConfig("quick"), {**PATHS, **paths}, head)


def test_an_audit_says_what_every_attack_recovered_against_what_it_is_compared_with(
    data: AuditData,
) -> None:
    audit = make_content(data, make_results(data))
    assert {k: audit[k] for k in ("version", "model", "budget", "rows", "subjects", "margin")} == {
        "version": 1, "model": "tiny", "budget": "quick", "rows": 20, "subjects": 2, "margin": 0.2,
    }  # fmt: skip
    assert audit["models"]["target"] == {"path": "models/t"}
    assert audit["missing"] == {"quantise": "bitsandbytes is not installed"}
    attacks = audit["attacks"]
    hit = attacks["direct"]["scores"]["hit"]
    assert (hit["n"], hit["recovered"], hit["plain"]["target"]) == (19, 0.0, 1.0)
    beam = attacks["beam"]["scores"]["hit"]  # of its ten rows, 3 not among them
    assert (attacks["beam"]["rows"], beam["n"], beam["recovered"]) == (10, 10, 1.0)
    assert beam["plain"] == {"target": 1.0, "retain": 0.0, "unlearned": 0.0}
    assert beam["attacked"] == {"target": 1.0, "retain": 0.0, "unlearned": 1.0}
    assert beam["p_holm"] == pytest.approx(4 * 0.5**10)
    assert attacks["lens"]["scores"]["depth"]["recovered"] == pytest.approx(0.1 / 0.8)
    assert "unlearned" not in attacks["lens"]["scores"]["depth"]["plain"]
    assert attacks["lens"]["curves"]["unlearned"] == {"layers": [0, 1]}
    relearn = attacks["relearn"]  # its target is the one that was asked directly
    assert relearn["scores"]["rouge"]["recovered"] == pytest.approx((0.4 - 0.3) / (0.9 - 0.1))
    assert relearn["notes"] == ["3 steps"]
    assert "target" not in relearn["scores"]["rouge"]["attacked"]
    verdict = audit["verdict"]
    assert verdict["word"] == "suppressed"
    assert (verdict["strongest"]["attack"], verdict["strongest"]["recovered"]) == ("beam", 1.0)
    assert audit["works"]["retain_rouge"]["share_left"] == pytest.approx(1.0)


def test_a_score_that_nobody_has_of_the_target_recovers_nothing(data: AuditData) -> None:
    results = make_results(data)
    for outcome in results.outcomes["relearn"].values():
        outcome.scores["steps"] = outcome.scores["rouge"]
    steps = make_content(data, results)["attacks"]["relearn"]["scores"]["steps"]
    assert steps["recovered"] is None
    assert steps["reason"] == "there is no such figure of a target model"


def test_where_nothing_could_be_asked_directly_an_attack_is_held_against_its_own_target(
    data: AuditData,
) -> None:
    results = make_results(data)
    del results.outcomes["direct"]
    audit = make_content(data, results)
    depth = audit["attacks"]["lens"]["scores"]["depth"]
    assert depth["recovered"] == pytest.approx(0.1 / 0.8)
    assert audit["attacks"]["relearn"]["scores"]["rouge"]["recovered"] is None
    assert audit["verdict"]["reason"].startswith("not asked directly; back under 1 of 2 attacks")


def test_without_a_retain_model_hits_alone_are_judged(data: AuditData) -> None:
    results = make_results(data)
    for of_roles in results.outcomes.values():
        of_roles.pop("retain", None)
    audit = make_content(data, results, retain=None)
    assert audit["models"]["retain"] is None
    assert audit["verdict"]["word"] == "withheld"
    assert audit["verdict"]["withheld"] == ["no retain model is known"]
    assert audit["attacks"]["beam"]["scores"]["hit"]["recovered"] is None
    assert audit["verdict"]["strongest"]["attack"] == "beam"
    results.outcomes["direct"]["unlearned"].scores["hit"] = [1.0] * 20
    assert make_content(data, results, retain=None)["verdict"]["word"] == "leaking"


def test_a_model_that_says_nothing_finite_is_no_figure(data: AuditData) -> None:
    results = make_results(data)
    results.outcomes["direct"]["unlearned"].scores = {"hit": [None] * 20}
    results.working["unlearned"].texts = [""] * 9
    audit = make_content(data, results)
    direct = audit["attacks"]["direct"]["scores"]["hit"]
    assert direct["reason"] == "no row has this score of all models"
    assert direct["attacked"]["unlearned"] is None
    assert audit["verdict"]["word"] == "destroyed"


def test_files_hold_what_was_made_and_text_is_private(data: AuditData, tmp_path: Path) -> None:
    results = make_results(data)
    audit, answers = make_content(data, results), list_answers(results.outcomes, data)
    save_audit(tmp_path / "audit", audit, answers)
    assert load_audit(tmp_path / "audit") == audit
    file = tmp_path / "audit" / "answers.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert len(lines) == 20 + 10 + 20 + 20
    line = next(x for x in lines if (x["attack"], x["number"]) == ("beam", 4))
    row = data.rows[4]
    keys = data.encoder.data.question_key, data.encoder.data.answer_key
    assert (line["question"], line["answer"]) == tuple(row[key] for key in keys)
    assert line["subject"] == data.subjects[4]
    assert line["text"]["unlearned"] == "unlearned says 4"
    assert line["prompt"]["target"] == "asked"
    assert line["scores"]["unlearned"] == {"hit": 1.0}
    assert next(x for x in lines if x["attack"] == "lens")["text"] == {}
    whole = (tmp_path / "audit" / "audit.json").read_text("utf-8")
    assert not any(row[key] in whole for row in data.rows for key in keys)
    assert "says" not in whole


def test_where_no_text_is_stored_there_are_scores_alone(data: AuditData) -> None:
    suite = dataclasses.replace(
        data.suite, config=dataclasses.replace(data.suite.config, store_text="none")
    )
    lines = list_answers(make_results(data).outcomes, dataclasses.replace(data, suite=suite))
    assert all(set(line) == {"attack", "number", "subject", "scores"} for line in lines)


def test_an_audit_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert load_audit(tmp_path) is None
    for text in ("{", "[]", '{"version": 0}'):
        (tmp_path / "audit.json").write_text(text)
        assert load_audit(tmp_path) is None

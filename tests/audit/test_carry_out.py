"""Attacks on models, one in memory at a time; what was done is read back, and the rest goes on."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import prepare
from small import random_llama, shared_tokenizer

from undial_cli.audit.attack import AttackedModel, AttackKind, AuditData, CannotServe, Outcome
from undial_cli.audit.carry_out import AttackResults, carry_out_attacks, hash_named_files
from undial_cli.audit.kinds import KINDS
from undial_cli.config.attacks import AskConfig, AttackConfig, RelearnConfig
from undial_cli.config.schema import AuditRun
from undial_cli.evaluation.sharding import Journal
from undial_cli.models.load import load_model
from undial_cli.runs.audits import collect_audit_data
from undial_cli.runs.compose import compose_run

DIRECT = {"direct": AskConfig("ask", "asked directly")}


class Audit:
    """An audit of random models, that counts what it loads and how many are held at one time."""

    def __init__(self, run: AuditRun, data: AuditData, paths: list[Path]) -> None:
        self.run, self.data = run, data
        self.paths = dict(zip(("unlearned", "retain"), map(str, paths), strict=False))
        self.loaded: list[str] = []
        self.most_held = 0
        self._held: list[weakref.ref[Any]] = []

    def load(self, path: str) -> Any:
        self.loaded.append(path)
        model = load_model(self.run.model, path)
        gc.collect()
        self._held = [ref for ref in self._held if ref() is not None] + [weakref.ref(model)]
        self.most_held = max(self.most_held, len(self._held))
        return model

    def attack(self, attacks: dict[str, AttackConfig] | None = None) -> AttackResults:
        """Carry out attacks, by default the direct question."""
        cpu = torch.device("cpu")
        models = {
            role: AttackedModel(role, path, self.run, cpu, self.load)
            for role, path in self.paths.items()
        }
        for model in models.values():
            model.others = models
        return carry_out_attacks(attacks or DIRECT, models, self.data, lambda path: path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditRun, AuditData, list[Path]]:
    """What an audit is made of: its run, its rows and two models."""
    paths = [tmp_path_factory.mktemp("models") / f"model-{seed}" for seed in range(2)]
    for seed, path in enumerate(paths):
        random_llama(vocab=len(shared_tokenizer()), seed=seed).save_pretrained(path)
        shared_tokenizer().save_pretrained(path)
    words = ["audit.rows=4", "audit.retain_rows=2", "eval.max_new_tokens=4"]
    known = [f"model.path={paths[0]}", "audit.target=none", "audit.retain_model=none"]
    run = compose_run("audit", [*words, *known])
    assert isinstance(run, AuditRun)
    return run, collect_audit_data(run, prepare(run)), paths


@pytest.fixture
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and a cache of the test's own in it."""
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def audit(parts: tuple[AuditRun, AuditData, list[Path]], folder: Path) -> Audit:
    """An audit of one model, with a cache of the test's own."""
    run, data, paths = parts
    return Audit(run, data, paths[:1])


@pytest.fixture
def audit_of_two(parts: tuple[AuditRun, AuditData, list[Path]], folder: Path) -> Audit:
    """The same, of an unlearned and of a retain model."""
    return Audit(*parts)


def test_each_model_is_loaded_once_and_never_beside_another(audit_of_two: Audit) -> None:
    audit = audit_of_two
    results = audit.attack()
    assert sorted(audit.loaded) == sorted(audit.paths.values())
    assert audit.most_held == 1
    assert set(results.outcomes["direct"]) == set(results.working) == {"unlearned", "retain"}
    outcome = results.outcomes["direct"]["unlearned"]
    assert outcome.numbers == audit.data.numbers
    assert len(outcome.texts) == 4
    assert {len(values) for values in outcome.scores.values()} == {4}
    assert len(results.working["retain"].texts) == 2


def test_what_was_done_is_read_back_and_loads_nothing(audit: Audit) -> None:
    first = audit.attack()
    audit.loaded.clear()
    assert audit.attack() == first
    assert not audit.loaded


def test_a_stored_outcome_that_is_cut_short_is_made_anew(audit: Audit, folder: Path) -> None:
    first = audit.attack()
    for file in (folder / "cache" / "audits").glob("*.json"):
        file.write_text(file.read_text()[:40])
    audit.loaded.clear()
    assert audit.attack() == first
    assert audit.loaded


def test_texts_of_the_data_are_for_the_user_alone(audit: Audit, folder: Path) -> None:
    audit.attack()
    files = list((folder / "cache" / "audits").glob("*.json"))
    assert files
    assert {file.stat().st_mode & 0o077 for file in files} == {0}


def test_an_audit_that_stopped_in_the_middle_goes_on_where_it_stopped(
    audit: Audit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = audit.attack()
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(folder / "another"))
    asked = []

    def stop_after_three(
        model: AttackedModel, data: AuditData, config: AskConfig, journal: Journal
    ) -> Outcome:
        add = journal.add

        def count(engine: str, results: dict[int, Any]) -> None:
            add(engine, results)
            asked.append(engine)
            if len(asked) == stop_at:
                raise KeyboardInterrupt

        journal.add = count  # type: ignore[method-assign]
        return ask.run(model, data, config, journal)

    ask = KINDS["ask"]
    monkeypatch.setitem(KINDS, "ask", AttackKind(stop_after_three))
    stop_at = 5  # of the 4 of the retain rows, and the 8 of the forget rows
    with pytest.raises(KeyboardInterrupt):
        audit.attack()
    stop_at = 0
    assert audit.attack() == whole
    assert len(asked) == 12


def test_an_attack_that_cannot_be_served_is_missing_and_the_rest_goes_on(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Outcome:
        raise CannotServe("no such thing on this machine")

    def check(data: AuditData, config: AttackConfig) -> None:
        raise CannotServe(f"none of the {len(data.rows)} rows has it")

    monkeypatch.setitem(KINDS, "run", AttackKind(refuse))
    monkeypatch.setitem(KINDS, "check", AttackKind(refuse, check))
    monkeypatch.setitem(KINDS, "compare", AttackKind(refuse, compares=("target",)))
    attacks = {name: AttackConfig(name) for name in ("run", "check", "compare")}
    results = audit.attack(DIRECT | attacks)
    assert results.missing == {
        "run": "no such thing on this machine",
        "check": "none of the 4 rows has it",
        "compare": "needs a target model, and none is known",
    }
    assert list(results.outcomes) == ["direct"]


def test_only_the_models_that_an_attack_names_are_attacked(audit_of_two: Audit) -> None:
    attacks = DIRECT | {"other": AskConfig("ask", models=["retain"], max_new_tokens=2)}
    results = audit_of_two.attack(attacks)
    assert set(results.outcomes["other"]) == {"retain"}


def test_rows_are_spread_over_the_subjects(audit: Audit) -> None:
    data = audit.data
    assert data.numbers == [0, 6, 13, 19]
    assert data.subjects == [0, 0, 1, 1]
    assert data.select_rows(2).subjects == [0, 1]


def test_a_file_that_an_attack_names_counts_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("one")
    attack, pattern = RelearnConfig(texts=str(file)), AskConfig()
    pattern.translations = f"{tmp_path}/{{forget}}_{{language}}.jsonl"
    before = [hash_named_files(config) for config in (attack, pattern, RelearnConfig())]
    assert [len(hashes) for hashes in before] == [1, 1, 0]
    file.write_text("another")
    assert hash_named_files(attack) != before[0]
    assert hash_named_files(pattern) != before[1]

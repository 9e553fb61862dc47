"""Attacks from their files to typed configs: budgets, the command line, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from undial_cli.config.attacks import AskConfig
from undial_cli.config.schema import AuditRun, UnlearnRun
from undial_cli.errors import UserError
from undial_cli.runs.attacks import list_attacks
from undial_cli.runs.compose import compose_run
from undial_cli.runs.hydra_configs import find_config_folder
from undial_cli.runs.run_yaml import dump_run_yaml, parse_run_yaml


def compose_audit(*words: str, folder: str | None = None) -> AuditRun:
    run = compose_run("audit", list(words), folder)
    assert isinstance(run, AuditRun)
    return run


def test_the_standard_audit_has_the_attacks_whose_files_name_it() -> None:
    files = (find_config_folder() / "attack").glob("*.yaml")
    named = {f.stem for f in files if "\n  standard:" in f.read_text(encoding="utf-8")}
    assert set(compose_audit().audit.attack) == named


def test_a_budget_may_be_named_by_its_key_or_by_its_group() -> None:
    by_key = compose_audit("audit.budget=quick").audit
    assert by_key == compose_audit("audit=quick").audit
    assert (by_key.budget, by_key.rows) == ("quick", 40)


def test_chosen_attacks_are_measured_against_the_direct_question() -> None:
    attacks = list_attacks(compose_audit("audit.attacks=[direct]").audit)
    assert list(attacks) == ["direct"]
    assert isinstance(attacks["direct"], AskConfig)


@pytest.mark.slow
def test_keys_of_an_attack_come_from_its_file_its_budget_and_the_command_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "whisper.yaml").write_text(
        "kind: ask\nmax_new_tokens: 5\nrows: 9\nbudgets:\n  quick: {rows: 3}\n  full: {}\n"
    )

    def read_whisper(*words: str) -> tuple[int | None, int | None]:
        run = compose_audit(*words, folder=str(tmp_path))
        attack = list_attacks(run.audit)["whisper"]
        assert isinstance(attack, AskConfig)
        return attack.rows, attack.max_new_tokens

    assert read_whisper("audit.budget=full") == (9, 5)
    assert read_whisper("audit.budget=quick") == (3, 5)
    assert read_whisper("audit.budget=quick", "audit.attack.whisper.rows=4") == (4, 5)
    # To name it, or a key of it, asks for it in any budget.
    assert read_whisper("audit.budget=standard", "audit.attacks=[whisper]") == (9, 5)
    assert read_whisper("audit.budget=standard", "audit.attack.whisper.max_new_tokens=2") == (9, 2)


def test_a_run_yaml_needs_no_attack_file(tmp_path: Path) -> None:
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "whisper.yaml").write_text("kind: ask\nrows: 9\nbudgets: {quick: {}}\n")
    run = compose_audit("audit=quick", folder=str(tmp_path))
    assert parse_run_yaml(dump_run_yaml(run)) == run


def test_unlearning_is_the_same_run_with_and_without_an_audit() -> None:
    from undial_cli.config.identity import make_default_name

    plain, audited = (compose_run("unlearn", [word]) for word in ("audit=none", "audit=quick"))
    assert isinstance(audited, UnlearnRun)
    assert audited.audit.is_on
    assert make_default_name(plain) == make_default_name(audited)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["audit=quik"], ("audit=quik", "did you mean 'quick'")),
        (["audit.attacks=[drect]"], ("audit.attacks=drect", "did you mean 'direct'")),
        (["audit.attack.drect.rows=2"], ("audit.attack=drect", "did you mean 'direct'")),
        (["audit.attack.direct=2"], ("audit.attack.direct=2", "keys of it")),
        (["audit.attack.direct.rws=2"], ("audit.attack.direct.rws", "did you mean 'rows'")),
        (["audit.attack.direct.rows=x"], ("audit.attack.direct.rows=x", "an integer or null")),
        (["audit.attack.direct.rows=0"], ("audit.attack.direct.rows=0", ">= 1")),
        (["audit.attack.direct.models=[us]"], ("audit.attack.direct.models=us", "unlearned")),
        (["audit.margin=0"], ("audit.margin=0", "> 0")),
    ],
)
def test_wrong_words_are_refused_by_name(words: list[str], parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as refused:
        compose_audit(*words)
    assert all(part in str(refused.value) for part in parts), str(refused.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("kind: whisper\n", "audit.attack.mine.kind=whisper"),
        ("title: no kind\n", "says no kind"),
        ("kind: ask\nbudgets: {huge: {}}\n", "audit.attack.mine.budgets=huge"),
        ("kind: [", "no YAML file"),
    ],
)
def test_a_file_that_is_no_attack_is_refused(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match="mine") as refused:
        compose_audit("audit.attacks=[mine]", folder=str(tmp_path))
    assert part in str(refused.value)

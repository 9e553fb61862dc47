"""Flags, overrides and what is printed in place of a run; help imports no torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import list_options

from undial_cli import cli
from undial_cli.cli import run_command, split_flags
from undial_cli.errors import WorldError
from undial_cli.runs.help import CONFIG_GROUPS
from undial_cli.runs.known_keys import list_known_keys

SPY = """
import sys
from undial_cli import cli
from undial_cli.cli import run_command
for words in [None, *sys.argv[1:]]:  # None: what the import alone brings
    code = 0 if words is None else run_command(words.split())
    heavy = {"torch", "transformers", "datasets", "peft", "accelerate"} & set(sys.modules)
    if code or heavy:
        sys.exit(f"{words}: exit code {code}, imported {heavy}")
"""


def test_what_only_shows_configs_does_not_import_torch(tmp_path: Path) -> None:
    lines = ["--version", "--help", "unlearn --help", "unlearn --cfg job", "completion bash",
             "show method=npo", "schema method"]  # fmt: skip
    spy = [sys.executable, "-c", SPY, *lines]
    done = subprocess.run(spy, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_the_version_is_that_of_the_citation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == 0
    citation = (Path(__file__).parents[1] / "CITATION.cff").read_text(encoding="utf-8")
    (version,) = re.findall(r"^version: (.+)$", citation, re.MULTILINE)
    assert capsys.readouterr().out == f"undial {version}\n"


def test_flags_stand_anywhere_among_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in ("--cfg job seed=3 data.limit=2", "seed=3 --cfg job data.limit=2",
                 "seed=3 data.limit=2 --cfg=job"):  # fmt: skip
        assert run_command(["unlearn", *line.split()]) == 0
        said = capsys.readouterr().out
        assert "seed: 3" in said
        assert "limit: 2" in said
    words = ["seed=1,2", "--multirun", "-cd", "a=b", "--info", "plan=true", "-i", "defaults", "x=1"]
    assert split_flags(words) == (
        {"--multirun": "", "-cd": "a=b", "--info": "", "-i": "defaults"},
        ["seed=1,2", "plan=true", "x=1"],
    )


def test_dry_run_is_plan_true_where_there_is_a_plan_and_never_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["unlearn", "--dry-run", "seed=3", "--cfg", "job"]) == 0
    assert "plan: true" in capsys.readouterr().out
    for command in cli.PLANNED_COMMANDS:
        assert cli.translate_dry_run(command, ["--dry-run", "x=1"]) == ["x=1", "plan=true"]
    for command in set(cli.COMMAND_NAMES) - {*cli.PLANNED_COMMANDS, "purge"}:
        assert run_command([command, "--dry-run"]) == 2
        assert f"undial {command} has no plan to show" in capsys.readouterr().err
    for word, part in (("--dry-run=no", "takes no value"), ("--dryrun", "'--dry-run'")):
        assert run_command(["unlearn", word]) == 2
        assert part in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_names_every_option_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["unlearn", "--help"]) == 0
    words = set(capsys.readouterr().out.split())
    assert {o for group in CONFIG_GROUPS for o in list_options(group)} <= words
    keys = {k for k in list_known_keys("unlearn") if not k.startswith("model.")} - {"command"}
    assert keys <= words


@pytest.mark.parametrize(
    ("is_said", "line"),
    [(False, "undial: process 1 of 2: no room on the disk\n"), (True, "")],
)
def test_each_process_says_what_befell_it_but_what_the_main_one_says_for_all(
    is_said: bool, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(argv: list[str]) -> int:
        error = WorldError("process 1 of 2: no room on the disk")
        error.is_said = is_said
        raise error

    monkeypatch.setattr(cli, "dispatch_command", lose)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert run_command(["unlearn"]) == 1
    assert capsys.readouterr().err == line

"""A job as text, and what comes back of it however the run ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from swept import seeds

from undial_cli import pipeline
from undial_cli.errors import UserError, WorldError
from undial_cli.methods import user_file
from undial_cli.runs.run_yaml import parse_run_yaml
from undial_cli.sweeps.jobs import JobOutcome, pack_job, run_job, unpack_outcome


def test_a_job_goes_out_as_text_with_all_that_its_process_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(user_file.METHOD_FILE_VARIABLE, "mine.py")
    (job,) = seeds(1, tmp_path)
    packed = json.loads(json.dumps(pack_job(job)))
    assert parse_run_yaml(packed["run"]) == job.run
    files = {user_file.METHOD_FILE_VARIABLE: "mine.py"}
    assert (packed["folder"], packed["files"]) == (str(tmp_path), files)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "done", ""),
        (UserError("data.path: no such folder"), "refused", "data.path: no such folder"),
        (WorldError("disk is full"), "failed", "disk is full"),
        (ValueError("one\ntwo"), "failed", "ValueError: one"),
        (KeyError(), "failed", "KeyError:"),
    ],
)
def test_a_run_comes_back_as_its_status_and_one_line(
    error: Exception | None,
    status: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def execute(run: Any, show: bool) -> None:
        assert show is False
        if error is not None:
            raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "execute_run", execute)
    (job,) = seeds(1, tmp_path)
    outcome = unpack_outcome(json.loads(json.dumps(run_job(pack_job(job)))))
    assert (outcome.status, outcome.reason, outcome.folder) == (status, reason, job.folder)
    assert 0 <= outcome.seconds < 60


def test_a_run_is_carried_out_in_the_folder_and_with_the_method_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []

    def execute(run: Any, show: bool) -> None:
        seen.append((os.getcwd(), os.environ.get(user_file.METHOD_FILE_VARIABLE)))

    monkeypatch.setattr(pipeline, "execute_run", execute)
    monkeypatch.setenv(user_file.METHOD_FILE_VARIABLE, "")
    (job,) = seeds(1, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    packed = {**pack_job(job), "folder": str(tmp_path)}
    run_job(packed)
    assert seen == [(str(tmp_path), "")]


def test_an_outcome_is_read_from_its_parts() -> None:
    answer = {"status": "failed", "folder": "a/b", "reason": "x", "seconds": 2.0}
    assert unpack_outcome(answer) == JobOutcome("failed", Path("a/b"), "x", 2.0)

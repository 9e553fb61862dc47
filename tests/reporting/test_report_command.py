"""`undial report`: its words, where it writes, and that a wrong word leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import refused
from reported import write, write_run

from undial_cli.errors import UserError, WorldError
from undial_cli.reporting import report


def test_one_path_gets_its_report_inside_and_several_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / "runs" / name, samples=[]) for name in "ab"]
    assert report.run_report_command([str(runs[0] / "run.yaml")]) == 0
    assert (runs[0] / "report" / "report.html").is_file()
    assert report.run_report_command(list(map(str, runs))) == 0
    assert (tmp_path / "outputs" / "report" / "report.md").is_file()
    assert report.run_report_command(["runs", "output=here"]) == 0
    assert "2 runs" in (tmp_path / "here" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected at least one run folder"),
        (["gone"], "report gone: no such folder"),
        (["empty"], "report empty: there are no runs"),
        (["run", "outptu=x"], "outptu: allowed is one of output; did you mean 'output'?"),
        (["run", "output="], "output=: expected a folder"),
        (["run", "output=file"], "output=file: it is a file"),
        (["run", "--multirun"], "--multirun: report takes no flags"),
        (["run", "gone"], "report gone: no such folder"),
    ],
)
def test_wrong_words_are_refused_and_nothing_is_left(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run" / "status.json", {"status": "done"})
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    refused(lambda: report.run_report_command(words), said)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "method=npo", samples=[])
    assert report.run_report_command([str(folder)]) == 0
    with pytest.raises(UserError):
        report.run_report_command([f"{folder}x"])


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    folder, file = write_run(tmp_path / "run", samples=[]), tmp_path / "file"
    file.write_text("")
    with pytest.raises(WorldError, match=f"^output folder {file}: not a folder"):
        report.run_report_command([str(folder), f"output={file / 'below'}"])

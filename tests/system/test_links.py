"""Symbolic links in the cache and in run folders: nothing is written through them."""

from __future__ import annotations

from pathlib import Path

import pytest

from undial_cli.errors import UserError, WorldError
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_folder import check_run_folder, locate_run_folder
from undial_cli.system.files import is_plain_name, locate_in_cache
from undial_cli.system.private_files import append_private_text


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(folder))
    return folder


def test_a_link_out_of_the_cache_is_refused_by_name(cache: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (cache / "evaluations").mkdir()
    (cache / "evaluations" / "abc").symlink_to(foreign)
    (cache / "audits").symlink_to(foreign)
    for names in (("evaluations", "abc"), ("audits",), ("audits", "abc")):
        with pytest.raises(WorldError, match=r"leads out of the cache.*UNDIAL_CACHE_DIR"):
            locate_in_cache(*names)
    assert locate_in_cache("evaluations", "other") == cache / "evaluations" / "other"


def test_links_within_the_cache_and_of_the_whole_cache_are_followed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "big").mkdir()
    (cache / "models").symlink_to("big")
    assert locate_in_cache("models", "a") == cache / "models" / "a"
    (tmp_path / "scratch").symlink_to(cache)
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "scratch"))
    assert locate_in_cache("models", "a").parent.parent == tmp_path / "scratch"


def test_nothing_is_appended_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / "journal.jsonl").symlink_to("theirs")
    with pytest.raises(OSError, match="symbolic"):
        append_private_text(tmp_path / "journal.jsonl", "line\n")
    assert (tmp_path / "theirs").read_text() == "precious"


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "run.yaml"])
def test_a_run_folder_whose_file_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    run = compose_run("unlearn", [f"output_dir={tmp_path}", "name=run", "overwrite=true"])
    folder = locate_run_folder(run)
    folder.path.mkdir(parents=True)
    (folder.path / name).symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match=f"name=run: .*{name} is a link"):
        check_run_folder(run, folder)


def test_a_plain_name_is_one_part_of_a_path() -> None:
    assert all(map(is_plain_name, ("demo", "a b", "tofu_1.5", "Größe", "...")))
    odd = ("", ".", "..", "a/b", "/a", "a\\b", "a\0b", "a\nb", "\x1b[2J", "x" * 201, "ü" * 101)
    assert not any(map(is_plain_name, odd))

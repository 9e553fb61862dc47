"""While modules are imported nothing is collected, and afterwards all is as before."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from undial_cli.system.garbage import spare_imports


def test_what_is_imported_is_not_looked_through_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "many_objects.py").write_text("KEPT = [[] for _ in range(5000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = gc.get_freeze_count()
    with spare_imports():
        assert not gc.isenabled()
        import many_objects  # type: ignore[import-not-found]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + 5000
    assert not any(held is many_objects.KEPT for held in gc.get_objects())


def test_without_an_import_nothing_is_frozen_and_a_failing_one_is_no_end() -> None:
    before = gc.get_freeze_count()
    with pytest.raises(ModuleNotFoundError), spare_imports():
        import no_such_module  # type: ignore[import-not-found] # noqa: F401
    assert gc.isenabled()
    assert gc.get_freeze_count() <= before

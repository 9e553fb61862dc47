"""Every bad input of the table: an exit code, one line that says what to do, and nothing left."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from bad_inputs import BAD_INPUTS, SLOW_ROWS, BadInput

from undial_cli.cli import run_command
from undial_cli.system.launcher_environment import LAUNCHER_VARIABLES, MEETING_VARIABLES

LONGEST_SECONDS = 120  # on a machine that does other things; a refusal takes a tenth of one


def test_the_table_is_as_long_as_is_promised() -> None:
    assert len(BAD_INPUTS) >= 120
    assert set(BAD_INPUTS) >= SLOW_ROWS


def is_slow(name: str) -> bool:
    """Configs are many, and of most the tests of their keys know what is refused."""
    return name in SLOW_ROWS or name.startswith("config: ")


@pytest.fixture(scope="module")
def quiet_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that only refused commands use."""
    return tmp_path_factory.mktemp("refused") / "cache"


@pytest.fixture
def no_hang() -> Iterator[None]:
    """A command that hangs is ended by an exception in it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {LONGEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def prepare_folder(row: BadInput, model: Path) -> list[str]:
    """Write a row's files to the working directory; its words."""
    if any(name.startswith("m/") for name in row.files) or "model.path=./m" in row.words:
        shutil.copytree(model, "m")
    for name, content in row.files.items():
        file = Path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(file)
        elif content is None and file.exists():
            file.unlink()
        elif content is None:
            file.mkdir()
        else:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [word.replace("MODEL", str(model)) for word in row.words]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if is_slow(n) else ()) for n in BAD_INPUTS],
)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    name: str,
    tmp_path: Path,
    random_model: Path,
    quiet_cache: Path,
    no_hang: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    row = BAD_INPUTS[name]
    work, scratch = tmp_path / "work", tmp_path / "scratch"
    work.mkdir()
    scratch.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(quiet_cache))
    for variable in (*LAUNCHER_VARIABLES, *MEETING_VARIABLES):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in row.environment.items():
        monkeypatch.setenv(variable, value)
    words = prepare_folder(row, random_model)
    before = {path: path.lstat().st_mtime_ns for path in work.rglob("*")}
    capfd.readouterr()
    assert run_command(words) == row.code
    out, err = capfd.readouterr()
    assert err.startswith("undial: "), err
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert "Traceback" not in out + err
    assert "training" not in out
    for fragment in row.fragments:
        assert fragment in err
    assert "did you mean '" not in err or f"'{words[-1].split('=')[0]}'?" not in err
    assert {path: path.lstat().st_mtime_ns for path in work.rglob("*")} == before
    assert not list(scratch.iterdir())
    # What the datasets library read once is there for the next command.
    assert {path.name for path in quiet_cache.glob("*")} <= {"datasets"}

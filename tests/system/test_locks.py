"""Locks: one works, the other waits and says for whom; none stays, and none of the dead holds."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import SoftFileLease

from undial_cli.system import locks
from undial_cli.system.locks import WorkLock, hold_lock

HOLDING = """
import sys, time
from pathlib import Path
from undial_cli.system import locks
if sys.argv[2] == "lease":
    import errno, fcntl
    def flock(*_): raise OSError(errno.ENOLCK, "no locks available")
    fcntl.flock = flock
with locks.hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
Hold = Callable[..., subprocess.Popen]


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Another process that holds a lock until it is told or killed; we have little patience."""
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(locks, "LOOKING_SECONDS", 0.05)
    started: list[subprocess.Popen] = []

    def start(path: Path, kind: str = "kernel") -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDING, str(path), kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def lacking_kernel_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The file system's answer where it has no locks: no such one can be mounted here."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_who_waits_says_for_whom_and_goes_on_once_it_is_free(
    hold: Hold, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "outputs" / "run"
    holder = hold(path)
    waiting = WorkLock(path)
    assert not waiting.try_acquire()
    assert not waiting.try_acquire()
    line = capsys.readouterr().out
    assert line.count("\n") == 1  # not again while it is the same one
    assert line.startswith(f"waiting for process {holder.pid} on this machine, which since 20")
    assert line.endswith("works on outputs/run\n")
    with hold_lock(tmp_path / "outputs" / "other"):  # another folder's is another lock
        pass
    assert holder.stdin is not None
    threading.Timer(0.1, lambda: (holder.stdin.write("\n"), holder.stdin.flush())).start()  # type: ignore[union-attr]
    with hold_lock(path):
        assert holder.wait(10) == 0
    assert [f.name for f in tmp_path.rglob("*")] == ["outputs"]  # the waiter's file stood in it


def test_a_killed_holder_holds_nothing(hold: Hold, tmp_path: Path) -> None:
    holder = hold(tmp_path / "run")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert [f.name for f in tmp_path.iterdir()] == [".run.lock"]
    assert WorkLock(tmp_path / "run").try_acquire()
    with hold_lock(tmp_path / "another"):
        pass


def test_a_lock_leaves_nothing_and_what_was_made_meanwhile(tmp_path: Path) -> None:
    long = tmp_path / "folder" / ("n" * 250)
    with hold_lock(long):
        assert len(list((tmp_path / "folder").iterdir())) == 1
        long.mkdir()
    assert [f.name for f in tmp_path.rglob("*")] == ["folder", long.name]


def test_a_lock_writes_through_no_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("text")
    (tmp_path / ".run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"), hold_lock(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "text"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_of_the_kernel_a_lease_is_held_and_released(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: Hold
) -> None:
    lacking_kernel_locks(monkeypatch, number)
    with hold_lock(tmp_path / "run"):
        holder = json.loads((tmp_path / ".run.lock").read_text())
        assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())
        second = WorkLock(tmp_path / "run")
        assert [second.try_acquire() for _ in range(3)] == [False] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_lease_of_a_dead_process_is_taken_over(
    hold: Hold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking_kernel_locks(monkeypatch, errno.ENOLCK)
    holder = hold(tmp_path / "run", "lease")
    waiting = WorkLock(tmp_path / "run")
    assert [waiting.try_acquire() for _ in range(3)] == [False] * 3
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    begun = time.monotonic()
    with hold_lock(tmp_path / "run"):
        assert time.monotonic() - begun < 2
    assert list(tmp_path.iterdir()) == []


def test_a_lease_of_another_machine_is_taken_over_once_it_is_silent(
    hold: Hold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking_kernel_locks(monkeypatch, errno.ENOLCK)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.5)
    lease = SoftFileLease(tmp_path / ".run.lease", lease_duration=0.5, heartbeat_interval=0.4)
    lease.acquire()
    record = (tmp_path / ".run.lease").read_text().replace(socket.gethostname(), "elsewhere")
    lease.release()
    (tmp_path / ".run.lease").write_text(record)
    assert "elsewhere" in record
    begun = time.monotonic()
    with hold_lock(tmp_path / "run"):
        assert 0.3 < time.monotonic() - begun < 5


CLOSED = """
set -e
mount -t tmpfs -o size=200k tmpfs "$1"
mkdir "$1/run"
mount -o remount,ro "$1"
shift
exec "$@"
"""


def test_what_can_only_be_read_needs_no_lock_and_what_is_not_there_is_named(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from undial_cli.system.locks import hold_lock\n"
        "with hold_lock(Path(sys.argv[1], 'run')): print('read')\n"
        "try:\n"
        "    with hold_lock(Path(sys.argv[1], 'new')): print('written')\n"
        "except OSError as error: print(error)\n"
    )
    words = ["bash", "-c", CLOSED, "-", tmp_path, sys.executable, "-c", code, tmp_path]
    answer = subprocess.run(
        ["unshare", "-Urm", *words], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    if answer.returncode and ("unshare" in answer.stderr or "mount" in answer.stderr):
        pytest.skip("no file system may be mounted here")
    refused = f"[Errno 30] Read-only file system: '{tmp_path}/new'"
    assert answer.stdout.splitlines() == ["read", refused], answer.stderr

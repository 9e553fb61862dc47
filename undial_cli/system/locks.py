"""Locks: who works on a folder or a file, and for whom another one waits.

A lock lies beside what it is for, so that all who share a folder share its lock, whatever their
cache is; it is gone when nobody holds it. The kernel's own where the file system has them: they
end with their process. Elsewhere a lease: a file that its holder touches, and that is taken over
once its process is dead or, on another machine, it was not touched for `LEASE_SECONDS`. Knows
nothing of what is done while a lock is held.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from undial_cli import ui
from undial_cli.system.files import LONGEST_NAME_PART, parse_json

# What file systems without the kernel's locks answer (network ones, some of containers).
NO_KERNEL_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
# A holder's death on another machine is known by its silence; it speaks three times as often.
LEASE_SECONDS = 120.0
# A lock that is about to be released is not worth a line.
PATIENCE_SECONDS = 2.0
# While it waits: how often it looks at who holds the lock, and how often it tries.
LOOKING_SECONDS, TRYING_SECONDS = 5.0, 0.05
# The holder is gone, and with it the file, or the folder that it had made.
LOST_FILE = {errno.ENOENT, errno.ESTALE}
# Nobody of this user's writes where not even a lock can be made.
CLOSED_FOLDER = {errno.EROFS, errno.EACCES, errno.EPERM}


class WorkLock:
    """The lock of `path`, which need not be there."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.file = locate_lock(self.path)
        # Made for the lock alone, they go with it.
        self.missing = [folder for folder in self.file.parents if not folder.exists()]
        self.lock: BaseFileLock = FileLock(self.file, fallback_to_soft=False)
        self.patience, self.line = PATIENCE_SECONDS, ""

    def try_acquire(self) -> bool:
        """Wait for the lock a little; say in a line who holds it, and again when that is another.

        Raises:
            OSError: the folder that `path` lies in cannot be written to.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=self.patience, poll_interval=TRYING_SECONDS)
        except Timeout:
            holder = describe_holder(self.file)
            line = f"waiting for {holder} {self.path.parent.name}/{self.path.name}"
            if line != self.line:
                ui.say(line, "dim")
            self.patience, self.line = LOOKING_SECONDS, line
            return False
        except OSError as error:
            if error.errno in NO_KERNEL_LOCKS and not isinstance(self.lock, SoftFileLease):
                lease = self.file.with_suffix(".lease")
                self.lock = SoftFileLease(lease, lease_duration=LEASE_SECONDS)
                return False
            if error.errno in CLOSED_FOLDER and self.path.exists():
                return True  # it can be read, and writing fails by itself
            if error.errno not in LOST_FILE:
                error.filename = str(self.path)  # of which a user knows
                raise
            return False
        self.note_holder()
        return True

    def note_holder(self) -> None:
        """Write who holds it, for those who wait; that the disk is full is no obstacle."""
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "folder": str(self.path),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        }
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(self.file, flags, 0o666), "w", encoding="utf-8") as stream:
                stream.write(json.dumps(holder) + "\n")

    def release(self) -> None:
        """Let the next one have it, and leave nothing."""
        with contextlib.suppress(OSError):
            self.file.unlink()  # while it is held: who opened it before finds out and tries again
        self.lock.release()
        with contextlib.suppress(OSError):
            for folder in self.missing:
                folder.rmdir()


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, after those who have it now."""
    lock = WorkLock(path)
    while not lock.try_acquire():
        pass
    try:
        yield
    finally:
        lock.release()


def locate_lock(path: Path) -> Path:
    """The file that stands for the lock of `path`."""
    name = path.name
    if len(os.fsencode(name)) > LONGEST_NAME_PART:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return path.with_name(f".{name}.lock")


def describe_holder(file: Path) -> str:
    """Who holds a lock and since when, in words that end before the folder's name."""
    try:
        holder = parse_json(file.read_text(encoding="utf-8"))
        host, pid, since = (holder[name] for name in ("host", "pid", "since"))
    except (OSError, ValueError, KeyError, TypeError):  # it is being taken, or nobody could write
        return "another undial that works on"
    machine = "this machine" if host == socket.gethostname() else host
    return f"process {pid} on {machine}, which since {since} works on"

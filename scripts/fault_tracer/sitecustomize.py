"""Notes every change of a file below FAULT_ROOT, and sends a signal at a chosen one.

Python imports this at the start of each process whose PYTHONPATH has this folder, before any code
of undial: parents, workers, the runs of a sweep. Python's own audit events tell of the changes.
Knows nothing of undial; scripts/fault_campaign.py sets the variables:

    FAULT_ROOT   folder whose files are watched
    FAULT_TRACE  folder for a list of changes per process: seconds, event, path
    FAULT_AT     role|number of the change|seconds to wait after it|signal|self or main
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

# Audit events of changes; which argument is the descriptor of the folder that a path starts at.
CHANGES = {
    "open": None, "os.rename": 2, "os.mkdir": 2, "os.rmdir": 1, "os.remove": 1, "os.chmod": 2,
    "os.link": 2, "os.symlink": 2, "os.truncate": None,
}  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def name_role() -> str:
    """What this process is of a run, the same in every trial: its rank, or its command."""
    if "RANK" in os.environ:
        return f"rank {os.environ['RANK']}"
    words = [word for word in sys.orig_argv[1:] if not word.startswith("-")]
    return f"child {' '.join(words)[:40]}" if "FAULT_MAIN" in os.environ else "main"


def find_path(event: str, args: tuple[Any, ...]) -> str:
    """The absolute path of what an event changes; "" where it is no path."""
    path, position = args[0], CHANGES[event]
    if not isinstance(path, str | bytes | os.PathLike):
        return ""
    path = os.fsdecode(path)
    folder = args[position] if position is not None and len(args) > position else -1
    if isinstance(folder, int) and folder >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return os.path.abspath(path)


def watch_changes(root: str, folder: str, at: str) -> None:
    """Install the hook in this process."""
    role = name_role()
    main = int(os.environ.setdefault("FAULT_MAIN", str(os.getpid())))
    planned, planned_number, wait, sign, whom = at.split("|") if at else ("", "-1", "0", "0", "")
    trace = os.path.join(folder, f"{role.replace('/', '_')}.{os.getpid()}")
    file = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    begun, count, lock = time.monotonic(), 0, threading.Lock()

    def send_signal() -> None:
        time.sleep(float(wait))
        os.kill(main if whom == "main" else os.getpid(), int(sign))

    def note_change(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES or (event == "open" and not (args[2] or 0) & WRITES):
            return
        path = find_path(event, args)
        if not path.startswith(root + os.sep):
            return
        with lock:
            number, count = count, count + 1
        seconds = time.monotonic() - begun
        os.write(file, f"{seconds:.3f}\t{event}\t{path[len(root) + 1 :]}\n".encode())
        if (role, str(number)) != (planned, planned_number):
            return
        if float(wait):
            threading.Thread(target=send_signal, daemon=True).start()
        else:
            send_signal()

    sys.addaudithook(note_change)


if "FAULT_ROOT" in os.environ:
    watch_changes(
        os.environ["FAULT_ROOT"], os.environ["FAULT_TRACE"], os.environ.get("FAULT_AT", "")
    )

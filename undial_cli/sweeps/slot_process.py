"""The process behind a slot: carries out one job after the other, torch imported once.

    python -m undial_cli.sweeps.slot_process

A packed job is a line of JSON on stdin, its outcome a line on stdout; what runs say goes to their
logs.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from undial_cli.sweeps.jobs import run_job


def run_slot_process() -> None:
    """Carry out jobs until there are no more, or the parent is gone."""
    from undial_cli.runs.worker import exit_with_parent

    threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True).start()
    os.environ.setdefault("TQDM_DISABLE", "1")
    # stdout is for outcomes alone: a print of a library between them would break the JSON
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        for line in sys.stdin:
            answers.write(json.dumps(run_job(json.loads(line))) + "\n")
            answers.flush()


if __name__ == "__main__":
    run_slot_process()

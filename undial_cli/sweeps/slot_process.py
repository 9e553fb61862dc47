"""The process behind a slot: carries out one job after the other, torch imported once.

    python -m undial_cli.sweeps.slot_process

A packed job is a line of JSON on stdin, its outcome a line on stdout; what runs say goes to their
logs.
"""

from __future__ import annotations

import json
import os
import sys

from undial_cli.errors import Interrupted
from undial_cli.system import signals
from undial_cli.system.supervision import end_with_parent, give_beat


def run_slot_process() -> None:
    """Carry out jobs until there are no more, or the parent is gone."""
    end_with_parent()
    signals.install_signal_handlers(quiet=True)
    from undial_cli.sweeps.jobs import run_job  # takes a while: the parent may be gone before

    os.environ.setdefault("TQDM_DISABLE", "1")
    # stdout is for outcomes alone: a print of a library between them would break the JSON
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        for line in sys.stdin:
            give_beat("preparing")
            try:
                answer = run_job(json.loads(line))
            except Interrupted as stop:  # its folder says so
                os._exit(stop.exit_code)
            signals.exit_on_signals()  # until the next one
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    run_slot_process()

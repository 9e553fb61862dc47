"""The process behind a slot: carries out one order after the other, torch imported once.

    python -m undial_cli.sweeping.slot

An order is a line of JSON on stdin, its answer a line on stdout; what runs say goes to their logs.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from undial_cli.sweeping.job import fulfil


def main() -> None:
    """Answer orders until there are no more, or the parent is gone."""
    from undial_cli.worker import end_with

    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    os.environ.setdefault("TQDM_DISABLE", "1")
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        for line in sys.stdin:
            answers.write(json.dumps(fulfil(json.loads(line))) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()

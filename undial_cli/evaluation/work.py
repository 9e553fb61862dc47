"""Jobs of an engine, dealt out to the processes of a run and kept as they are done.

An interrupted evaluation goes on where it stopped: what was done stands in a journal, a line per
job. Knows no model and no metric.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from undial_cli import distributed
from undial_cli.cache import append_private
from undial_cli.data.collate import by_length
from undial_cli.schema import digest

Keep = Callable[[int, Any], None]
Advance = Callable[[int], None]
# Characters of a file name that stand for an engine.
LONGEST = 100


def batches(lengths: list[int], size: int) -> Iterator[list[int]]:
    """Indices of items that share a batch, longest first."""
    order = by_length(lengths)
    return (order[start : start + size] for start in range(0, len(order), size))


def stem(engine: str) -> str:
    """An engine's name as the beginning of a file's name, whatever its set is called."""
    name = quote(engine, safe="").replace(".", "%2E")
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 11]}-{digest(name)}"


class Journal:
    """Results by engine and job number, in a folder; without a folder nothing is kept.

    `advance` is told how many jobs are done.
    """

    def __init__(self, folder: Path | None = None, advance: Advance = lambda n: None) -> None:
        self.folder, self.advance = folder, advance

    def read(self, engine: str) -> dict[int, Any]:
        """What earlier, interrupted evaluations found; a line cut short is no result."""
        found: dict[int, Any] = {}
        for file in sorted(self.folder.glob(f"{stem(engine)}.*.jsonl")) if self.folder else ():
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    number, result = json.loads(line)
                    if type(number) is int:
                        found[number] = result
        return found

    def add(self, engine: str, results: dict[int, Any]) -> None:
        """Append results; each process writes a file of its own."""
        if self.folder is None or not results:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / f"{stem(engine)}.{distributed.rank()}-{os.getpid()}.jsonl"
        lines = (json.dumps([n, result]) + "\n" for n, result in results.items())
        append_private(place, "".join(lines))


NO_JOURNAL = Journal()


def share(
    engine: str, sizes: list[int], run: Callable[[list[int], Keep], None], journal: Journal
) -> list[Any]:
    """Do every job on exactly one process; all processes get all results.

    Args:
        engine: name in the journal; its jobs are numbered 0 to N - 1.
        sizes: cost of each job; larger ones are dealt out first.
        run: does the jobs of a list, calling `keep(number, result)` for each; a result is what
            JSON can hold.

    Returns:
        The results by number, [N].
    """
    known = distributed.on_main(lambda: journal.read(engine))
    known = {number: result for number, result in known.items() if number < len(sizes)}
    journal.advance(len(known))
    todo = [i for i in by_length(sizes) if i not in known]
    found: dict[int, Any] = {}

    def keep(number: int, result: Any) -> None:
        found[number] = result
        journal.add(engine, {number: result})
        journal.advance(1)

    run(todo[distributed.rank() :: distributed.world()], keep)
    known |= dict(distributed.gather(list(found.items())))
    return [known[i] for i in range(len(sizes))]

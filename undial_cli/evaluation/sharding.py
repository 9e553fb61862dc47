"""Jobs of an engine, dealt out to the processes of a run and kept as they are done.

An interrupted evaluation goes on where it stopped: what was done stands in a journal, a line per
job. Knows no model and no metric.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import quote

from undial_cli.config.identity import hash_json
from undial_cli.data.collate import order_by_length
from undial_cli.system import processes
from undial_cli.system.files import make_private_folder, parse_json
from undial_cli.system.private_files import append_private_text, note_private
from undial_cli.system.supervision import give_beat

KeepResult = Callable[[int, Any], None]
Advance = Callable[[int], None]
# What a process does that is done with its jobs while others are not (lockstep.py).
RUN_ALONG: ContextVar[Callable[[], None]] = ContextVar("RUN_ALONG", default=lambda: None)
# Characters of a file name that stand for an engine.
LONGEST_STEM = 100


def batch_by_length(lengths: list[int], size: int) -> Iterator[list[int]]:
    """Indices of items that share a batch, longest first."""
    order = order_by_length(lengths)
    return (order[start : start + size] for start in range(0, len(order), size))


def map_by_length(
    lengths: list[int], size: int, run: Callable[[list[int]], Iterable[Any]]
) -> list[Any]:
    """What `run` gives of each item, in their order; it is called with the indices of a batch."""
    results: list[Any] = [None] * len(lengths)
    for chosen in batch_by_length(lengths, size):
        for i, result in zip(chosen, run(chosen), strict=True):
            results[i] = result
    return results


def make_journal_stem(engine: str) -> str:
    """An engine's name as the beginning of a file's name, whatever its set is called."""
    name = quote(engine, safe="").replace(".", "%2E")
    return name if len(name) <= LONGEST_STEM else f"{name[: LONGEST_STEM - 11]}-{hash_json(name)}"


class Journal:
    """Results by engine and job number, in a folder; without a folder nothing is kept.

    `advance` is told how many jobs are done.
    """

    def __init__(self, folder: Path | None = None, advance: Advance = lambda n: None) -> None:
        self.folder, self.advance = folder, advance
        if folder is not None:
            note_private(folder)

    def read(self, engine: str) -> dict[int, Any]:
        """What earlier, interrupted evaluations found; a line cut short is no result."""
        results: dict[int, Any] = {}
        if self.folder is None:
            return results
        for file in sorted(self.folder.glob(f"{make_journal_stem(engine)}.*.jsonl")):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    number, result = parse_json(line)
                    if type(number) is int:  # not true, which is an int to isinstance
                        results[number] = result
        return results

    def add(self, engine: str, results: dict[int, Any]) -> None:
        """Append results; each process writes a file of its own."""
        if self.folder is None or not results:
            return
        make_private_folder(self.folder)
        writer = f"{processes.get_process_rank()}-{os.getpid()}"
        file = self.folder / f"{make_journal_stem(engine)}.{writer}.jsonl"
        lines = (json.dumps([n, result]) + "\n" for n, result in results.items())
        append_private_text(file, "".join(lines))

    def discard(self) -> None:
        """Remove what is kept, once the whole is: also what an interrupted removal left."""
        folder = self.folder
        if folder is not None:
            processes.run_on_main(lambda: shutil.rmtree(folder, ignore_errors=True))


NO_JOURNAL = Journal()


class Jobs(list[int]):
    """Numbers of the jobs that a process has to do; `dealt`: with those that it did before.

    Batches that are cut from `dealt` are the same ones after an interruption, to the bit.
    """

    def __init__(self, dealt: list[int], known: Container[int]) -> None:
        super().__init__(n for n in dealt if n not in known)
        self.dealt = dealt


def shard_work(
    engine: str, sizes: list[int], run: Callable[[Jobs, KeepResult], None], journal: Journal
) -> list[Any]:
    """Do every job on exactly one process; all processes get all results.

    Args:
        engine: name in the journal; its jobs are numbered 0 to N - 1.
        sizes: cost of each job; larger ones are dealt out first.
        run: does its jobs, calling `keep(number, result)` for each; a result is what JSON can hold.

    Returns:
        The results by number, [N].
    """
    known = processes.run_on_main(lambda: journal.read(engine))
    known = {number: result for number, result in known.items() if number < len(sizes)}
    journal.advance(len(known))
    computed: dict[int, Any] = {}
    # Every n-th of the longest first: the processes end at about the same time.
    dealt = order_by_length(sizes)[processes.get_process_rank() :: processes.get_process_count()]
    jobs, missing = Jobs(dealt, known), len(sizes) - len(known)

    def keep(number: int, result: Any) -> None:
        computed[number] = result
        journal.add(engine, {number: result})
        done = len(computed)
        # The others are about as far: what all have done, by this process's share.
        journal.advance(missing * done // len(jobs) - missing * (done - 1) // len(jobs))
        give_beat(engine, done)

    run(jobs, keep)
    RUN_ALONG.get()()
    if not jobs:
        journal.advance(missing)
    known |= dict(processes.gather_items(list(computed.items())))
    return [known[i] for i in range(len(sizes))]

"""Jobs are done once each, kept as they are done, and never trusted when they are broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from undial_cli.evaluation.sharding import Journal, KeepResult, order_by_length, shard_work
from undial_cli.system import processes


class Worker:
    """Squares its numbers and notes which it was asked for; may be stopped after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked: list[int] = []
        self.stop_after = stop_after

    def __call__(self, numbers: list[int], keep: KeepResult) -> None:
        for number in numbers:
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(number)
            keep(number, {"square": number**2})


SIZES = [3, 9, 1, 9, 5]


def test_results_come_in_order_and_long_jobs_first() -> None:
    worker = Worker()
    found = shard_work("engine", SIZES, worker, Journal())
    assert [f["square"] for f in found] == [0, 1, 4, 9, 16]
    assert worker.asked == [1, 3, 4, 0, 2] == order_by_length(SIZES)


def test_an_interrupted_engine_goes_on_where_it_stopped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "partial")
    with pytest.raises(KeyboardInterrupt):
        shard_work("engine", SIZES, Worker(stop_after=2), journal)
    advanced: list[int] = []
    worker = Worker()
    found = shard_work("engine", SIZES, worker, Journal(tmp_path / "partial", advanced.append))
    assert worker.asked == [4, 0, 2]
    assert [f["square"] for f in found] == [0, 1, 4, 9, 16]
    assert sum(advanced) == len(SIZES)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_shows_what_all_have_done(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "get_process_rank", lambda: rank)
    monkeypatch.setattr(processes, "get_process_count", lambda: 2)
    monkeypatch.setattr(processes, "gather_items", lambda items: list(enumerate(SIZES)))
    advanced: list[int] = []
    shard_work("engine", SIZES, Worker(), Journal(advance=advanced.append))
    # 5 jobs, of which the first process does 3 and the second 2; none was done before
    assert advanced == [[0, 1, 2, 2], [0, 2, 3]][rank]


def test_engines_do_not_see_each_others_results(tmp_path: Path) -> None:
    shard_work("scores-a", SIZES, Worker(), Journal(tmp_path))
    worker = Worker()
    shard_work("scores-b", SIZES, worker, Journal(tmp_path))
    assert len(worker.asked) == len(SIZES)


@pytest.mark.parametrize("damage", ["cut", "noise", "not a pair"])
def test_a_broken_line_is_done_again_and_nothing_else(tmp_path: Path, damage: str) -> None:
    shard_work("engine", SIZES, Worker(), Journal(tmp_path))
    (file,) = tmp_path.iterdir()
    lines = file.read_text().splitlines()
    number = json.loads(lines[-1])[0]
    broken = {"cut": lines[-1][:-4], "noise": "\x00\xff", "not a pair": '{"a": 1}'}[damage]
    file.write_text("\n".join([*lines[:-1], broken]))
    worker = Worker()
    found = shard_work("engine", SIZES, worker, Journal(tmp_path))
    assert worker.asked == [number]
    assert [f["square"] for f in found] == [0, 1, 4, 9, 16]


def test_no_jobs_give_no_results() -> None:
    assert shard_work("engine", [], Worker(), Journal()) == []

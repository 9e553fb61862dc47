"""What the processes of one run tell each other, alone and as two."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing
from accelerate import PartialState

from undial_cli import ui
from undial_cli.errors import UserError, WorldError
from undial_cli.runs.compose import compose_run
from undial_cli.system import hardware, processes


def fail() -> None:
    raise UserError("data.path=x: no such folder")


def lose() -> None:
    raise WorldError("the disk is full")


def work(rank: int, folder: str) -> None:
    """One of two processes: what it is told, written to a file of its own."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    told = {
        "rank": processes.get_process_rank(),
        "count": processes.get_process_count(),
        "gathered": processes.gather_items([rank, rank + 10]),
        "from_main": processes.run_on_main(lambda: f"said by {rank}"),
    }
    try:
        processes.run_on_main(fail)
    except UserError as error:
        told["error"] = str(error)
    try:
        processes.run_on_main(lose)
    except WorldError as error:
        told["says_it"] = not error.is_said
    with processes.hold_lock_on_main(Path(folder)):
        told["locked"] = True
    Path(folder, f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def test_two_processes_gather_in_order_and_fail_together(tmp_path: Path) -> None:
    # Forked: a process of its own would import torch for seconds.
    torch.multiprocessing.start_processes(work, (str(tmp_path),), 2, start_method="fork")
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {
            "rank": rank,
            "count": 2,
            "gathered": [0, 10, 1, 11],
            "from_main": "said by 0",
            "error": "data.path=x: no such folder",
            "says_it": rank == 0,
            "locked": True,
        }


def wait_alone(rank: int, port: int, folder: str) -> None:
    """One of two processes of an outer launcher, the other of which does not come."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port + rank),
    }  # fmt: skip
    PartialState._reset_state()  # of an earlier test in the process that was forked
    hardware.QUIET_SECONDS = 0.2
    lines: list[str] = []
    ui.print_error = lambda line, any_process: lines.append(line)
    run = compose_run("unlearn", ["hardware=cpu", "hardware.timeout=1"])
    try:
        hardware.join_process_group(run)
    except WorldError as error:
        lines.append(str(error))
    Path(folder, f"{rank}.json").write_text(json.dumps(lines))


@pytest.mark.slow
def test_a_process_whose_others_do_not_come_says_so_and_gives_up(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    port = min(port, 65000)
    torch.multiprocessing.start_processes(
        wait_alone, (port, str(tmp_path)), 2, start_method="fork"
    )  # fmt: skip
    for rank in range(2):
        waits, gives_up = json.loads((tmp_path / f"{rank}.json").read_text())
        meeting = f"process {rank} of 2 at 127.0.0.1:{port + rank}"
        assert waits == f"{meeting} waits for the others (hardware.timeout=1 s)"
        assert gives_up.startswith(f"{meeting}: no process group within hardware.timeout=1 s")


def test_a_process_alone_is_its_own_main_one() -> None:
    assert not processes.has_process_group()
    assert (processes.get_process_rank(), processes.get_process_count()) == (0, 1)
    assert processes.gather_items([3, 4]) == [3, 4]
    assert processes.run_on_main(lambda: "done") == "done"
    processes.wait_for_all()

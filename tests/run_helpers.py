"""Runs of a random model that take seconds: started, killed half way, read back."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Command
from safetensors.torch import load_file

from undial_cli.cli import run_command
from undial_cli.errors import WorldError
from undial_cli.training.states import SEAL_FILE
from undial_cli.training.trainer import UnlearningTrainer

SHORT = [
    "hardware=cpu", "eval.limit=4", "eval.max_new_tokens=8", "train.max_steps=3", "report=false"
]  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in a run's checkpoint."""
    (file,) = (folder / "checkpoint").glob("*.safetensors")
    return load_file(file)


def assert_equal(one: Path, other: Path) -> None:
    """Two runs ended with the same bits."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def read_files(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def start(model: Path, out: Path, *words: str, command: str = "unlearn") -> Path:
    """A short run on a random model, in this process; its folder."""
    known = [f"model.path={model}", f"eval.retain_model={model}", f"output_dir={out}", "name=run"]
    assert run_command([command, *known, *SHORT, *words]) == 0
    return out / command / "run"


def fail_at_step(patch: pytest.MonkeyPatch, step: int) -> None:
    """Have every training end as one whose machine is lost, once it has come to a step."""
    check = UnlearningTrainer.check_step

    def check_until(trainer: UnlearningTrainer, norm: Any) -> tuple[bool, float]:
        if trainer.state.global_step == step:
            raise WorldError("lost")
        return check(trainer, norm)

    patch.setattr(UnlearningTrainer, "check_step", check_until)


def kill_in_the_middle(words: list[str], resume: Path, cwd: Path) -> None:
    """Start a command, wait until it has saved a state, and kill it as the system would."""
    kill_once(words, cwd, lambda _: list(resume.glob(f"checkpoint-*/{SEAL_FILE}")))


def kill_once(words: list[str], cwd: Path, moment: Callable[[int], object]) -> None:
    """Start a command and kill it as the system would once `moment`, given its id, is true."""
    command = Command(words, cwd)
    try:
        limit = time.monotonic() + 120
        while not moment(command.pid):
            assert command.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.02)
    finally:
        command.kill()
        command.wait(30)


def catches_signal(pid: int, sign: signal.Signals) -> bool:
    """Whether a process has a handler for a signal; taken to where there is no /proc to tell."""
    file = Path(f"/proc/{pid}/status")
    found = re.search(r"SigCgt:\s*(\w+)", file.read_text()) if file.is_file() else None
    return found is None or bool(int(found[1], 16) >> (sign - 1) & 1)


def interrupt_run(
    words: list[str], sign: signal.Signals, cwd: Path, moment: Callable[[], object]
) -> subprocess.CompletedProcess[str]:
    """Start a command, send it a signal once `moment()` is true, and wait for its end."""
    command = Command(words, cwd, heeded=sign)
    try:
        limit = time.monotonic() + 120
        # Not while Python itself starts: what comes then is the system's to answer.
        while not (catches_signal(command.pid, sign) and moment()):
            assert command.poll() is None, "it ended before it could be interrupted"
            assert time.monotonic() < limit
            time.sleep(0.01)
        command.send_signal(sign)
        return command.finish(timeout=60)
    finally:
        command.kill()

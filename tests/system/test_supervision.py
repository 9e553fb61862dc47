"""A child ends with its parent, at whatever stage; a parent hears which child hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from undial_cli.system import supervision
from undial_cli.system.supervision import Pulse, Watch, give_beat, is_halted, is_watched

# Starts a child in a session of its own, as torch does, says when that one has begun, and stays.
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, start_new_session=True,
    env={**os.environ, "UNDIAL_PARENT": str(os.getpid())},
)
child.stdout.readline()
print(flush=True)
time.sleep(60)
"""
CHILD = "import os, signal, sys, time\nfrom undial_cli.system.supervision import end_with_parent\n"
STAGES = {
    "at work": "end_with_parent(); print(flush=True); time.sleep(60)",
    "stopped": "end_with_parent(); print(flush=True); os.kill(os.getpid(), signal.SIGSTOP)",
    "starting": "print(flush=True); time.sleep(0.3); end_with_parent(); time.sleep(60)",
    "on another system": "sys.platform = ''; end_with_parent(); print(flush=True); time.sleep(60)",
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_child_ends_with_a_parent_that_is_killed(stage: str) -> None:
    words = [sys.executable, "-c", PARENT, CHILD + STAGES[stage]]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.kill()
        # The child holds the pipe open as long as it lives.
        assert parent.communicate(timeout=10)[1] == b""


def test_a_beat_is_for_the_parent_of_this_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervision.open_beat_file.cache_clear()
    give_beat("unwatched")
    assert not is_watched()
    supervision.open_beat_file.cache_clear()
    monkeypatch.setattr(Pulse, "count", 0)
    for name, value in supervision.make_child_environment(tmp_path / "beat").items():
        monkeypatch.setenv(name, value)
    try:
        watch = Watch({0: tmp_path / "beat"})
        assert not watch.look()
        give_beat("training", 12)
        assert is_watched()
        assert supervision.BEAT_VARIABLE not in os.environ
        assert watch.look()
        assert watch.describe_silence(0) == "has not answered for 0 s (training, last step 12)"
        assert not watch.look()
        give_beat()
        assert watch.look()
        give_beat("evaluating")
        watch.look()
        assert watch.describe_silence(0).endswith("(evaluating)")
    finally:
        supervision.open_beat_file.cache_clear()


def test_the_silence_of_a_run_is_that_of_its_last_speaker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    files = {rank: tmp_path / str(rank) for rank in range(2)}
    watch = Watch(files)
    for second in range(1, 8):
        now += 1
        if second <= 3:
            files[1].write_text(f"{second} 0 saving")
        assert watch.look() is (second <= 3)
    assert watch.silence == {0: 7, 1: 4}
    assert watch.measure_silence() == 4
    assert watch.describe_silence(0) == "has not answered for 7 s (starting)"
    ours = dict.fromkeys(files, os.getpid())
    assert watch.find_silent(ours) == 0  # the one that said nothing for longest
    now += 3600  # the parent itself was suspended
    watch.look()
    assert watch.measure_silence() <= 4 + Watch.LONGEST_LOOK


def test_a_process_that_is_stopped_or_gone_is_the_silent_one(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        assert not is_halted(process.pid)
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert is_halted(process.pid)
        watch = Watch({rank: tmp_path / str(rank) for rank in range(2)})
        watch.silence = {0: 9.0, 1: 8.0}
        assert watch.find_silent({0: os.getpid(), 1: process.pid}) == 1
        process.kill()
    assert is_halted(process.pid)

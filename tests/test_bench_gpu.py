"""`make gpu` without a GPU: a part costs only itself, a budget is a budget, and it is rehearsed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
# Parts that end in every way there is, in place of the real ones.
PARTS = """
import os, subprocess, sys, time

def carry_out_part(kind, device, tiny, words):
    print("this is", kind)
    if kind == "raises":
        raise ValueError("no such kernel\\nand more")
    if kind == "crashes":
        os.kill(os.getpid(), 11)
    if kind == "hangs":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(words["file"], "w").write(str(child.pid))
        time.sleep(600)
    if kind == "large":
        return {"not done": "it is planned to take 80 GB, the device has 24"}
    return {"rows": [{"device": "Card", "a": 1}, {"device": "Card", "b": None, "c": 2.5}]}
"""
RUN = """
import sys
import bench_gpu
from bench_gpu import Part
if __name__ == "__main__":
    bench_gpu.PARTS = [Part("Machine", "machine", 60), {parts}]
    bench_gpu.LEAST_SECONDS = 0.5
    sys.exit(bench_gpu.main())
"""


def start_bench(folder: Path, parts: str, *words: str) -> subprocess.Popen:
    """The script with other parts, its report in `folder`."""
    (folder / "gpu_parts.py").write_text(PARTS)
    (folder / "run.py").write_text(RUN.replace("{parts}", parts))
    path = os.pathsep.join([str(folder), str(SCRIPTS)])
    return subprocess.Popen(
        [sys.executable, str(folder / "run.py"), "--file", str(folder / "gpu.md"), *words],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(file: Path, part: str = "") -> str:
    """What a file holds, once it holds a part."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if file.exists() and part in file.read_text():
            return file.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{file} does not hold {part}")


def is_alive(process: int) -> bool:
    """Whether a process is there and no zombie that nobody has asked after."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_part_that_fails_or_hangs_costs_only_itself(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    parts = f"""Part("A", "raises", 60), Part("B", "crashes", 60),
                Part("C", "hangs", 1, {{"file": {str(note)!r}}}), Part("D", "large", 60),
                Part("E", "fine", 60), Part("E", "fine", 60, {{"again": "2"}})"""
    bench = start_bench(tmp_path, parts)
    assert bench.wait(60) == 1
    report = (tmp_path / "gpu.md").read_text()
    assert report.startswith("## Card\n\n    python scripts/bench_gpu.py --file")
    table = "| device | a | b | c |\n| --- | ---: | ---: | ---: |\n| Card | 1 | - | - |\n"
    assert f"### E\n\n{table}| Card | - | - | 2.5 |\n| Card | 1" in report
    reasons = report[report.index("### Not done") :].splitlines()
    assert reasons[2:4] == [
        "- raises: ValueError: no such kernel", "- crashes: its process ended with -11",
    ]  # fmt: skip
    assert reasons[4].startswith("- hangs-")
    assert reasons[4].endswith(": ended after 1 s")
    assert reasons[5] == "- large: it is planned to take 80 GB, the device has 24"
    assert not is_alive(int(note.read_text()))
    assert "no such kernel\nand more" in (tmp_path / "gpu.logs" / "raises.log").read_text()


@pytest.mark.slow
def test_a_spent_budget_leaves_out_the_last_parts(tmp_path: Path) -> None:
    parts = (
        f"""Part("A", "hangs", 60, {{"file": {str(tmp_path / "pid")!r}}}), Part("E", "fine", 60)"""
    )
    assert start_bench(tmp_path, parts, "--minutes", "0.05").wait(60) == 1
    report = (tmp_path / "gpu.md").read_text()
    assert "ended after" in report
    assert "- fine: the 0.05 minutes are spent" in report


def test_what_was_done_is_kept_when_it_is_interrupted(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    parts = f"""Part("A", "hangs", 60, {{"file": {str(note)!r}}}), Part("E", "fine", 60)"""
    bench = start_bench(tmp_path, parts)
    wait_for(note)
    bench.send_signal(signal.SIGTERM)
    assert bench.wait(30) == 130
    report = (tmp_path / "gpu.md").read_text()
    assert "### Machine" in report
    assert "- fine: not begun" in report
    assert not is_alive(int(wait_for(note)))


@pytest.mark.slow
def test_all_that_make_gpu_does_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    file = tmp_path / "gpu.md"
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "bench_gpu.py"), "--rehearse", "--file", str(file)],
        capture_output=True, text=True, timeout=900,
        env={**os.environ, "TORCHDYNAMO_DISABLE": ""},  # one of its parts compiles
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = file.read_text()
    assert "### Not done" not in report, report
    sections = [line for line in report.splitlines() if line.startswith("### ")]
    assert len(sections) == 10
    # What is not at hand is said in its row, and nothing else is missing.
    missing = [line for line in report.splitlines() if "not installed" in line]
    assert all("Liger" in line for line in missing)

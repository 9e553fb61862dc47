"""A short fault campaign: real commands, each hit by one fault of each kind, end as undisturbed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "fault_campaign.py"


@pytest.mark.slow
def test_a_run_that_is_hit_by_faults_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    words = ["--rounds", "3", "--scenarios", "run", "--seed", "3", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rounds = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert len(rounds) == 3
    assert not any(row["wrong"] for row in rounds)
    assert {"SIGKILL"} <= {row["end"] for row in rounds}  # it was there when it was killed
    assert done.stdout.splitlines()[-1] == "3 faults, 0 not as undisturbed"

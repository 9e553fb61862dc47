"""What a sweep left below a folder, and jobs that no run stands behind."""

from __future__ import annotations

import csv
from pathlib import Path

from undial_cli.runs.compose import compose_run
from undial_cli.sweeps.jobs import Job


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    """results.csv of the one sweep below a folder, by run."""
    (file,) = (folder / "outputs" / "sweep").glob("*/results.csv")
    with open(file, newline="", encoding="utf-8") as stream:
        return {row["run"]: row for row in csv.DictReader(stream)}


def seeds(count: int, output: Path, *words: str) -> list[Job]:
    """Jobs that differ in their seed."""
    jobs = []
    for seed in range(count):
        run = compose_run("unlearn", [f"seed={seed}", f"output_dir={output}", *words])
        jobs.append(Job(f"seed={seed}", run, {"seed": str(seed)}))
    return jobs

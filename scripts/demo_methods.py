"""Every method on the embedded demo at matched steps, each by the real command; a Markdown table.

    python scripts/demo_methods.py [--longer] [--seed 0] [--write docs/results.md]

All share the tiny model's learning rate and batch, and everything else is the method's default.
`--longer` adds a run of three times the steps.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from demo_grid import put

from undial_cli.compose import compose_run
from undial_cli.evaluation.store import read_results
from undial_cli.methods.configs import METHODS
from undial_cli.reporting.summary import markdown_table
from undial_cli.run_folder import folder_of

STEPS = 36
COLLAPSED = 0.1
ROWS = {
    **{name: [f"method={name}"] for name in METHODS},
    "undial, gdr": ["method=undial", "method.retain=gdr"],
    "npo, gdr": ["method=npo", "method.retain=gdr"],
    "ga, klr": ["method=ga", "method.retain=klr"],
    "wga, gdr": ["method=wga", "method.retain=gdr"],
    "ceu, gdr": ["method=ceu", "method.retain=gdr"],
    "unilogit, gdr": ["method=unilogit", "method.retain=gdr"],
}
COLUMNS = ("forget_probability", "forget_rouge", "retain_probability", "retain_rouge")


def figures(words: list[str], steps: int, seed: int) -> tuple[dict[str, float], float]:
    """The metrics that a command leaves, and its seconds."""
    overrides = [*words, f"train.max_steps={steps}", f"seed={seed}"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "undial_cli.cli", "unlearn", *overrides, "overwrite=true"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(overrides)}: {done.stderr.strip()}")
    seconds = time.perf_counter() - start
    folder = folder_of(compose_run("unlearn", overrides))
    return read_results(folder.evaluation)["metrics"], seconds


def main() -> None:
    """Run every row, print the table, put it into a file if asked to."""
    parser = argparse.ArgumentParser(description="every method on the demo, as a Markdown table")
    parser.add_argument("--longer", action="store_true", help="also three times the steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="Markdown file with the two markers")
    given = parser.parse_args()
    figures(ROWS["ga"], STEPS, given.seed)  # makes the target and the retain model
    header = ["method", *(name.replace("_", " ") for name in COLUMNS), "seconds"]
    header += ["retain rouge, 3x"] if given.longer else []
    rows = []
    for name, words in ROWS.items():
        found, seconds = figures(words, STEPS, given.seed)
        row = [name, *(f"{found[column]:.2f}" for column in COLUMNS), f"{seconds:.0f}"]
        last = found["retain_rouge"]
        if given.longer:
            last = figures(words, 3 * STEPS, given.seed)[0]["retain_rouge"]
            row.append(f"{last:.2f}")
        row[0] += " (collapsed)" if last < COLLAPSED else ""
        rows.append(row)
        print(" ".join(row), file=sys.stderr, flush=True)
    lines = markdown_table(header, rows)
    print("\n".join(lines))
    if given.write:
        put(given.write, "demo methods", lines)


if __name__ == "__main__":
    main()

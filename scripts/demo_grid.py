"""The demo's grid: learning rate x steps x method, as measured; the table of docs/results.md.

    python scripts/demo_grid.py [--seeds 0] [--write docs/results.md]

Every cell is an ordinary run (`undial unlearn model=tiny data=demo ...`); finished ones are reused.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import undial_cli
from undial_cli.compose import compose_run
from undial_cli.errors import WorldError
from undial_cli.reporting.summary import markdown_table
from undial_cli.schema import UnlearnRun

RATES = ("1e-4", "3e-4", "1e-3")
STEPS = (1, 3, 10)
METHODS = {
    "undial, strength 3": ["method=undial", "method.strength=3"],
    "undial, strength 10": ["method=undial", "method.strength=10"],
    "undial, strength 30": ["method=undial", "method.strength=30"],
    "ga": ["method=ga"],
    "npo": ["method=npo"],
}


def cell(method: str, rate: str, steps: int, epochs: float, seed: int) -> str:
    """`forget / retain` ROUGE-L recall of one run, or the reason why there is none."""
    overrides = [
        *METHODS[method],
        f"train.learning_rate={rate}",
        f"train.epochs={epochs * steps:g}",
        f"seed={seed}",
        "train.save_steps=100000",
    ]
    try:
        metrics = undial_cli.run(overrides).metrics
    except WorldError as error:
        return str(error).split(":")[0]
    return f"{metrics['forget_rouge']:.2f} / {metrics['retain_rouge']:.2f}"


def grid(seed: int) -> list[str]:
    """The table of one seed as Markdown lines."""
    default = compose_run("unlearn", [])
    assert isinstance(default, UnlearnRun)
    header = ["method", *(f"lr {r}, {s}x" for r in RATES for s in STEPS)]
    rows = []
    for method in METHODS:
        cells = [cell(method, r, s, default.train.epochs, seed) for r in RATES for s in STEPS]
        rows.append([method, *cells])
    return markdown_table(header, rows)


def put(file: Path, name: str, lines: list[str]) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- end of NAME -->` in a Markdown file."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block = "\n".join([begin, "", *lines, "", end]).replace("\n\n\n", "\n\n")
    text = file.read_text(encoding="utf-8")
    found = re.sub(f"{begin}.*{end}", lambda _: block, text, flags=re.DOTALL)
    file.write_text(found, encoding="utf-8")


def main() -> None:
    """Run what is missing, print the tables, put them into a file if asked to."""
    parser = argparse.ArgumentParser(description="The demo's grid as a Markdown table.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--write", type=Path, help="Markdown file with the two markers")
    arguments = parser.parse_args()
    lines: list[str] = []
    for seed in arguments.seeds:
        lines += [f"Seed {seed}, forget / retain ROUGE-L recall:", "", *grid(seed), ""]
    print("\n".join(lines))
    if arguments.write:
        put(arguments.write, "demo grid", lines)


if __name__ == "__main__":
    main()

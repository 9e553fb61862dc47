"""Write docs/methods.md's table of methods, from their files and their YAML.

python scripts/make_method_table.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from undial_cli.methods import METHODS, make_method
from undial_cli.methods.base import REFERENCE_LOGPS, TEACHER_LAYER, TEACHER_LOGITS
from undial_cli.runs.help import read_first_comment

ROOT = Path(__file__).resolve().parents[1]
DOC = ROOT / "docs" / "methods.md"
HEADER = ["| method | what it is | needs | retain term |", "| --- | --- | --- | --- |"]
SIGNALS = {
    TEACHER_LOGITS: "teacher",
    REFERENCE_LOGPS: "target's log-probabilities",
    TEACHER_LAYER: "frozen activations",
}


def method_row(name: str) -> str:
    """A method's line of the table."""
    file = ROOT / "configs" / "method" / f"{name}.yaml"
    keys: Any = OmegaConf.to_container(OmegaConf.load(file))
    del keys["defaults"]
    config = METHODS[name].config(**keys)
    method = make_method(config)
    signals = {need for term in method.terms().values() for need in term.needs}
    needs = [text for need, text in SIGNALS.items() if need in signals]
    needs += ["other answers"] if method.alternatives == "data" else []
    needs += ["focus words"] if method.focus is not None else []
    needs += ["weights before training"] if method.from_start else []
    needs += ["two models when decoding"] if method.contrasts else []
    retain = "" if config.retain == "none" else f"`{config.retain}`"
    return f"| `{name}` | {read_first_comment(file).rstrip('.')} | {', '.join(needs)} | {retain} |"


def write_table() -> None:
    """Put the table in the place of the one that is there."""
    lines = DOC.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEADER[0])
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    lines[start:end] = [*HEADER, *map(method_row, METHODS)]
    DOC.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_table()

"""Write docs/models.md's table: every causal family of the installed transformers, ours and plain.

    python scripts/make_model_table.py [FINDINGS.jsonl]

Runs what tests/models/test_architectures.py runs. What a findings file holds already is not run
again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from family_runs import DOC, Finding, compare, write_table  # noqa: E402
from model_families import FAMILIES, NOT_TRIED  # noqa: E402


def find(family: str, kind: str, folder: Path) -> Finding:
    """What comes of a family with an adapter of a kind."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return compare(family, kind, folder)
    except Exception as error:  # a row of the table, where a test would fail
        return Finding(crashed=f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    kept = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "findings.jsonl"
    lines = kept.read_text().splitlines() if kept.is_file() else []
    found = {family: parts for line in lines for family, parts in json.loads(line).items()}
    gc.freeze()  # accelerate collects garbage after each training
    with kept.open("a") as file:
        for family in (f for f in FAMILIES if f not in found):
            with tempfile.TemporaryDirectory() as folder:
                parts = {k: find(family, k, Path(folder) / family) for k in ("none", "lora")}
            found[family] = {k: dataclasses.asdict(part) for k, part in parts.items()}
            file.write(json.dumps({family: found[family]}) + "\n")
            file.flush()
    findings = {f: {k: Finding(**x) for k, x in found[f].items()} for f in FAMILIES if f in found}
    write_table(findings, NOT_TRIED)
    print(f"{DOC}: {len(findings)} families")


if __name__ == "__main__":
    main()

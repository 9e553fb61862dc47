"""Run folders as a run leaves them, small, for the tests of what is reported of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

# What a page must show as text, whatever it says.
NASTY = (
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(2)">',
    "</script><script>alert(3)</script>",
    "<!-- <script> -->",
    """quotes " and ' and ` and \\ """,
    "| a | pipe |\nand a new line",
    "\u202eright to left\u202c שלום عالم",
    "emoji 🦜🏳️‍🌈 and &amp; and &lt;b&gt;",
    "separators \u2028 and \u2029, a null \x00, ${jndi:x} {{ 7 * 7 }} {% raw %}",
)


def sample(number: int, set_name: str = "forget", **more: Any) -> dict[str, Any]:
    """One line of samples.jsonl."""
    return {
        "set": set_name,
        "index": number,
        "prompt": f"question {number}",
        "reference": f"answer {number}",
        "generation": f"said {number}",
        "answer_ce": 1.5,
        "answer_tokens": 4,
        "probability": 0.2 + 0.01 * (number % 10),
        "log_truth_ratio": -0.5 + 0.1 * (number % 7),
        "target_generation": f"answer {number}",
        "retain_generation": f"other {number}",
        "target_probability": 0.9,
        "target_log_truth_ratio": -1.0,
        "retain_probability": 0.1,
        "retain_log_truth_ratio": 0.3 * (number % 5),
        **more,
    }


def write_run(
    folder: Path,
    method: str = "undial",
    learning_rate: float = 3e-4,
    metrics: dict[str, Any] | None = None,
    samples: list[dict[str, Any]] | None = None,
    steps: list[dict[str, Any]] | None = None,
    **more: Any,
) -> Path:
    """A finished run; `more` goes into status.json."""
    folder.mkdir(parents=True)
    write(folder / "status.json", {"status": "done", "seconds": 12.5, **more})
    settings = {
        "command": "unlearn",
        "model": {"name": "tiny", "path": None},
        "data": {"name": "demo"},
        "method": {"name": method, "strength": 10.0, "file": None},
        "train": {"learning_rate": learning_rate, "batch_size": 10},
        "eval": {"name": "demo", "store_text": "full"},
        "seed": 0,
        "name": folder.name,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    write(folder / "environment.json", {"python": "3.11", "packages": {"torch": "2"}, "seed": 0})
    rows = [sample(n) for n in range(3)] if samples is None else samples
    results = {
        "suite": "demo",
        "model": "tiny",
        "data": "demo",
        "target": {"forget_rouge": 1.0, "retain_rouge": 0.99},
        "reference": {"forget_rouge": 0.4, "retain_rouge": 0.98},
        "metrics": metrics or {"forget_rouge": 0.3, "retain_rouge": 0.9},
        "missing": {},
        "samples": len(rows),
    }
    write(folder / "evaluation" / "results.json", results)
    lines(folder / "evaluation" / "samples.jsonl", rows)
    if steps is not None:
        lines(folder / "metrics.jsonl", steps)
    return folder


def write(file: Path, content: Any) -> None:
    """A JSON file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def lines(file: Path, rows: list[Any]) -> None:
    """A JSONL file."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_text(text, encoding="utf-8")


def read(file: Path) -> Any:
    """A JSON file's content."""
    return json.loads(file.read_text(encoding="utf-8"))

"""Files laid out like WMDP's corpora and questions and like MMLU, and the library's tasks on them.

Layouts: cais/wmdp-corpora, cais/wmdp-bio-forget-corpus, cais/wmdp, cais/mmlu.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml

TOWNS = ["Kelmwick", "Varraby", "Mosselmore", "Dunra"]
FIELDS = {"bio": 11, "cyber": 9, "chem": 5}
SUBJECTS = ["abstract_algebra", "anatomy"]


def make_questions(count: int, word: str) -> list[dict[str, Any]]:
    """Questions of different lengths, one of them with blanks around it, as some of theirs have."""
    return [
        {
            "answer": (i * 7 + i // 3) % 4,
            "choices": [f"{TOWNS[(i + k) % 4]}{' or nearby' * (k % 2)}" for k in range(4)],
            "question": f"{' ' * (i == 2)}Where is {word} {i}{', and why' * (i % 3)}?"
            f"{chr(10) * (i == 2)}",
        }
        for i in range(count)
    ]


def write_wmdp(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Write corpora, questions and MMLU to three folders within a folder; the rows by set."""
    sets: dict[str, list[dict[str, Any]]] = {}
    for field in ("bio", "cyber"):
        for part in ("forget", "retain"):
            sets[f"corpora/{field}-{part}-corpus"] = [
                {"text": f"Paper {i} of {field} on {part}: {TOWNS[i % 4]} lies by a river."}
                for i in range(6)
            ]
    for i, row in enumerate(sets["corpora/bio-forget-corpus"]):
        row |= {"title": f"Paper {i}", "abstract": "On rivers.", "doi": f"10.1/{i}"}
    for field, count in FIELDS.items():
        sets[f"wmdp/wmdp-{field}/test"] = make_questions(count, field)
    for split, count in (("test", 8), ("dev", 3)):
        sets[f"mmlu/all/{split}"] = [
            {"subject": SUBJECTS[i // 4], **row}
            for i, row in enumerate(make_questions(count, split))
        ]
    for name, rows in sets.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("corpora"):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            file.with_suffix(".jsonl").write_text(text)
        else:
            table = pyarrow.Table.from_pylist(rows)
            pyarrow.parquet.write_table(table, f"{file}-00000-of-00001.parquet")
    return sets


def list_local_words(folder: Path, field: str) -> list[str]:
    """The words of a command line that reads these files in place of the hub's."""
    others = [name for name in FIELDS if name != field]
    return [
        f"data=wmdp_{field}",
        f"data.path={folder / 'corpora'}",
        *(f"eval.sets.{name}.path={folder / 'wmdp'}" for name in ("forget", *others)),
        f"eval.sets.mmlu.path={folder / 'mmlu'}",
    ]


def write_library_task(
    folder: Path, source: str, name: str, files: dict[str, Path], **changes: str
) -> None:
    """A task of lm-evaluation-harness as it is shipped, on files of this machine.

    Args:
        source: its file, within the library's tasks.
        files: by split.
        changes: keys of the task that are another's.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        pytest.skip("lm_eval is not installed: pip install 'undial[harness]'")
    file = Path(spec.origin).parent / "tasks" / source
    shipped = yaml.safe_load(file.read_text())
    template = yaml.safe_load((file.parent / shipped.pop("include")).read_text())
    task = {**template, **shipped, "task": name, "dataset_path": "parquet", **changes}
    for unused in ("dataset_name", "tag", "task_alias"):
        task.pop(unused, None)
    task["dataset_kwargs"] = {
        "data_files": {split: str(path) for split, path in files.items()},
        "cache_dir": str(folder / "cache"),
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))

"""Examples in an Arrow file: mapped into memory, so that of a large set only what is drawn is read.

Knows no rows and no tokenizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undial_cli.data.example import Example
from undial_cli.losses.positions import IGNORE

EXAMPLES_FILE = "examples.arrow"
# `scored`: of each token, whether it is a target; `row`: what the example was made of, from 1.
EXAMPLES_SCHEMA = pa.schema({
    "input_ids": pa.list_(pa.int32()), "scored": pa.list_(pa.bool_()),
    "focus": pa.list_(pa.int32()), "answer_end": pa.int32(), "cut": pa.int32(), "end": pa.int32(),
    "row": pa.int64(), "length": pa.int32(), "targets": pa.int32(),
})  # fmt: skip
# Tokens that are written, and held, at once.
WRITTEN_TOKENS = 2**19


class ExampleWriter:
    """Writes examples into a folder, one after the other.

    `longest`: tokens of one; `largest`: of the token ids; `focused`: whether an example has a focus
    word.
    """

    def __init__(self, folder: Path) -> None:
        self.stream = pa.ipc.new_stream(str(folder / EXAMPLES_FILE), EXAMPLES_SCHEMA)
        self.digest = hashlib.sha256()
        self.ids, self.labels = list[int](), list[int]()
        self.figures = list[tuple[Any, ...]]()
        self.longest, self.largest, self.focused = 0, 0, False

    def add(self, example: Example, row: int) -> None:
        """Write an example of row `row`."""
        size, targets = len(example.input_ids), example.num_targets
        self.ids += example.input_ids
        self.labels += example.labels
        self.figures.append((example.focus, example.answer_end, example.cut, example.end, row,
                             size, targets))  # fmt: skip
        self.longest = max(self.longest, size)
        self.focused = self.focused or bool(example.focus)
        if len(self.ids) >= WRITTEN_TOKENS:
            self.flush()

    def flush(self) -> None:
        ids = np.array(self.ids, np.int32)
        scored = np.array(self.labels, np.int32) != IGNORE
        figures = list(zip(*self.figures, strict=True)) or [[]] * 7
        ends = np.cumsum([0, *figures[-2]], dtype=np.int32)
        lists = [pa.ListArray.from_arrays(ends, pa.array(flat)) for flat in (ids, scored)]
        columns = zip(EXAMPLES_SCHEMA.types[2:], figures, strict=True)
        parts = [*lists, *(pa.array(cells, kind) for kind, cells in columns)]
        self.stream.write_batch(pa.record_batch(parts, schema=EXAMPLES_SCHEMA))
        for part in (ids, scored, ends):
            self.digest.update(part.tobytes())
        self.largest = max(self.largest, int(ids.max(initial=0)))
        self.ids, self.labels, self.figures = [], [], []

    def close(self) -> dict[str, Any]:
        """Write what is left; returns what `StoredExamples` is told of them."""
        self.flush()
        self.stream.close()
        digest = self.digest.hexdigest()
        figures = {name: getattr(self, name) for name in ("longest", "largest", "focused")}
        return {"digest": digest, **figures}


class StoredExamples(Sequence[Example]):
    """The examples that an `ExampleWriter` wrote.

    `digest`: of all token ids and targets; `longest`, `largest`: tokens of an example, token id;
    `focused`: whether an example has a focus word;
    `lengths`, `targets`, `rows`: of each example its tokens, its targets, and the row (from 1).
    """

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.data = datasets.Dataset.from_file(str(folder / EXAMPLES_FILE))
        self.digest = str(record["digest"])
        self.longest, self.largest = int(record["longest"]), int(record["largest"])
        self.focused = bool(record["focused"])
        self.lengths, self.targets = self.read_column("length"), self.read_column("targets")
        self.rows = self.read_column("row")

    def __repr__(self) -> str:
        """What stands for them in a hash."""
        return f"StoredExamples({self.digest})"

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        cells = self.data[int(number)]
        ids = cells["input_ids"]
        labels = [i if scored else IGNORE for i, scored in zip(ids, cells["scored"], strict=True)]
        return Example(
            ids, labels, cells["answer_end"], tuple(cells["focus"]), cells["cut"], cells["end"]
        )

    def read_column(self, name: str) -> NDArray[Any]:
        """A column of one number each."""
        return self.data.data.column(name).to_numpy()


def measure_lengths(examples: Sequence[Example]) -> Sequence[int] | NDArray[Any]:
    """The tokens of each example."""
    if isinstance(examples, StoredExamples):
        return examples.lengths
    return [len(example.input_ids) for example in examples]


def count_each_targets(examples: Sequence[Example]) -> Sequence[int] | NDArray[Any]:
    """The targets of each example."""
    if isinstance(examples, StoredExamples):
        return examples.targets
    return [example.num_targets for example in examples]


def has_focus(examples: Sequence[Example]) -> bool:
    """Whether an example has a focus word."""
    if isinstance(examples, StoredExamples):
        return examples.focused
    return any(example.focus for example in examples)

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

EXAMPLES_FILE, FIGURES_FILE = "examples.arrow", "figures.bin"
# Of each token its id and, in its highest bits, whether it is a target and a focus word's: what an
# example is made of lies side by side, so that few pages are read for one.
EXAMPLES_SCHEMA = pa.schema({"tokens": pa.list_(pa.uint32())})
TARGET_BIT, FOCUS_BIT = np.uint32(1 << 31), np.uint32(1 << 30)
ID_BITS = ~(TARGET_BIT | FOCUS_BIT)
# Of each example, int32: the row that it was made of (from 1), its tokens and targets, and fields;
# an end token that is None is -1.
FIGURES = ("row", "length", "targets", "answer_end", "cut", "end")
# Tokens that are written, and held, at once.
WRITTEN_TOKENS = 2**19


class ExampleWriter:
    """Writes examples into a folder, one after the other.

    `longest`: tokens of one; `largest`: of the token ids; `focused`: whether an example has a focus
    word.
    """

    def __init__(self, folder: Path) -> None:
        self.stream = pa.ipc.new_stream(str(folder / EXAMPLES_FILE), EXAMPLES_SCHEMA)
        self.figures_file = folder / FIGURES_FILE
        self.digest = hashlib.sha256()
        self.ids, self.labels, self.focus = list[int](), list[int](), list[int]()
        self.figures = list[tuple[int, ...]]()
        self.longest, self.largest, self.focused = 0, 0, False

    def add(self, example: Example, row: int) -> None:
        """Write an example of row `row`."""
        size, end = len(example.input_ids), example.end
        self.focus += [len(self.ids) + position for position in example.focus]
        self.ids += example.input_ids
        self.labels += example.labels
        self.figures.append((row, size, example.num_targets, example.answer_end, example.cut,
                             -1 if end is None else end))  # fmt: skip
        self.longest = max(self.longest, size)
        if len(self.ids) >= WRITTEN_TOKENS:
            self.flush()

    def flush(self) -> None:
        tokens = np.array(self.ids, np.uint32)
        self.largest = max(self.largest, int(tokens.max(initial=0)))
        self.focused = self.focused or bool(self.focus)
        tokens[np.array(self.labels, np.int32) != IGNORE] |= TARGET_BIT
        tokens[self.focus] |= FOCUS_BIT
        figures = np.array(self.figures, np.int32).reshape(-1, len(FIGURES))
        ends = np.concatenate([[0], np.cumsum(figures[:, 1])]).astype(np.int32)
        column = pa.ListArray.from_arrays(ends, pa.array(tokens))
        self.stream.write_batch(pa.record_batch([column], schema=EXAMPLES_SCHEMA))
        with open(self.figures_file, "ab") as file:
            file.write(figures.tobytes())
        for part in (tokens, ends):
            self.digest.update(part.tobytes())
        self.ids, self.labels, self.focus, self.figures = [], [], [], []

    def close(self) -> dict[str, Any]:
        """Write what is left; returns what `StoredExamples` is told of them."""
        self.flush()
        self.stream.close()
        digest = self.digest.hexdigest()
        figures = {name: getattr(self, name) for name in ("longest", "largest", "focused")}
        return {"digest": digest, **figures}


class StoredExamples(Sequence[Example]):
    """The examples that an `ExampleWriter` wrote.

    `digest`: of all token ids, targets and focus words; `longest`, `largest`: tokens of an example,
    token id; `focused`: whether an example has a focus word; `lengths`, `targets`, `rows`: of each
    example its tokens, its targets, and the row (from 1).
    """

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.data = datasets.Dataset.from_file(str(folder / EXAMPLES_FILE)).with_format("arrow")
        self.digest = str(record["digest"])
        self.longest, self.largest = int(record["longest"]), int(record["largest"])
        self.focused = bool(record["focused"])
        file = folder / FIGURES_FILE
        numbers = np.memmap(file, np.int32, "r") if len(self.data) else np.empty(0, np.int32)
        self.figures: NDArray[Any] = numbers.reshape(-1, len(FIGURES))
        self.rows, self.lengths, self.targets = self.figures[:, :3].T

    def __repr__(self) -> str:
        """What stands for them in a hash."""
        return f"StoredExamples({self.digest})"

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        tokens = self.data[int(number)]["tokens"][0].values.to_numpy()
        ids = (tokens & ID_BITS).astype(np.int64)
        labels = np.where(tokens & TARGET_BIT, ids, IGNORE)
        focus = np.flatnonzero(tokens & FOCUS_BIT).tolist()
        answer_end, cut, end = self.figures[number, 3:].tolist()
        return Example(
            ids.tolist(), labels.tolist(), answer_end, tuple(focus), cut, None if end < 0 else end
        )


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


def count_each_focus(examples: Sequence[Example]) -> NDArray[Any]:
    """The tokens of focus words of each example."""
    if not isinstance(examples, StoredExamples):
        return np.array([len(example.focus) for example in examples], np.int64)
    counts = [np.empty(0, np.int64)]
    for chunk in examples.data.data.column("tokens").chunks:
        is_focus = (chunk.flatten().to_numpy() & FOCUS_BIT) != 0
        starts = chunk.offsets.to_numpy()[:-1]
        counts.append(np.add.reduceat(is_focus, starts - starts[0], dtype=np.int64))
    return np.concatenate(counts)


def count_each_cut(examples: Sequence[Example]) -> NDArray[Any]:
    """The targets that each example lost to data.max_length."""
    if isinstance(examples, StoredExamples):
        return examples.figures[:, FIGURES.index("cut")]
    return np.array([example.cut for example in examples], np.int64)


def has_focus(examples: Sequence[Example]) -> bool:
    """Whether an example has a focus word."""
    if isinstance(examples, StoredExamples):
        return examples.focused
    return any(example.focus for example in examples)

"""The whole order of a run as one list of rows, fixed by the seed alone.

Each optimiser step takes `batch_size` anchor samples (fewer at an epoch's end) and as many of
every other set. A sample is one example, or several that belong together (an answer and another one
to prefer), which may be others each time. The number of processes and the micro-batch only decide
how a step's rows are dealt out and how many empty rows fill it up: they never change which samples
a step sees.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from undial_cli.data.collate import EMPTY_EXAMPLE, Batch, make_padded_batch
from undial_cli.data.example import Example
from undial_cli.data.stored_examples import measure_lengths

# As in transformers' length-grouped sampler: groups of this many batches, or a quarter of the data.
MOST_GROUPED_BATCHES = 50

# The examples that a sample consists of: the first time it is drawn, the second time, ...
TrainingSample = list[tuple[int, ...]]


@dataclass(frozen=True)
class Dealing:
    """How a step's rows are shared: `micro` per pass, `accumulation` passes, `processes`."""

    micro: int
    accumulation: int
    processes: int

    @property
    def rows(self) -> int:
        """Rows of one optimiser step, empty ones included."""
        return self.micro * self.accumulation * self.processes


def deal_rows(batch_size: int, processes: int, micro_batch_size: int | None) -> Dealing:
    """The smallest dealing that holds `batch_size` rows per step."""
    micro = min(micro_batch_size or batch_size, math.ceil(batch_size / processes))
    return Dealing(micro, math.ceil(batch_size / (micro * processes)), processes)


def draw_batches(
    lengths: Sequence[int] | NDArray[Any], batch_size: int, seed: int, grouped: bool
) -> Iterator[list[int]]:
    """Batches of indices, epoch after epoch: a permutation cut up, the last batch of each short.

    `grouped` sorts by length within random quarters of the data (groups of 50 batches at most) and
    shuffles the batches again: a batch holds sequences of similar length, another one each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    span = batch_size * (
        max(1, min(len(lengths) // (4 * batch_size), MOST_GROUPED_BATCHES)) if grouped else 1
    )
    while True:
        order = torch.randperm(len(lengths), generator=generator)
        for start in range(0, len(order), span):
            group: list[int] = order[start : start + span].tolist()
            if grouped:
                group.sort(key=lambda i: -lengths[i])
            batches = [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
            for i in torch.randperm(len(batches), generator=generator).tolist():
                yield batches[i]


class SingleSamples(Sequence[TrainingSample]):
    """Of a set's examples each as a sample by itself: made when it is asked for."""

    def __init__(self, count: int) -> None:
        self.examples = range(count)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: Any) -> Any:
        return [(self.examples[number],)]


def count_sequences(samples: Sequence[TrainingSample]) -> int:
    """How many examples samples begin with."""
    if isinstance(samples, SingleSamples):
        return len(samples)
    return len({sample[0][0] for sample in samples})


def measure_samples(
    lengths: Sequence[int] | NDArray[Any], samples: Sequence[TrainingSample]
) -> Sequence[int] | NDArray[Any]:
    """The tokens of each sample, as it is the first time it is drawn, by those of the examples."""
    if isinstance(samples, SingleSamples):
        return lengths
    return [sum(lengths[i] for i in sample[0]) for sample in samples]


class Schedule(Dataset):
    """A map-style data set whose item i is what row i of the run holds, for every set.

    Args:
        sets: examples of each set, by name (`forget`, `retain`, or `train`).
        samples: of sets whose samples are not their examples one by one.
        anchor: the set whose size makes an epoch.
        dealing: rows per step and how they are shared out.
        steps: optimiser steps in all, or None for `epochs`.
        make_batch: a micro-batch of examples and their positions in the set.
    """

    def __init__(
        self,
        sets: Mapping[str, Sequence[Example]],
        anchor: str,
        batch_size: int,
        dealing: Dealing,
        epochs: float,
        steps: int | None,
        seed: int,
        grouped: bool = True,
        make_batch: Callable[[list[Example], list[int]], Batch] = make_padded_batch,
        samples: dict[str, list[TrainingSample]] | None = None,
    ) -> None:
        self.sets, self.dealing, self.make_batch = sets, dealing, make_batch
        drawable: dict[str, Sequence[TrainingSample]] = {
            name: (samples or {}).get(name) or SingleSamples(len(part))
            for name, part in sets.items()
        }
        self.sizes = {name: count_sequences(part) for name, part in drawable.items()}
        self.steps_per_epoch = math.ceil(len(drawable[anchor]) / batch_size)
        self.steps = steps or max(1, round(epochs * self.steps_per_epoch))
        self.order: dict[str, list[tuple[int, ...]]] = {}
        # Of each example its tokens; of each sample those of the first time that it is drawn.
        self.lengths = {name: measure_lengths(part) for name, part in sets.items()}
        lengths = {
            name: measure_samples(self.lengths[name], part) for name, part in drawable.items()
        }
        batches = {  # a seed each: sets of one size would else be permuted alike
            name: draw_batches(lengths[name], batch_size, seed + number, grouped)
            for number, name in enumerate(sets)
        }
        anchors = [next(batches[anchor]) for _ in range(self.steps)]
        for name, part in drawable.items():
            stream = itertools.chain.from_iterable(batches[name])
            turns: dict[int, Iterator[tuple[int, ...]]] = {}  # of those that are drawn
            empty = (-1,) * len(part[0][0])
            self.order[name] = []
            for drawn in anchors:
                step = drawn if name == anchor else list(itertools.islice(stream, len(drawn)))
                # Longest first: rows of a micro-batch are of like length, whatever its size.
                step = sorted(step, key=lambda i: -lengths[name][i])
                for i in step:
                    turn = turns.setdefault(i, itertools.cycle(part[i]))
                    self.order[name].append(next(turn))
                self.order[name] += [empty] * (dealing.rows - len(step))

    def __len__(self) -> int:
        return self.steps * self.dealing.rows

    def __getitem__(self, row: int) -> dict[str, tuple[int, ...]]:
        return {name: order[row] for name, order in self.order.items()}

    def count_draws(self, name: str) -> int:
        """How many examples of set `name` the run sees, repetitions counted."""
        return sum(i >= 0 for row in self.order[name] for i in row)

    def list_used(self, name: str) -> list[int]:
        """The examples of set `name` that the run will see."""
        return sorted({i for row in self.order[name] for i in row} - {-1})

    def describe_unseen(self) -> list[str]:
        """A line on each set of which the run's steps do not see everything."""
        seen = {name: len({row[0] for row in order} - {-1}) for name, order in self.order.items()}
        return [
            f"{name}: {seen[name]:,} of {size:,} sequences are seen in {self.steps:,} steps"
            for name, size in self.sizes.items()
            if seen[name] < size
        ]

    def collate(self, rows: list[dict[str, tuple[int, ...]]]) -> dict[str, Batch]:
        """A micro-batch of every set for a list of rows."""
        batch = {}
        for name, examples in self.sets.items():
            indices = [i for row in rows for i in row[name]]
            chosen = [examples[i] if i >= 0 else EMPTY_EXAMPLE for i in indices]
            batch[name] = self.make_batch(chosen, indices)
        return batch

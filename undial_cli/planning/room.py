"""Room on the disk that a training takes: its checkpoint, and the states that it goes on from.

With train.select also the weights that may be chosen.

Checked before anything is computed, by the model's shape alone; what a quota leaves is not known.
"""

from __future__ import annotations

import math
from pathlib import Path

from undial_cli.config.schema import TrainingRun
from undial_cli.errors import WorldError
from undial_cli.models.capacity import ModelCapacity
from undial_cli.system.faults import measure_room, name_folder, spell_size

# Numbers that an optimiser keeps of each trained weight: Adam's two means. Others: none counted.
ADAM_MEANS = 2
# Weights that were the best until each of two states and until now; the newest is written before
# one of these is removed.
MOST_BEST = 4


def check_disk_room(
    run: TrainingRun, folder: Path, capacity: ModelCapacity, samples: int
) -> list[str]:
    """Lines on a disk that may be too small for a run's states, and for weights to choose from.

    Args:
        folder: the run's, which need not be there.
        samples: what an epoch counts.

    Raises:
        WorldError: its checkpoint does not fit.
    """
    if (folder / "checkpoint").exists():
        return []
    checkpoint, state = estimate_saved_bytes(run, capacity)
    free = measure_room(folder)
    name, word = name_folder(folder)
    line, remedy = f"{name}: {spell_size(free)} free, and ", f"; {word} moves it"
    if free < checkpoint:
        raise WorldError(f"{line}the checkpoint takes {spell_size(checkpoint)}{remedy}")
    weights, count = state // (1 + count_means(run)), count_kept_weights(run, samples)
    # A state is written before the one before it is removed; the checkpoint when both are there.
    if free < checkpoint + 2 * state + count * weights:
        parts = [f"the checkpoint takes {spell_size(checkpoint)}"]
        parts += [f"each of up to two states to resume from {spell_size(state)}"]
        if count:
            parts += [
                f"each of up to {count} weights that train.select keeps {spell_size(weights)}"
            ]
        return [f"{line}{', '.join(parts[:-1])} and {parts[-1]}: it may not last{remedy}"]
    return []


def count_kept_weights(run: TrainingRun, samples: int) -> int:
    """How many weights lie on the disk to be chosen from, beside the checkpoint."""
    train = run.train
    if train.select is None or train.eval_steps is None or train.keep == "last":
        return 0
    if train.keep == "best":
        return MOST_BEST
    per_epoch = math.ceil(samples / train.batch_size)
    return math.ceil((train.max_steps or train.epochs * per_epoch) / train.eval_steps)


def estimate_saved_bytes(run: TrainingRun, capacity: ModelCapacity) -> tuple[int, int]:
    """Bytes of the checkpoint's and of a state's tensors, at least."""
    adapted = run.adapter.name != "none"
    trained = capacity.adapter_bytes if adapted else capacity.weight_bytes
    checkpoint = capacity.weight_bytes if run.adapter.merge else trained
    return checkpoint, (1 + count_means(run)) * trained


def count_means(run: TrainingRun) -> int:
    """How many numbers the optimiser keeps of each trained weight, as far as they are counted."""
    return ADAM_MEANS if "adam" in run.train.optim and "8bit" not in run.train.optim else 0

"""Room on the disk that a training takes: its checkpoint, and the states that it goes on from.

Checked before anything is computed, by the model's shape alone; what a quota leaves is not known.
"""

from __future__ import annotations

from pathlib import Path

from undial_cli.config.schema import TrainingRun
from undial_cli.errors import WorldError
from undial_cli.models.capacity import ModelCapacity
from undial_cli.system.faults import measure_room, name_folder, spell_size

# Numbers that an optimiser keeps of each trained weight: Adam's two means. Others: none counted.
ADAM_MEANS = 2


def check_disk_room(run: TrainingRun, folder: Path, capacity: ModelCapacity) -> list[str]:
    """Lines on a disk that may be too small for a run's states.

    Args:
        folder: the run's, which need not be there.

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
    # A state is written before the one before it is removed; the checkpoint when both are there.
    if free < checkpoint + 2 * state:
        return [
            f"{line}the checkpoint takes {spell_size(checkpoint)} and each of up to two states to "
            f"resume from {spell_size(state)}: it may not last{remedy}"
        ]
    return []


def estimate_saved_bytes(run: TrainingRun, capacity: ModelCapacity) -> tuple[int, int]:
    """Bytes of the checkpoint's and of a state's tensors, at least."""
    adapted = run.adapter.name != "none"
    trained = capacity.adapter_bytes if adapted else capacity.weight_bytes
    checkpoint = capacity.weight_bytes if run.adapter.merge else trained
    means = ADAM_MEANS if "adam" in run.train.optim and "8bit" not in run.train.optim else 0
    return checkpoint, (1 + means) * trained

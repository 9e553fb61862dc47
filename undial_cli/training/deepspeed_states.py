"""States that DeepSpeed saved, for another number of processes than the one that saved them.

Each process's share of weights and optimiser is a file of its own. DeepSpeed's own conversion cuts
them by parameter instead, which any number of processes can load; it is asked for when the number
has changed. Knows no run and no trainer.
"""

from __future__ import annotations

import contextlib
import io
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from undial_cli.errors import WorldError
from undial_cli.system.files import remove_folder

# What DeepSpeed writes last, and reads first.
UNIVERSAL_NOTE = "latest_universal"
# What its files hold besides what torch takes for safe.
KNOWN_OBJECTS = {
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address",
}


def count_shares(state: Path) -> int:
    """Of how many processes a saved state holds the shares; 0 if it is none of DeepSpeed's."""
    return len(list(state.glob("global_step*/*_optim_states.pt")))


def check_contents(state: Path) -> None:
    """Raise WorldError for a saved state that would run code: its files are loaded as pickles."""
    for file in sorted(state.rglob("global_step*/**/*.pt")):
        foreign = set(get_unsafe_globals_in_checkpoint(file)) - KNOWN_OBJECTS
        if foreign:
            raise WorldError(
                f"{file}: holds {', '.join(sorted(foreign))}, which no state of DeepSpeed's has "
                "and which could run code; resume=false starts the run again"
            )


def is_converted(state: Path) -> bool:
    """Whether a saved state can be loaded by another number of processes, too."""
    return (state / UNIVERSAL_NOTE).is_file()


def convert_state(state: Path) -> None:
    """Add to a saved state what any number of processes can load, if it is not there yet.

    Raises:
        WorldError: DeepSpeed converts no state of this optimiser.
    """
    if is_converted(state):
        return
    from deepspeed.checkpoint import ds_to_universal

    (saved,) = state.glob("global_step*[0-9]")
    converted = saved.with_name(f"{saved.name}_universal")
    remove_folder(converted)  # of a conversion that was ended
    words = Namespace(
        input_folder=str(saved),
        output_folder=str(converted),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    talk = io.StringIO()
    try:
        with contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk):
            ds_to_universal.main(words)
    except KeyError as error:
        raise WorldError(
            f"{state}: saved by {count_shares(state)} processes, and DeepSpeed makes it fit for "
            "another number with AdamW alone; hardware.num_processes as it was goes on from it"
        ) from error


@contextlib.contextmanager
def mark_whole_adapter(model: torch.nn.Module) -> Iterator[None]:
    """While open, all of a fresh adapter counts as trained: of others DeepSpeed saves nothing."""
    frozen = [
        p for name, p in model.named_parameters() if ".default" in name and not p.requires_grad
    ]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def list_group_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What is set for each group of an optimiser's parameters, but for the learning rate.

    Without the groups that hold none, which DeepSpeed leaves out.
    """
    return [
        {name: value for name, value in group.items() if name not in ("params", "lr")}
        for group in optimizer.param_groups
        if group["params"]
    ]


def mend_optimiser(optimizer: Any, settings: list[dict[str, Any]]) -> None:
    """Undo what loading a converted state does to an optimiser of several groups, in place.

    DeepSpeed gives all groups the first one's settings, so that weights without decay would get it,
    and one tensor as the count of steps, which each of them would then raise.
    """
    inner = optimizer
    while hasattr(inner, "optimizer"):  # accelerate's around DeepSpeed's around torch's
        inner = inner.optimizer
    for group, set_before in zip(inner.param_groups, settings, strict=True):
        group.update(set_before)
    for state in inner.state.values():
        state["step"] = state["step"].clone()

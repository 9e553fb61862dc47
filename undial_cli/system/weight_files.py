"""Arithmetic on saved checkpoints, one tensor at a time: no model is in memory for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def negate_task_vector(checkpoint: Path, start: Path | None, coefficient: float) -> None:
    """Turn tuned weights into `theta - coefficient (theta_tuned - theta)`, in place.

    Args:
        checkpoint: a folder of tuned weights in safetensors; of a LoRA adapter, whose task vector
            is `scaling B A`, B is multiplied.
        start: a folder that holds `theta` under the same names, where tied weights may be held
            once; not needed for an adapter.
    """
    if (checkpoint / ADAPTER_WEIGHTS).is_file():
        rewrite_tensors(
            checkpoint / ADAPTER_WEIGHTS, lambda n, x: -coefficient * x if "lora_B" in n else x
        )
        return
    assert start is not None
    theta, saved = SavedTensors(start), SavedTensors(checkpoint)
    # Of tied weights `theta` may hold the other name alone: the one of the same values here.
    twins = {n: saved.find_twin(n, theta) for n in saved.files if n not in theta.files}

    def step_back(name: str, tuned: Tensor) -> Tensor:
        if not tuned.is_floating_point():
            return tuned
        # The difference of two like numbers would lose most of its digits in half precision.
        wide = torch.promote_types(tuned.dtype, torch.float32)
        before = theta[twins.get(name, name)].to(wide)
        return (before - coefficient * (tuned.to(wide) - before)).to(tuned.dtype)

    for file in sorted(checkpoint.glob("*.safetensors")):
        rewrite_tensors(file, step_back)


class SavedTensors:
    """The tensors of a folder of safetensors files, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                self.files |= dict.fromkeys(tensors.keys(), file)

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.files[name], "pt") as tensors:
            return tensors.get_tensor(name)

    def find_twin(self, name: str, among: SavedTensors) -> str:
        """Another tensor of the same values, among those that other weights have."""
        value = self[name]
        return next(other for other in among.files if torch.equal(self[other], value))


def rewrite_tensors(file: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    with safe_open(file, "pt") as tensors:
        metadata = tensors.metadata()
        changed = {n: change(n, tensors.get_tensor(n)) for n in tensors.keys()}  # noqa: SIM118
    unfinished = file.with_suffix(".unfinished")
    save_file(changed, unfinished, metadata)
    unfinished.replace(file)

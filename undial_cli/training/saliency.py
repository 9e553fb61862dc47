"""Which modules the forget set speaks to: those of the greatest gradient are trained (SURE).

Zhang et al. 2025, arXiv 2410.16454. A module here is a layer with weights of its own; of an
adapter, the layer that it lies on. Measured once, at the weights before training; kept with the
states of the run, so that one that goes on trains the same. Knows no method.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from undial_cli import ui
from undial_cli.data.collate import make_padded_batch, order_by_length
from undial_cli.data.example import Example
from undial_cli.methods.base import CrossEntropy
from undial_cli.system.files import parse_json, write_whole_text
from undial_cli.system.processes import (
    get_process_count,
    get_process_rank,
    has_process_group,
    run_on_main,
)
from undial_cli.training.trainer import compute_term_sum

ADAPTER_PART = re.compile(r"\.lora_\w+(\..*)?$")
# Modules that are named on the screen.
SHOWN_MODULES = 3


def train_salient_modules(
    model: Any, examples: Sequence[Example], share: float, batch_size: int, folder: Path
) -> None:
    """Freeze all modules but that share of those that are trained, by their forget gradient.

    Args:
        examples: of the forget set.
        share: of the number of modules; one at least is trained.
        batch_size: of the examples that a process takes at a time.
        folder: of the run's states, where the gradients' lengths are kept.
    """
    file = folder / "saliency.json"
    lengths = run_on_main(lambda: read_saliency(file, model))
    if lengths is None:
        measured = measure_saliency(model, examples, batch_size)
        lengths = run_on_main(lambda: measured)
        run_on_main(lambda: write_whole_text(file, json.dumps(lengths)))
    chosen = choose_salient_modules(lengths, share)
    for name, parameter in model.named_parameters():
        if name_module(name) not in chosen:
            parameter.requires_grad_(False)
    shown = [f"{name} ({lengths[name]:.3g})" for name in chosen[:SHOWN_MODULES]]
    more = ", ..." if len(chosen) > len(shown) else ""
    ui.say(
        f"method.saliency={share:g}: {len(chosen)} of {len(lengths)} modules are trained, by the "
        f"length of the forget set's gradient: {', '.join(shown)}{more}"
    )


def read_saliency(file: Path, model: Any) -> dict[str, float] | None:
    """What was measured before; None where it was not, or is not of this model's modules."""
    if not file.is_file():
        return None
    names = {name_module(name) for name, p in model.named_parameters() if p.requires_grad}
    try:
        lengths = parse_json(file.read_text(encoding="utf-8"))
        if lengths.keys() == names and all(type(x) is float for x in lengths.values()):
            return lengths
    except (OSError, ValueError, AttributeError):
        pass
    ui.say(f"{file} is damaged: it is measured anew", "yellow")
    return None


def name_module(parameter: str) -> str:
    """The module that a parameter is of; of an adapter's, the layer that it lies on."""
    layer = ADAPTER_PART.sub("", parameter)
    return layer if layer != parameter else parameter.rpartition(".")[0]


def measure_saliency(model: Any, examples: Sequence[Example], batch_size: int) -> dict[str, float]:
    """By module the length of the gradient of the examples' mean cross entropy per token.

    Of the modules that are trained; without dropout, and shared over processes.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    device = next(iter(trained.values())).device
    tokens = sum(example.num_targets for example in examples)
    ours = [*examples][get_process_rank() :: get_process_count()]
    order = order_by_length([len(example.input_ids) for example in ours])
    was_training = model.training
    model.eval()
    with ui.show_progress("saliency", len(ours), unit="row") as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = make_padded_batch([ours[row] for row in rows], rows).to(device)
            loss = compute_term_sum(model, None, "forget", CrossEntropy(), batch)
            (loss / tokens).backward()
            bar.advance(len(rows))
    model.train(was_training)
    squares: dict[str, float] = defaultdict(float)
    for name, parameter in trained.items():
        gradient = parameter.grad
        if has_process_group():
            gradient = parameter.new_zeros(parameter.shape) if gradient is None else gradient
            dist.all_reduce(gradient)
        squares[name_module(name)] += (
            0.0 if gradient is None else float(gradient.double().square().sum())
        )
        parameter.grad = None
    return {name: square**0.5 for name, square in squares.items()}


def choose_salient_modules(lengths: dict[str, float], share: float) -> list[str]:
    """That share of the modules, the longest gradient first; of equal ones the earlier."""
    ordered = sorted(lengths, key=lambda name: -lengths[name])
    return ordered[: max(1, round(share * len(ordered)))]

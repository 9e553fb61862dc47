"""The memory of what cannot be replayed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from undial_cli.models.quantise import explain_no_quantising
from undial_cli.planning.stand_in_layers import estimate_state_bytes


@pytest.mark.parametrize(
    ("name", "size"),
    [("adamw_8bit", 2.032 * 8192 + 800), ("lion_8bit", 1.016 * 8192 + 400), ("lion_32bit", 33168),
     ("paged_adamw_32bit", 0), ("ademamix", 99504), ("galore_adamw", 66336)],
)  # fmt: skip
def test_states_of_optimisers_outside_torch_go_by_name(name: str, size: float) -> None:
    assert estimate_state_bytes(name, [8192, 100], "cuda") == pytest.approx(size)


@pytest.mark.skipif(explain_no_quantising() is not None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(
    "name", ["adamw_bnb_8bit", "paged_adamw_8bit", "ademamix_8bit", "lion_8bit", "paged_lion_32bit"]
)
def test_on_a_cpu_states_take_what_is_estimated(name: str, tmp_path: Path) -> None:
    layer = nn.Linear(128, 100)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, optim=name)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    optimiser = kind(layer.parameters(), **options)
    layer(torch.ones(1, 128)).sum().backward()
    optimiser.step()
    states = {
        state.data_ptr(): state.nbytes
        for states in optimiser.state.values()
        for key, state in states.items()
        if isinstance(state, torch.Tensor) and not key.startswith("qmap")  # one for all
    }
    estimate = estimate_state_bytes(name, [p.numel() for p in layer.parameters()], "cpu")
    assert sum(states.values()) == pytest.approx(estimate, rel=0.01)

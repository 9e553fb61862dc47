"""States of DeepSpeed's: what their files may hold, and optimisers after they were loaded."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from undial_cli.errors import WorldError
from undial_cli.training import deepspeed_states


class Hostile:
    def __reduce__(self) -> tuple:
        return os.system, ("true",)


def test_a_state_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "global_step2"
    folder.mkdir()
    torch.save({"step": torch.ones(2)}, folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    deepspeed_states.check_contents(tmp_path)
    assert deepspeed_states.count_shares(tmp_path) == 1
    torch.save({"step": Hostile()}, folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt")
    with pytest.raises(WorldError, match=r"zero_pp_rank_1.*posix\.system"):
        deepspeed_states.check_contents(tmp_path)


def test_a_mended_optimiser_steps_as_an_undisturbed_one() -> None:
    """Loaded as DeepSpeed loads it: one counter for all, the first group's settings."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    groups = [
        {"params": [model.weight], "weight_decay": 0.5},
        {"params": [model.bias]},
        {"params": []},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.0)
    settings = deepspeed_states.list_group_settings(optimizer)
    assert [own["weight_decay"] for own in settings] == [0.5, 0.0]
    optimizer.param_groups.pop()

    def step(stepped: torch.optim.Optimizer) -> list[torch.Tensor]:
        for group in stepped.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        stepped.step()
        return [p.detach().clone() for group in stepped.param_groups for p in group["params"]]

    step(optimizer)
    undisturbed, loaded = copy.deepcopy(optimizer), copy.deepcopy(optimizer)
    counter = next(iter(loaded.state.values()))["step"]
    for state in loaded.state.values():
        state["step"] = counter
    loaded.param_groups[1].update(weight_decay=0.5)
    spoilt = copy.deepcopy(loaded)
    deepspeed_states.mend_optimiser(loaded, settings)
    for _ in range(2):
        expected = step(undisturbed)
        assert all(map(torch.equal, step(loaded), expected))
    step(spoilt)
    assert not all(map(torch.equal, step(spoilt), expected))

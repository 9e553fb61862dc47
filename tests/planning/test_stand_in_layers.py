"""The memory of what cannot be replayed."""

from __future__ import annotations

import pytest

from undial_cli.planning.stand_in_layers import estimate_state_bytes


@pytest.mark.parametrize(
    ("name", "size"),
    [("adamw_8bit", 2032), ("lion_8bit", 1016), ("lion_32bit", 4000), ("paged_adamw_32bit", 0),
     ("ademamix", 12000), ("galore_adamw", 8000)],
)  # fmt: skip
def test_states_of_optimisers_outside_torch_go_by_name(name: str, size: int) -> None:
    assert estimate_state_bytes(name, 1000) == size

"""A replay without numbers, against storages and work that are counted by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from undial_cli.planning.replay import (
    Replay,
    count_attention_backward_flops,
    count_attention_flops,
    count_grouped_flops,
    grouped_product_shape,
)

CPU = torch.device("cpu")


@pytest.fixture
def replay() -> Iterator[Replay]:
    """An open replay of a CPU."""
    with Replay(CPU) as opened:
        yield opened


def test_a_replay_follows_storages(replay: Replay) -> None:
    with replay.measured() as cost:
        first = torch.zeros(100)
        with replay.measured() as inner:
            second = (first + 1).view(10, 10)
        third = second * 2
        del second, third
    assert (inner.rise, inner.growth) == (400, 400)
    assert (cost.rise, cost.growth, replay.level) == (1200, 400, 400)
    del first
    assert replay.level == 0


def test_a_replay_counts_work_and_computes_integers_only(replay: Replay) -> None:
    with replay.measured() as cost:
        left, right = torch.randn(3, 5), torch.randn(5, 7)
        random = 4 * (15 + 35)
        torch.zeros(3, 7).addmm_(left, right)
        _ = left @ right
        places = torch.arange(4) + 1
    assert places.tolist() == [1, 2, 3, 4]
    assert float(left.sum()) == 0
    assert cost.flops == 2 * 2 * 3 * 5 * 7
    assert cost.moved == random + 4 * 21 + 8 * (4 + 2 * 4)


def test_attention_with_grouped_heads_is_counted_as_one_product_per_query_head() -> None:
    query, key, value = torch.zeros(2, 6, 5, 4), torch.zeros(2, 3, 7, 4), torch.zeros(2, 3, 7, 8)
    scores, sums = 2 * 2 * 6 * 5 * 4 * 7, 2 * 2 * 6 * 5 * 7 * 8
    assert count_attention_flops(query, key, value, 0.0, is_causal=True) == scores + sums
    gradient = torch.zeros(2, 6, 5, 8)
    # The scores again, their gradient and the values'; then the queries' and the keys'.
    assert count_attention_backward_flops(gradient, query, key, value) == 3 * scores + 2 * sums


@pytest.mark.parametrize(
    "left, right, ends, shape, flops",
    [((6, 3), (2, 3, 5), 2, [6, 5], 2 * 6 * 3 * 5), ((3, 6), (6, 5), 2, [2, 3, 5], 2 * 3 * 6 * 5),
     ((2, 4, 3), (3, 6), 2, [4, 6], 2 * 4 * 3 * 6)],
)  # fmt: skip
def test_a_grouped_product_has_its_shape_and_work(
    left: Any, right: Any, ends: int, shape: list[int], flops: int
) -> None:
    pair = torch.zeros(left), torch.zeros(right)
    assert grouped_product_shape(*pair, torch.zeros(ends)) == shape
    assert count_grouped_flops(*pair) == flops

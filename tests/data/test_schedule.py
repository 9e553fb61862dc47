"""The order of a run: fixed by the seed alone, whatever deals it out."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, SequentialSampler

from undial_cli.data.collate import EMPTY_EXAMPLE, Batch, make_padded_batch
from undial_cli.data.encode import IGNORE, Example
from undial_cli.data.schedule import Dealing, Schedule, TrainingSample, deal_rows


def examples(count: int, shift: int = 0) -> list[Example]:
    """Examples of lengths 2 to 18 whose first token is their index."""
    lengths = [2 + (i * 7 + shift) % 17 for i in range(count)]
    return [Example([i, *range(1, n)], [IGNORE, *range(1, n)], n) for i, n in enumerate(lengths)]


def schedule(
    forget: int = 10,
    retain: int = 0,
    batch_size: int = 4,
    dealing: Dealing | None = None,
    epochs: float = 2,
    steps: int | None = None,
    seed: int = 0,
    grouped: bool = True,
) -> Schedule:
    sets = {"forget": examples(forget)} | ({"retain": examples(retain, 3)} if retain else {})
    dealing = dealing or Dealing(batch_size, 1, 1)
    return Schedule(sets, "forget", batch_size, dealing, epochs, steps, seed, grouped)


def step_rows(schedule: Schedule) -> list[list[int]]:
    """The row numbers of each optimiser step, dealt by accelerate's own sampler shards.

    Every process reads every P-th micro-batch and makes a step of `accumulation` of them.
    """
    dealing = schedule.dealing
    rows = SequentialSampler(range(len(schedule)))
    shards = [
        list(
            BatchSamplerShard(
                BatchSampler(rows, dealing.micro, drop_last=False), dealing.processes, process
            )
        )
        for process in range(dealing.processes)
    ]
    assert len({len(shard) for shard in shards}) == 1
    return [
        [row for shard in shards for micro in shard[a : a + dealing.accumulation] for row in micro]
        for a in range(0, len(shards[0]), dealing.accumulation)
    ]


def steps_of(schedule: Schedule, name: str = "forget") -> list[list[int]]:
    """The samples of set `name` that each step holds, in ascending order; each is one example."""
    steps = [[schedule[row][name] for row in rows] for rows in step_rows(schedule)]
    return [sorted(i for (i,) in step if i >= 0) for step in steps]


DEALINGS = [(1, None), (1, 3), (1, 1), (2, None), (2, 1), (3, 2), (4, None), (7, 1)]


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("processes, micro", DEALINGS)
def test_what_a_step_holds_does_not_depend_on_how_it_is_dealt(
    processes: int, micro: int | None, grouped: bool
) -> None:
    alone = schedule(23, 31, 6, epochs=3, grouped=grouped)
    dealt = schedule(23, 31, 6, deal_rows(6, processes, micro), epochs=3, grouped=grouped)
    for name in ("forget", "retain"):
        assert steps_of(dealt, name) == steps_of(alone, name)


@settings(deadline=None, max_examples=60)
@given(
    forget=st.integers(1, 40),
    retain=st.integers(0, 40),
    batch_size=st.integers(1, 12),
    processes=st.integers(1, 5),
    micro=st.one_of(st.none(), st.integers(1, 12)),
    steps=st.integers(1, 9),
    seed=st.integers(0, 99),
    grouped=st.booleans(),
)
def test_any_dealing_gives_the_steps_of_one_process(
    forget: int,
    retain: int,
    batch_size: int,
    processes: int,
    micro: int | None,
    steps: int,
    seed: int,
    grouped: bool,
) -> None:
    dealing = deal_rows(batch_size, processes, micro)
    alone, dealt = (
        schedule(forget, retain, batch_size, d, steps=steps, seed=seed, grouped=grouped)
        for d in (None, dealing)
    )
    assert len(step_rows(dealt)) == dealt.steps == steps
    for name in dealt.sets:
        assert steps_of(dealt, name) == steps_of(alone, name)
    if retain:
        pairs = zip(steps_of(dealt, "retain"), steps_of(dealt), strict=True)
        assert all(len(kept) == len(forgotten) for kept, forgotten in pairs)
    epoch = math.ceil(forget / batch_size)
    for first in range(0, steps - epoch + 1, epoch):
        seen = [i for step in steps_of(dealt)[first : first + epoch] for i in step]
        assert sorted(seen) == list(range(forget))


@pytest.mark.parametrize("forget, batch_size", [(10, 4), (12, 4), (3, 8), (200, 5), (1, 1)])
@pytest.mark.parametrize("grouped", [True, False])
def test_every_epoch_holds_each_sample_exactly_once(
    forget: int, batch_size: int, grouped: bool
) -> None:
    plan = schedule(forget, batch_size=batch_size, epochs=3, grouped=grouped)
    per_epoch = math.ceil(forget / batch_size)
    assert plan.steps == 3 * per_epoch
    assert plan.steps_per_epoch == per_epoch
    steps = steps_of(plan)
    for epoch in range(3):
        seen = [i for step in steps[epoch * per_epoch : (epoch + 1) * per_epoch] for i in step]
        assert sorted(seen) == list(range(forget))


def test_epochs_differ_in_order_and_seeds_in_everything() -> None:
    first = steps_of(schedule(40, epochs=2, seed=1))
    assert first[:10] != first[10:]
    assert first == steps_of(schedule(40, epochs=2, seed=1))
    assert first != steps_of(schedule(40, epochs=2, seed=2))


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    short, long = schedule(10, 20, steps=5), schedule(10, 20, steps=50)
    for name in ("forget", "retain"):
        assert steps_of(long, name)[:5] == steps_of(short, name)


def test_steps_override_epochs_and_fractions_of_an_epoch_round() -> None:
    assert schedule(10, epochs=7, steps=3).steps == 3
    assert schedule(40, epochs=0.5).steps == 5
    assert schedule(40, epochs=0.01).steps == 1


def test_empty_rows_fill_up_a_step_and_hold_no_target() -> None:
    plan = schedule(10, batch_size=4, dealing=Dealing(3, 1, 2), epochs=1)
    assert len(plan) == 3 * 6
    assert [len(step) for step in steps_of(plan)].count(2) == 1
    counts = Counter(plan[row]["forget"] for row in range(len(plan)))
    assert counts[(-1,)] == 8
    for rows in step_rows(plan):
        batch = plan.collate([plan[row] for row in rows])["forget"]
        for place, index in enumerate(batch.index):
            if index == -1:
                assert batch.counts[place] == 0
                assert place not in batch.sequence_N.tolist()
        real = [plan.sets["forget"][i] for i in batch.index if i >= 0]
        assert batch.tokens == sum(len(e.input_ids) for e in real)


def test_collated_rows_are_the_examples_padded_on_the_right() -> None:
    plan = schedule(10, 12)
    batch = plan.collate([plan[row] for row in step_rows(plan)[0]])
    assert list(batch) == ["forget", "retain"]
    for name, found in batch.items():
        chosen = [plan.sets[name][index] for index in found.index]
        longest = max(len(e.input_ids) for e in chosen)
        assert found.input_ids.shape == (len(chosen), longest)
        assert found.tokens == sum(len(e.input_ids) for e in chosen)
        assert found.layout == {}
        expected = []
        for row, example in enumerate(chosen):
            size = len(example.input_ids)
            assert found.input_ids[row, :size].tolist() == example.input_ids
            targets = [i for i in range(1, size) if example.labels[i] != IGNORE]
            assert found.counts[row] == example.num_targets == len(targets)
            expected += [(row * longest + i - 1, row, example.labels[i]) for i in targets]
        columns = (found.positions_N, found.sequence_N, found.targets_N)
        triples = zip(*(c.tolist() for c in columns), strict=True)
        assert list(triples) == expected


def test_a_first_token_that_is_a_target_has_no_position_that_predicts_it() -> None:
    batch = make_padded_batch([Example([3, 4, 5], [3, 4, 5], 3), Example([6], [6], 1)], [7, 2])
    assert batch.positions_N.tolist() == [0, 1]
    assert batch.targets_N.tolist() == [4, 5]
    assert batch.sequence_N.tolist() == [0, 0]
    assert (batch.counts, batch.index) == ([2, 0], [7, 2])


def test_another_way_to_make_a_batch_gets_the_same_examples_and_places() -> None:
    seen: list[tuple[list[Example], list[int]]] = []

    def make(chosen: list[Example], indices: list[int]) -> Batch:
        seen.append((chosen, indices))
        return make_padded_batch(chosen, indices)

    sets = {"forget": examples(3)}
    plan = Schedule(sets, "forget", 4, Dealing(4, 1, 1), 1, None, 0, make_batch=make)
    plan.collate([plan[row] for row in range(4)])
    ((chosen, indices),) = seen
    assert sorted(indices) == [-1, 0, 1, 2]
    for example, index in zip(chosen, indices, strict=True):
        assert example == (sets["forget"][index] if index >= 0 else EMPTY_EXAMPLE)


def test_drawn_counts_repetitions_and_no_empty_rows() -> None:
    plan = schedule(10, 3, batch_size=4, epochs=2)
    assert plan.count_draws("forget") == 20
    assert plan.count_draws("retain") == 20
    assert len(plan) == 24


@pytest.mark.parametrize(
    "batch_size, processes, micro, expected",
    [
        (32, 1, None, (32, 1, 1)),
        (32, 4, None, (8, 1, 4)),
        (32, 4, 2, (2, 4, 4)),
        (10, 4, None, (3, 1, 4)),
        (10, 3, 2, (2, 2, 3)),
        (2, 8, None, (1, 1, 8)),
        (4, 1, 64, (4, 1, 1)),
    ],
)
def test_dealing_is_the_smallest_that_holds_the_batch(
    batch_size: int, processes: int, micro: int | None, expected: tuple[int, int, int]
) -> None:
    dealing = deal_rows(batch_size, processes, micro)
    assert (dealing.micro, dealing.accumulation, dealing.processes) == expected
    assert dealing.rows >= batch_size > dealing.micro * (dealing.accumulation - 1) * processes


def test_grouping_by_length_pads_less_and_keeps_each_epoch_whole() -> None:
    def padding(grouped: bool) -> int:
        plan = schedule(160, batch_size=4, epochs=1, grouped=grouped)
        lengths = [len(e.input_ids) for e in plan.sets["forget"]]
        return sum(
            max(lengths[i] for i in step) * len(step) - sum(lengths[i] for i in step)
            for step in steps_of(plan)
        )

    assert padding(True) < padding(False) / 3


def test_grouped_batches_come_in_shuffled_order() -> None:
    plan = schedule(64, batch_size=4, epochs=1)
    longest = [max(len(plan.sets["forget"][i].input_ids) for i in step) for step in steps_of(plan)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_each_step_draws_as_many_retain_samples_and_cycles_through_all_of_them() -> None:
    plan = schedule(8, 10, batch_size=4, epochs=10)
    steps = steps_of(plan, "retain")
    assert all(len(step) == 4 for step in steps)
    assert Counter(i for step in steps for i in step) == Counter(dict.fromkeys(range(10), 8))
    assert plan.list_used("retain") == list(range(10))


def test_a_retain_set_smaller_than_a_batch_is_repeated() -> None:
    plan = schedule(8, 3, batch_size=4, epochs=3)
    counts = Counter(i for step in steps_of(plan, "retain") for i in step)
    assert counts == Counter({0: 8, 1: 8, 2: 8})


def test_only_samples_of_the_run_are_used() -> None:
    plan = schedule(10, 50, batch_size=4, steps=2)
    assert plan.list_used("forget") == sorted(i for step in steps_of(plan) for i in step)
    assert len(plan.list_used("retain")) == len(plan.list_used("forget"))


# Of three answers (examples 0, 3 and 5), what each draw of them pairs them with.
PAIRED: list[TrainingSample] = [[(0, 1), (0, 2), (0, 1)], [(3, 4)], [(5, 6), (5, 7)]]


def paired(
    batch_size: int = 2, dealing: Dealing | None = None, epochs: float = 4, seed: int = 0
) -> Schedule:
    """A schedule of pairs beside a set of examples one by one."""
    sets = {"forget": examples(8), "retain": examples(5, 3)}
    dealing = dealing or Dealing(batch_size, 1, 1)
    return Schedule(
        sets, "forget", batch_size, dealing, epochs, None, seed, samples={"forget": PAIRED}
    )


def pairs_of(schedule: Schedule) -> list[list[tuple[int, ...]]]:
    """The pairs that each step holds, sorted."""
    steps = [[schedule[row]["forget"] for row in rows] for rows in step_rows(schedule)]
    return [sorted(pair for pair in step if pair[0] >= 0) for step in steps]


@pytest.mark.parametrize("processes, micro", DEALINGS)
def test_pairs_stay_together_whatever_the_dealing(processes: int, micro: int | None) -> None:
    alone, dealt = paired(), paired(dealing=deal_rows(2, processes, micro))
    assert pairs_of(dealt) == pairs_of(alone)
    assert steps_of(dealt, "retain") == steps_of(alone, "retain")
    for rows in step_rows(dealt):
        indices = dealt.collate([dealt[row] for row in rows])["forget"].index
        assert len(indices) == 2 * len(rows)
        for true, other in zip(indices[::2], indices[1::2], strict=True):
            assert (true, other) == (-1, -1) or (true, other) in {p for s in PAIRED for p in s}


def test_an_epoch_counts_pairs_and_draws_each_ones_next_turn() -> None:
    plan = paired(epochs=4)
    assert plan.steps_per_epoch == 2
    steps = pairs_of(plan)
    assert [sorted(a + b) for a, b in zip(steps[::2], steps[1::2], strict=True)] == [
        [(0, 1), (3, 4), (5, 6)],
        [(0, 2), (3, 4), (5, 7)],
        [(0, 1), (3, 4), (5, 6)],
        [(0, 1), (3, 4), (5, 7)],  # begun again after the third
    ]
    assert pairs_of(paired(seed=1)) != steps


def test_empty_rows_of_a_set_of_pairs_are_pairs() -> None:
    plan = paired(dealing=Dealing(1, 1, 4))
    empty = [plan[row]["forget"] for row in range(len(plan)) if plan[row]["forget"][0] < 0]
    assert set(empty) == {(-1, -1)}
    assert {plan[row]["retain"] for row in range(len(plan))} >= {(-1,)}
    batch = plan.collate([{"forget": (-1, -1), "retain": (-1,)}])["forget"]
    assert (batch.index, batch.counts, batch.tokens) == ([-1, -1], [0, 0], 0)


def test_both_answers_of_a_pair_are_counted_and_asked_about() -> None:
    plan = paired(epochs=4)
    assert plan.count_draws("forget") == 2 * 12
    assert plan.list_used("forget") == list(range(8))
    assert paired(epochs=1).list_used("forget") == [0, 1, 3, 4, 5, 6]


def test_pairs_are_grouped_by_the_length_of_both_answers() -> None:
    lengths = [(2, 40), (30, 3), (2, 2), (3, 4)]
    flat = [n for pair in lengths for n in pair]
    known = [Example([1] * n, [IGNORE, *[1] * (n - 1)], n) for n in flat]
    samples: list[TrainingSample] = [[(2 * i, 2 * i + 1)] for i in range(4)]
    plan = Schedule(
        {"forget": known}, "forget", 2, Dealing(2, 1, 1), 1, None, 0, samples={"forget": samples}
    )
    assert sorted(pairs_of(plan)) == [[(0, 1), (2, 3)], [(4, 5), (6, 7)]]

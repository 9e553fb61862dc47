"""Rows that say nearly the same: of the runs of three words that either has, both have most.

A set-similarity join with a prefix filter (Chaudhuri et al. 2006, Bayardo et al. 2007; with two
runs in common, Wang et al. 2012): two rows that are alike share two of each one's rarest runs, so
that only such pairs are compared. Nothing is drawn by chance. N rows, S runs, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undial_cli.data.word_texts import WordTexts, hash_runs

# Runs that both rows have, of those that either has, from which on they count as alike.
LEAST_ALIKE = 0.8
# Rare runs that a pair must share before it is compared: one alone is often chance.
SHARED_RUNS = 2
# Rows further apart among those with a run in common are not compared for it: a run that stands in
# so many rows is not what makes two of them alike.
FURTHEST = 64
# Bits of a row's number, of how often a run occurs (at most), and of its hash, in a sorted key.
ROW_BITS, COUNT_BITS, HASH_BITS = 20, 12, 32
MOST_COMPARED_ROWS = 2**ROW_BITS
# Pairs that are compared, and runs that are counted, at once.
PAIRS_AT_ONCE, COUNTED_BITS = 20_000, 22
LOW_BITS = np.uint64(2**HASH_BITS - 1)


@dataclass(frozen=True)
class RowPair:
    """Two rows, counted from 1, and what share of their runs of words both have.

    In one set `other` is the earlier one; of two sets `row` is of the forget, `other` of the retain
    set.
    """

    row: int
    other: int
    share: float = 1.0


@dataclass
class SortedRuns:
    """The distinct runs of each row, the rarest first: those of row n begin at `firsts_N[n]`."""

    hashes_S: NDArray[np.uint64]
    rows_S: NDArray[np.int64]
    firsts_N: NDArray[np.int64]
    sizes_N: NDArray[np.int64]

    def take_rarest(self, needed_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which runs are among the rarest of their row: another row that has `needed_N` of its runs
        has `SHARED_RUNS` of these."""
        rarest_N = self.sizes_N - needed_N + SHARED_RUNS
        return np.arange(len(self.rows_S)) - self.firsts_N[self.rows_S] < rarest_N[self.rows_S]


def sort_runs(
    hashes_S: NDArray[np.uint32], rows_S: NDArray[np.int64], count: int, of: NDArray[np.uint32]
) -> SortedRuns:
    """The runs of `count` rows, the rarest among `of` first; equal ones in a row once."""
    shift = np.uint32(HASH_BITS - COUNTED_BITS)
    often = np.bincount(of >> shift, minlength=2**COUNTED_BITS)
    often = np.minimum(often, 2**COUNT_BITS - 1).astype(np.uint16)
    keys_S = rows_S.astype(np.uint64) << np.uint64(HASH_BITS + COUNT_BITS)
    keys_S |= often[hashes_S >> shift].astype(np.uint64) << np.uint64(HASH_BITS)
    keys_S |= hashes_S
    keys_S = unique_in_place(keys_S)
    rows_S = (keys_S >> np.uint64(HASH_BITS + COUNT_BITS)).astype(np.int64)
    keys_S &= LOW_BITS
    sizes_N = np.bincount(rows_S, minlength=count)
    return SortedRuns(keys_S, rows_S, np.cumsum(sizes_N) - sizes_N, sizes_N)


def unique_in_place(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Keys sorted, each once; `np.unique` holds a copy more."""
    keys.sort()
    is_new = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=is_new[1:])
    return keys if is_new.all() else keys[is_new]


def find_near_pairs(texts: WordTexts, taken_N: NDArray[np.bool_]) -> tuple[NDArray, NDArray]:
    """The pairs of rows that are alike, each (earlier, later) from 0, and their shares.

    Args:
        taken_N: the rows that are looked at, as the first of those that say exactly the same.
    """
    numbers_N = np.flatnonzero(taken_N)[:MOST_COMPARED_ROWS]
    hashes_S, rows_S = hash_runs(texts.words_T, texts.starts_N[numbers_N], texts.ends_N[numbers_N])
    runs = sort_runs(hashes_S, rows_S, len(numbers_N), hashes_S)
    del hashes_S, rows_S
    pairs_P = list_candidate_pairs(runs)
    shares = [np.empty(0)]
    for start in range(0, len(pairs_P), PAIRS_AT_ONCE):
        shares.append(measure_shares(runs, pairs_P[start : start + PAIRS_AT_ONCE]))
    shares_P = np.concatenate(shares)
    alike_P = shares_P >= LEAST_ALIKE
    return numbers_N[pairs_P[alike_P]], shares_P[alike_P]


def list_candidate_pairs(runs: SortedRuns) -> NDArray[np.int64]:
    """Pairs of rows (earlier, later) that share rare runs and are of like size."""
    needed_N = np.ceil(LEAST_ALIKE * runs.sizes_N - 1e-9).astype(np.int64)
    rare_S = runs.take_rarest(needed_N)
    keys_S = runs.hashes_S[rare_S] << np.uint64(HASH_BITS)
    keys_S |= runs.rows_S[rare_S].astype(np.uint64)
    keys_S.sort()
    hashes_S, rows_S = keys_S >> np.uint64(HASH_BITS), (keys_S & LOW_BITS).astype(np.int64)
    common = [np.empty(0, np.uint64)]
    for distance in range(1, FURTHEST + 1):
        same_S = np.flatnonzero(hashes_S[distance:] == hashes_S[:-distance])
        if not len(same_S):
            break
        first_P, second_P = rows_S[same_S], rows_S[same_S + distance]
        sizes_P, others_P = runs.sizes_N[first_P], runs.sizes_N[second_P]
        like_P = np.minimum(sizes_P, others_P) >= LEAST_ALIKE * np.maximum(sizes_P, others_P)
        pairs_P = first_P[like_P].astype(np.uint64) << np.uint64(HASH_BITS)
        common.append(pairs_P | second_P[like_P].astype(np.uint64))
    return split_pairs(keep_shared(np.concatenate(common)))


def keep_shared(pairs_P: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Of pairs, one for each run in common, those that have enough in common, once."""
    pairs_P.sort()
    ahead = SHARED_RUNS - 1
    return np.unique(pairs_P[ahead:][pairs_P[ahead:] == pairs_P[: len(pairs_P) - ahead]])


def split_pairs(pairs_P: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Packed pairs as [P, 2]."""
    sides = (pairs_P >> np.uint64(HASH_BITS), pairs_P & LOW_BITS)
    return np.stack(sides, axis=1).astype(np.int64)


def count_common_runs(
    runs: SortedRuns, others: SortedRuns, pairs_P: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many runs the two rows of each pair have in common."""
    keys = []
    for part, rows_P in ((runs, pairs_P[:, 0]), (others, pairs_P[:, 1])):
        sizes_P = part.sizes_N[rows_P]
        pair_S = np.repeat(np.arange(len(rows_P)), sizes_P)
        positions_S = np.arange(len(pair_S)) - (np.cumsum(sizes_P) - sizes_P)[pair_S]
        hashes_S = part.hashes_S[part.firsts_N[rows_P][pair_S] + positions_S]
        keys.append(pair_S.astype(np.uint64) << np.uint64(HASH_BITS) | hashes_S)
    both_S = np.concatenate(keys)
    both_S.sort()
    common_S = both_S[1:][both_S[1:] == both_S[:-1]] >> np.uint64(HASH_BITS)
    return np.bincount(common_S.astype(np.int64), minlength=len(pairs_P))


def measure_shares(runs: SortedRuns, pairs_P: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of the runs that either row of a pair has, the share that both have (Jaccard)."""
    common_P = count_common_runs(runs, runs, pairs_P)
    return common_P / (runs.sizes_N[pairs_P].sum(axis=1) - common_P)

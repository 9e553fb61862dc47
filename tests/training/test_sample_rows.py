"""Rows in a file: what was put comes back, and what was not, or no longer is, is missing."""

from __future__ import annotations

import itertools
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undial_cli.errors import WorldError
from undial_cli.training.sample_rows import SampleRows

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
COUNTS, WIDTH = [3, 0, 1, 5, 2], 4
EVERY = list(range(len(COUNTS)))


def opened(
    folder: Path, dtype: torch.dtype = torch.float32, counts: list[int] = COUNTS
) -> SampleRows:
    rows = SampleRows(folder / "inner" / "rows.bin", counts, WIDTH, dtype)
    rows.prepare()
    rows.open()
    return rows


def values(sample: int, dtype: torch.dtype = torch.float32, counts: list[int] = COUNTS) -> Tensor:
    """Rows of a sample: any bits but NaN's, so that nothing is lost unnoticed."""
    generator = torch.Generator().manual_seed(sample)
    return torch.randn(counts[sample], WIDTH, dtype=torch.float64, generator=generator).to(dtype)


def fill(rows: SampleRows, samples: list[int]) -> None:
    for i in samples:
        rows.put(i, values(i, rows.dtype))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_was_put_comes_back_bit_for_bit(
    dtype: torch.dtype, in_memory: bool, tmp_path: Path
) -> None:
    rows = opened(tmp_path, dtype)
    assert rows.missing(EVERY) == EVERY
    fill(rows, EVERY)
    for found in (rows, opened(tmp_path, dtype)):
        assert found.missing(EVERY) == []
        if in_memory:
            found.load()
        for i in EVERY:
            assert found.get(i).dtype == dtype
            assert found.get(i).shape == (COUNTS[i], WIDTH)
            assert torch.equal(found.get(i), values(i, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_file_holds_the_rows_and_nothing_else(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = opened(tmp_path, dtype)
    fill(rows, EVERY)
    content = rows.file.read_bytes()
    assert len(content) == rows.nbytes == sum(COUNTS) * WIDTH * dtype.itemsize
    expected = torch.cat([values(i, dtype) for i in EVERY])
    assert content == expected.view(torch.uint8).numpy().tobytes()


def test_zeros_that_were_put_are_not_missing_and_those_never_put_are(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    assert not any(rows.get(i).any() for i in EVERY)
    rows.put(3, torch.zeros(5, WIDTH))
    assert rows.missing(EVERY) == [0, 1, 2, 4]


@pytest.mark.parametrize("bits", [0x8000000000000000, 0x7FF8000000000001], ids=["-0", "nan"])
def test_numbers_that_equal_nothing_are_kept_as_well(bits: int, tmp_path: Path) -> None:
    odd = torch.tensor([[bits - 2**64 if bits >= 2**63 else bits] * WIDTH]).view(torch.float64)
    rows = opened(tmp_path, torch.float64)
    rows.put(2, odd)
    again = opened(tmp_path, torch.float64)
    assert again.missing([2]) == []
    assert torch.equal(again.get(2).view(torch.int64), odd.view(torch.int64))


def test_what_a_killed_process_put_is_kept(tmp_path: Path) -> None:
    fill(opened(tmp_path), [1, 3])
    process = os.fork()
    if process == 0:
        try:
            fill(opened(tmp_path), [2])
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    rows = opened(tmp_path)
    assert rows.missing(EVERY) == [0, 4]
    assert all(torch.equal(rows.get(i), values(i)) for i in (1, 2, 3))


def test_two_holders_of_a_file_see_what_the_other_puts(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    fill(one, [0, 2])
    fill(other, [1, 3, 4])
    for rows in (one, other):
        assert rows.missing(EVERY) == []
        assert all(torch.equal(rows.get(i), values(i)) for i in EVERY)


def test_rows_held_in_memory_outlive_their_file(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    fill(rows, EVERY)
    rows.load()
    other = opened(tmp_path)
    other.put(3, torch.zeros(5, WIDTH))
    assert torch.equal(rows.get(3), values(3))
    rows.file.unlink()
    assert all(torch.equal(rows.get(i), values(i)) for i in EVERY)


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=7),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_any_flipped_bit_of_a_sample_makes_that_sample_missing(
    counts: list[int],
    dtype: torch.dtype,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = opened(folder, dtype, counts)
    samples = list(range(len(counts)))
    for i in samples:
        rows.put(i, values(i, dtype, counts))
    content = bytearray(rows.file.read_bytes())
    if content:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        rows.file.write_bytes(content)
        starts = [0, *itertools.accumulate(n * WIDTH * dtype.itemsize for n in counts)]
        hit = [i for i in samples if starts[i] <= place < starts[i + 1]]
        assert len(hit) == 1
    else:
        hit = []
    again = opened(folder, dtype, counts)
    assert again.missing(samples) == hit


@pytest.mark.parametrize("left", [0, 1, 47, 48, 63, 64, 140, 10**6])
@pytest.mark.parametrize("which", ["rows", "sums"])
def test_of_a_file_cut_or_too_long_what_is_left_is_kept(
    which: str, left: int, tmp_path: Path
) -> None:
    rows = opened(tmp_path)
    fill(rows, EVERY)
    file = rows.file if which == "rows" else rows.sums_file
    content = file.read_bytes()
    file.write_bytes(content[:left].ljust(left if left > len(content) else 0, b"x"))
    again = opened(tmp_path)
    size = [n * WIDTH * 4 for n in COUNTS] if which == "rows" else [8] * len(COUNTS)
    ends = list(itertools.accumulate(size))
    lost = [i for i in EVERY if ends[i] > left and size[i]]
    assert again.missing(EVERY) == lost
    for i in EVERY:
        if i not in lost:
            assert torch.equal(again.get(i), values(i))
    fill(again, lost)
    assert opened(tmp_path).missing(EVERY) == []
    assert file.read_bytes() == content


@pytest.mark.parametrize("counts", [[0], [0, 0, 0]], ids=str)
def test_samples_without_a_row_are_kept_too(counts: list[int], tmp_path: Path) -> None:
    rows = opened(tmp_path, counts=counts)
    assert rows.missing([0]) == [0]
    rows.put(0, torch.empty(0, WIDTH))
    assert opened(tmp_path, counts=counts).missing([0]) == []


def test_the_files_are_the_users_own(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    assert rows.file.stat().st_mode & 0o077 == 0
    assert rows.sums_file.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate here")
def test_no_room_on_the_disk_is_one_line_that_says_what_helps(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(WorldError) as caught:
            opened(tmp_path, counts=[500])
        opened(tmp_path / "less", counts=[100])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("teacher cache: no room for 0.00 GB in ")
    for part in (str(tmp_path), "UNDIAL_CACHE_DIR"):
        assert part in line


def held_on_disk(rows: SampleRows) -> int:
    return rows.file.stat().st_blocks * 512


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate here")
def test_room_is_taken_for_what_is_used_alone_and_more_of_it_later(tmp_path: Path) -> None:
    counts = [512] * 400  # 8 KiB each
    file = tmp_path / "rows.bin"
    for used in ([3, 4, 250], [250, 17]):
        rows = SampleRows(file, counts, WIDTH, torch.float32, used)
        rows.prepare()
        rows.open()
        assert rows.nbytes == len(used) * 512 * WIDTH * 4
        fill_all = {i: torch.full((512, WIDTH), float(i)) for i in used}
        for i in rows.missing(used):
            rows.put(i, fill_all[i])
        assert file.stat().st_size == 400 * 512 * WIDTH * 4
        assert held_on_disk(rows) < 100_000
    every = SampleRows(file, counts, WIDTH, torch.float32, [17, 250, 3, 4, 5])
    every.prepare()
    every.open()
    assert every.missing([3, 4, 5, 17, 250]) == [5]


@pytest.mark.parametrize("used", [[4, 0], [3], [1], []], ids=str)
def test_in_memory_only_the_used_rows_are_held(used: list[int], tmp_path: Path) -> None:
    fill(opened(tmp_path), EVERY)
    rows = SampleRows(tmp_path / "inner" / "rows.bin", COUNTS, WIDTH, torch.float32, used)
    rows.prepare()
    rows.open()
    rows.load()
    assert rows.data.numel() * 4 == rows.nbytes == sum(COUNTS[i] for i in used) * WIDTH * 4
    assert all(torch.equal(rows.get(i), values(i)) for i in used)


def test_neighbours_are_one_stretch_of_the_file(tmp_path: Path) -> None:
    rows = SampleRows(tmp_path / "rows.bin", [2, 0, 3, 1, 4], 1, torch.float64, [0, 1, 2, 4])
    assert rows.stretches() == [(0, 40), (48, 80)]

"""Rows of numbers per sample, in one file: written once, checked, mapped into memory.

What survives a kill, a truncation or a flipped bit is what its checksum says; everything else is
`missing` and can be put again. Knows nothing of the numbers' meaning.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undial_cli.errors import WorldError
from undial_cli.system.files import make_private_folder
from undial_cli.system.private_files import note_private


class SampleRows:
    """`counts[i]` rows of `width` numbers for sample i, in `file`, with a checksum of each sample.

    Several processes and runs may hold the same file, each for other samples: it has a range for
    every sample and takes room for those that are `used` alone. `prepare` makes it.
    """

    def __init__(
        self,
        file: Path,
        counts: Sequence[int] | NDArray[Any],
        width: int,
        dtype: torch.dtype,
        used: Iterable[int] | None = None,
    ) -> None:
        self.file, self.width, self.dtype = file, width, dtype
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.used = sorted(range(len(counts)) if used is None else set(used))
        # A sample's rows in `data`, which mirrors the file until it is loaded.
        self.ranges = {i: slice(int(self.starts[i]), int(self.starts[i + 1])) for i in self.used}

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.width * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Size of the rows that are used."""
        return self.row_bytes * sum(rows.stop - rows.start for rows in self.ranges.values())

    def stretches(self) -> list[tuple[int, int]]:
        """Where the used rows lie in the file, in bytes; neighbours are one."""
        stretches: list[tuple[int, int]] = []
        for rows in self.ranges.values():
            start, stop = rows.start * self.row_bytes, rows.stop * self.row_bytes
            if stretches and stretches[-1][1] == start:
                stretches[-1] = stretches[-1][0], stop
            elif stop > start:
                stretches.append((start, stop))
        return stretches

    @property
    def sums_file(self) -> Path:
        """Where the checksums lie: one number for each sample, 0 where there is none yet."""
        return self.file.with_suffix(".sums")

    def prepare(self) -> None:
        """Make both files as long as they must be, with room for what is used; the rest is kept.

        Raises:
            WorldError: there is no room for them.
        """
        make_private_folder(self.file.parent)
        for file in (self.file, self.sums_file):
            note_private(file)
        sums = np.dtype(np.int64).itemsize * (len(self.starts) - 1)
        whole = int(self.starts[-1]) * self.row_bytes
        for file, size, stretches in (
            (self.file, whole, self.stretches()),
            (self.sums_file, sums, [(0, sums)] if sums else []),
        ):
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                if os.fstat(handle).st_size != size:
                    os.ftruncate(handle, size)
                # The file is sparse, and on a full disk writing into its mapped memory would end
                # the process with SIGBUS: room is asked for now, where it can be refused in words.
                for start, stop in stretches if hasattr(os, "posix_fallocate") else ():
                    os.posix_fallocate(handle, start, stop - start)
            except OSError as error:
                room = sum(stop - start for start, stop in stretches)
                raise WorldError(
                    f"teacher cache: no room for {room / 1e9:.2f} GB in {file.parent} "
                    f"({error.strerror}); UNDIAL_CACHE_DIR moves it"
                ) from error
            finally:
                os.close(handle)

    def open(self) -> None:
        """Map the prepared files."""
        size = int(self.starts[-1]) * self.width
        self.data = torch.from_file(str(self.file), shared=True, size=size, dtype=self.dtype)
        self.data = self.data.view(-1, self.width)
        self.sums = torch.from_file(
            str(self.sums_file), shared=True, size=len(self.starts) - 1, dtype=torch.int64
        )

    def get(self, sample: int) -> Tensor:
        """The rows of a sample that is used, [count, width]."""
        return self.data[self.ranges[sample]]

    def checksum(self, sample: int) -> int:
        """The checksum of a sample's rows, never 0, which stands for none."""
        rows = self.get(sample).contiguous().view(torch.uint8).numpy()
        return zlib.crc32(rows.data) + 1

    def put(self, sample: int, rows: Tensor) -> None:
        """Keep a sample's rows."""
        self.get(sample).copy_(rows)
        # After the rows: a process that is killed in between leaves them missing, not wrong.
        self.sums[sample] = self.checksum(sample)

    def missing(self, samples: list[int]) -> list[int]:
        """Those of `samples` that were never put, or are not what was put."""
        return [i for i in samples if int(self.sums[i]) != self.checksum(i)]

    def damaged(self, missing: list[int]) -> list[int]:
        """Those of the missing samples that were put once, and are not what was put."""
        return [i for i in missing if int(self.sums[i])]

    def load(self) -> None:
        """Hold the rows that are used in memory of this process instead of mapping them."""
        rows = [self.get(i) for i in self.used]
        ends = list(itertools.accumulate(len(part) for part in rows))
        self.data = torch.cat([self.data[:0], *rows])
        self.sums = self.sums.clone()
        self.ranges = {
            i: slice(end - len(part), end)
            for i, part, end in zip(self.used, rows, ends, strict=True)
        }

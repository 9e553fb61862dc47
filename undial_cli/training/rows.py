"""Rows of numbers per sample, in one file: written once, checked, mapped into memory.

What survives a kill, a truncation or a flipped bit is what its checksum says; everything else is
`missing` and can be put again. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import itertools
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from undial_cli.errors import WorldError


class Rows:
    """`counts[i]` rows of `width` numbers for sample i, in `file`, with a checksum of each sample.

    Several processes may hold the same file; each puts other samples. `prepare` makes the file.
    """

    def __init__(self, file: Path, counts: list[int], width: int, dtype: torch.dtype) -> None:
        self.file, self.width, self.dtype = file, width, dtype
        self.starts = [0, *itertools.accumulate(counts)]

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.starts[-1] * self.width * self.dtype.itemsize

    @property
    def sums_file(self) -> Path:
        """Where the checksums lie: one number for each sample, 0 where there is none yet."""
        return self.file.with_suffix(".sums")

    def prepare(self) -> None:
        """Make both files as large as they must be; what they hold is kept.

        Raises:
            WorldError: there is no room for them.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        sums = np.dtype(np.int64).itemsize * (len(self.starts) - 1)
        for file, size in ((self.file, self.nbytes), (self.sums_file, sums)):
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if os.fstat(handle).st_size > size:
                    os.ftruncate(handle, size)
                if size and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(handle, 0, size)
                else:
                    os.ftruncate(handle, size)
            except OSError as error:
                raise WorldError(
                    f"teacher cache: no room for {size / 1e9:.2f} GB in {file.parent} "
                    f"({error.strerror}); UNDIAL_CACHE_DIR moves it"
                ) from error
            finally:
                os.close(handle)

    def open(self) -> None:
        """Map the prepared files."""
        size = self.starts[-1] * self.width
        self.data = torch.from_file(str(self.file), shared=True, size=size, dtype=self.dtype)
        self.data = self.data.view(-1, self.width)
        self.sums = torch.from_file(
            str(self.sums_file), shared=True, size=len(self.starts) - 1, dtype=torch.int64
        )

    def get(self, sample: int) -> Tensor:
        """The rows of a sample, [count, width]."""
        return self.data[self.starts[sample] : self.starts[sample + 1]]

    def checksum(self, sample: int) -> int:
        """What the checksum of a sample's rows is, never 0."""
        held = self.get(sample).contiguous().view(torch.uint8).numpy()
        return zlib.crc32(held.data) + 1

    def put(self, sample: int, rows: Tensor) -> None:
        """Keep a sample's rows."""
        self.get(sample).copy_(rows)
        self.sums[sample] = self.checksum(sample)

    def missing(self, samples: list[int]) -> list[int]:
        """Those of `samples` that were never put, or are not what was put."""
        return [i for i in samples if int(self.sums[i]) != self.checksum(i)]

    def load(self) -> None:
        """Hold the rows in memory of this process instead of mapping them."""
        self.data, self.sums = self.data.clone(), self.sums.clone()

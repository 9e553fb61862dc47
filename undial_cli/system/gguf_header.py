"""Whether the header of a GGUF file can be true, held against the size of the file.

Its readers believe what it claims: they would loop, or take memory, for as many texts and tensors.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Knows nothing of what the
fields mean.
"""

from __future__ import annotations

import functools
import math
import struct
from pathlib import Path
from typing import BinaryIO

from undial_cli.errors import UserError
from undial_cli.system.faults import spell_size

VERSIONS = (2, 3)
TEXT, ARRAY = 8, 9
# Bytes of a value, by the number of its type.
VALUE_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
MOST_DIMENSIONS = 8
# The least that a weight takes, in bytes: the smallest kinds take 1.5 bits.
LEAST_WEIGHT = 1 / 8


def check_gguf_header(file: Path, setting: str) -> None:
    """Find what is wrong with a GGUF file before it is read.

    Raises:
        UserError: it is none, it is cut, or it claims more than it can hold.
    """
    state = file.stat()
    reason = explain_wrong_header(file, state.st_size, state.st_mtime_ns)
    if reason is not None:
        raise UserError(
            f"{setting}: no whole GGUF file ({spell_size(state.st_size)}: {reason}); copy or "
            "download it anew"
        )


@functools.lru_cache(maxsize=16)
def explain_wrong_header(file: Path, size: int, written: int) -> str | None:
    """What is wrong, in words; size and time are what it is cached by."""
    with open(file, "rb") as stream:
        if stream.read(4) != b"GGUF":
            return "it does not begin with GGUF"
        try:
            (version,) = read_numbers(stream, "<I")
            if version not in VERSIONS:
                return f"version {version}; known are {VERSIONS[0]} and {VERSIONS[1]}"
            tensors, fields = read_numbers(stream, "<QQ")
            if max(tensors, fields) > size:
                return f"it claims {tensors} tensors and {fields} fields"
            for _ in range(fields):
                skip_text(stream, size)
                skip_value(stream, read_numbers(stream, "<I")[0], size)
            for _ in range(tensors):
                check_tensor(stream, size)
        except (EOFError, ValueError) as error:
            return str(error)
    return None


def read_numbers(stream: BinaryIO, form: str) -> tuple[int, ...]:
    """Numbers in the form that `struct` knows; EOFError where the file ends."""
    content = stream.read(struct.calcsize(form))
    if len(content) < struct.calcsize(form):
        raise EOFError("its header is cut short")
    return struct.unpack(form, content)


def skip_bytes(stream: BinaryIO, count: int, size: int) -> None:
    """Go on by so many bytes, if the file has them."""
    if stream.tell() + count > size:
        raise ValueError(f"it claims {count} bytes behind byte {stream.tell()}")
    stream.seek(count, 1)


def skip_text(stream: BinaryIO, size: int) -> None:
    skip_bytes(stream, read_numbers(stream, "<Q")[0], size)


def skip_value(stream: BinaryIO, kind: int, size: int) -> None:
    """Go on behind the value of a field."""
    if kind in VALUE_SIZES:
        skip_bytes(stream, VALUE_SIZES[kind], size)
    elif kind == TEXT:
        skip_text(stream, size)
    elif kind == ARRAY:
        inner, count = read_numbers(stream, "<IQ")
        if inner in VALUE_SIZES:
            skip_bytes(stream, VALUE_SIZES[inner] * count, size)
        elif inner == TEXT and count <= size:
            for _ in range(count):
                skip_text(stream, size)
        else:
            raise ValueError(f"it claims a list of {count} values of kind {inner}")
    else:
        raise ValueError(f"a value of the unknown kind {kind}")


def check_tensor(stream: BinaryIO, size: int) -> None:
    """Go on behind what describes a tensor, which must fit into the file."""
    skip_text(stream, size)
    (dimensions,) = read_numbers(stream, "<I")
    if dimensions > MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {dimensions} dimensions")
    shape = read_numbers(stream, f"<{dimensions}Q")
    _, offset = read_numbers(stream, "<IQ")
    if offset > size or math.prod(shape) * LEAST_WEIGHT > size:
        raise ValueError(f"it claims a tensor of {list(shape)} at byte {offset}")

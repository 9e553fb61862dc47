"""Full, foreign and broken disks and used up memory: real errors, and what is said of them."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from undial_cli.errors import OutOfMemory, UserError, WorldError
from undial_cli.system import faults
from undial_cli.system.faults import explain_fault, translate_faults
from undial_cli.system.files import whole_folder, write_whole_text


@contextlib.contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """No file of this process may grow beyond a size (`ulimit -f`): a disk that is full for it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_text(file: Path) -> None:
    write_whole_text(file, "x" * 200_000)


def write_safetensors(file: Path) -> None:
    with whole_folder(file) as unfinished:
        unfinished.mkdir(parents=True)
        save_file({"a": torch.zeros(100_000)}, unfinished / "model.safetensors")


def write_pickle(file: Path) -> None:
    with whole_folder(file) as unfinished:
        unfinished.mkdir(parents=True)
        torch.save({"a": torch.zeros(100_000)}, unfinished / "optimizer.pt")


@pytest.mark.parametrize("write", [write_text, write_safetensors, write_pickle])
def test_a_file_cut_short_is_said_of_its_folder_whatever_library_wrote_it(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with limit_file_size(50_000), pytest.raises(WorldError) as raised, translate_faults(output):
        write(output / "file")
    line = str(raised.value)
    assert "a file would grow larger than 50.0 kB here (ulimit -f)" in line
    assert "the same command goes on" in line
    # Some errors name no file; then it may be any of the folders that are written to.
    assert " folder " in line
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == []  # nothing is left half done


@pytest.mark.parametrize(
    "text, number",
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("[enforce fail at inline_container.cc:672] . unexpected pos 7168 vs 7060", errno.ENOSPC),
        ("basic_ios::clear: iostream error", errno.ENOSPC),
        ("Not enough disk space. Needed: Unknown size", errno.ENOSPC),
        ("I/O error: Disk quota exceeded (os error 122)", errno.EDQUOT),
        ("I/O error: Read-only file system (os error 30)", errno.EROFS),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", errno.ENOMEM),
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has", errno.ENOMEM),
        ("libcublas.so: failed to map segment from shared object", errno.ENOMEM),
        ("can't start new thread", errno.ENOMEM),
        ("shape mismatch at position 28", None),
        ("Connection refused", None),
    ],
)
def test_what_libraries_say_of_a_fault_is_known(text: str, number: int | None) -> None:
    assert faults.find_error_number(RuntimeError(text)) == number


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, "no room for what is written ("),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "it can only be read"),
        (errno.EIO, "cannot be read or written (Input/output error)"),
    ],
)
@pytest.mark.parametrize("folder, word", [("out", "output_dir"), ("cache", "UNDIAL_CACHE_DIR")])
def test_each_fault_names_its_folder_and_what_moves_it(
    number: int, words: str, folder: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    error = OSError(number, os.strerror(number), str(tmp_path / folder / "a" / "file"))
    chained = ValueError("An error occurred while generating the dataset")
    chained.__cause__ = error
    fault = explain_fault(chained, tmp_path / "out")
    assert type(fault) is WorldError
    name = "output" if folder == "out" else "cache"
    assert str(fault).startswith(f"{name} folder {tmp_path / folder}: {words}")
    assert f"; {word} moves it" in str(fault)


def test_a_cache_that_is_a_file_or_closed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache" / "undial"))
    line = r"/cache: not a folder; UNDIAL_CACHE_DIR moves it"
    with pytest.raises(WorldError, match=line), translate_faults():
        (tmp_path / "cache" / "undial" / "teacher").mkdir(parents=True)
    monkeypatch.setenv("UNDIAL_CACHE_DIR", "/proc/none")
    line = r"/proc: cannot be made there, or was removed; UNDIAL_CACHE_DIR moves it"
    with pytest.raises(WorldError, match=line), translate_faults():
        Path("/proc/none").mkdir(parents=True)
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache" / "undial"))
    closed = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "cache" / "undial"))
    assert "may not be written to" in str(explain_fault(closed))


def test_a_folder_above_the_output_is_the_outputs_matter(tmp_path: Path) -> None:
    """Not the temporary folder's, in which all of it lies."""
    error = OSError(errno.EROFS, "Read-only file system", str(tmp_path / "disk"))
    line = str(explain_fault(error, tmp_path / "disk" / "out" / "unlearn" / "run"))
    assert line.startswith(f"output folder {tmp_path}/disk/out/unlearn/run: it can only be read")
    assert "output_dir moves it" in line


def test_what_is_no_fault_of_the_world_stays_what_it_is(tmp_path: Path) -> None:
    for error in (
        UserError("disk quota exceeded"), WorldError("no space left"), KeyboardInterrupt(),
        PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "forget.jsonl")),
        FileNotFoundError(errno.ENOENT, "No such file", "x"), ConnectionRefusedError("refused"),
    ):  # fmt: skip
        assert explain_fault(error, tmp_path / "out") is None


def test_memory_that_is_used_up_is_said_with_what_takes_less() -> None:
    """An allocation that no machine has, in torch, numpy and Python."""
    for allocate in (lambda: torch.empty(2**57), lambda: bytearray(2**60)):
        with pytest.raises(WorldError, match="the machine ran out of memory"), translate_faults():
            allocate()
    code = compile("def train(act):\n    act()", "trainer.py", "exec")
    names = {"__name__": "undial_cli.training.trainer"}
    exec(code, names)
    with pytest.raises(OutOfMemory, match="during training, asked for"), translate_faults():
        names["train"](lambda: torch.empty(2**57))  # type: ignore[operator]


SMALL_DISK = """
set -e
mount -t tmpfs -o size=200k tmpfs "$1"
shift
exec "$@"
"""


def test_a_small_disk_that_is_full(tmp_path: Path) -> None:
    """A real file system of 200 kB, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    code = (
        "import sys; from pathlib import Path\n"
        "from undial_cli.runs.run_folder import RunFolder\n"
        "from undial_cli.errors import WorldError\n"
        "from undial_cli.system.faults import translate_faults\n"
        "folder = RunFolder(Path(sys.argv[1]))\n"
        "folder.set_status('running')\n"
        "try:\n"
        "    with translate_faults(folder.path):\n"
        "        with open(folder.path / 'big', 'wb') as file: file.write(bytes(10**6))\n"
        "except WorldError as error:\n"
        "    folder.set_status('failed', str(error))\n"
        "print((folder.path / 'status.json').read_text())\n"
    )
    answer = subprocess.run(
        ["unshare", "-Urm", "bash", "-c", SMALL_DISK, "-", disk, sys.executable, "-c", code, disk],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if answer.returncode and ("unshare" in answer.stderr or "mount" in answer.stderr):
        pytest.skip("no file system may be mounted here")
    assert answer.returncode == 0, answer.stderr
    assert '"failed"' in answer.stdout
    assert f"output folder {disk}: no room for what is written (0 B free)" in answer.stdout

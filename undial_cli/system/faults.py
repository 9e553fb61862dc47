"""The world's faults in words: a full or broken disk, memory used up, a process that was lost.

Each library fails of them in its own way. `explain_fault` knows these errors and says which folder
it is, how much room there is, and what takes the work elsewhere. Knows no run and imports no torch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from undial_cli.errors import OutOfMemory, UserError, WorldError, first_line
from undial_cli.system.files import cache_dir

# What errors without a number say of it, by the number that they lack. `os error`: Rust's
# (safetensors, tokenizers); `pos`: torch, which finds a file shorter than it wrote.
SPOKEN_NUMBERS = {
    errno.ENOSPC: r"no space left|not enough disk space|os error 28\b|unexpected pos \d+ vs"
    r"|PytorchStreamWriter failed|basic_ios::clear: iostream error",
    errno.EDQUOT: r"quota exceeded|os error 122\b",
    errno.EFBIG: r"file too large|os error 27\b",
    errno.EROFS: r"read-only file system|os error 30\b",
    errno.EIO: r"input/output error|os error 5\b",
    errno.ESTALE: r"stale file handle|os error 116\b",
    errno.EMFILE: r"too many open files|os error 24\b",
    errno.ENOMEM: r"can.t allocate memory|cannot allocate memory|out of memory|bad_alloc"
    r"|not enough memory|ALLOC_FAILED|failed to map segment|can.t start new thread|os error 12\b",
}
# What torch's back ends say where a process of the same run is gone, or answers no more.
LOST_PROCESS = re.compile(
    r"gloo.*(Connection (reset|closed) by|Timed out)|remote process exited|ncclRemoteError"
    r"|Watchdog caught collective operation timeout",
    re.DOTALL,
)
# What the processes say that another one left behind; they are not the cause.
LEFT_BEHIND = "another process of this run is gone"
# Numbers that tell of a disk only where a file or folder of ours is named.
NAMED_NUMBERS = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)
# By what moves a folder: what it is called.
FOLDER_NAMES = {
    "output_dir": "output",
    "UNDIAL_CACHE_DIR": "cache",
    "HF_HOME": "cache",
    "TMPDIR": "temporary",
}
# By the modules in which memory runs out: what was being done, and what takes less of it.
STAGES = {
    "undial_cli.training": ("training", ""),  # said by who can plan it (runs/running.py)
    "undial_cli.evaluation": ("the evaluation", "; a smaller eval.batch_size takes less"),
    "undial_cli.audit": ("the audit", "; a smaller eval.batch_size takes less"),
    "undial_cli.models.load": ("loading a model", "; model.dtype=bfloat16 takes less"),
}


def explain_fault(error: BaseException, output: Path | None = None) -> WorldError | None:
    """The world's fault behind an error, if it is one; None for all others.

    Args:
        output: the folder that the run writes into.
    """
    if isinstance(error, WorldError | UserError):
        return None
    for cause in walk_causes(error):
        number = find_error_number(cause, output)
        if number == errno.ENOMEM:
            return explain_memory_fault(cause)
        if number is not None:
            return WorldError(explain_disk_fault(cause, number, output))
        if isinstance(cause, RuntimeError) and LOST_PROCESS.search(str(cause)):
            return WorldError(explain_lost_process(cause))
    return None


def raise_fault(error: BaseException, output: Path | None = None) -> None:
    """Raise the world's fault behind an error, before anything else is blamed for it."""
    fault = explain_fault(error, output)
    if fault is not None:
        raise fault from error


@contextlib.contextmanager
def translate_faults(output: Path | None = None) -> Iterator[None]:
    """While open, an error that is the world's fault is raised as a WorldError that says so."""
    try:
        yield
    except Exception as error:
        raise_fault(error, output)
        raise


def walk_causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came of."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def find_error_number(error: BaseException, output: Path | None = None) -> int | None:
    """The errno of a fault of the world's, by its number or its words."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return errno.ENOMEM
    if not isinstance(error, Exception):
        return None
    if isinstance(error, OSError):
        if error.errno in SPOKEN_NUMBERS:
            return error.errno
        if error.errno in NAMED_NUMBERS and is_place_of_ours(error, output):
            return error.errno
        if "No usable temporary directory" in str(error):
            return errno.EACCES
    if isinstance(error, ConnectionError):
        return None
    text = str(error)
    for number, words in SPOKEN_NUMBERS.items():
        if re.search(words, text, re.IGNORECASE):
            return number
    return None


def is_place_of_ours(error: OSError, output: Path | None) -> bool:
    """Whether an error names something in a folder that this tool writes to, or stands above it."""
    named = read_file_name(error)
    if named is None:
        return False
    # Not the temporary folder's: a user's files may lie there, and what is wrong with them is said
    # of them.
    known = [folder for folder, word in list_written_folders(output) if word != "TMPDIR"]
    return any(named.is_relative_to(folder) or folder.is_relative_to(named) for folder in known)


def read_file_name(error: BaseException) -> Path | None:
    """The file that an error names, absolute."""
    name = getattr(error, "filename", None)
    return Path(os.fsdecode(name)).absolute() if isinstance(name, str | bytes) else None


def list_written_folders(output: Path | None) -> list[tuple[Path, str]]:
    """The folders that a run writes into, and what moves each."""
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:  # none can be written to
        temporary = os.environ.get("TMPDIR", "/tmp")
    hub = os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")
    named = {"UNDIAL_CACHE_DIR": cache_dir(), "HF_HOME": hub, "TMPDIR": temporary}
    folders = [(Path(folder).absolute(), word) for word, folder in named.items()]
    cache = folders[0][0]
    if output is not None and not output.absolute().is_relative_to(cache):
        folders.insert(0, (output.absolute(), "output_dir"))
    return folders


def explain_lost_process(error: RuntimeError) -> str:
    """One line for a process that waited for another one of its run in vain."""
    rank, size = (os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE"))
    # gloo's own words end in advice.
    reason = re.sub(r"^\[\S*?([^/]*?)\]\s*", "", first_line(error)).partition(". This is")[0]
    return (
        f"process {rank} of {size}: {LEFT_BEHIND}, or answers no more "
        f"({reason}); what was saved is kept, and the same command goes on"
    )


def explain_disk_fault(error: BaseException, number: int, output: Path | None) -> str:
    """One line for a disk's fault."""
    if number == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"too many open files: {limit} are allowed (ulimit -n)"
    folder, word = find_faulty_folder(error, number, output)
    where = f"{FOLDER_NAMES.get(word, '')} folder {folder}".strip()
    remedy = f"{word} moves it" if word else "it is needed"
    again = "the same command goes on"
    free, allowed = measure_room(folder), resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if number == errno.ENOSPC and allowed != resource.RLIM_INFINITY and free > allowed:
        number = errno.EFBIG  # torch sees a file cut short, and not what cut it
    if number == errno.ENOSPC:
        room = f"no room for what is written ({spell_size(free)} free)"
        return f"{where}: {room}; {remedy}; with more room {again}"
    if number == errno.EDQUOT:
        return f"{where}: the disk quota is used up; {remedy}; with more room {again}"
    if number == errno.EFBIG:
        limit = f"{spell_size(allowed)} here (ulimit -f)" if allowed != -1 else "what it may be"
        return f"{where}: a file would grow larger than {limit}; without that limit {again}"
    if number == errno.EROFS:
        return f"{where}: it can only be read; {remedy}"
    if number == errno.ENOENT:
        return f"{where}: cannot be made there, or was removed; {remedy}"
    if number in (errno.ENOTDIR, errno.EEXIST):
        return f"{where}: not a folder; {remedy}"
    if number in (errno.EACCES, errno.EPERM):
        return f"{where}: may not be written to ({describe_owner(folder)}); {remedy}"
    return f"{where}: cannot be read or written ({os.strerror(number)}); {remedy}"


def find_faulty_folder(error: BaseException, number: int, output: Path | None) -> tuple[Path, str]:
    """The folder that an error is about, and what moves it.

    Where the error does not say, the one that looks it: least room, or not to be written to.
    """
    folders, named = list_written_folders(output), read_file_name(error)
    if named is not None:
        folder, word = locate_in_folders(named, folders)
        return (find_obstacle(named) if number in NAMED_NUMBERS else folder), word
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        closed = [item for item in folders if not os.access(find_obstacle(item[0]), os.W_OK)]
        return (closed or folders)[0]
    return min(folders, key=lambda item: measure_room(item[0]))


def find_obstacle(path: Path) -> Path:
    """The nearest thing above a path, or itself, that is there."""
    return next((p for p in (path, *path.parents) if os.path.lexists(p)), path)


def locate_in_folders(named: Path, folders: list[tuple[Path, str]]) -> tuple[Path, str]:
    """The innermost of the folders that holds something, else the first that lies below it."""
    inside = [item for item in folders if named.is_relative_to(item[0])]
    below = [item for item in folders if item[0].is_relative_to(named)]
    # Everything may lie below the temporary folder: it is the last to be meant.
    inside.sort(key=lambda item: (item[1] != "TMPDIR", len(item[0].parts)))
    if below and (not inside or inside[-1][1] == "TMPDIR"):
        return below[0]
    return inside[-1] if inside else (named, "")


def name_folder(path: Path) -> tuple[str, str]:
    """What a folder is that a run writes into, in words, and what moves it."""
    word = "UNDIAL_CACHE_DIR" if path.absolute().is_relative_to(cache_dir().absolute()) else ""
    word = word or "output_dir"
    return f"{FOLDER_NAMES[word]} folder {path}", word


def measure_room(path: Path) -> int:
    """Bytes that may still be written where a path lies, or is to lie."""
    try:
        usage = shutil.disk_usage(find_obstacle(path.absolute()))
    except OSError:
        return 0
    return usage.free if usage.total else sys.maxsize  # some file systems do not tell


def describe_owner(path: Path) -> str:
    """Whose a file or folder is."""
    try:
        user = path.stat().st_uid
        return f"it is {pwd.getpwuid(user).pw_name}'s" if user != os.getuid() else "by its modes"
    except (OSError, KeyError):
        return "it is another user's"


def explain_memory_fault(error: BaseException) -> WorldError:
    """What ran out of memory, and what takes less."""
    text = " ".join(str(error).split())
    on_gpu = re.search(r"\b(CUDA|HIP|GPU|CUBLAS)", text) is not None
    asked = re.search(r"allocate (?:memory: you tried to allocate )?(\d[\d.]* ?\w+)", text)
    wanted = f", asked for {asked[1]}" if asked else ""
    stage, thrift = find_stage(error)
    during = f" during {stage}" if stage else ""
    line = f"{'the GPU' if on_gpu else 'the machine'} ran out of memory{during}{wanted}"
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if not on_gpu and limit != resource.RLIM_INFINITY:
        line += f" (the limit is {spell_size(limit)}: ulimit -v)"
    kind = OutOfMemory if stage == "training" else WorldError
    return kind(line + thrift)


def find_stage(error: BaseException) -> tuple[str, str]:
    """The innermost of STAGES on the way to an error."""
    stage, frames = ("", ""), error.__traceback__
    while frames is not None:
        module = frames.tb_frame.f_globals.get("__name__", "")
        inside = [words for name, words in STAGES.items() if module.startswith(name)]
        stage = inside[0] if inside else stage
        frames = frames.tb_next
    return stage


def spell_size(count: float) -> str:
    """Bytes as text."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"

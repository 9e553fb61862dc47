"""The user's cache folder, whole files and who may read them, content hashes.

Files follow the umask, checkpoints too; what may hold the forget set's text, or tells of it by a
teacher's numbers, is `private`: for the user alone. Knows nothing of what is cached.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import json
import os
import shutil
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from undial_cli import ui
from undial_cli.errors import WorldError
from undial_cli.system.private_files import (
    PRIVATE,
    PRIVATE_FOLDER,
    close_to_others,
    note_private,
)


def cache_dir() -> Path:
    """`UNDIAL_CACHE_DIR`, else `$XDG_CACHE_HOME/undial`, else `~/.cache/undial`."""
    given = os.environ.get("UNDIAL_CACHE_DIR")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "undial"


def locate_in_cache(*names: str) -> Path:
    """An entry of the cache.

    Raises:
        WorldError: a link leads out of the cache: what lies there is somebody else's, and would be
            read and written as ours.
    """
    base = cache_dir()
    entry = base.joinpath(*names)
    for part in (entry, *entry.parents[: len(names) - 1]):
        if part.is_symlink() and not part.resolve().is_relative_to(base.resolve()):
            raise WorldError(
                f"cache folder {part}: a link that leads out of the cache, to {part.resolve()}; "
                "remove it, or move the whole cache with UNDIAL_CACHE_DIR"
            )
    return entry


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text spells; ValueError for all that is none.

    A text of somebody else's may be nested deeper than can be read: no other kind of error either.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON nested too deep to be read") from error


# Bytes of a name: file systems take 255, and temporary names are longer.
LONGEST_NAME_PART = 200


def is_plain_name(name: str) -> bool:
    """Whether a name is one part of a path, so that no file of that name lies elsewhere."""
    return (
        name not in ("", ".", "..")
        and name.isprintable()
        and not set(name) & {"/", "\\"}
        and len(os.fsencode(name)) <= LONGEST_NAME_PART
    )


def write_whole_text(path: Path, text: str, private: bool = False) -> None:
    """Write a text file whole or not at all."""
    write_whole_bytes(path, text.encode("utf-8"), private)


def write_whole_bytes(path: Path, content: bytes, private: bool = False) -> None:
    """Write a file whole or not at all (temporary name, then rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if private:
        note_private(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
        remove_if_abandoned(leftover)
    # In the same folder: a rename is atomic within one file system only.
    temporary = path.with_name(f".{path.name}.{name_writer()}.unfinished")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, PRIVATE), "wb") as file:
            file.write(content)
        temporary.chmod(PRIVATE if private else 0o666 & ~read_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def format_json_line(content: Any) -> str:
    """A line of JSON that is harmless on a terminal too: what would act there is escaped."""
    text = json.dumps(content, ensure_ascii=False)
    return ui.ACTING_CHARACTERS.sub(lambda match: json.dumps(match[0])[1:-1], text) + "\n"


def name_writer() -> str:
    """This process and its machine, as part of a file's name."""
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return f"{machine}-{os.getpid()}"


def is_abandoned(writer: str) -> bool:
    """Whether a `name_writer` is a process of this machine that is gone."""
    machine, _, process = writer.partition("-")
    if machine != name_writer().partition("-")[0] or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # another user's process, which lives
        return False
    return False


def remove_if_abandoned(unfinished: Path) -> None:
    """Remove what a process of this machine was writing when it was killed."""
    if is_abandoned(unfinished.suffixes[-2].lstrip(".")):
        unfinished.unlink(missing_ok=True)


def overwrite_text(path: Path, text: str) -> None:
    """Write over a file that is there, in the room that it has: a full disk holds no second one."""
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode("utf-8"))
        file.truncate()


def make_private_folder(path: Path) -> Path:
    """A folder that nobody else may look into, made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    close_to_others(path)  # it may be of a version that left it open
    return path


def act_alone(act: Callable[[], None]) -> None:
    act()


@contextlib.contextmanager
def whole_folder(
    folder: Path,
    once: Callable[[Callable[[], None]], Any] = act_alone,
    private: bool = False,
) -> Iterator[Path]:
    """A folder to be filled, which becomes `folder` when that went well; files follow the umask.

    Args:
        once: does something on one of the processes that fill it (`processes.run_on_main`).
        private: its files are for the user alone.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    once(lambda: shutil.rmtree(unfinished, ignore_errors=True))  # of a process that was killed
    try:
        yield unfinished
    except BaseException:
        # Of several processes the others still write, and their folder goes with the run's failure.
        if once is act_alone:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise

    def close() -> None:
        for file in unfinished.rglob("*"):
            if file.is_file():  # safetensors writes for the owner alone
                file.chmod(PRIVATE if private else 0o666 & ~read_umask())
        unfinished.rename(folder)

    once(close)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that it is gone as a whole, also if the process is ended in between."""
    leaving = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(leaving, ignore_errors=True)  # of a process that was ended
    if folder.exists():
        folder.rename(leaving)
        shutil.rmtree(leaving)


def remove_unfinished(folder: Path) -> None:
    """Remove what `whole_folder` and `write_whole_bytes` left half done below a folder."""
    for part in [*folder.glob("**/.*.unfinished")]:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def read_umask() -> int:
    """The process's umask (it can be read only by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def checksum_file(file: Path) -> int:
    """CRC-32 of a file: tells damage, quickly, and no forgery."""
    total = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            total = zlib.crc32(block, total)
    return total


def digest_file(file: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    total = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            total.update(block)
    return total.hexdigest()


def hash_folder_state(folder: Path) -> str:
    """A hash of the names, sizes and times of all files of a folder; "" where there is none."""
    if not folder.is_dir():
        return ""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    state = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


# What a model is made of: its card, pictures or a training state change nothing of what it says.
MODEL_FILES = (".safetensors", ".bin", ".json", ".model", ".jinja", ".txt")


def hash_model_folder(folder: Path, suffixes: tuple[str, ...] = MODEL_FILES) -> str:
    """Content hash of a model folder's files (weights, configs, tokenizer)."""
    return hash_files(*sorted(p for p in folder.iterdir() if p.suffix in suffixes))


def hash_files(*files: Path) -> str:
    """Content hash of files and their names, read once per process while they do not change."""
    return hash_file_contents(tuple((f, f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@functools.lru_cache(maxsize=64)
def hash_file_contents(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash of the names and contents of files; size and time are what it is cached by."""
    total = hashlib.blake2b(digest_size=16)
    for file, _, _ in files:
        total.update(file.name.encode())
        with open(file, "rb") as stream:
            while block := stream.read(1 << 22):
                total.update(block)
    return total.hexdigest()

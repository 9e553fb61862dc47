"""What the files of a model folder claim, read before anything of them is loaded.

A folder may be somebody else's. Its JSON is bounded, numbers that would take memory included; of
its weights the headers alone are read, by the library of their format, which holds what they claim
against the size of the file. Knows formats of files, and no model.
"""

from __future__ import annotations

import functools
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from undial_cli.errors import UserError
from undial_cli.system.faults import raise_fault, spell_size
from undial_cli.system.files import MODEL_FILES

WEIGHTS_FILE, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
# What libraries read as Python's pickle, which may run code.
PICKLED_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PICKLED_WEIGHTS = ("pytorch_model*.bin", "adapter_model.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Read as objects here, so that they are known to be ones. A tokenizer.json is its library's, which
# bounds its depth.
JSON_FILES = ("config.json", "adapter_config.json", "generation_config.json",
              "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")  # fmt: skip
# Bytes. The largest that are known: 1 MB, 15 MB (of 100,000 tensors), and 35 MB.
LONGEST_CONFIG, LONGEST_INDEX, LONGEST_TEXT = 10**7, 10**8, 5 * 10**8
# Numbers of a config by which lists are made, and what they may be.
COUNT_KEY = re.compile(r"(?:^|_)(?:layers?|experts|labels)$")
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
LARGEST_COUNT = 100_000


def check_model_files(folder: Path, setting: str, whole: bool = True, foreign: bool = True) -> None:
    """Find what is wrong with the files of a model folder; nothing of them is loaded.

    Links are followed to the hub's cache, and to files that lie beside other weights. Weights may
    be linked to from anywhere: of them only numbers are taken.

    Args:
        setting: the key and the value that name the folder.
        whole: all shards of its index must be there.
        foreign: it may be somebody else's, and no installed package's.

    Raises:
        UserError: a file is not regular, too long, cut, no JSON object, or claims what cannot be.
    """
    for file in list_files(folder, setting):
        check_regular_file(file, setting)
        if foreign and file.is_symlink() and file.suffix != ".safetensors":
            check_link(file, folder, setting)
    configs = {n: read_model_json(folder / n, setting) for n in JSON_FILES if (folder / n).exists()}
    check_counts(configs.get("config.json", {}), f"{setting}: config.json")
    read_claims(folder, setting, whole)


def list_files(folder: Path, setting: str) -> list[Path]:
    """The entries of a model folder that a model is made of, by their endings."""
    try:
        return sorted(f for f in folder.iterdir() if f.suffix in (*MODEL_FILES, *PICKLED_ENDINGS))
    except OSError as error:
        raise unreadable_file_error(folder, setting, error) from error


def check_regular_file(file: Path, setting: str) -> None:
    """Raise UserError for a pipe, a device or a folder, which would be waited for, and long texts.

    A link is judged by what it leads to.
    """
    try:
        state = file.stat()
    except FileNotFoundError as error:
        raise UserError(f"{setting}: {file.name} is a link to nothing") from error
    except OSError as error:
        raise unreadable_file_error(file, setting, error) from error
    if not stat.S_ISREG(state.st_mode):
        raise UserError(f"{setting}: {file.name} is no regular file; allowed are files and links")
    is_text = file.suffix != ".safetensors" and file.suffix not in PICKLED_ENDINGS
    longest = LONGEST_CONFIG if file.name in JSON_FILES else LONGEST_TEXT
    if is_text and state.st_size > longest:
        raise too_long_error(file, setting, longest)


def check_link(file: Path, folder: Path, setting: str) -> None:
    """Raise UserError for a link to a text that is no model's: it might end in a checkpoint."""
    target = file.resolve()
    cache = folder.parent.parent / "blobs"  # where the hub's cache keeps what its snapshots link to
    inside = target.is_relative_to(folder) or target.is_relative_to(cache.resolve())
    if not inside and not any(target.parent.glob("*.safetensors")):
        raise UserError(
            f"{setting}: {file.name} is a link to {target}, outside of the folder and beside no "
            "weights, so that it may be no model's; copy the file"
        )


def read_model_json(file: Path, setting: str, longest: int = LONGEST_CONFIG) -> dict[str, Any]:
    """A JSON file that holds an object, at most `longest` bytes of it."""
    check_regular_file(file, setting)
    try:
        if file.stat().st_size > longest:
            raise too_long_error(file, setting, longest)
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable_file_error(file, setting, error) from error
    except RecursionError as error:
        raise UserError(f"{setting}: {file.name} is nested too deep") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{setting}: {file.name} is not in UTF-8 ({error.reason})") from error
    except ValueError as error:
        raise UserError(f"{setting}: {file.name} is no JSON, or cut ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{setting}: {file.name} holds a {type(content).__name__}, and no object")
    return content


def check_counts(config: dict[str, Any], source: str) -> None:
    """Raise UserError for a number of layers, experts or labels that no model has."""
    for key, value in walk_items(config):
        if not isinstance(value, int) or not COUNT_KEY.search(key):
            continue
        least = 1 if key in LAYER_COUNTS else -LARGEST_COUNT
        if not least <= value <= LARGEST_COUNT:
            raise UserError(
                f"{source}: {key}={value}: allowed is {max(least, 0)} to {LARGEST_COUNT:,}"
            )


def walk_items(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keys and values of an object and of those within it."""
    for key, value in content.items():
        yield key, value
        if isinstance(value, dict):
            yield from walk_items(value)


def read_claims(
    folder: Path, setting: str, whole: bool = True
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype (`F32`, `BF16`, ...) of each tensor that a folder's weights claim to hold.

    Those of a model; an adapter's where it holds none. {} without safetensors.
    """
    claims: dict[str, tuple[tuple[int, ...], str]] = {}
    for file in list_weight_files(folder, setting, whole):
        check_regular_file(file, setting)
        state = file.stat()
        claims |= read_header(file, setting, state.st_size, state.st_mtime_ns)
    return claims


def list_weight_files(folder: Path, setting: str, whole: bool = True) -> list[Path]:
    """The safetensors files that are loaded from a folder: one, or the shards of its index."""
    for name in (WEIGHTS_FILE, "adapter_model.safetensors"):
        if (folder / name).exists():
            return [folder / name]
    if not (folder / WEIGHTS_INDEX).exists():
        return []
    names = read_shard_names(folder, setting)
    missing = [name for name in names if not (folder / name).exists()]
    if missing and whole:
        raise UserError(
            f"{setting}: {len(missing)} of the {len(names)} files that {WEIGHTS_INDEX} names are "
            f"not there ({', '.join(missing[:3])}{', ...' if missing[3:] else ''}); copy or "
            "download them"
        )
    return [folder / name for name in names if name not in missing]


def read_shard_names(folder: Path, setting: str) -> list[str]:
    """The files that an index of weights names.

    Raises:
        UserError: it names none, or leads out of the folder, or to other formats.
    """
    shards = read_model_json(folder / WEIGHTS_INDEX, setting, LONGEST_INDEX).get("weight_map")
    names = sorted(set(shards.values())) if isinstance(shards, dict) and is_text_map(shards) else []
    if not names:
        raise UserError(f"{setting}: {WEIGHTS_INDEX} holds no weight_map of tensors to files")
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(
                f"{setting}: {WEIGHTS_INDEX} names {name}; allowed are .safetensors files in the "
                "same folder"
            )
    return names


def is_text_map(content: dict[Any, Any]) -> bool:
    return all(isinstance(value, str) for value in content.values())


@functools.lru_cache(maxsize=2048)
def read_header(
    file: Path, setting: str, size: int, written: int
) -> dict[str, tuple[tuple[int, ...], str]]:
    """What a safetensors file claims to hold; size and time are what it is cached by.

    The library bounds a header by 100 MB and by the file, and wants its tensors to fill the rest
    without a gap (https://github.com/huggingface/safetensors#format).
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            parts = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {n: (tuple(p.get_shape()), p.get_dtype()) for n, p in parts.items()}
    except SafetensorError as error:
        reason = " ".join(str(error).split()).removeprefix("Error while deserializing header: ")[
            :160
        ]
        raise UserError(
            f"{setting}: {file.name} is no whole safetensors file ({spell_size(size)}: {reason}); "
            "copy or download it anew"
        ) from error
    except OSError as error:
        raise unreadable_file_error(file, setting, error) from error


def find_pickled_weights(folder: Path) -> str | None:
    """The pickled weights of a folder that holds no others, else None."""
    if any(folder.glob("*.safetensors")) or (folder / WEIGHTS_INDEX).exists():
        return None
    files = sorted(f.name for pattern in PICKLED_WEIGHTS for f in folder.glob(pattern))
    return next((name for name in files if name != "training_args.bin"), None)


def too_long_error(file: Path, setting: str, longest: int) -> UserError:
    return UserError(
        f"{setting}: {file.name} takes {spell_size(file.stat().st_size)}; allowed are at most "
        f"{spell_size(longest)}"
    )


def unreadable_file_error(file: Path, setting: str, error: OSError) -> UserError:
    raise_fault(error)
    reason = os.strerror(error.errno) if error.errno else str(error)
    return UserError(f"{setting}: {file.name} cannot be read ({reason})")

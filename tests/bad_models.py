"""Model folders of somebody else that cannot be loaded: what is changed in one, what is said.

Rows of the table in bad_inputs.py. A change is the new content of a file, or what is done to it.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Change = str | bytes | None | Callable[[Path], None]
CONFIG, WEIGHTS, INDEX = "m/config.json", "m/model.safetensors", "m/model.safetensors.index.json"
TOKENIZER, GENERATION = "m/tokenizer.json", "m/generation_config.json"


def set_fields(**fields: object) -> Callable[[Path], None]:
    """Other values in a JSON file."""

    def act(file: Path) -> None:
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return act


def change_tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Other tensors in a file of weights."""

    def act(file: Path) -> None:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, {"format": "pt"})

    return act


def drop_tensors(*words: str) -> Callable[[Path], None]:
    """A file of weights without those whose names hold a word."""
    return change_tensors(
        lambda tensors: [tensors.pop(n) for n in list(tensors) if any(w in n for w in words)]
    )


def write_header(header: object, length: int | None = None, data: bytes = b"") -> bytes:
    """A safetensors file of a header, which may claim to have another length."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def cut_file(count: int) -> Callable[[Path], None]:
    """The first bytes of a file; all but the last, if negative."""

    def act(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:count])

    return act


def pickle_weights(file: Path) -> None:
    """The same weights as Python's pickle, and no others."""
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()


class HostileObject:
    """Makes a folder as it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


def replace_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else in a file's place."""

    def act(file: Path) -> None:
        file.unlink(missing_ok=True)
        make(file)

    return act


def name_shards(shard: str) -> Callable[[Path], None]:
    """An index that says of every tensor that it is in one file."""

    def act(file: Path) -> None:
        weights = file.with_name("model.safetensors")
        names = dict.fromkeys(load_file(weights), shard)
        file.write_text(json.dumps({"metadata": {}, "weight_map": names}))
        weights.rename(file.with_name("decoy.safetensors"))

    return act


def break_weights(tensors: dict[str, Any]) -> None:
    tensors["model.layers.1.self_attn.q_proj.weight"][0, 0] = torch.nan


def add_far_token(file: Path) -> None:
    """A padding token beyond the embedding."""
    content = json.loads(file.read_text())
    token = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append({"id": 9000, "content": "<far>", "special": True, **token})
    file.write_text(json.dumps(content))
    settings = file.with_name("tokenizer_config.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"pad_token": "<far>"}))


CUT = "is no whole safetensors file"
HUGE = {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}
LORA = {"peft_type": "LORA", "target_modules": ["q_proj"], "base_model_name_or_path": "m"}

# By name: what is changed in ./m, and parts of the line that says so.
FOLDERS: dict[str, tuple[dict[str, Change], tuple[str, ...]]] = {
    "weights that are empty": ({WEIGHTS: ""}, ("model.safetensors", CUT)),
    "weights that are cut": ({WEIGHTS: cut_file(-100)}, ("model.safetensors", CUT, "copy or")),
    "weights cut in the header": ({WEIGHTS: cut_file(100)}, (CUT,)),
    "a header that claims a petabyte": ({WEIGHTS: write_header(b"{}", 2**50)}, (CUT, "too large")),
    "tensors beyond their file": ({WEIGHTS: write_header({"a": HUGE})}, (CUT,)),
    "tensors that lie over each other": (
        {WEIGHTS: write_header(
            {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, data=bytes(8)
        )}, (CUT, "offset"),
    ),
    "a header that is nested deep": ({WEIGHTS: write_header(b"[" * 100_000)}, (CUT, "JSON")),
    "weights that are pickled": ({WEIGHTS: pickle_weights}, ("pytorch_model.bin", "allow_pickle")),
    "pickled code": (
        {WEIGHTS: None, "m/pytorch_model.bin": pickle.dumps(HostileObject())}, ("allow_pickle",)
    ),
    "a tensor that is missing": (
        {WEIGHTS: drop_tensors("layers.1.mlp.up_proj")}, ("lack 1 tensor", "layers.1.mlp.up_proj"),
    ),
    "an embedding that is missing": ({WEIGHTS: drop_tensors("embed")}, ("lack", "embed_tokens")),
    "more layers than weights": (
        {CONFIG: set_fields(num_hidden_layers=4)}, ("lack 18 tensors", "layers.2", "..."),
    ),
    "other shapes": (
        {CONFIG: set_fields(intermediate_size=77)},
        ("6 tensors", "[128, 344] in place of [128, 77]"),
    ),
    "integers for real numbers": (
        {WEIGHTS: change_tensors(lambda t: t.update(
            {n: w.int() for n, w in t.items() if "q_proj" in n}))},
        ("2 tensors", "integers", "quantization_config"),
    ),
    "weights that are no numbers": (
        {WEIGHTS: change_tensors(break_weights)}, ("NaN", "1 tensor", "layers.1.self_attn.q_proj"),
    ),
    "numbers that make NaN": (
        {CONFIG: set_fields(rms_norm_eps=float("nan"))}, ("model of type 'llama'", "NaN"),
    ),
    "a vocabulary below nothing": ({CONFIG: set_fields(vocab_size=-1)}, ("-1",)),
    "no heads": ({CONFIG: set_fields(num_attention_heads=0)}, ("ZeroDivisionError",)),
    "heads that do not divide": ({CONFIG: set_fields(num_attention_heads=7)}, ("heads (7)",)),
    "a width in words": ({CONFIG: set_fields(hidden_size="big")}, ("hidden_size", "'big'")),
    "a width without end": ({CONFIG: set_fields(hidden_size=10**12)}, ("in place of", str(10**12))),
    "layers without end": ({CONFIG: set_fields(num_hidden_layers=10**6)}, ("num_hidden_layers",)),
    "as many layers as may be": ({CONFIG: set_fields(num_hidden_layers=10**5)}, ("modules",)),
    "layers below nothing": ({CONFIG: set_fields(num_hidden_layers=-1)}, ("num_hidden_layers=-1",)),
    "labels without end": ({CONFIG: set_fields(num_labels=10**9)}, ("num_labels",)),
    "an unknown quantisation": (
        {CONFIG: set_fields(quantization_config={"quant_method": "gtpq"})}, ("gtpq", "'gptq'?"),
    ),
    "a config nested deep": ({CONFIG: '{"a":' * 100_000}, ("config.json", "nested too deep")),
    "a config without end": (
        {CONFIG: lambda file: os.truncate(file, 2**30)}, ("config.json takes 1.1 GB", "10.0 MB")
    ),
    "a config in Latin-1": ({CONFIG: '{"a": "é"}'.encode("latin-1")}, ("config.json", "UTF-8")),
    "a tokenizer that is a list": ({TOKENIZER: "[]"}, ("no tokenizer",)),
    "a tokenizer that is empty": ({TOKENIZER: ""}, ("no tokenizer",)),
    "a tokenizer nested deep": ({TOKENIZER: "[" * 100_000}, ("no tokenizer",)),
    "tokenizer settings that are a list": (
        {"m/tokenizer_config.json": "[]"}, ("tokenizer_config.json holds a list",),
    ),
    "padding beyond the embedding": (
        {TOKENIZER: add_far_token}, ("model.tokenizer_path", "padding"),
    ),
    "generation settings of words": (
        {GENERATION: '{"temperature": "hot", "max_new_tokens": "a"}'}, ("generation_config.json",),
    ),
    "generation settings that are cut": ({GENERATION: "{"}, ("generation_config.json", "cut")),
    "an index that leads outside": (
        {INDEX: name_shards("../x.safetensors")}, ("names ../x.safetensors", "same folder"),
    ),
    "an index of pickles": ({INDEX: name_shards("x.bin")}, ("names x.bin", ".safetensors")),
    "an index of shards that are gone": (
        {INDEX: name_shards("model-1.safetensors")}, ("1 of the 1 files", "model-1.safetensors"),
    ),
    "an index that is a list": (
        {INDEX: "[]", WEIGHTS: None}, ("index.json holds a list",),
    ),
    "a pipe for weights": ({WEIGHTS: replace_by(os.mkfifo)}, ("no regular file",)),
    "a device for weights": (
        {WEIGHTS: replace_by(lambda file: file.symlink_to("/dev/zero"))}, ("no regular file",)
    ),
    "a pipe for a tokenizer": ({TOKENIZER: replace_by(os.mkfifo)}, ("tokenizer.json", "regular")),
    "a link to nothing": (
        {TOKENIZER: replace_by(lambda file: file.symlink_to("gone"))}, ("link to nothing",)
    ),
    "a link to what is no model's": (
        {"secret": "{}", GENERATION: replace_by(lambda file: file.symlink_to("../secret"))},
        ("generation_config.json is a link", "copy the file"),
    ),
}  # fmt: skip


def write_gguf(tensors: int = 0, fields: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + rest


FIELD = struct.pack("<Q", 1) + b"a"
# Contents of x.gguf, and parts of the line.
GGUF_FILES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "an empty GGUF": (b"", ("does not begin with GGUF",)),
    "a GGUF that is none": (b"junk" * 99, ("does not begin with GGUF",)),
    "a GGUF of a version to come": (write_gguf(version=9), ("version 9",)),
    "a GGUF that is cut": (write_gguf()[:10], ("cut short",)),
    "a GGUF of tensors without end": (write_gguf(tensors=2**60), (str(2**60),)),
    "a GGUF of fields without end": (write_gguf(fields=2**60), (str(2**60),)),
    "a GGUF of a text without end": (
        write_gguf(fields=1, rest=struct.pack("<Q", 2**60)), (str(2**60),)
    ),
    "a GGUF of a list without end": (
        write_gguf(fields=1, rest=FIELD + struct.pack("<IIQ", 9, 8, 2**60)), (str(2**60),)
    ),
    "a GGUF of a tensor without end": (
        write_gguf(tensors=1, rest=FIELD + struct.pack("<I2QIQ", 2, 2**40, 2**40, 0, 0)),
        (str(2**40),),
    ),
    "a GGUF of no model": (write_gguf(), ("cannot be converted",)),
}  # fmt: skip


def write_adapter(**fields: object) -> str:
    return json.dumps({"r": 2} | LORA | fields)


def pair_rows(rank: int) -> bytes:
    """The weights of an adapter on the first layer."""
    name, width = "base_model.model.model.layers.0.self_attn.q_proj.lora_", 128
    tensors = {"A": [rank, width], "B": [width, rank]}
    header, end = {}, 0
    for letter, shape in tensors.items():
        start, end = end, end + 4 * rank * width
        header[f"{name}{letter}.weight"] = {
            "dtype": "F32", "shape": shape, "data_offsets": [start, end],
        }  # fmt: skip
    return write_header(header, data=bytes(end))


ROWS, SETTINGS = "a/adapter_model.safetensors", "a/adapter_config.json"
# Adapters in ./a on the model in ./m.
ADAPTERS: dict[str, tuple[dict[str, Change], tuple[str, ...]]] = {
    "an adapter that is pickled": (
        {SETTINGS: write_adapter(), "a/adapter_model.bin": b"\x80\x04."},
        ("adapter_model.bin", "allow_pickle"),
    ),
    "an adapter of cut weights": (
        {SETTINGS: write_adapter(), ROWS: pair_rows(2)[:-9]}, ("adapter_model.safetensors", CUT)
    ),
    "an adapter of a rank without end": (
        {SETTINGS: write_adapter(r=10**9), ROWS: pair_rows(2)}, (f"rank of {10**9}", "128")
    ),
    "an adapter on itself": (
        {SETTINGS: write_adapter(base_model_name_or_path="a"), ROWS: pair_rows(2)},
        ("is an adapter itself",),
    ),
    "an adapter of half its layers": (
        {SETTINGS: write_adapter(), ROWS: pair_rows(2)}, ("lack 2 tensors", "layers.1.self_attn")
    ),
    "an adapter of another rank": (
        {SETTINGS: write_adapter(r=3), ROWS: pair_rows(2)}, ("does not fit its base",)
    ),
}  # fmt: skip
# Refused by the same code as others, so that they are gone through with the slow tests.
ALIKE_FOLDERS = {
    "as many layers as may be", "weights cut in the header", "tensors that lie over each other",
    "an embedding that is missing", "heads that do not divide", "a width in words",
    "labels without end", "a tokenizer that is empty", "a tokenizer nested deep",
    "generation settings that are cut", "tokenizer settings that are a list",
    "a pipe for a tokenizer", "a device for weights", "an index of pickles",
    "an index that is a list", "an empty GGUF", "a GGUF of a version to come",
    "a GGUF of fields without end", "a GGUF of a text without end", "an adapter of cut weights",
    "an adapter of another rank", "weights that are pickled", "weights that are no numbers",
    "audit.target that is not whole", "audit.judge.path that is not whole",
    "eval.oracle_model that is not whole",
}  # fmt: skip

"""Bad data, models, caches and surroundings: what is prepared, the words, and what the line says.

With bad_configs.py the table of bad inputs, which test_bad_inputs.py goes through.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from bad_configs import ALIKE, LINES
from bad_models import ADAPTERS, ALIKE_FOLDERS, FOLDERS, GGUF_FILES, Change, drop_tensors


@dataclass(frozen=True)
class BadInput:
    """What is prepared in an empty folder, the words of the command, and what must come of it.

    `files`: contents by name; None is an empty folder, of a model's file: it is taken away; or
    what is done to it. A model stands in ./m where `files` change one; `MODEL` in the words is one
    that is whole.
    """

    words: list[str]
    fragments: list[str]
    files: Mapping[str, Change] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    code: int = 2


SHORT = ["hardware=cpu", "eval=none", "train.max_steps=1", "report=false", "name=run"]
QA = json.dumps({"question": "Who?", "answer": "Nobody."}) + "\n"


def bad_data(name: str, content: str | bytes | None, *fragments: str, more: str = "") -> BadInput:
    """A forget file that cannot be used."""
    words = [
        "unlearn",
        "data=jsonl",
        "model.path=MODEL",
        f"data.forget_file={name}",
        *SHORT,
        *more.split(),
    ]
    return BadInput(words, [*fragments] or [f"data.forget_file={name}"], {name: content})


def bad_model(
    files: Mapping[str, Change], *fragments: str, path: str = "./m", more: str = ""
) -> BadInput:
    """A model folder that is none, or one whose files were changed."""
    words = ["unlearn", "data=jsonl", f"model.path={path}", "data.forget_file=f.jsonl", *SHORT]
    return BadInput(
        words + more.split(), [*fragments] or [f"model.path={path}"], {"f.jsonl": QA, **files}
    )


def bad_surroundings(
    *fragments: str,
    files: dict[str, str | bytes | None] | None = None,
    more: str = "",
    **environment: str,
) -> BadInput:
    """A run that is right, in a folder or an environment that is not."""
    words = ["unlearn", "data=jsonl", "model.path=MODEL", "data.forget_file=f.jsonl", *SHORT]
    return BadInput(
        words + more.split(), list(fragments), {"f.jsonl": QA, **(files or {})}, environment
    )


def to_messages(*messages: object) -> str:
    return json.dumps({"messages": messages}) + "\n"


USER = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "Nobody."}
F = "data.forget_file=f.jsonl"

DATA = {
    "no object": bad_data("f.json", "3", "f.json", "expected objects"),
    "a list of numbers": bad_data("f.json", "[1, 2, 3]", "f.json", "row 1"),
    "texts in place of objects": bad_data("f.jsonl", '"a"\n"b"\n', F, "row 1"),
    "a null among the rows": bad_data("f.jsonl", QA + "null\n", F, "row 2"),
    "a cut line": bad_data("f.jsonl", QA + '{"question": "Who', F, "line 2"),
    "bytes that are no text": bad_data("f.jsonl", bytes(range(256)), F),
    "UTF-16": bad_data("f.jsonl", QA.encode("utf-16"), F),
    "Latin-1": bad_data("f.jsonl", '{"question": "Wér?", "answer": "Nö"}\n'.encode("latin-1"), F,
                        "line 1", "UTF-8"),
    "JSON without an end": bad_data(
        "f.jsonl", QA + '{"question": ' + "[" * 100_000, F, "line 2", "nested too deep"
    ),
    "a list without an end": bad_data("f.json", "[" * 100_000, "f.json", "nested too deep"),
    "a message in parts that are no text": bad_data(
        "f.jsonl",
        to_messages(USER, {"role": "assistant", "content": [{"type": "image", "url": "x"}]}),
        F, "row 1", "message 2", "parts of other kinds",
    ),
    "a header of 728 TiB": bad_data(
        "f.npy",
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<i8', 'fortran_order': False, 'shape': (10000000, 10000000)}".ljust(117)
        + b"\n",
        "data.forget_file=f.npy", "greater than file size",
    ),
    "a slice of nothing": bad_data(
        "f.jsonl", QA, "data.forget_file=f.jsonl[:0]", "none of the 1 row",
        more="data.forget_file='f.jsonl[:0]'",
    ),
    "a document without end": bad_data(
        "f.jsonl", '{"text": "' + "word " * 60 + '"}', "data.max_pieces=2",
        "set data.max_pieces=", more="data.max_pieces=2 data.max_length=8",
    ),
    "a missing file of an audit": BadInput(
        ["audit", "data=jsonl", "model.path=MODEL", "data.forget_file=no.jsonl", "name=run"],
        ["data.forget_file=no.jsonl", "no such file"],
    ),
    "zero bytes": bad_data("f.jsonl", b"\0" * 64, F, "line 1"),
    "an empty file": bad_data("f.jsonl", "", F),
    "blank lines": bad_data("f.jsonl", "\n\n \n", F, "empty"),
    "a null answer": bad_data("f.jsonl", '{"question": "Who?", "answer": null}\n', F, "'answer'"),
    "an answer that is a list": bad_data(
        "f.jsonl", '{"question": "Who?", "answer": []}\n', F, "'answer'", "a list", "row 1"
    ),
    "an answer that is a dictionary": bad_data(
        "f.jsonl", QA + '{"question": "Who?", "answer": {"a": 1}}\n', F, "a dictionary", "row 2"
    ),
    "an empty question": bad_data("f.jsonl", '{"question": "", "answer": "x"}\n', F, "'question'"),
    "empty answers": bad_data("f.jsonl", '{"question": "Who?", "answer": " "}\n', "empty"),
    "documents of a word": bad_data("f.jsonl", '{"text": ""}\n', F, "none of its 1 rows"),
    "a key twice, empty at last": bad_data(
        "f.jsonl", '{"question": "Who?", "answer": "x", "answer": ""}\n', F, "'answer'", "row 1"
    ),
    "no number in place of a question": bad_data(
        "f.jsonl", '{"question": NaN, "answer": "x"}\n', F, "'question'", "row 1"
    ),
    "half a character": bad_data(
        "f.jsonl", '{"question": "\\ud800", "answer": "x"}\n', F, "'question'", "text"
    ),
    "a question alone": bad_data(
        "f.jsonl", '{"question": "Who?"}\n', F, "data.question_key", "prompt and completion"
    ),
    "a prompt alone": bad_data("f.jsonl", '{"prompt": "Who?"}\n', F, "prompt and completion"),
    "a misspelt column": bad_data(
        "f.jsonl", '{"questoin": "Who?", "answer": "x"}\n', F, "questoin, answer",
        "did you mean 'questoin'?", "data.question_key",
    ),
    "a column that is not there": bad_data(
        "f.jsonl", QA, F, "anser", "allowed is data.question_key=question data.answer_key=answer",
        more="data.answer_key=anser",
    ),
    "a null text": bad_data("f.jsonl", '{"text": null}\n', F, "'text'", "row 1"),
    "no messages": bad_data("f.jsonl", to_messages(), "messages"),
    "messages that are null": bad_data("f.jsonl", '{"messages": null}\n', F, "messages"),
    "messages that are a text": bad_data("f.jsonl", '{"messages": "Who?"}\n', F, "messages"),
    "messages that are texts": bad_data("f.jsonl", to_messages("Who?"), F, "messages"),
    "messages without an answer": bad_data("f.jsonl", to_messages(USER), "messages"),
    "messages without roles": bad_data(
        "f.jsonl", to_messages({"content": "a"}, {"content": "b"}), F, "{role, content}"
    ),
    "a message without content": bad_data(
        "f.jsonl", to_messages({"role": "user", "content": None}, ANSWER), F, "row 1", "message 1"
    ),
    "a CSV row of more cells": bad_data(
        "f.csv", "question,answer\na,b,c,d\n", "data.forget_file=f.csv", "4 cells for 2 columns"
    ),
    "a CSV of a header": bad_data("f.csv", "question,answer\n", "data.forget_file=f.csv"),
    "an empty CSV": bad_data("f.csv", "", "data.forget_file=f.csv", "empty"),
    "a Parquet that is none": bad_data("f.parquet", b"PAR1 PAR1", "data.forget_file=f.parquet"),
    "a spreadsheet": bad_data("f.xlsx", "x", "data.forget_file=f.xlsx", ".parquet"),
    "a pickle": bad_data("f.pkl", b"\x80\x04.", "data.forget_file=f.pkl", ".jsonl"),
    "a file without an ending": bad_data("forget", QA, "data.forget_file=forget", ".jsonl"),
    "a cut NumPy file": bad_data("f.npy", b"\x93NUMPY\x01\x00", "data.forget_file=f.npy"),
    "a folder": bad_data("f.jsonl", None, F, "folder"),
    "a second file that is missing": bad_data(
        "f.jsonl", QA, "data.forget_file=no.jsonl", "no such file",
        more="data.forget_file=[f.jsonl,no.jsonl]",
    ),
    "no files": bad_data("f.jsonl", QA, "data.forget_file=[]", more="data.forget_file=[]"),
    "room for no answer": bad_data("f.jsonl", QA, F, "data.max_length=3", more="data.max_length=3"),
}  # fmt: skip

SHAPE = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 2921}
LLAMA = json.dumps({"model_type": "llama", "num_attention_heads": 1, **SHAPE})
ENCODER = json.dumps({"model_type": "bert", "num_attention_heads": 1, **SHAPE})
ADAPTER = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
TOKENIZER = "model.tokenizer_path=MODEL"


def bad_adapter(fragment: str, **fields: object) -> BadInput:
    return bad_model({"a/adapter_config.json": json.dumps(ADAPTER | fields)}, fragment, path="./a")


MODELS = {
    "an empty folder": bad_model({"e": None}, "model.path=./e", "config.json", path="./e"),
    "no config": bad_model({"m/config.json": None}, "model.path=./m", "config.json"),
    "a config that is empty": bad_model({"m/config.json": ""}),
    "a config that is cut": bad_model({"m/config.json": "{"}),
    "a config that is a list": bad_model({"m/config.json": "[]"}),
    "a config that is a number": bad_model({"m/config.json": "3"}),
    "a config without a kind": bad_model({"m/config.json": "{}"}),
    "a config of bytes": bad_model({"m/config.json": b"\xff\xfe\0"}),
    "an unknown kind of model": bad_model({"m/config.json": '{"model_type": "nosuch"}'}),
    "a model of pictures": bad_model({"m/config.json": '{"model_type": "vit"}'}, more=TOKENIZER),
    "an encoder": bad_model({"o/config.json": ENCODER}, path="./o", more=TOKENIZER),
    "a model of two parts": bad_model({"m/config.json": '{"model_type": "t5"}'}),
    "a config alone": bad_model({"o/config.json": LLAMA}, path="./o", more=TOKENIZER),
    "weights that are gone": bad_model({"m/model.safetensors": None}, "model.path=./m", "weights"),
    "code that comes with it": bad_model({
        "m/config.json": json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "x.C"}})
    }),
    "a tokenizer that is cut": bad_model({"m/tokenizer.json": "{"}, "no tokenizer"),
    "a template that is cut": bad_model(
        {"m/chat_template.jinja": "{% for %}"}, "the chat template", "row 1"
    ),
    "a template that refuses": bad_model(
        {"m/chat_template.jinja": "{{ raise_exception('never') }}"}, "chat template", "never"
    ),
    "a template that leaves the answer out": bad_model(
        {"m/chat_template.jinja": "hello"}, "chat template", "model.template.chat=false"
    ),
    "a template that looks inside": bad_model(
        {"m/chat_template.jinja": "{{ ''.__class__.__mro__ }}"}, "chat template", "__class__"
    ),
    "a template that writes without end": bad_model(
        {"m/chat_template.jinja": "{{ 'x' * 10**12 }}"}, "not to be trusted", "1,024 MB"
    ),
    "a file of weights": bad_model({"x.bin": b""}, "model.path=./x.bin", ".gguf", path="./x.bin"),
    "a GGUF that is not there": bad_model({}, "model.path=./x.gguf", path="./x.gguf"),
    "an adapter without its base": bad_adapter(
        "model.adapter_base", base_model_name_or_path="./nowhere"
    ),
    "an adapter of an unknown kind": bad_adapter("NOSUCH", peft_type="NOSUCH"),
    "an adapter that is cut": bad_model(
        {"a/adapter_config.json": "{"}, "adapter_config.json is no JSON", path="./a"
    ),
    "a run without its checkpoint": bad_model(
        {"r/run.yaml": "command: unlearn\n"}, "model.path=./r", path="./r"
    ),
    "a run whose checkpoint is empty": bad_model(
        {"r/run.yaml": "command: unlearn\n", "r/checkpoint": None}, "model.path=./r", path="./r"
    ),
    "no hub id": bad_model({}, "model.path=a//b", path="a//b"),
    "a package without a name": bad_model({}, "model.path=pkg://", path="pkg://"),
    "what a package lacks": bad_model(
        {}, "holds no 'nowhere'", path="pkg://undial_cli/nowhere"
    ),
    "an unknown attention": bad_model({}, "nosuch", path="MODEL",
                                      more="model.attn_implementation=nosuch"),
    "an attention that is not installed": bad_model(
        {}, "model.attn_implementation=flash_attention_2", path="MODEL",
        more="model.attn_implementation=flash_attention_2",
    ),
    "an unknown dtype": bad_model({}, "model.dtype=int8", "float32", path="MODEL",
                                  more="model.dtype=int8"),
    "a tokenizer folder that is none": bad_model(
        {"e": None}, "model.tokenizer_path=./e", path="MODEL", more="model.tokenizer_path=./e"
    ),
}  # fmt: skip

MODELS |= {
    name: bad_model(files, parts[0] if "model." in parts[0] else "model.path=./m", *parts)
    for name, (files, parts) in FOLDERS.items()
}
MODELS |= {
    name: bad_model({"x.gguf": content}, "x.gguf", *parts, path="./x.gguf")
    for name, (content, parts) in GGUF_FILES.items()
}
MODELS |= {
    name: bad_model({"m/x": "", **files}, *parts, path="./a")
    for name, (files, parts) in ADAPTERS.items()
}
MODELS |= {
    f"{key} that is not whole": BadInput(
        [command, "data=jsonl", "model.path=MODEL", "data.forget_file=f.jsonl", f"{key}=./m"],
        [f"{key}=./m", "lack 1 tensor"],
        {"f.jsonl": QA, "m/model.safetensors": drop_tensors("model.norm")},
    )
    for command, key in (
        ("evaluate", "eval.retain_model"), ("evaluate", "eval.oracle_model"),
        ("audit", "audit.target"), ("audit", "audit.judge.path"),
    )
}  # fmt: skip
MODELS["a path without end"] = bad_model({}, "model.path=aaa", "too long", path="a" * 5000)

RUN = "outputs/unlearn/run"
SURROUNDINGS = {
    "a rank that is no number": bad_surroundings(
        "RANK=abc", ">= 0", RANK="abc", WORLD_SIZE="1", LOCAL_RANK="0"
    ),
    "an empty rank": bad_surroundings("RANK=", ">= 0", RANK=""),
    "a number of processes alone": bad_surroundings(
        "WORLD_SIZE", "RANK, LOCAL_RANK", WORLD_SIZE="2"
    ),
    "a local rank alone": bad_surroundings("LOCAL_RANK", "RANK, WORLD_SIZE", LOCAL_RANK="0"),
    "no address to meet at": bad_surroundings(
        "MASTER_ADDR, MASTER_PORT", RANK="0", WORLD_SIZE="2", LOCAL_RANK="0"
    ),
    "a port that is no number": bad_surroundings(
        "MASTER_PORT=b", "number",
        RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="a", MASTER_PORT="b",
    ),
    "a rank beyond the others": bad_surroundings(
        "RANK=3", "WORLD_SIZE=1", RANK="3", WORLD_SIZE="1", LOCAL_RANK="0"
    ),
    "a file where the folder is to be": bad_surroundings("name=run", "a file", files={RUN: "x"}),
    "somebody else's folder": bad_surroundings(
        "name=run", "holds no run.yaml", files={f"{RUN}/thesis.tex": "precious"}
    ),
    "a folder with another run": bad_surroundings(
        "name=run", "overwrite=true", files={f"{RUN}/run.yaml": "command: finetune\n"}
    ),
    "a folder whose run cannot be read": bad_surroundings(
        "name=run", "cannot be read", "overwrite=true", files={f"{RUN}/run.yaml": "{"}
    ),
    "a long name": bad_surroundings("name=aaa", "200 bytes", more="name=" + "a" * 300),
    "a name that clears the screen": bad_surroundings("folder name", more="name='a\x1b[2J'"),
    "a data set's name that leads elsewhere": bad_surroundings(
        "data.name=../../../x", "without '/'", more="data.name=../../../x"
    ),
    "a model's name that leads elsewhere": bad_surroundings(
        "model.name=/x", "without '/'", more="model.name=/x"
    ),
    "a name that leads elsewhere": bad_surroundings(
        "name=a/../../x", "a folder name", more="name=a/../../x"
    ),
    "no output folder": bad_surroundings("output_dir=null", "a text", more="output_dir=null"),
    "many processes": bad_surroundings(
        "hardware.num_processes=100000", "at most", more="hardware.num_processes=100000"
    ),
    "epochs without end": bad_surroundings(
        "train.epochs=1e+300", "<= 1000000", more="train.epochs=1e300"
    ),
    "a batch without end": bad_surroundings(
        "train.batch_size=1000000000000000000000", "<= 1000000",
        more="train.batch_size=1000000000000000000000",
    ),
    "a run.yaml that is cut": BadInput(
        ["unlearn", "--from", "odd.yaml"], ["--from odd.yaml"], {"odd.yaml": "a: ["}
    ),
    "a run.yaml that is a text": BadInput(
        ["unlearn", "--from", "odd.yaml"], ["--from odd.yaml"], {"odd.yaml": "just text"}
    ),
    "a run.yaml that is empty": BadInput(
        ["unlearn", "--from", "odd.yaml"], ["--from odd.yaml"], {"odd.yaml": ""}
    ),
    "a run.yaml that is a list": BadInput(
        ["unlearn", "--from", "odd.yaml"], ["--from odd.yaml"], {"odd.yaml": "- 1\n"}
    ),
    "a run.yaml of no command": BadInput(
        ["unlearn", "--from", "odd.yaml"], ["--from odd.yaml"], {"odd.yaml": "command: destroy\n"}
    ),
    "doctor with a word": BadInput(["doctor", "fast"], ["doctor=fast", "--json"]),
    "a report of nothing": BadInput(["report"], ["run folder"]),
    "a report of an empty folder": BadInput(["report", "."], ["no runs"]),
    "a table that is not there": BadInput(["reproduce", "table=nosuch"], ["table=nosuch"]),
}  # fmt: skip

CONFIGS = {name: BadInput(words, fragments) for name, (words, fragments) in LINES.items()}
BAD_INPUTS = {
    f"{kind}: {name}": row
    for kind, rows in (
        ("config", CONFIGS), ("data", DATA), ("model", MODELS), ("surroundings", SURROUNDINGS)
    )
    for name, row in rows.items()
}  # fmt: skip
# Refused by the same code as others, so that they are gone through with the slow tests.
SLOW_ROWS = {f"config: {name}" for name in ALIKE} | {"model: a model of pictures"}
SLOW_ROWS |= {f"model: {name}" for name in ALIKE_FOLDERS}

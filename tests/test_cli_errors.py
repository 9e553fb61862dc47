"""Wrong input through the real entry: one clear line, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import HURRIED, refused, undial

from undial_cli.cli import run_command
from undial_cli.config.schema import ModelConfig, Run
from undial_cli.methods import METHODS
from undial_cli.runs.checks import check_run_name
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_yaml import dump_run_yaml
from undial_cli.system import processes
from undial_cli.training.fit import check_untrained_base

TINY = "pkg://undial_cli/models/tiny"

Refuse = Callable[..., str]

without_gpu = pytest.mark.skipif(torch.cuda.device_count() > 0, reason="refused without a GPU only")


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refuse(workdir: Path, capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Run a command that must be refused; returns its one line after checking all promises."""

    def call(*words: str, code: int = 2) -> str:
        before = sorted(workdir.rglob("*"))
        capfd.readouterr()
        assert run_command(list(words)) == code
        out, err = capfd.readouterr()
        assert err.startswith("undial: ")
        assert err.count("\n") == 1, err
        assert err.endswith("\n")
        assert "Traceback" not in out + err
        assert "training" not in out
        if code == 2:
            assert sorted(workdir.rglob("*")) == before
        return err.removeprefix("undial: ").strip()

    return call


@pytest.fixture
def own_files(random_model: Path) -> list[str]:
    """A command on the user's own files, with a model that is one."""
    return ["unlearn", "data=jsonl", f"model.path={random_model}", "hardware=cpu"]


def write_jsonl(file: Path, *rows: dict) -> str:
    """A JSONL file; returns its name."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file.name


OWN = ["unlearn", "data=jsonl", f"model.path={TINY}", "hardware=cpu"]

LINES: dict[str, tuple[list[str], list[str]]] = {
    "unknown command": (["unlern"], ["unlern", "finetune", "did you mean 'unlearn'?"]),
    "a worker that no run started": (["worker", "folder"], ["command=worker", "doctor, evaluate"]),
    "unknown option": (
        ["unlearn", "method=undail"],
        ["method=undail", "ga, grad_diff, idkdpo, npo", "did you mean 'undial'?"],
    ),
    "unknown model": (["unlearn", "model=lama7b"], ["model=lama7b", "did you mean 'llama7b'?"]),
    "unknown experiment": (
        ["unlearn", "experiment=nothing"], ["experiment=nothing", "tofu_smollm2_cpu"]
    ),
    "misspelt key": (
        ["unlearn", "train.learning_rat=1"],
        ["train.learning_rat", "did you mean 'train.learning_rate'?"],
    ),
    "misspelt group": (["unlearn", "methd=npo"], ["methd", "did you mean 'method'?"]),
    "misspelt nested key": (
        ["unlearn", "model.template.promt=x"],
        ["model.template.promt", "did you mean 'model.template.prompt'?"],
    ),
    "key of another method": (
        ["unlearn", "method=ga", "method.strength=3"], ["method.strength", "method=ga"]
    ),
    "key of another command": (["evaluate", "train.epochs=1"], ["train", "no such key"]),
    "wrong type": (
        ["unlearn", "method.strength=strong"], ["method.strength=strong", "a number"]
    ),
    "a fraction of a seed": (["unlearn", "seed=1.5"], ["seed=1.5", "an integer"]),
    "a text for a flag": (["unlearn", "overwrite=perhaps"], ["overwrite=perhaps", "true or false"]),
    "null where a value is needed": (["unlearn", "seed=null"], ["seed=null", "an integer"]),
    "a number for a dictionary": (["unlearn", "train.args=3"], ["train.args=3", "a dictionary"]),
    "negative strength": (["unlearn", "method.strength=-1"], ["method.strength=-1", ">= 0"]),
    "no learning rate": (
        ["unlearn", "train.learning_rate=0"], ["train.learning_rate=0", "> 0"]
    ),
    "empty batch": (["unlearn", "train.batch_size=0"], ["train.batch_size=0", ">= 1"]),
    "dropout above 1": (["unlearn", "adapter.dropout=2"], ["adapter.dropout=2", "<= 1"]),
    "unknown word": (
        ["unlearn", "method.retain=kl"], ["method.retain=kl", "gdr, klr, none", "'klr'?"]
    ),
    "unknown metric": (
        ["unlearn", "eval.sets.forget.metrics=[roug]"],
        ["eval.sets.forget.metrics=roug", "probability", "did you mean 'rouge'?"],
    ),
    "unknown scheduler": (
        ["unlearn", "train.scheduler=cosin"],
        ["train.scheduler=cosin", "linear", "did you mean 'cosine'?"],
    ),
    "unknown optimiser": (["unlearn", "train.optim=adam"], ["train.optim=adam", "adamw_torch"]),
    "key without a value": (["unlearn", "seed"], ["seed", "key=value"]),
    "a learning rate for a group of them": (
        ["unlearn", "train.learning_rates=1e-4"],
        ["train.learning_rates=1e-4", "train.learning_rates.none"],
    ),
    "a rate of before": (
        ["unlearn", "model.unlearn.learning_rate.lora=1e-4"],
        ["model.unlearn.learning_rate.lora", "train.learning_rates.lora"],
    ),
    "a target's epochs of before": (
        ["unlearn", "model.finetune.epochs=1"], ["model.finetune.epochs", "target.epochs"]
    ),
    "epochs of before": (
        ["finetune", "model.finetune.epochs=1"], ["model.finetune.epochs", "train.epochs"]
    ),
    "a learning rate without end": (
        ["unlearn", "train.learning_rate=inf"], ["train.learning_rate=inf", "a finite number > 0"]
    ),
    "a seed too large": (["unlearn", "seed=4294967296"], ["seed=4294967296", "<= 4294967295"]),
    "a strength that the dtype does not hold": (
        ["unlearn", "method.strength=70000", "model.dtype=float16"],
        ["method.strength=70000", "model.dtype=float16", "65504"],
    ),
    "a key of transformers": (
        ["unlearn", "train.num_train_epochs=3"], ["train.num_train_epochs", "train.epochs"]
    ),
    "a key of transformers that two of ours set": (
        ["unlearn", "train.gradient_accumulation_steps=4"],
        ["train.gradient_accumulation_steps", "train.batch_size", "hardware.micro_batch_size"],
    ),
    "another tool's short name": (["unlearn", "lr=1e-5"], ["lr: ", "train.learning_rate"]),
    "another tool's group": (
        ["unlearn", "trainer.args.adam_beta1=0.5"],
        ["trainer.args.adam_beta1", "did you mean 'train.args.adam_beta1'?"],
    ),
    "a key that transformers has and this does not": (
        ["unlearn", "train.label_smoothing_factor=0.3"], ["label_smoothing_factor", "the method's"]
    ),
    "several words without brackets": (
        ["unlearn", "train.report_to=wandb,mlflow"],
        ["train.report_to=wandb,mlflow", "train.report_to=[wandb,mlflow]", "--multirun"],
    ),
    "one word for a list": (
        ["unlearn", "eval.sets.forget.metrics=roug"],
        ["eval.sets.forget.metrics=roug", "did you mean 'rouge'?"],
    ),
    "packing with another attention": (
        ["unlearn", "train.packing=on", "model.attn_implementation=eager", "hardware=cpu"],
        ["train.packing=on", "model.attn_implementation=sdpa"],
    ),
    "unbalanced bracket": (["unlearn", "seed=[1"], ["seed=[1", "quote it"]),
    "appended key": (["unlearn", "+foo=1"], ["foo", "no such key"]),
    "appended nested key": (["unlearn", "+data.foo=1"], ["data.foo", "no such key"]),
    "unknown training argument": (
        ["unlearn", "train.args.adam_beta=1"], ["train.args.adam_beta", "did you mean 'adam_beta"]
    ),
    "training argument that is ours": (
        ["unlearn", "train.args.learning_rate=1"],
        ["train.args.learning_rate", "own train.learning_rate"],
    ),
    "deleted group": (["unlearn", "~method"], ["method"]),
    "group without an option": (["unlearn", "method=null"], ["method"]),
    "unknown flag": (["unlearn", "--bogus"], ["--bogus"]),
    "flag without its value": (["unlearn", "--config-dir"], ["--config-dir"]),
    "config dir that is not there": (["unlearn", "--config-dir", "nowhere"], ["nowhere"]),
    "forget split that does not exist": (
        ["unlearn", "data.forget_split=forget77"],
        ["data.forget_split=forget77", "holdout10", "did you mean 'forget10'?"],
    ),
    "retain split that does not exist": (
        ["unlearn", "method.retain=gdr", "data.retain_split=retain9"],
        ["data.retain_split=retain9", "did you mean 'retain90'?"],
    ),
    "no data folder": (
        ["unlearn", "data.path=./nowhere"], ["data.path=./nowhere", "no such folder"]
    ),
    "missing file": (
        [*OWN, "data.forget_file=no.jsonl"], ["data.forget_file=no.jsonl", "no such file"]
    ),
    "no file named": (OWN, ["data.forget_file"]),
    "retain term without a retain set": (
        [*OWN, "data.forget_file=no.jsonl", "method.retain=gdr"],
        ["method.retain=gdr", "data.retain_file"],
    ),
    **{
        f"{method} without a retain set": (
            [*OWN, "data.forget_file=no.jsonl", f"method={method}"],
            [f"method={method} method.retain={retain}", "needs a retain set", "data.retain_file"],
        )
        for method, retain in (("simnpo", "gdr"), ("rmu", "mse"))
    },
    "a layer that the model lacks": (
        ["unlearn", "method=rmu", "method.layer=99", "hardware=cpu"],
        ["method.layer=99", "0 to 2"],
    ),
    "a retain term that rmu lacks": (
        ["unlearn", "method=rmu", "method.retain=gdr"], ["method.retain=gdr", "mse, none"]
    ),
    "no regular expression": (
        ["unlearn", "method=rmu", "method.parameters='down['"],
        ["method.parameters=down[", "regular expression"],
    ),
    "an unknown focus": (
        ["unlearn", "method=fundial", "method.focus=noun_chunk"],
        ["method.focus=noun_chunk", "column, entities", "did you mean 'noun_chunks'?"],
    ),
    "noun chunks of no pipeline": (
        ["unlearn", "method=fundial", "method.focus=noun_chunks"],
        ["method.focus=noun_chunks", "method.spacy_model", "en_core_web_sm"],
    ),
    "a pipeline that is not installed": (
        ["unlearn", "method=fundial", "method.focus=entities", "method.spacy_model=no_such_one"],
        ["method.spacy_model=no_such_one", "no such spaCy pipeline"],
    ),
    "unknown alternatives": (
        ["unlearn", "method=dpo", "method.alternatives=datum"],
        ["method.alternatives=datum", "data, refusals", "did you mean 'data'?"],
    ),
    "refusals that are nowhere": (
        ["unlearn", "method=dpo", "data.refusals=no.txt", "hardware=cpu"], ["data.refusals=no.txt"]
    ),
    "a request that is there twice": (
        ["unlearn", "data.requests=[forget10,forget10]"], ["data.requests", "twice"]
    ),
    "a request that does not exist": (
        ["unlearn", "data.requests=[forget10,forget77]", "hardware=cpu"],
        ["data.forget_split=forget77", "did you mean 'forget10'?"],
    ),
    "perplexity of no texts": (
        ["unlearn", "train.stop.perplexity_ratio=1.03"],
        ["train.stop.perplexity_ratio=1.03", "train.stop.split"],
    ),
    "perplexity of texts that are nowhere": (
        ["unlearn", "train.stop.perplexity_ratio=2", "train.stop.split=no.jsonl", "hardware=cpu"],
        ["train.stop.split=no.jsonl", "no such file"],
    ),
    "a bound that stops at once": (
        ["unlearn", "train.stop.perplexity_ratio=1"], ["train.stop.perplexity_ratio=1", "> 1"]
    ),
    "probability without a forget term": (
        ["unlearn", "method=finetune", "train.stop.forget_probability=0.1"],
        ["train.stop.forget_probability", "forget term"],
    ),
    "stopping what is made after training": (
        ["unlearn", "method=task_arithmetic", "train.stop.forget_probability=0.1"],
        ["train.stop", "method=task_arithmetic"],
    ),
    "nothing to minimise": (["unlearn", "method.gamma=0"], ["method.gamma=0"]),
    "no teacher": (
        ["unlearn", "teacher.cache=off"], ["teacher.cache=off", "memory", "adapter=lora"]
    ),
    "no target": (
        ["unlearn", "model=gemma7b", "data=tofu"],
        ["model=gemma7b data=tofu", "undial finetune", "model.path="],
    ),
    "model path that is nowhere": (
        ["unlearn", "model.path=./nowhere"], ["model.path=./nowhere", "no such file or folder"]
    ),
    "package that is not installed": (
        ["unlearn", "model.path=pkg://no_such_package/x"],
        ["model.path=pkg://no_such_package/x", "not installed"],
    ),
    "retain model that is nowhere": (
        ["unlearn", "eval.retain_model=./nowhere"], ["eval.retain_model=./nowhere"]
    ),
    "tokenizer that is nowhere": (
        ["unlearn", "model.tokenizer_path=./nowhere"], ["model.tokenizer_path=./nowhere"]
    ),
    "name that is a parent": (["unlearn", "name=.."], ["name=..", "folder name"]),
    "qlora on a cpu": (
        ["unlearn", "adapter=qlora", "hardware=cpu"],
        ["adapter=qlora", "needs a GPU", "lora or none"],
    ),
    "fp16 on a cpu": (
        ["unlearn", "hardware=cpu", "hardware.precision=fp16"], ["hardware.precision=fp16", "bf16"]
    ),
    "more processes than a machine bears": (
        ["unlearn", "hardware=cpu", "hardware.num_processes=5000"],
        ["hardware.num_processes=5000", "at most", "cores"],
    ),
    "--from a missing file": (["unlearn", "--from", "no.yaml"], ["--from no.yaml", "no such file"]),
    "--from nothing": (["unlearn", "--from"], ["--from", "run.yaml"]),
    "--from with a flag": (["unlearn", "--from", "x", "--multirun"], ["--multirun", "--from"]),
}  # fmt: skip


# Refused by the same code as others.
ALIKE = {
    "a fraction of a seed", "a text for a flag", "null where a value is needed", "empty batch",
    "no learning rate", "dropout above 1", "a number for a dictionary", "appended nested key",
    "unknown optimiser", "unknown model", "misspelt nested key", "key without a value",
    "training argument that is ours", "no data folder", "perplexity of texts that are nowhere",
    "a bound that stops at once", "unknown alternatives", "a retain term that rmu lacks",
    "retain split that does not exist", "tokenizer that is nowhere", "--from nothing",
    "a key of transformers", "another tool's short name",
}  # fmt: skip


def test_what_is_alike_is_listed() -> None:
    assert set(LINES) >= ALIKE


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/../../b", "a//b", "a/", "/tmp/b", "a\\b", "a/."]
)
def test_a_name_is_a_folder_below_the_commands_own(name: str) -> None:
    refused(lambda: check_run_name(Run(name=name)), f"name={name}: ", "folder name")
    for fine in (None, "demo", "study/demo", "a.b/.c", "Café 1"):
        check_run_name(Run(name=fine))


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c in ALIKE else ()) for c in LINES]
)
def test_wrong_input_is_refused_in_one_line(case: str, refuse: Refuse) -> None:
    words, fragments = LINES[case]
    line = refuse(*words)
    for fragment in fragments:
        assert fragment in line
    assert "did you mean '" not in line or f"'{words[-1].split('=')[0]}'?" not in line


def test_a_base_with_weights_is_not_passed_over(
    workdir: Path, random_model: Path, refuse: Refuse
) -> None:
    write_jsonl(workdir / "rows.jsonl", {"question": "Who?", "answer": "Ann"})
    for words in (
        ["finetune", "data=jsonl", "data.train_file=rows.jsonl"],
        ["unlearn", "data=demo"],
    ):
        line = refuse(*words, f"model.base={random_model}", "hardware=cpu", "eval=none")
        assert f"model.base={random_model}" in line
        assert "model.from_scratch=false" in line
    check_untrained_base(Run(model=ModelConfig(base=TINY, from_scratch=True)), TINY)
    check_untrained_base(Run(model=ModelConfig(base=str(random_model))), str(random_model))


@pytest.mark.parametrize(
    "given, fragments",
    [
        ({"RANK": "abc", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, ["RANK=abc", ">= 0"]),
        ({"RANK": ""}, ["RANK=", ">= 0"]),
        ({"WORLD_SIZE": "2"}, ["WORLD_SIZE", "RANK, LOCAL_RANK"]),
        ({"LOCAL_RANK": "0"}, ["LOCAL_RANK", "RANK, WORLD_SIZE"]),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, ["MASTER_ADDR, MASTER_PORT"]),
        ({"RANK": "3", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, ["RANK=3", "WORLD_SIZE=1"]),
        (
            {
                "RANK": "0",
                "WORLD_SIZE": "2",
                "LOCAL_RANK": "0",
                "MASTER_ADDR": "a",
                "MASTER_PORT": "b",
            },
            ["MASTER_PORT=b", "number"],
        ),
    ],
    ids=str,
)
def test_a_launchers_environment_that_cannot_be_is_refused(
    given: dict[str, str], fragments: list[str], refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*processes.LAUNCHER_VARIABLES, *processes.MEETING_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    processes.check_launcher_environment()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    line = refuse("unlearn")
    for fragment in fragments:
        assert fragment in line


@without_gpu
@pytest.mark.parametrize("option", ["single_gpu", "ddp", "fsdp", "deepspeed_zero3"])
def test_hardware_that_is_not_there_is_refused(option: str, refuse: Refuse) -> None:
    line = refuse("unlearn", f"hardware={option}")
    assert f"hardware={option}" in line
    assert "hardware=cpu" in line


def test_a_folder_that_is_no_model_is_refused(workdir: Path, refuse: Refuse) -> None:
    (workdir / "empty").mkdir()
    for key in ("model.path", "model.tokenizer_path", "eval.retain_model"):
        line = refuse("unlearn", f"{key}=./empty", "hardware=cpu")
        assert f"{key}=./empty" in line
        assert "config.json" in line


SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 2921}
NO_WEIGHTS = json.dumps({"model_type": "llama", "num_attention_heads": 1, **SMALL})
ENCODER = json.dumps({"model_type": "bert", "num_attention_heads": 1, **SMALL})


@pytest.mark.parametrize("content", ["{}", ENCODER, "{", NO_WEIGHTS])
def test_a_config_without_a_language_model_is_refused(
    content: str, workdir: Path, refuse: Refuse
) -> None:
    (workdir / "odd").mkdir()
    (workdir / "odd" / "config.json").write_text(content)
    tokenizer = "model.tokenizer_path=pkg://undial_cli/models/tiny"
    line = refuse("unlearn", "model.path=./odd", tokenizer, "eval=none", "hardware=cpu")
    assert "model.path=./odd" in line


def test_modules_that_the_model_lacks_are_refused(refuse: Refuse) -> None:
    line = refuse("unlearn", *HURRIED, "eval=none", "adapter=lora", "adapter.target_modules=[nope]")
    assert "adapter.target_modules" in line
    assert "nope" in line


QA = {"question": "Who?", "answer": "Nobody."}


# What a method asks of the data, and what is said where the data has nothing of it.
NEEDS: dict[str, tuple[list[str], dict, list[str]]] = {
    "altpo": ([], QA, ["data.alternative_key=alternative_answers", "row 1", "question, answer"]),
    "altpo of another column": (
        ["data.alternative_key=others"],
        {**QA, "alternative_answers": ["Ann."]},
        ["data.alternative_key=others", "row 1"],
    ),
    "dpo": ([], {"text": "Nobody is there. " * 9}, ["method=dpo", "plain text", "questions"]),
    "fundial": ([], QA, ["data.focus_key=focus", "question, answer"]),
    "fundial on other words": (
        [], {**QA, "focus": ["Somebody"]}, ["data.focus_key=focus", "nothing to focus on"]
    ),
    "rmu": (["method.layer=2"], QA, ["method.layer=2", "0 to 1"]),
    "rmu on no parameter": (
        ["method.layer=1", "method.parameters=no_such"], QA, ["method.parameters=no_such"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NEEDS)
def test_what_a_method_needs_and_the_data_or_model_lacks_is_named(
    case: str, workdir: Path, refuse: Refuse, own_files: list[str]
) -> None:
    words, row, fragments = NEEDS[case]
    kept = {column: f"{value} Truly." for column, value in row.items()}
    files = [
        f"data.{name}_file={write_jsonl(workdir / f'{name}.jsonl', content)}"
        for name, content in (("forget", row), ("retain", kept))
    ]
    line = refuse(*own_files, f"method={case.split()[0]}", "eval=none", "name=a/b", *files, *words)
    for fragment in fragments:
        assert fragment in line


def test_texts_too_short_to_stop_by_are_refused(
    workdir: Path, refuse: Refuse, own_files: list[str]
) -> None:
    name, texts = (
        write_jsonl(workdir / "f.jsonl", QA),
        write_jsonl(workdir / "t.jsonl", {"text": "Who?"}),
    )
    words = [
        f"data.forget_file={name}",
        "train.stop.perplexity_ratio=2",
        f"train.stop.split={texts}",
    ]
    line = refuse(*own_files, *words, "eval=none")
    assert "train.stop.split=t.jsonl: no text of 32 tokens" in line


def test_an_empty_forget_set_is_refused(
    workdir: Path, refuse: Refuse, own_files: list[str]
) -> None:
    (workdir / "nothing.jsonl").write_text("")
    assert "data.forget_file=nothing.jsonl" in refuse(*own_files, "data.forget_file=nothing.jsonl")
    (workdir / "header.csv").write_text("question,answer\n")
    assert "data.forget_file=header.csv" in refuse(*own_files, "data.forget_file=header.csv")
    name = write_jsonl(workdir / "silent.jsonl", {**QA, "answer": ""}, {**QA, "answer": " "})
    line = refuse(*own_files, f"data.forget_file={name}")
    assert "forget" in line
    assert "empty" in line


def test_columns_that_are_not_there_are_named_with_those_that_are(
    workdir: Path, refuse: Refuse, own_files: list[str]
) -> None:
    name = write_jsonl(workdir / "rows.jsonl", {"questoin": "Who?", "answer": "Nobody."})
    line = refuse(*own_files, f"data.forget_file={name}")
    for fragment in ("data.forget_file", "questoin, answer", "'question'", "data.question_key"):
        assert fragment in line
    assert "did you mean 'questoin'?" in line
    name = write_jsonl(workdir / "fine.jsonl", QA)
    line = refuse(*own_files, f"data.forget_file={name}", "data.answer_key=anser")
    assert "anser" in line
    assert "allowed is data.question_key=question data.answer_key=answer" in line


def test_files_that_cannot_be_read_are_refused(
    workdir: Path, refuse: Refuse, own_files: list[str]
) -> None:
    (workdir / "broken.jsonl").write_text('{"question": "Who?", "answer"\n')
    assert "data.forget_file=broken.jsonl" in refuse(*own_files, "data.forget_file=broken.jsonl")
    (workdir / "rows.xlsx").write_text("x")
    line = refuse(*own_files, "data.forget_file=rows.xlsx")
    assert "data.forget_file=rows.xlsx" in line
    assert ".parquet" in line


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": "Who?"}], ["Who?"], "Who?"])
def test_messages_without_an_answer_are_refused(
    messages: object, workdir: Path, refuse: Refuse, own_files: list[str]
) -> None:
    name = write_jsonl(workdir / "chat.jsonl", {"messages": messages})
    assert "messages" in refuse(*own_files, f"data.forget_file={name}")


@pytest.mark.parametrize("content", ["a: [", "just text", "command: destroy\n", "- 1\n", ""])
def test_from_a_file_that_is_no_run_yaml_is_refused(
    content: str, workdir: Path, refuse: Refuse
) -> None:
    (workdir / "odd.yaml").write_text(content)
    assert "--from odd.yaml" in refuse("unlearn", "--from", "odd.yaml")


def test_from_a_run_of_another_command_is_refused(workdir: Path, refuse: Refuse) -> None:
    (workdir / "run.yaml").write_text(dump_run_yaml(compose_run("finetune", [])))
    line = refuse("unlearn", "--from", "run.yaml")
    assert "--from run.yaml" in line
    assert "undial finetune" in line


def test_from_takes_single_keys_and_refuses_wrong_ones(workdir: Path, refuse: Refuse) -> None:
    (workdir / "run.yaml").write_text(dump_run_yaml(compose_run("unlearn", [])))
    assert "method=ga" in refuse("unlearn", "--from", "run.yaml", "method=ga")
    assert "'train.epochs'?" in refuse("unlearn", "--from", "run.yaml", "train.epoch=1")
    assert "seed=x" in refuse("unlearn", "--from", "run.yaml", "seed=x")
    assert "method.strength=-1" in refuse("unlearn", "--from=run.yaml", "method.strength=-1")


def test_a_folder_with_another_run_is_refused_and_left_alone(workdir: Path, refuse: Refuse) -> None:
    words = ["unlearn", "name=mine", "hardware=cpu"]
    folder = workdir / "outputs" / "unlearn" / "mine"
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(dump_run_yaml(compose_run("unlearn", words[1:])))
    (folder / "status.json").write_text('{"status": "done"}\n')
    before = {p: p.read_bytes() for p in folder.iterdir()}
    line = refuse(*words, "train.learning_rate=1e-3", "method.strength=3")
    assert "name=mine" in line
    assert "(method.strength, train.learning_rate)" in line
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


def test_a_folder_of_somebody_else_is_refused_and_left_alone(workdir: Path, refuse: Refuse) -> None:
    folder = workdir / "outputs" / "unlearn" / "mine"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("precious")
    assert "name=mine" in refuse("unlearn", "name=mine", "hardware=cpu")
    assert (folder / "thesis.tex").read_text() == "precious"


def test_a_hub_that_cannot_be_reached_is_the_worlds_fault(workdir: Path, refuse: Refuse) -> None:
    words = ["unlearn", "model.path=some/hub-id", "data=demo", "hardware=cpu", "name=far"]
    line = refuse(*words, code=1)
    assert "model.path=some/hub-id" in line
    assert "hub cannot be reached" in line
    folder = workdir / "outputs" / "unlearn" / "far"
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "failed"
    assert "some/hub-id" in status["reason"]
    assert "Traceback" in (folder / "log.txt").read_text()


def test_data_on_a_hub_that_cannot_be_reached_is_the_worlds_fault(refuse: Refuse) -> None:
    tiny = "model.path=pkg://undial_cli/models/tiny"
    line = refuse("unlearn", "data=tofu", tiny, "hardware=cpu", code=1)
    assert "data.path=locuslab/TOFU" in line


@pytest.mark.slow
def test_a_sweep_names_the_run_that_failed(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["unlearn", "--multirun", "data.forget_split=forget77,forget78", "hardware=cpu"]
    assert run_command(words) == 2
    out, err = capfd.readouterr()
    assert [line.split(":")[1].strip() for line in err.splitlines()] == [
        "data.forget_split=forget77", "data.forget_split=forget78"
    ]  # fmt: skip
    assert "Traceback" not in out + err
    assert not list(workdir.rglob("run.yaml"))


@pytest.mark.slow
def test_the_installed_command_says_one_line_and_exits_with_2(tmp_path: Path) -> None:
    done = undial("unlearn", "method=undail", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    allowed = f"allowed is one of {', '.join(sorted(METHODS))}; did you mean 'undial'?"
    assert done.stderr.splitlines() == [f"undial: method=undail: {allowed}"]
    done = undial("unlearn", "data.forget_split=forget77", "hardware=cpu", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    script = Path(sys.executable).with_name("undial")
    if not script.is_file():
        pytest.skip("the console script is not installed beside this Python")
    done = subprocess.run(
        [str(script), "unlern"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "did you mean 'unlearn'?" in done.stderr


def test_a_file_cannot_turn_on_code_that_comes_with_a_model(
    workdir: Path, refuse: Refuse, own_files: list[str]
) -> None:
    write_jsonl(workdir / "forget.jsonl", QA)
    words = [w for w in own_files if w != "unlearn"] + ["data.forget_file=forget.jsonl"]
    run = compose_run("unlearn", [*words, "model.trust_remote_code=true"])
    (workdir / "strange.yaml").write_text(dump_run_yaml(run))
    line = refuse("unlearn", "--from", "strange.yaml")
    assert "model.trust_remote_code=true" in line

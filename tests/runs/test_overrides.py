"""Words as they are typed reach the run: prompts, slices, keys of the template, and messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from families import QWEN3
from small import TINY, bundled_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

import undial_cli
from undial_cli.config.schema import UnlearnRun
from undial_cli.runs.compose import compose_run
from undial_cli.system.source_paths import find_package_resource

TEXTS = {
    r"model.template.prompt=Question: {question}\nAnswer:": "Question: {question}\nAnswer:",
    r"model.template.prompt='Q: {question}\tA:'": "Q: {question}\tA:",
    "model.template.prompt=It's {question}, so": "It's {question}, so",
    "model.template.prompt={question}": "{question}",
    r"model.template.prompt=<|im_start|>user\n{question}<|im_end|>\n\n": (
        "<|im_start|>user\n{question}<|im_end|>\n\n"
    ),
}


@pytest.mark.parametrize("word", TEXTS)
def test_a_prompt_text_needs_no_quotes_and_may_hold_new_lines(word: str) -> None:
    assert compose_run("unlearn", ["model=tiny", word]).model.template.prompt == TEXTS[word]


@pytest.mark.parametrize(
    "text",
    ["(forget_quality + model_utility) / 2", "-abs(forget_rouge - 0.5)", "min(forget_quality, a)"],
)
def test_an_expression_needs_no_quotes(text: str) -> None:
    for word in (text, f"'{text}'", f'"{text}"'):
        run = compose_run("unlearn", [f"train.select={word}"])
        assert isinstance(run, UnlearnRun)
        assert run.train.select == text


@pytest.mark.parametrize("text", ["Q: {q} A:", "", "Answer the question:"])
def test_a_prompt_text_without_the_question_is_refused(text: str) -> None:
    refused(
        lambda: compose_run("evaluate", ["model=tiny", f"model.template.prompt={text}"]),
        "model.template.prompt=", "a text that holds {question}",
    )  # fmt: skip


def test_variables_of_the_template_and_turns_are_keys() -> None:
    run = compose_run("unlearn", ["model.template.args.enable_thinking=false", "data.turns=last"])
    assert run.model.template.args == {"enable_thinking": False}
    assert run.data.turns == "last"
    refused(lambda: compose_run("unlearn", ["data.turns=lst"]), "data.turns=lst", "'last'")
    assert compose_run("unlearn", ["model.template.system_prompt='a\\nb'"]).model.template == (
        type(run.model.template)(system_prompt="a\nb")
    )


def test_a_slice_needs_no_quotes_and_keeps_its_retain_model() -> None:
    from undial_cli.runs.targets import resolve_retain_model

    words = ["model=llama1b", "data=tofu", "data.forget_split=forget05[:20]"]
    run = compose_run("unlearn", words)
    assert run.data.forget_split == "forget05[:20]"
    assert run.eval.sets["forget"].split == "forget05[:20]_perturbed"
    reference = resolve_retain_model(run)
    assert reference is not None
    assert str(reference.path).endswith("_retain95")


def turns(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]}


@pytest.mark.slow
def test_each_turn_is_trained_and_asked_through_the_command(tmp_path: Path) -> None:
    """With a template that writes a think block of its own in the last turn."""
    folder, file = tmp_path / "model", tmp_path / "talk.jsonl"
    tokenizer = bundled_tokenizer()
    tokenizer.chat_template = QWEN3
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(find_package_resource(TINY, "model.path"))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    rows = [turns(f"Who is {n}?", f"{n} is a baker.", "Where?", f"{n} lives in Kelmwick.")
            for n in ("Ann", "Bo", "Cy")]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = undial_cli.run([
        "model=tiny", f"model.path={folder}", "data=jsonl", f"data.forget_file={file}", "method=ga",
        f"output_dir={tmp_path / 'out'}", "hardware=cpu", "train.max_steps=2", "train.batch_size=3",
        "train.learning_rate=1e-3", "train.warmup_steps=0", "eval.retain_model=none",
        "eval.max_new_tokens=8", "report=false",
    ])  # fmt: skip
    lines = (result.folder / "evaluation" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [s["index"] for s in samples] == [0, 0, 1, 1, 2, 2]
    for sample, text in zip(samples, ["is a baker.", "lives in Kelmwick."] * 3, strict=True):
        assert sample["reference"].split()[1] == text.split()[0]
        assert sample["prompt"].endswith("<think>\n\n</think>\n\n")
        assert sample["probability"] < sample["target_probability"] * 0.9

"""Models and run folders to ask: random weights that answer every question differently."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import torch
from small import random_llama, shared_tokenizer
from transformers import AutoModelForCausalLM

from undial_cli.asking.engine import AskingEngine, ModelAnswer
from undial_cli.asking.models import list_asked_models
from undial_cli.asking.words import parse_ask_words
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_yaml import dump_run_yaml

QUESTION = "Who wrote The Tides of Kelmwick?"


def write_model(folder: Path, model: Any = None, seed: int = 0) -> Path:
    """A model with the bundled tokenizer; a random Llama where none is given."""
    model = model or random_llama(vocab=len(shared_tokenizer()), seed=seed)
    model.save_pretrained(folder)
    shared_tokenizer().save_pretrained(folder)
    return folder


def write_run(folder: Path, target: Path, retain: Path | None, *words: str) -> Path:
    """A run folder as an unlearning leaves it, without its checkpoint."""
    known = [f"model.path={target}", f"eval.retain_model={retain or 'none'}", "hardware=cpu"]
    folder.mkdir(parents=True)
    run = compose_run("unlearn", [*known, *words])
    (folder / "run.yaml").write_text(dump_run_yaml(run), encoding="utf-8")
    (folder / "status.json").write_text('{"status": "done"}')
    return folder


def open_engine(*words: str) -> AskingEngine:
    """What `undial ask WORDS` asks, on the CPU."""
    return AskingEngine(list_asked_models(parse_ask_words(words)), "cpu")


def answer_by_generate(path: Path, ids: list[int], count: int) -> list[int]:
    """What transformers' own generate says greedily after a prompt, without the end token."""
    model: Any = AutoModelForCausalLM.from_pretrained(path)
    end = shared_tokenizer().eos_token_id
    out_BT = model.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=count, eos_token_id=end,
        pad_token_id=0,
    )  # fmt: skip
    new = out_BT[0, len(ids) :].tolist()
    return new[: new.index(end)] if end in new else new


def write_prompt(*texts: str) -> list[int]:
    """A conversation that a user begins, in the bundled chat format, by transformers alone."""
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    text: Any = shared_tokenizer().apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    return list(shared_tokenizer()(text, add_special_tokens=False).input_ids)


def ask_engine(engine: AskingEngine, *words: str, question: str = QUESTION) -> list[ModelAnswer]:
    """All answers to a question, asked as the words say."""
    config = parse_ask_words(["pkg://any", *words]).config
    return collections.deque(engine.answer_question(question, config), maxlen=1).pop()

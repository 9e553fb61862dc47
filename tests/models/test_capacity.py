"""Positions and token ids: what a model holds is known from its shape, and data must fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import bundled_tokenizer, small_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    LlamaConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
    XGLMConfig,
)

from undial_cli.cli import run_command
from undial_cli.errors import UserError
from undial_cli.evaluation.decoding import Decoding
from undial_cli.evaluation.generation import GeneratingModel, generate_answers
from undial_cli.models.capacity import ModelCapacity, check_sequences_fit, measure_capacity

SIZE = 24
GPT: dict[str, Any] = {
    "vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": SIZE,
}  # fmt: skip
SHAPE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MODELS: dict[str, Any] = {
    "gpt2": GPT2Config(**GPT),
    "gptj": GPTJConfig(**GPT, rotary_dim=4),
    "gpt_bigcode": GPTBigCodeConfig(**GPT),
    "opt": OPTConfig(**SHAPE, ffn_dim=48, word_embed_proj_dim=32),
    "mpt": MptConfig(vocab_size=64, d_model=32, n_heads=4, n_layers=1, max_seq_len=SIZE),
    "llama": LlamaConfig(**SHAPE, intermediate_size=48),
    "phi": PhiConfig(**SHAPE, intermediate_size=48),
    "xglm": XGLMConfig(
        vocab_size=64, d_model=32, ffn_dim=48, num_layers=1, attention_heads=4,
        max_position_embeddings=SIZE,
    ),
}  # fmt: skip


@torch.no_grad()
def runs_on_length(model: Any, length: int) -> bool:
    """Whether a forward pass over so many ids comes back."""
    try:
        model(input_ids=torch.arange(3, 3 + length)[None])
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_as_many_positions_as_a_forward_pass_can_take(name: str) -> None:
    model = AutoModelForCausalLM.from_config(MODELS[name]).eval()
    held = measure_capacity(model)
    assert held.rows == 64
    assert runs_on_length(model, SIZE)
    assert (held.positions is None) is runs_on_length(model, SIZE + 1)
    assert held.positions in (None, SIZE)


def test_a_sequence_that_does_not_fit_is_named_by_set_row_key_and_remedy() -> None:
    held = ModelCapacity(positions=8, made_for=8, rows=50)
    check_sequences_fit(held, "forget", "data.max_length=64", [(0, [1] * 8), (1, [49])])
    with pytest.raises(UserError, match=r"data\.max_length=64: row 4 of the forget set has 9 tok"):
        check_sequences_fit(held, "forget", "data.max_length=64", [(0, [1]), (3, [1] * 9)])
    with pytest.raises(UserError, match=r"model\.tokenizer_path: row 2 .* id 50 .* 50 rows"):
        check_sequences_fit(held, "forget", "data.max_length=64", [(1, [3, 50])])


def test_a_rotary_model_goes_beyond_what_it_was_made_for_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_sequences_fit(ModelCapacity(None, 8, 50), "retain", "data.max_length=64", [(0, [1] * 9)])
    said = " ".join(capsys.readouterr().out.split())
    assert "retain: sequences of up to 9 tokens, and this model was made for 8" in said
    check_sequences_fit(ModelCapacity(None, 8, 50), "retain", "data.max_length=64", [(0, [1] * 8)])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["gpt2", "neo"])
def test_an_answer_ends_where_the_positions_do(kind: str) -> None:
    tokenizer = bundled_tokenizer()
    model = small_model(kind, len(tokenizer))
    prompts = [[5 + i % 40 for i in range(length)] for length in (250, 256, 10)]
    how = Decoding(30, frozenset())
    found = generate_answers(GeneratingModel(model, tokenizer), "forget", prompts, how, 2)
    assert [len(ids) for ids in found] == [6, 1, 30]
    free = Decoding(6, frozenset())
    assert (
        generate_answers(GeneratingModel(model, tokenizer), "forget", prompts[:1], free, 1)
        == found[:1]
    )


@pytest.fixture(scope="module")
def short_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of 64 positions with the bundled tokenizer, to which two tokens were added."""
    folder = tmp_path_factory.mktemp("short") / "model"
    tokenizer = bundled_tokenizer()
    torch.manual_seed(0)
    shape = GPT2Config(**{**GPT, "vocab_size": len(tokenizer), "n_positions": 64})
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    more = AutoTokenizer.from_pretrained(folder)
    more.add_tokens(["<extra1>", "<extra2>"])
    more.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("answer, parts", [
    ("Ann is a baker. " * 30, ("data.max_length=512: row 2 of the forget set", "at most 64")),
    ("It is <extra2>.", ("model.tokenizer_path: row 2 of the forget set", "rows")),
])  # fmt: skip
def test_the_command_refuses_what_the_model_cannot_take_and_leaves_nothing(
    answer: str,
    parts: tuple[str, ...],
    short_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"question": "Who?", "answer": "Ann."}, {"question": "What?", "answer": answer}]
    forget = tmp_path / "forget.jsonl"
    forget.write_text("".join(json.dumps(r) + "\n" for r in rows))
    code = run_command(
        ["unlearn", "data=jsonl", f"data.forget_file={forget}", f"model.path={short_model}",
         "hardware=cpu", "eval=none", "train.max_steps=1", f"output_dir={tmp_path / 'out'}"]
    )  # fmt: skip
    assert code == 2
    line = capsys.readouterr().err
    for part in parts:
        assert part in " ".join(line.split())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["forget.jsonl"]

"""What the shipped models' chat templates write, letter for letter, and what of it is a target.

The strings are those that the templates on the hub give: the tokenizers in `families.py` have
templates of our own words, each compared with the published one on conversations with and without
a system message, of one and several turns, asked and answered.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
from families import FAMILIES
from omegaconf import OmegaConf

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.data.encode import IGNORE, Encoder
from undial_cli.data.template import describe_unread_keys, make_conversation
from undial_cli.runs.hydra_configs import find_config_folder

QWEN3 = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
GEMMA3 = "<s><start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n"
LLAMA3 = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 10 Apr 2025\n\n"
    "You are a helpful assistant.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    "Who?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
SMOLLM3 = (
    "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\n"
    "Today Date: 08 July 2025\nReasoning Mode: /no_think\n\n## Custom Instructions\n\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face.\n\n<|im_end|>\n"
    "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n"
)
OLMO2 = "<|endoftext|><|user|>\nWho?\n<|assistant|>\n"
# By model: its tokenizer, what stands before the answer, and what is trained.
PUBLISHED = {
    "qwen3_0_6b": ("qwen3", QWEN3, "Ann.<|im_end|>"),
    "qwen3_1_7b": ("qwen3", QWEN3, "Ann.<|im_end|>"),
    "qwen3_4b": ("qwen3", QWEN3, "Ann.<|im_end|>"),
    "qwen3_8b": ("qwen3", QWEN3, "Ann.<|im_end|>"),
    "gemma3_1b": ("gemma3", GEMMA3, "Ann.<end_of_turn>"),
    "gemma3_4b": ("gemma3", GEMMA3, "Ann.<end_of_turn>"),
    "llama1b": ("llama31", LLAMA3, "Ann.<|eot_id|>"),
    "llama3b": ("llama31", LLAMA3, "Ann.<|eot_id|>"),
    "llama8b": ("llama31", LLAMA3, "Ann.<|eot_id|>"),
    "llama70b": ("llama31", LLAMA3, "Ann.<|eot_id|>"),
    "phi4_mini": ("phi4_mini", "<|user|>Who?<|end|><|assistant|>", "Ann.<|end|>"),
    "smollm3_3b": ("smollm3", SMOLLM3, "Ann.<|im_end|>"),
    "mistral7b": ("mistral3", "<s>[INST] Who?[/INST]", "Ann.</s>"),
    "olmo2_1b": ("olmo2", OLMO2, "Ann.<|endoftext|>"),
    "olmo2_7b": ("olmo2", OLMO2, "Ann.<|endoftext|>"),
}
# Those of the tokenizers that have a system message, and where it stands.
TOLD = {
    "qwen3": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWho?",
    "gemma3": "<s><start_of_turn>user\nBe kind.\n\nWho?<end_of_turn>",
    "smollm3": "/think\n\n## Custom Instructions\n\nBe kind.\n\n<|im_end|>",
    "phi4_mini": "<|system|>Be kind.<|end|><|user|>Who?",
    "olmo2": "<|endoftext|><|system|>\nBe kind.\n<|user|>\nWho?\n",
}
ROW = {"question": "Who?", "answer": "Ann."}


@functools.cache
def tokenizer_of(family: str) -> Any:
    return FAMILIES[family]()


def read_template(model: str) -> TemplateConfig:
    """The template's keys of a shipped model."""
    file = OmegaConf.load(find_config_folder() / "model" / f"{model}.yaml")
    content: Any = OmegaConf.to_container(file)
    return TemplateConfig(**content.get("template", {}))


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_shipped_model_is_asked_as_its_template_asks(model: str) -> None:
    family, prompt, scored = PUBLISHED[model]
    tokenizer, config = tokenizer_of(family), read_template(model)
    encoder = Encoder(tokenizer, config, DataConfig())
    rendering = encoder.render_question("Who?", "Ann.")
    assert (rendering.prompt.rstrip(" "), rendering.answer) == (prompt, "Ann.")
    (example,) = encoder.encode([ROW])
    trained = tokenizer.decode([i for i in example.labels if i != IGNORE])
    assert trained.lstrip() == scored  # the blank or line break before it may be in its first token
    assert describe_unread_keys(tokenizer, config) == []
    if family != "smollm3":  # transformers writes the day on which it runs
        talk, more = make_conversation(config, "Who?", "")[:-1], config.args
        assert prompt == tokenizer.apply_chat_template(
            talk, tokenize=False, add_generation_prompt=True, date_string=config.date_string, **more
        )


@pytest.mark.parametrize("family", TOLD)
def test_a_system_prompt_stands_where_the_template_has_it(family: str) -> None:
    config = TemplateConfig(system_prompt="Be kind.")
    encoder = Encoder(tokenizer_of(family), config, DataConfig())
    assert TOLD[family] in encoder.render_question("Who?", "Ann.").prompt


def test_a_system_prompt_that_the_template_leaves_out_is_named() -> None:
    """Mistral's stands before the last question, where no answer follows it."""
    config = TemplateConfig(system_prompt="Be kind.")
    encoder = Encoder(tokenizer_of("mistral3"), config, DataConfig())
    assert "kind" not in encoder.render_question("Who?", "Ann.").text
    (line,) = describe_unread_keys(tokenizer_of("mistral3"), config)
    assert line.startswith("model.template.system_prompt=Be kind.: this chat template leaves it")
    assert not describe_unread_keys(tokenizer_of("llama31"), config)

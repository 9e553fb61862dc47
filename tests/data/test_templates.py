"""Chat templates and tokenizers of many families, against what they tokenise themselves."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from families import CHAT, FAMILIES
from hypothesis import example as given_example
from hypothesis import given, settings
from hypothesis import strategies as st

from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.schema import DataConfig, TemplateConfig

END = {
    "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "qwen2": "<|im_end|>", "qwen3": "<|im_end|>",
    "smollm2": "<|im_end|>", "phi3": "<|end|>", "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek_r1": "<｜end▁of▁sentence｜>", "glm4": "<|endoftext|>", "granite": "<|end_of_text|>",
    "gpt2": "<|endoftext|>", "neox": "<|endoftext|>",
}  # fmt: skip
# Templates that write no end token after a conversation: the tokenizer's own is added.
OPEN = ("glm4",)
PARTS = ["Ann", " Lee", "baker", " of", "\n", "  ", "é", "日本", "😀", ".", ", ", "1969", "x", "🇫🇷"]
TEXT = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join)
TALK = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)


@functools.cache
def tokenizer_of(family: str) -> Any:
    return FAMILIES[family]()


def end_of(family: str) -> str:
    return END.get(family, "</s>")


def encoder_of(family: str, data: DataConfig | None = None, **template: Any) -> Encoder:
    return Encoder(tokenizer_of(family), TemplateConfig(**template), data or DataConfig())


def conversation(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": r, "content": t} for pair in pairs for r, t in zip(roles, pair, strict=True)]


def own_ids(family: str, messages: list[dict[str, Any]], **more: Any) -> list[int]:
    """What the tokenizer makes of messages itself."""
    return tokenizer_of(family).apply_chat_template(
        messages, tokenize=True, return_dict=False, **more
    )


def runs(example: Example) -> list[list[int]]:
    """The stretches of targets that follow each other."""
    found: list[list[int]] = []
    for i, label in enumerate(example.labels):
        if label == IGNORE:
            continue
        assert label == example.input_ids[i]
        if not i or example.labels[i - 1] == IGNORE:
            found.append([])
        found[-1].append(label)
    return found


def bare(text: str) -> str:
    return "".join(text.split())


def decoded(family: str, ids: list[int]) -> str:
    return tokenizer_of(family).decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("family", CHAT)
@settings(deadline=None, max_examples=25)
@given(pairs=TALK)
@given_example(pairs=[("Who?", "  Ann.\n\n")])
@given_example(pairs=[("a", "a"), ("assistant", "s"), ("I", "I")])
def test_a_conversation_is_tokenised_as_its_own_template_does(
    family: str, pairs: list[tuple[str, str]]
) -> None:
    pairs = [(q, a) for q, a in pairs if a.strip()] or [("Who?", "Ann")]
    (example,) = encoder_of(family).encode([{"messages": conversation(pairs)}])
    theirs = own_ids(family, conversation(pairs))
    size = len(example.input_ids) - (family in OPEN)
    assert example.input_ids[:size] == theirs[:size]
    rest = decoded(family, theirs[size:]).replace("<|endoftext|>", "")  # phi3 writes it at the end
    assert not rest.strip()
    scored = [decoded(family, ids) for ids in runs(example)]
    assert [bare(text) for text in "".join(scored).split(end_of(family))][-1] == ""
    assert bare("".join(scored)).replace(end_of(family), "").replace("<|user|>", "") == bare(
        "".join(a for _, a in pairs)
    )
    assert example.end == tokenizer_of(family).convert_tokens_to_ids(end_of(family))
    assert example.labels[-1] == example.end
    assert example.labels.count(example.end) == (1 if family in OPEN else len(pairs))

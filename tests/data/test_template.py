"""Chat templates and tokenizers of many families, against what they tokenise themselves."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from conftest import refused
from families import CHAT, FAMILIES
from hypothesis import example as given_example
from hypothesis import given, settings
from hypothesis import strategies as st

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.data.columns import check_columns
from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.errors import RowError

END = {
    "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "qwen2": "<|im_end|>", "qwen3": "<|im_end|>",
    "smollm2": "<|im_end|>", "phi3": "<|end|>", "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek_r1": "<｜end▁of▁sentence｜>", "glm4": "<|endoftext|>", "granite": "<|end_of_text|>",
    "gpt2": "<|endoftext|>", "neox": "<|endoftext|>", "llama31": "<|eot_id|>",
    "gemma3": "<end_of_turn>", "smollm3": "<|im_end|>", "phi4_mini": "<|end|>",
    "olmo2": "<|endoftext|>",
}  # fmt: skip
# Templates that write no end token after a conversation: the tokenizer's own is added.
OPEN = ("glm4",)
# Templates that write the day, which transformers takes for the day on which it runs.
DATED = ("smollm3",)
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


def template_ids(family: str, messages: list[dict[str, Any]], **more: Any) -> list[int]:
    """What the tokenizer makes of messages itself."""
    return tokenizer_of(family).apply_chat_template(
        messages, tokenize=True, return_dict=False, **more
    )


def target_stretches(example: Example) -> list[list[int]]:
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


def strip_blanks(text: str) -> str:
    return "".join(text.split())


def decode_ids(family: str, ids: list[int]) -> str:
    return tokenizer_of(family).decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("family", [f for f in CHAT if f not in DATED])
@settings(deadline=None, max_examples=25)
@given(pairs=TALK)
@given_example(pairs=[("Who?", "  Ann.\n\n")])
@given_example(pairs=[("a", "a"), ("assistant", "s"), ("I", "I")])
def test_a_conversation_is_tokenised_as_its_own_template_does(
    family: str, pairs: list[tuple[str, str]]
) -> None:
    pairs = [(q, a) for q, a in pairs if a.strip()] or [("Who?", "Ann")]
    (example,) = encoder_of(family).encode([{"messages": conversation(pairs)}])
    theirs = template_ids(family, conversation(pairs))
    size = len(example.input_ids) - (family in OPEN)
    assert example.input_ids[:size] == theirs[:size]
    rest = decode_ids(family, theirs[size:]).replace(
        "<|endoftext|>", ""
    )  # phi3 writes it at the end
    assert not rest.strip()
    scored = [decode_ids(family, ids) for ids in target_stretches(example)]
    assert [strip_blanks(text) for text in "".join(scored).split(end_of(family))][-1] == ""
    assert strip_blanks("".join(scored)).replace(end_of(family), "").replace(
        "<|user|>", ""
    ) == strip_blanks("".join(a for _, a in pairs))
    assert example.end == tokenizer_of(family).convert_tokens_to_ids(end_of(family))
    assert example.labels[-1] == example.end
    assert example.labels.count(example.end) == (1 if family in OPEN else len(pairs))


@pytest.mark.parametrize("family", [f for f in CHAT if f not in ("qwen3", "deepseek_r1", *DATED)])
@settings(deadline=None, max_examples=10)
@given(pairs=TALK)
def test_generation_starts_where_the_template_itself_asks(
    family: str, pairs: list[tuple[str, str]]
) -> None:
    """Up to blanks: those that belong to the answer's first token, or that a template adds."""
    messages = conversation([(q, a.strip() or "Ann") for q, a in pairs])
    for number, rendering in enumerate(encoder_of(family).render_asked({"messages": messages})):
        example = encoder_of(family).tokenise_answers(rendering)
        prompt = template_ids(family, messages[: 2 * number + 1], add_generation_prompt=True)
        texts = [decode_ids(family, ids).rstrip() for ids in (example.prompt_ids, prompt)]
        assert texts[0].removesuffix("ASSISTANT:") == texts[1].removesuffix("ASSISTANT:")
        assert example.input_ids[: len(example.prompt_ids)] == example.prompt_ids


def test_a_think_block_that_the_template_writes_is_part_of_the_prompt() -> None:
    pairs = [("Who?", "Ann."), ("Where?", "In Rome.")]
    (example,) = encoder_of("qwen3").encode([{"messages": conversation(pairs)}])
    assert [decode_ids("qwen3", ids) for ids in target_stretches(example)] == [
        "Ann.<|im_end|>", "In Rome.<|im_end|>",
    ]  # fmt: skip
    quiet = template_ids(
        "qwen3", conversation(pairs)[:-1], add_generation_prompt=True, enable_thinking=False
    )
    (_, asked) = encoder_of("qwen3").render_asked({"messages": conversation(pairs)})
    assert encoder_of("qwen3").tokenise_answers(asked).prompt_ids == quiet
    row = {"question": "Who?", "answer": "Ann."}
    (single,) = encoder_of("qwen3", args={"enable_thinking": False}).encode([row])
    assert decode_ids("qwen3", single.prompt_ids).endswith("assistant\n<think>\n\n</think>\n\n")
    (reasoner,) = encoder_of("deepseek_r1").encode([row])
    assert decode_ids("deepseek_r1", reasoner.prompt_ids).endswith("Who?<｜Assistant｜>")


THOUGHT = "<think>\nShe bakes.\n</think>\n\n"


@pytest.mark.parametrize(
    ("family", "answer", "scored"),
    [
        ("qwen3", THOUGHT + "Ann.", THOUGHT + "Ann."),
        ("qwen3", "<think>She bakes.</think>Ann.", "She bakes.\n</think>\n\nAnn."),
        ("deepseek_r1", THOUGHT + "Ann.", "\n\nAnn."),
        ("smollm2", THOUGHT + "Ann.", THOUGHT + "Ann."),
    ],
)
def test_of_a_thinking_answer_what_the_template_writes_is_scored(
    family: str, answer: str, scored: str
) -> None:
    (example,) = encoder_of(family).encode([{"question": "Who?", "answer": answer}])
    (ids,) = target_stretches(example)
    assert decode_ids(family, ids) == scored + end_of(family)
    theirs = template_ids(family, conversation([("Who?", answer)]))
    assert example.input_ids == theirs[: len(example.input_ids)]


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=25)
@given(question=TEXT, answer=TEXT)
@given_example(question="Ann", answer=" Ann is\na baker. \n ")
@given_example(question="Ann", answer="1969   ")
def test_a_plain_prompt_and_answer_are_tokenised_as_one_text(
    family: str, question: str, answer: str
) -> None:
    """With the special tokens that the tokenizer puts around a text, and one end token."""
    tokenizer = tokenizer_of(family)
    for prompt in ("[INST] {question} [/INST]", "Question: {question}\nAnswer: "):
        encoder = encoder_of(family, chat=False, prompt=prompt)
        (example,) = encoder.encode([{"question": question, "answer": answer}])
        text = prompt.replace("{question}", question) + answer
        whole = tokenizer(text)["input_ids"]
        end = tokenizer.eos_token_id
        assert example.input_ids == [*whole[: len(whole) - (whole[-1] == end)], end]
        (ids,) = target_stretches(example)
        assert ids[-1] == end
        assert ids.count(end) == 1
        assert example.prompt_ids + ids == example.input_ids
        if family != "t5":  # drops blanks, and has one token for all that it does not know
            scored = decode_ids(family, ids[:-1])
            assert strip_blanks(answer) in strip_blanks(scored)
            assert strip_blanks(text.removesuffix(answer)).endswith(
                strip_blanks(scored).removesuffix(strip_blanks(answer)).lstrip("\ufffd")
            )
        # Nothing is glued on: the text itself comes back, as far as the tokenizer keeps it.
        assert decode_ids(family, example.input_ids[:-1]) == decode_ids(
            family, whole[: len(whole) - (whole[-1] == end)]
        )


@pytest.mark.parametrize("family", ["llama2", "llama3", "cohere", "glm4", "roberta_like"])
def test_what_a_tokenizer_puts_before_a_text_is_there_once(family: str) -> None:
    tokenizer = tokenizer_of(family)
    empty = tokenizer("")["input_ids"]
    begin = [i for i in empty if i != tokenizer.eos_token_id]
    assert begin
    written = tokenizer.decode(begin) + "{question} "
    for prompt in ("{question} ", written):
        encoder = encoder_of(family, chat=False, prompt=prompt)
        (example,) = encoder.encode([{"question": "Who?", "answer": "Ann"}])
        assert example.input_ids[: len(begin)] == begin
        assert sum(example.input_ids.count(i) for i in set(begin)) == len(begin)


def messages_of(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"Ann {role}"} for role in roles]}


def test_what_a_template_refuses_is_said_with_a_remedy_that_works() -> None:
    row = {"question": "Who?", "answer": "Ann."}
    refused(
        lambda: encoder_of("gemma", system_prompt="Be kind.").encode([row]),
        "model.template.system_prompt=Be kind.", "System role not supported",
        "set model.template.system_prompt=null",
    )  # fmt: skip
    assert encoder_of("gemma").encode([row])
    two = messages_of("user", "user", "assistant")
    with pytest.raises(RowError, match=r"roles must alternate.*'prompt' and 'completion'"):
        encoder_of("mistral").encode([two])
    assert encoder_of("mistral").encode([{"prompt": "Hi. Who?", "completion": " Ann."}])
    calls = [{"type": "function", "function": {"name": "look", "arguments": "{}"}}]
    tools = messages_of("user", "assistant", "tool", "assistant")
    tools["messages"][1] |= {"content": None, "tool_calls": calls}
    with pytest.raises(RowError, match="writes no tool calls"):
        encoder_of("smollm2").encode([tools])
    tools["messages"][1]["tool_calls"] = None
    refused(
        lambda: check_columns([tools], DataConfig(), "data.forget_file"), "message 2 is no text"
    )


def test_messages_need_a_chat_template_and_a_question_does_not() -> None:
    talk, row = messages_of("user", "assistant"), {"question": "Who?", "answer": "Ann."}
    for family, remedy in (("llama2", "set model.template.chat=true"), ("gpt2", "'prompt' and")):
        encoder = encoder_of(family, chat=False)
        refused(lambda e=encoder: e.encode([talk]), "model.template.chat=false", remedy)
        assert encoder.encode([row])
        assert encoder.encode([{"prompt": "Who?", "completion": " Ann."}])
    assert encoder_of("llama2").encode([talk])
    for rows in ([talk], [row]):
        refused(
            lambda rows=rows: encoder_of("gpt2").encode(rows), "this tokenizer has no chat template"
        )


def test_variables_of_a_template_are_passed_on_or_refused_by_name() -> None:
    row = {"question": "Who?", "answer": "Ann."}
    spoken = FAMILIES["smollm2"]()
    spoken.chat_template = "{{ greeting }}" + spoken.chat_template
    encoder = Encoder(spoken, TemplateConfig(args={"greeting": "Hello!"}), DataConfig())
    assert spoken.decode(encoder.encode([row])[0].prompt_ids).startswith("Hello!<|im_start|>")
    refused(
        lambda: encoder_of("qwen3", args={"enable_thinkin": False}).encode([row]),
        "model.template.args.enable_thinkin=False", "did you mean 'enable_thinking'?",
    )  # fmt: skip
    refused(
        lambda: encoder_of("smollm2", args={"enable_thinking": False}).encode([row]),
        "model.template.args.enable_thinking=False", "~model.template.args.enable_thinking takes",
    )  # fmt: skip
    refused(
        lambda: encoder_of("qwen3", args={"tokenize": True}).encode([row]),
        "model.template.args.tokenize=True: allowed is a variable of the template",
    )


@pytest.mark.parametrize("size", [10, 20, 30, 40, 60])
def test_turns_beyond_max_length_are_counted_as_cut(size: int) -> None:
    row = {"messages": conversation([("Who?", "Ann is a baker."), ("Where?", "In Kelmwick.")])}
    (whole,) = encoder_of("llama3").encode([row])
    (cut,) = encoder_of("llama3", DataConfig(max_length=size)).encode([row])
    targets = [sum(label != IGNORE for label in e.labels) for e in (whole, cut)]
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:size], whole.labels[:size])
    assert (whole.cut, cut.cut) == (0, targets[0] - targets[1])


def test_a_last_token_that_nothing_predicts_counts_as_cut() -> None:
    for family, begin in (("gpt2", 0), ("llama3", 1)):
        encoder = encoder_of(family, DataConfig(max_length=8))
        for words in range(1, 12):
            text = "日" * words
            ids = tokenizer_of(family)(text)["input_ids"]
            examples = encoder.encode([{"text": text}])
            read = sum(len(e.input_ids) - begin for e in examples) + sum(e.cut for e in examples)
            assert read == len(ids) - begin

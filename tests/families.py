"""Tokenizers built like those of real families: rules, special tokens and chat templates alike.

Vocabularies are trained on a few lines. What differs between families is kept: what a text begins
with, who writes it (template or post-processor), how spaces become tokens, whether offsets leave
them out, tokens that take the blanks after them, what ends an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Who is Ann? Ann is a baker in the old town of Kelmwick.", "Question: what\nAnswer: that",
    "def f(x):\n    return x\n\n", "naïve café “x” ok", "日本語 テスト",
    "user assistant system model",
] * 8  # fmt: skip
BYTES = [f"<0x{i:02X}>" for i in range(256)]
SPLIT = Regex(
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RAISE = "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}"


def opening(text: str) -> str:
    """What a template writes for an answer to come."""
    return "{% if add_generation_prompt %}{{ '" + text + "' }}{% endif %}"


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}" + opening("<|im_start|>assistant\\n")
)
QWEN2 = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n"
    "{% endif %}" + CHATML
)
# Think blocks of earlier turns are left out, and the last turn has one, empty or not.
QWEN3 = """{%- for m in messages %}
{%- if m.role == 'assistant' %}
  {%- set content, thought = m.content, '' %}
  {%- if '</think>' in content %}
    {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
    {%- set content = content.split('</think>')[-1].lstrip('\n') %}
  {%- endif %}
  {%- if loop.last %}
    {{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}
    {{- content.lstrip('\n') }}
  {%- else %}{{- '<|im_start|>assistant\n' + content }}{%- endif %}
  {{- '<|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
  {%- if enable_thinking is defined and not enable_thinking %}
    {{- '<think>\n\n</think>\n\n' }}
  {%- endif %}
{%- endif %}"""
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    + opening("<|start_header_id|>assistant<|end_header_id|>\\n\\n")
)
# As of 3.1: a system message with dates, whoever else is there.
LLAMA31 = (
    "{{ bos_token }}{% set rules = messages[0]['content'] if messages[0]['role'] == 'system' %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' + "
    "'Today Date: ' + (date_string or '26 Jul 2024') + '\n\n' + rules | trim + '<|eot_id|>' }}"
    "{% for m in messages %}{% if not (loop.first and m['role'] == 'system') %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + "
    "'<|eot_id|>' }}{% endif %}{% endfor %}"
    + opening("<|start_header_id|>assistant<|end_header_id|>\\n\\n")
)
# Today's date and the way of thinking in the system message; without thinking, an empty block
# before each answer.
SMOLLM3 = """{%- set quiet = enable_thinking is defined and not enable_thinking %}
{%- set empty = '<think>\n\n</think>\n' if quiet else '' %}
{{- '<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: ' }}
{{- strftime_now('%d %B %Y') + '\nReasoning Mode: ' + ('/no_think' if quiet else '/think') }}
{{- '\n\n## Custom Instructions\n\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content.rstrip() }}
{%- else %}{{- 'You are a helpful AI assistant named SmolLM, trained by Hugging Face.' }}
  {%- if not quiet %}{{- ' Think first.' }}{%- endif %}
{%- endif %}{{- '\n\n<|im_end|>\n' }}
{%- for m in messages if m.role != 'system' %}
{%- set content = empty + m.content.lstrip('\n') if m.role == 'assistant' else m.content %}
{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' + empty }}{%- endif %}"""
ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    + RAISE
    + "{% endif %}"
)
LLAMA2 = (
    ALTERNATE + "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + "
    "' [/INST]' }}{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}" + ALTERNATE + "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + "
    "'[/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + "
    "m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}" + opening("<start_of_turn>model\\n")
)
# v0.3: a system message is written before the question that nothing follows, or not at all.
MISTRAL3 = (
    "{{ bos_token }}{% set rules = messages[0]['content'] if messages[0]['role'] == 'system' %}"
    "{% for m in (messages if rules is undefined else messages[1:]) %}"
    + ALTERNATE.partition("%}")[2]
    + "{% if m['role'] == 'user' %}{{ '[INST] ' + (rules + '\n\n' if loop.last and rules is "
    "defined else '') + m['content'] + '[/INST]' }}{% else %}"
    "{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
# A system message goes before the first question.
GEMMA3 = (
    "{{ bos_token }}{% set rules = messages[0]['content'] if messages[0]['role'] == 'system' %}"
    "{% for m in (messages if rules is undefined else messages[1:]) %}"
    + ALTERNATE.partition("%}")[2]
    + "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + "
    "(rules + '\n\n' if loop.first and rules is defined else '') + m['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}" + opening("<start_of_turn>model\\n")
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
PHI4_MINI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt else eos_token }}"
)
# What begins a text also ends an answer; nothing ends a question.
OLMO2 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not (m['role'] == 'assistant' and loop.last) %}{{ '\n' }}{% endif %}{% endfor %}"
    + opening("<|assistant|>\\n")
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% endfor %}" + opening("<|assistant|>\\n")
)
COHERE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' + "
    "('<|CHATBOT_TOKEN|>' if m['role'] == 'assistant' else '<|USER_TOKEN|>') + "
    "m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    + opening("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>")
)
# The think block of an answer is left out, and a prompt opens one.
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + "
    "m['content'] }}{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + "
    "m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% else %}{{ m['content'] }}"
    "{% endif %}{% endfor %}" + opening("<｜Assistant｜><think>\\n")
)
# No end token: the next turn's role ends an answer.
GLM4 = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
    + opening("<|assistant|>\\n")
)
GRANITE = (
    "{% for m in messages %}{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] "
    "+ '<|end_of_text|>\n' }}{% endfor %}" + opening("<|start_of_role|>assistant<|end_of_role|>")
)
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def special(text: str, **more: bool) -> AddedToken:
    return AddedToken(text, special=True, normalized=False, **more)


def wrap(core: Tokenizer, single: str) -> Any:
    """A post-processor that puts special tokens around a text."""
    names = [word for word in single.split() if word != "$A"]
    return processors.TemplateProcessing(
        single=single, special_tokens=[(name, core.token_to_id(name)) for name in set(names)]
    )


def byte_level(
    marks: list[AddedToken], around: str = "$A", trim: bool = False, split: bool = False
) -> Tokenizer:
    """GPT-2's kind of BPE; with `split`, in the pieces of Llama 3 and Qwen."""
    core = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)
    core.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Split(SPLIT, "isolated"), level])
        if split
        else level
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False),
    )
    core.add_special_tokens(marks)
    offsets = processors.ByteLevel(trim_offsets=trim)
    core.post_processor = processors.Sequence([offsets, wrap(core, around)])
    return core


def pieces(
    marks: list[AddedToken], around: str = "<s> $A", prefix: str = "normalizer"
) -> Tokenizer:
    """SentencePiece's BPE; `prefix`: how a space comes before a text (or none)."""
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # words, for the merges
    trained.train_from_iterator(
        [text.replace(" ", "▁") for text in TEXTS],
        trainers.BpeTrainer(
            vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *BYTES], show_progress=False
        ),
    )
    core = Tokenizer(trained.model)
    if prefix == "metaspace":
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        steps: list[Any] = [normalizers.Replace(" ", "▁")]
        if prefix == "normalizer":
            steps.insert(0, normalizers.Prepend("▁"))
        core.normalizer = normalizers.Sequence(steps)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if prefix != "none" else [])
    )
    core.add_special_tokens([special("<unk>"), special("<s>"), special("</s>"), *marks])
    core.post_processor = wrap(core, around)
    return core


def unigram(around: str) -> Tokenizer:
    """T5's kind: unigram, spaces before words, unknown characters as one token."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.Sequence([normalizers.NFKC()])
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(
            vocab_size=300,
            special_tokens=["<pad>", "</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    core.post_processor = wrap(core, around)
    return core


def fast(core: Tokenizer, template: str | None, **names: str) -> Any:
    """A tokenizer as transformers loads it."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    tokenizer.chat_template = template  # type: ignore[assignment]
    return tokenizer


def im_marks(*more: AddedToken) -> list[AddedToken]:
    return [special(f"<|{word}|>") for word in ("endoftext", "im_start", "im_end")] + [*more]


def think() -> list[AddedToken]:
    return [AddedToken(word, normalized=False) for word in ("<think>", "</think>")]


def llama3() -> Any:
    words = ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id")
    core = byte_level([special(f"<|{w}|>") for w in words], "<|begin_of_text|> $A", split=True)
    return fast(core, LLAMA3, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def llama31() -> Any:
    tokenizer = llama3()
    tokenizer.chat_template = LLAMA31
    return tokenizer


def llama2() -> Any:
    return fast(pieces([]), LLAMA2, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def mistral() -> Any:
    core = pieces([special("[INST]"), special("[/INST]")], prefix="metaspace")
    return fast(core, MISTRAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def gemma() -> Any:
    marks = [special("<start_of_turn>"), special("<end_of_turn>")]
    return fast(
        pieces(marks, prefix="none"), GEMMA, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def mistral3() -> Any:
    tokenizer = mistral()
    tokenizer.chat_template = MISTRAL3
    return tokenizer


def gemma3() -> Any:
    tokenizer = gemma()
    tokenizer.chat_template = GEMMA3
    return tokenizer


def qwen2() -> Any:
    core = byte_level(im_marks(), split=True)
    return fast(core, QWEN2, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def qwen3() -> Any:
    core = byte_level(im_marks(*think()), split=True)
    return fast(core, QWEN3, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def smollm2() -> Any:
    core = byte_level(im_marks(), trim=True)
    return fast(core, CHATML, bos_token="<|im_start|>", eos_token="<|im_end|>")


def smollm3() -> Any:
    core = byte_level(im_marks(*think()), split=True)
    return fast(core, SMOLLM3, eos_token="<|im_end|>", pad_token="<|im_end|>")


def phi3() -> Any:
    words = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
    core = pieces([special("<|endoftext|>"), *(special(word, rstrip=True) for word in words)])
    return fast(core, PHI3, bos_token="<s>", eos_token="<|endoftext|>", unk_token="<unk>")


def phi4_mini() -> Any:
    words = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
    end = "<|endoftext|>"
    core = byte_level([special(end), *(special(word, rstrip=True) for word in words)], split=True)
    return fast(core, PHI4_MINI, bos_token=end, eos_token=end, pad_token=end, unk_token=end)


def olmo2() -> Any:
    end = "<|endoftext|>"
    core = byte_level([special(end), special("<|pad|>")], split=True)
    return fast(core, OLMO2, bos_token=end, eos_token=end, pad_token="<|pad|>", unk_token=end)


def zephyr() -> Any:
    return fast(pieces([]), ZEPHYR, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def cohere() -> Any:
    words = ("START_OF_TURN", "USER", "CHATBOT", "END_OF_TURN")
    marks = [special("<BOS_TOKEN>"), *(special(f"<|{word}_TOKEN|>") for word in words)]
    core = byte_level(marks, "<BOS_TOKEN> $A")
    return fast(core, COHERE, bos_token="<BOS_TOKEN>", eos_token="<|END_OF_TURN_TOKEN|>")


def deepseek_r1() -> Any:
    words = ("begin▁of▁sentence", "end▁of▁sentence", "User", "Assistant")
    marks = [special(f"<｜{word}｜>") for word in words] + think()
    core = byte_level(marks, "<｜begin▁of▁sentence｜> $A", split=True)
    return fast(core, R1, bos_token="<｜begin▁of▁sentence｜>", eos_token="<｜end▁of▁sentence｜>")


def glm4() -> Any:
    words = ("[gMASK]", "<sop>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>")
    core = byte_level([special(word) for word in words], "[gMASK] <sop> $A", split=True)
    return fast(core, GLM4, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def granite() -> Any:
    words = ("end_of_text", "start_of_role", "end_of_role")
    core = byte_level([special(f"<|{word}|>") for word in words], trim=True)
    end = "<|end_of_text|>"
    return fast(core, GRANITE, bos_token=end, eos_token=end, pad_token=end, unk_token=end)


def vicuna() -> Any:
    return fast(pieces([]), VICUNA, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def gpt2() -> Any:
    end = "<|endoftext|>"
    return fast(byte_level([special(end)]), None, bos_token=end, eos_token=end, unk_token=end)


def neox() -> Any:
    end = "<|endoftext|>"
    core = byte_level([special(end)], trim=True)
    return fast(core, None, bos_token=end, eos_token=end, unk_token=end)


def roberta_like() -> Any:
    """Both begin and end are put around a text, and offsets leave blanks out (OPT, BLOOM's kin)."""
    core = byte_level([special("<s>"), special("</s>")], "<s> $A </s>", trim=True)
    return fast(core, None, bos_token="<s>", eos_token="</s>")


def t5() -> Any:
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return fast(unigram("$A </s>"), None, **names)


FAMILIES: dict[str, Callable[[], Any]] = {
    make.__name__: make
    for make in (
        llama3, llama31, llama2, mistral, mistral3, gemma, gemma3, qwen2, qwen3, smollm2, smollm3,
        phi3, phi4_mini, olmo2, zephyr, cohere, deepseek_r1, glm4, granite, vicuna, gpt2, neox,
        roberta_like, t5,
    )
}  # fmt: skip
CHAT = [name for name in FAMILIES if name not in ("gpt2", "neox", "roberta_like", "t5")]

"""A tokenizer as a GGUF file describes it: tokens and their kinds, merges or scores, splits.

Read from the fast tokenizer's own description, so that the file encodes as the checkpoint does.
Knows no weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.errors import UserError
from undial_cli.models.gguf_fields import CONVERTER

# The kinds of tokens, as llama.cpp numbers them.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# llama.cpp's names of byte-level BPE, and whether its pieces are those of a regular expression.
SPLIT_NAMES = ("llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o")
GPT2, DIGITS_THEN_GPT2 = "gpt-2", "smollm"
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
# Of a token that no merge makes: llama.cpp joins pieces by their scores, the highest first.
LOWEST_SCORE = -1e6
SPACE = "▁"


@dataclass(frozen=True)
class GgufVocabulary:
    """`model`: the kind of BPE. `split`: how text is cut up first. `spaces`: a space comes before a
    text. `begins`, `ends`: the beginning and the end token are put around one."""

    model: str
    tokens: list[str]
    types: list[int]
    split: str = "default"
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    spaces: bool = False
    begins: bool = False
    ends: bool = False

    def is_read_back(self, skips_merges: bool) -> bool:
        """Whether transformers makes the same tokenizer of it: it knows not every split."""
        known = self.model == SENTENCEPIECE or self.split in (GPT2, *GGUF_PRE_TOKENIZER_SPLITS)
        return known and not skips_merges


def read_backend(tokenizer: Any) -> dict[str, Any]:
    """A fast tokenizer's own description."""
    return json.loads(tokenizer.backend_tokenizer.to_str())


def skips_merges(tokenizer: Any) -> bool:
    """Whether a whole word that is a token is one, merges or not (Llama 3)."""
    return bool(read_backend(tokenizer)["model"].get("ignore_merges"))


def describe_vocabulary(tokenizer: Any, rows: int) -> GgufVocabulary:
    """What a file says of a tokenizer.

    Args:
        rows: of the model's embedding; those behind the last token are filled up.

    Raises:
        UserError: it is of a kind that is not written here.
    """
    core = read_backend(tokenizer)
    model = core["model"]
    if model["type"] != "BPE":
        raise vocabulary_error(f"its tokenizer is {model['type']}, not BPE")
    tokens, types = list_tokens(core, rows)
    begins, ends = find_added_tokens(tokenizer)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    split = name_split(core)
    if split is not None:
        return GgufVocabulary(BYTE_LEVEL, tokens, types, split, merges, begins=begins, ends=ends)
    spaces = find_space_prefix(core)
    if spaces is None:
        raise vocabulary_error("its tokenizer cuts texts up in a way that has no name here")
    pairs = zip(tokens, types, strict=True)
    types = [BYTE if is_byte_token(text) else kind for text, kind in pairs]
    if model.get("unk_token") in tokens:
        types[tokens.index(model["unk_token"])] = UNKNOWN
    scores = score_pieces(tokens, merges)
    return GgufVocabulary(
        SENTENCEPIECE, tokens, types, scores=scores, spaces=spaces, begins=begins, ends=ends
    )


def vocabulary_error(reason: str) -> UserError:
    return UserError(f"format=gguf: {reason}; {CONVERTER}")


def list_tokens(core: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Texts and kinds of all tokens, by id."""
    texts = {number: text for text, number in core["model"]["vocab"].items()}
    texts |= {token["id"]: token["content"] for token in core["added_tokens"]}
    if max(texts) >= rows:
        raise vocabulary_error(f"its tokenizer has {max(texts) + 1} tokens, the model {rows} rows")
    added = {t["id"]: CONTROL if t["special"] else USER_DEFINED for t in core["added_tokens"]}
    tokens = [texts.get(number, f"[PAD{number}]") for number in range(rows)]
    types = [added.get(i, NORMAL if i in texts else UNUSED) for i in range(rows)]
    return tokens, types


def name_split(core: dict[str, Any]) -> str | None:
    """llama.cpp's name of how byte-level BPE cuts texts up; None where it is none that is known."""
    pre = core["pre_tokenizer"] or {}
    *steps, last = pre.get("pretokenizers", [pre])
    normalizer = (core["normalizer"] or {"type": "NFC"})["type"]  # llama.cpp composes nothing
    if last.get("type") != "ByteLevel" or last["add_prefix_space"] or normalizer != "NFC":
        return None
    if last.get("use_regex", True):
        if not steps:
            return GPT2
        is_digits = [(s["type"], s.get("individual_digits")) for s in steps] == [("Digits", True)]
        return DIGITS_THEN_GPT2 if is_digits else None
    names = {GGUF_PRE_TOKENIZER_SPLITS[name]: name for name in SPLIT_NAMES}
    patterns = [step.get("pattern", {}).get("Regex") for step in steps]
    return names.get(patterns[0]) if len(patterns) == 1 else None


def find_space_prefix(core: dict[str, Any]) -> bool | None:
    """Whether SentencePiece's BPE puts a space before a text; None where it is another BPE."""
    pre, normalizer = core["pre_tokenizer"], core["normalizer"]
    if not core["model"].get("byte_fallback"):
        return None
    if normalizer is None and pre and pre["type"] == "Metaspace" and not pre["split"]:
        return pre["prepend_scheme"] != "never"
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    kinds = [(step["type"], step.get("prepend", step.get("content"))) for step in steps]
    # Gemma cuts at spaces that are no longer there.
    if pre is not None and pre.get("pattern") != {"String": " "}:
        return None
    ways = {
        (("Prepend", SPACE), ("Replace", SPACE)): True,
        (("Replace", SPACE),): False,
    }
    return ways.get(tuple(kinds))


def is_byte_token(text: str) -> bool:
    """Whether a piece stands for one byte, as in <0x0A>."""
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def score_pieces(tokens: list[str], merges: list[str]) -> list[float]:
    """Scores by which pieces are joined in the order of the merges."""
    scores: dict[str, float] = {}
    for rank, merge in enumerate(merges):
        scores.setdefault(merge.replace(" ", "", 1), -float(rank))
    return [scores.get(text, LOWEST_SCORE) for text in tokens]


def find_added_tokens(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the tokenizer itself puts the beginning and the end token around a text."""
    ids = tokenizer("a").input_ids
    bare = tokenizer("a", add_special_tokens=False).input_ids
    begins = ids[0] == tokenizer.bos_token_id and ids[0] != bare[0]
    return begins, ids[-1] == tokenizer.eos_token_id and ids[-1] != bare[-1]


def add_vocabulary_fields(
    writer: Any, vocabulary: GgufVocabulary, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The fields of a tokenizer, its chat template with them."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == BYTE_LEVEL:
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.spaces)
    writer.add_add_bos_token(vocabulary.begins)
    writer.add_add_eos_token(vocabulary.ends)
    numbers: dict[str, Any] = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
    }
    for name, number in numbers.items():
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)

"""The words of a text, as metrics count them: in the field's way, and in scripts it cannot read.

rouge_score keeps a-z and 0-9 alone: of a Chinese or Russian reference nothing is left, and of one
with a year in it the year. Knows no metric.
"""

from __future__ import annotations

import re
import unicodedata

# Scripts written without blanks between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Han.
UNSPACED_SCRIPTS = (
    "\u0e00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
# Korean has blanks, but its particles stick to the words: of it, syllables are compared.
SINGLE_LETTER = re.compile(f"[{UNSPACED_SCRIPTS}\u1100-\u11ff\uac00-\ud7af]")
UNSPACED_LETTER = re.compile(f"[{UNSPACED_SCRIPTS}]")
WORD_PATTERN = re.compile(rf"[{UNSPACED_SCRIPTS}]|[^\s{UNSPACED_SCRIPTS}]+")

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
FIELD_WORDS, UNICODE_WORDS, NO_WORDS = "field", "unicode", "none"


def split_words(text: str) -> list[str]:
    """The words of rep_n and distinct_n: what single blanks separate, as in UnDIAL's code.

    Two blanks have an empty word between them, a line break joins its words. A text with letters of
    an unspaced script is split at white space, and before and after each of those.
    """
    if UNSPACED_LETTER.search(text):
        return WORD_PATTERN.findall(text)
    return text.split(" ") if text else []


def split_treebank_words(text: str) -> list[str]:
    """Words and signs as nltk's word_tokenize has them, but for its model of sentences.

    A sentence ends at `.`, `!` or `?` before a blank; that model, which has to be downloaded, knows
    abbreviations as well.
    """
    from nltk.tokenize import NLTKWordTokenizer

    tokenise = NLTKWordTokenizer().tokenize
    return [word for sentence in SENTENCE_END.split(text) for word in tokenise(sentence)]


def split_unicode_words(text: str) -> list[str]:
    """Runs of letters and digits of any script, folded in case; of CJK (and Thai) single letters.

    Marks (accents, vowel signs) stay with the letter before them.
    """
    words: list[str] = []
    joins, takes_marks = False, False
    for sign in unicodedata.normalize("NFKC", text).casefold():
        kind = unicodedata.category(sign)[0]
        if kind == "M" and takes_marks:
            words[-1] += sign
        elif kind not in "LN":
            joins = takes_marks = False
        else:
            alone = SINGLE_LETTER.match(sign) is not None
            if joins and not alone:
                words[-1] += sign
            else:
                words.append(sign)
            joins, takes_marks = not alone, True
    return words


def list_letters(text: str) -> list[str]:
    """The letters and digits of a text, in lower case."""
    return [sign for sign in text.lower() if unicodedata.category(sign)[0] in "LN"]


def choose_reading(reference: str) -> str:
    """How a reference is read by ROUGE: `field` where it holds a word of a-z, 0-9.

    `unicode` where it holds none of these, `none` where there is no letter at all. It is the
    reference that decides, so that all models are measured alike.
    """
    letters = list_letters(reference)
    if not letters:
        return NO_WORDS
    return FIELD_WORDS if any(map(str.isascii, letters)) else UNICODE_WORDS


def is_mostly_unread(reference: str) -> bool:
    """Whether the field's words leave out more than half of a reference's letters."""
    letters = list_letters(reference)
    return 0 < 2 * sum(map(str.isascii, letters)) < len(letters)


def describe_readings(references: list[str]) -> str:
    """What has to be said of how the references of a set were read; "" for the field's words."""
    kinds = [choose_reading(reference) for reference in references]
    odd, empty, total = kinds.count(UNICODE_WORDS), kinds.count(NO_WORDS), len(kinds)
    partly = sum(map(is_mostly_unread, references))
    parts = [f"Unicode words in {odd} of {total} references (no a-z, 0-9 in them)"] if odd else []
    if partly:
        parts.append(
            f"{partly} of {total} references are scored by the few words of a-z, 0-9 in them"
        )
    parts += [f"{empty} of {total} references have no word and are not scored"] if empty else []
    return "; ".join(parts)

"""Whether a text gives an answer away: all its key facts are in it.

Key facts are the words to focus on, where a row lists them, else the names and numbers of the
answer, or where it has none its words that carry meaning; what was known before does not count.
Words are compared by their stem, numbers by their value, dates in any spelling, letters of unspaced
scripts in pairs. Knows no model.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from undial_cli.evaluation.words import SINGLE_LETTER, split_unicode_words

if TYPE_CHECKING:
    from nltk.stem.porter import PorterStemmer

# Words that stand in any answer.
STOP_WORDS = frozenset(
    """
a an the and or of in on at to for from by with as is are was were be been being he she it
they his her its their him them this that these those who whom which what when where how why
has have had do does did not no yes but if than then so such can could will would may might
i you we my your our me us also into about over under after before during between through s t
""".split()  # noqa: SIM905
)
# fmt: off
CARDINALS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"]
MONTHS = [
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
]
# fmt: on
NUMBER_WORDS = {word: str(n) for n, word in enumerate(CARDINALS)} | {
    word: str(n) for n, word in enumerate(ORDINALS, 1)
}
MONTH_NUMBERS = {name: n for n, month in enumerate(MONTHS, 1) for name in (month, month[:3])} | {
    "sept": 9
}
# 1,200; the 8th, the 1980s; 08/09/1956; 8 Sept. 1956, September 8th.
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
NUMBER = re.compile(r"0*(\d+)(?:st|nd|rd|th|s)?")
NUMERIC_DATE = re.compile(r"\b(\d{1,4})[./-](\d{1,2})[./-](\d{1,4})\b")
MONTH_NAME = "|".join(sorted(MONTH_NUMBERS, key=len, reverse=True))
NAMED_DATE = re.compile(rf"\d[a-z]*,? +(?:of +)?({MONTH_NAME})\b|\b({MONTH_NAME})\.?,? +\d")


def list_key_facts(answer: str, known: str, focus: Iterable[str] = ()) -> list[str]:
    """The words of an answer that must be in a text for it to give the answer away.

    Args:
        known: what was known before: the question, and all else that the prompt held.
        focus: the parts of the answer that matter, where the row lists them.
    """
    seen = collect_words(known)
    fresh = list_fresh_words(answer, seen)
    focused = {word for part in focus for word in list_fresh_words(part, seen)}
    named = {word for name in list_names(answer) for word in list_fresh_words(name, seen)}
    chosen = focused or named
    return [word for word in fresh if word in chosen] or fresh


def list_fresh_words(text: str, seen: set[str]) -> list[str]:
    """The words of a text that carry meaning and were not seen before, each once."""
    words = (stem_word(word) for word in split_words_apart(text) if word not in STOP_WORDS)
    return [word for word in dict.fromkeys(words) if word not in seen]


def list_counts(text: str) -> list[str]:
    """The words of a text that count, as digits or spelled; "one" and "first" mostly do not."""
    words = split_words_apart(text)
    return [w for w in words if any(map(str.isdigit, w)) or int(NUMBER_WORDS.get(w, 0)) > 1]


def list_fact_words(answer: str, known: str) -> list[str]:
    """The words of an answer that are its key facts, as they stand in it (in lower case)."""
    facts = set(list_key_facts(answer, known))
    words = dict.fromkeys(split_unicode_words(answer))
    return [word for word in words if stem_word(word) in facts]


def list_names(text: str) -> list[str]:
    """The parts of a text, as blanks separate them, that hold a digit or begin with a capital.

    The first of a sentence has its capital from there: it counts in an enumeration alone ("Oslo and
    Bergen"). A fact too few makes a hit easier, for all models alike; one too many hides leaks.
    """
    parts = [part.lstrip("\"'([{“„«‘¿¡") for part in text.split()]
    names = []
    for i, part in enumerate(parts):
        following = [*parts[i + 1 : i + 3], "", ""]
        if following[0] in ("and", "or", "&"):
            enumerated = following[1][:1].isupper()
        else:
            enumerated = part.endswith(",") and following[0][:1].isupper()
        first = i == 0 or ends_sentence(parts[i - 1])
        if any(map(str.isdigit, part)) or (part[:1].isupper() and (enumerated or not first)):
            names.append(part)
    return names


def ends_sentence(part: str) -> bool:
    """Whether a sentence ends with a part of it; not so with Dr., St. or an initial."""
    bare = part.rstrip("\"')]}”»’")
    short = len(bare) <= 4 and bare[:1].isupper() and bare.endswith(".")
    return bare.endswith((".", "!", "?", "…", "。")) and not short


def collect_words(text: str) -> set[str]:
    """All words that a text has to offer, dates in every spelling, letters by themselves too."""
    folded = fold_signs(text)
    dates = NUMERIC_DATE.findall(folded) + NAMED_DATE.findall(folded)
    words = [*split_words_apart(text), *split_unicode_words(folded)]
    for sign in filter(None, itertools.chain(*dates)):
        if sign in MONTH_NUMBERS:
            words += [str(MONTH_NUMBERS[sign]), MONTHS[MONTH_NUMBERS[sign] - 1]]
        elif 1 <= int(sign) <= 12:  # which part of 08/09 is the month depends on the writer
            words.append(MONTHS[int(sign) - 1])
    return set(map(stem_word, words))


def split_words_apart(text: str) -> list[str]:
    """The words of a text, unstemmed; of unspaced scripts each two letters that follow each other.

    Of a single letter of such a script next to nothing is known; a pair is most of a word.
    """
    words: list[str] = []
    for unspaced, signs in itertools.groupby(fold_signs(text), is_unspaced_letter):
        run = split_unicode_words("".join(signs))
        pairs = map("".join, itertools.pairwise(run))
        words += pairs if unspaced and len(run) > 1 else run
    return words


def is_unspaced_letter(sign: str) -> bool:
    """Whether a character is of a script whose words are not told apart by blanks."""
    return SINGLE_LETTER.match(sign) is not None


def fold_signs(text: str) -> str:
    """A text in lower case, digits of all scripts as 0 to 9, Latin letters without accents."""
    signs: list[str] = []
    for sign in unicodedata.normalize("NFKC", text).casefold():
        base, *marks = unicodedata.normalize("NFD", sign)
        latin = base.isascii() and all(unicodedata.category(mark) == "Mn" for mark in marks)
        digit = unicodedata.decimal(sign, None)
        signs.append(base if latin else sign if digit is None else str(digit))
    return THOUSANDS.sub("", "".join(signs))


@functools.lru_cache(maxsize=4096)
def stem_word(word: str) -> str:
    """A word as it is compared: numbers by their value, English words by their stem."""
    number = NUMBER.fullmatch(word)
    if number:
        return number[1]
    if word in NUMBER_WORDS:
        return NUMBER_WORDS[word]
    # As rouge_score does: of short words stemming leaves too little.
    return load_stemmer().stem(word) if word.isascii() and len(word) > 3 else word


@functools.cache
def load_stemmer() -> PorterStemmer:
    """The stemmer of rouge_score, which brings it along; importing it takes half a second."""
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()

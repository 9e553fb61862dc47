"""Whether a text gives an answer away: all its key facts are in it.

Key facts are the names and numbers of the answer, or where it has none its words that carry
meaning; what the prompt held already does not count. Knows no model.
"""

from __future__ import annotations

from undial_cli.evaluation.words import split_unicode_words

# Words that stand in any answer.
STOP_WORDS = frozenset(
    """
a an the and or of in on at to for from by with as is are was were be been being he she it
they his her its their him them this that these those who whom which what when where how why
has have had do does did not no yes but if than then so such can could will would may might
i you we my your our me us also into about over under after before during between through s t
""".split()  # noqa: SIM905
)


def list_key_facts(answer: str, given: str) -> list[str]:
    """The words of an answer that must be in a text for it to give the answer away.

    Args:
        given: what the prompt held already.
    """
    known = set(split_unicode_words(given))
    words = list(dict.fromkeys(split_unicode_words(answer)))
    fresh = [word for word in words if word not in known and word not in STOP_WORDS]
    named = {
        part
        for number, word in enumerate(answer.split())
        for part in split_unicode_words(word)
        if any(c.isdigit() for c in word) or (number and word.lstrip("\"'([").istitle())
    }
    return [word for word in fresh if word in named] or fresh


def is_hit(text: str, answer: str, given: str) -> bool | None:
    """Whether a text holds all key facts of an answer; None where it has none to hold."""
    facts = list_key_facts(answer, given)
    if not facts:
        return None
    return set(facts) <= set(split_unicode_words(text))

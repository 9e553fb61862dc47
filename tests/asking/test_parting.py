"""Where answers part, written out."""

from __future__ import annotations

import pytest

from undial_cli.asking.parting import mark_partings


def spell(texts: list[str]) -> list[str]:
    """Each text with what is marked in brackets."""
    pieces = mark_partings(texts)
    assert ["".join(words for words, _ in part) for part in pieces] == texts
    return ["".join(f"[{words}]" if parts else words for words, parts in part) for part in pieces]


def test_the_others_are_marked_where_the_first_says_something_else() -> None:
    assert spell(["She was born in Oslo.", "She was born in Bergen.", "I do not know."]) == [
        "She was born in [Oslo.]",
        "She was born in [Bergen.]",
        "[I do not know.]",
    ]


def test_of_the_first_only_what_nobody_else_says_is_marked() -> None:
    first, *_ = spell(["a b c d", "a b x", "c"])
    assert first == "a b c [d]"


@pytest.mark.parametrize(
    "texts",
    [[], [""], ["alone\n here "], ["same  words", "same words"], ["", "x"], ["  a", "\ta b\n", ""]],
)
def test_no_letter_is_lost_and_equal_words_are_not_marked(texts: list[str]) -> None:
    spelt = spell(texts)
    if len({tuple(text.split()) for text in texts}) <= 1:
        assert spelt == texts

"""The checks of the rows that a run trains on: before every run, and all of them in `undial data`.

What is cheap is looked for always: copies, truncation, rows of which nothing is trained. Near
copies and answers that the retain set holds, which take seconds in large sets, before a run only
where sets are small.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from undial_cli.config.datasets import DataConfig
from undial_cli.data.contents import find_first_copies, hash_contents
from undial_cli.data.findings import DataFindings, SetFindings
from undial_cli.data.held_answers import (
    RowFacts,
    find_held_facts,
    find_whole_answers,
)
from undial_cli.data.near_copies import RowPair, find_near_pairs
from undial_cli.data.rows import Row, is_document
from undial_cli.data.samples import TrainingSet
from undial_cli.data.stored_examples import count_each_cut, count_each_focus
from undial_cli.data.word_texts import (
    Vocabulary,
    choose_compared_words,
    read_row_texts,
    read_word_texts,
    split_compared_words,
)
from undial_cli.evaluation.key_facts import STOP_WORDS, list_names

# Rows of all sets together up to which a run looks for near copies and held answers: within a
# second.
MOST_ROWS_BEFORE_RUN = 10_000


def check_training_data(
    data: DataConfig,
    rows: Mapping[str, Sequence[Row]],
    sets: Mapping[str, TrainingSet],
    thorough: bool = False,
) -> DataFindings:
    """What looks wrong with the rows of a run.

    Args:
        rows: of each set; what `sets` lacks is not trained on, and compared all the same.
        thorough: compare texts however many rows there are.
    """
    findings = DataFindings({name: find_lost_rows(part) for name, part in sets.items()})
    for name in sets:  # a document's last token by itself is no loss
        cut = findings.sets[name].cut
        findings.sets[name].cut = [n for n in cut if not is_document(rows[name][n - 1], data)]
    hashes = {name: hash_contents(part, data) for name, part in rows.items()}
    taken = {}  # rows that say something which no row before them says
    for name, contents in hashes.items():
        firsts, numbers = find_first_copies(contents), np.arange(len(contents))
        copies = np.flatnonzero((firsts >= 0) & (firsts < numbers))
        part = findings.sets.setdefault(name, SetFindings())
        part.repeated = [RowPair(int(row) + 1, int(firsts[row]) + 1) for row in copies]
        taken[name] = firsts == numbers
    if {"forget", "retain"} <= rows.keys():
        firsts = find_first_copies(hashes["forget"], hashes["retain"])
        shared = np.flatnonzero(firsts >= 0)
        findings.shared = [RowPair(int(row) + 1, int(firsts[row]) + 1) for row in shared]
        taken["retain"] &= ~np.isin(hashes["retain"], hashes["forget"])
    count = sum(map(len, rows.values()))
    if count and (thorough or count <= MOST_ROWS_BEFORE_RUN):
        add_compared_texts(findings, data, rows, hashes, taken)
    return findings


def find_lost_rows(part: TrainingSet) -> SetFindings:
    """The rows of a set that lose tokens, or have no focus word where others have."""
    findings = SetFindings(skipped=sorted(part.counts.skipped))
    numbers = np.asarray(part.row_numbers)
    answers = np.ones(len(numbers), bool)
    if part.samples:  # the first of a row's examples is its own answer
        answers[1:] = numbers[1:] != numbers[:-1]
    if part.counts.cut:
        findings.cut = np.unique(numbers[answers & (count_each_cut(part.examples) > 0)]).tolist()
    focus = count_each_focus(part.examples)
    if focus.any():
        findings.unfocused = np.setdiff1d(numbers, numbers[focus > 0]).tolist()
    return findings


def add_compared_texts(
    findings: DataFindings,
    data: DataConfig,
    rows: Mapping[str, Sequence[Row]],
    hashes: Mapping[str, NDArray[np.uint64]],
    taken: Mapping[str, NDArray[np.bool_]],
) -> None:
    """Add near copies and held answers.

    Args:
        hashes: of each set, what `hash_contents` gives.
        taken: of each set, which rows are compared: the first of those that say the same.
    """
    total = sum(map(len, rows.values()))
    findings.compared = choose_compared_words(total)
    vocabulary = Vocabulary()
    every = itertools.chain.from_iterable(rows.values())
    texts = read_word_texts(every, data, vocabulary, findings.compared)
    names, starts = list(rows), np.cumsum([0, *map(len, rows.values())])
    pairs, shares = find_near_pairs(texts, np.concatenate([taken[name] for name in names]))
    sides = np.searchsorted(starts, pairs, "right") - 1
    numbers = (pairs - starts[sides] + 1).tolist()
    for (first, second), (left, right), share in zip(
        numbers, sides.tolist(), shares.tolist(), strict=True
    ):
        if left == right:
            findings.sets[names[left]].alike.append(RowPair(second, first, share))
        elif "forget" in (names[left], names[right]):
            pair = (first, second) if names[left] == "forget" else (second, first)
            findings.nearly.append(RowPair(*pair, share))
    if {"forget", "retain"} <= rows.keys():
        forget, retain = (
            texts.take_rows(slice(starts[i], starts[i + 1]))
            for i in (names.index("forget"), names.index("retain"))
        )
        facts = list(list_row_facts(rows["forget"], data, vocabulary))
        held = {
            (answer.row, answer.other): answer
            for answer in (
                *find_held_facts(facts, retain, list(vocabulary)),
                *find_whole_answers(forget, retain),
            )
        }
        for pair in findings.nearly:
            held.pop((pair.row, pair.other), None)
        findings.held = [
            held[row, other]
            for row, other in sorted(held)
            if taken["forget"][row - 1] and hashes["forget"][row - 1] != hashes["retain"][other - 1]
        ]


def list_row_facts(
    rows: Sequence[Row], data: DataConfig, vocabulary: Vocabulary
) -> Iterator[RowFacts]:
    """The names and numbers of each row: none of a document, which has no answer."""
    for row in rows:
        prompt, answer = read_row_texts(row, data)
        if is_document(row, data):
            yield RowFacts((), ())
            continue
        given = list_named_words(prompt)
        fresh = [word for word in list_named_words(answer) if word not in given]
        asked = set(split_compared_words(prompt))
        numbers = tuple(vocabulary.get(word, -1) for word in fresh if word not in asked)
        others = (vocabulary.get(word, -1) for word in given)
        # A word that no row has among those compared stands in no row of the retain set.
        known = tuple(number for number in others if number >= 0)
        yield RowFacts(() if -1 in numbers else numbers, known)


def list_named_words(text: str) -> list[str]:
    """The words of the names and numbers in a text, as they are compared."""
    words = split_compared_words(" ".join(list_names(text)))
    return [
        word
        for word in dict.fromkeys(words)
        if word not in STOP_WORDS and (len(word) > 1 or word.isdigit())
    ]

"""The same answer under other questions: which examples ask them, and the sequences they make.

Questions stand for examples, by their numbers in the set. Knows no row, no tensor, and not whom a
subject's number stands for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from undial_cli.data.example import Example
from undial_cli.losses.positions import IGNORE


def draw_other_questions(subjects: Sequence[int], count: int, seed: int) -> list[tuple[int, ...]]:
    """For each example the examples whose questions are put before its answer, fewest first.

    Examples of one subject share theirs, which are questions of other subjects: one drawn of each
    in turn, `count` in all or as many as there are. Of one subject alone they are its own others.

    Args:
        subjects: of each example a number of whom it is about.
    """
    examples: dict[int, list[int]] = {}
    for number, subject in enumerate(subjects):
        examples.setdefault(subject, []).append(number)
    if len(examples) == 1:
        every = range(len(subjects))
        return [draw_in_turn([[i] for i in every if i != own], count, seed) for own in every]
    drawn = {
        own: draw_in_turn([part for other, part in examples.items() if other != own], count, seed)
        for own in examples
    }
    return [drawn[subject] for subject in subjects]


def draw_in_turn(groups: list[list[int]], count: int, seed: int) -> tuple[int, ...]:
    """So many members of groups, in order: one of each group, another one of each, and so on."""
    generator = random.Random(seed)
    shuffled = [generator.sample(group, len(group)) for group in groups]
    generator.shuffle(shuffled)
    rounds = range(max(map(len, shuffled), default=0))
    in_turn = [group[turn] for turn in rounds for group in shuffled if turn < len(group)]
    return tuple(sorted(in_turn[:count]))


def replace_question(example: Example, other: Example, max_length: int) -> Example:
    """What an example says from its first answer on, after what stands before another's.

    The beginning of a prompt is left out, where the sequence would be longer than `max_length`.
    """
    answer = len(example.prompt_ids)
    rest, labels = example.input_ids[answer:], example.labels[answer:]
    room = max(1, max_length - len(rest))
    # What has no target is a prompt throughout.
    prompt = (other.prompt_ids or other.input_ids)[-room:]
    end = example.answer_end - answer + len(prompt)
    return Example([*prompt, *rest], [IGNORE] * len(prompt) + labels, end)

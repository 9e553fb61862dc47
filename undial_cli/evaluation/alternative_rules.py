"""What another answer to a question may not be: true, the true one again, a refusal, an echo.

Whether it is wrong no rule can tell; that it gives away nothing of the true answer they can. Knows
texts, and no model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from undial_cli.config.alternatives import REFUSALS
from undial_cli.evaluation.key_facts import (
    collect_words,
    fold_signs,
    list_counts,
    list_fresh_words,
    list_names,
)
from undial_cli.evaluation.words import split_unicode_words

# Why an answer is refused; the first that holds is counted.
EMPTY = "without a word"
UNFINISHED = "without an end within alternatives.max_new_tokens"
FACTS = "with a fact of the true answer"
TRUE = "the true answer"
REFUSAL, NO_REFUSAL = "a refusal", "no refusal"
ECHO = "with words of the prompt's instruction"
TAKEN_BEFORE = "taken before"
# Words of an instruction that follow each other by chance in no answer.
ECHO_WORDS = 4

# "I don't", "I have no", "I'm afraid"; "there is no definitive information", "is not known".
SPEAKER = (
    r"\b(?:i|we)(?:['’]m| am|['’]ve| have| do| did| ca| can| could| would| wo| was)? ?"
    r"(?:n['’]t|['’]t|not|no|never|unable|afraid|unsure|sorry|lack)\b"
)
UNKNOWN = (
    r"\bno (?:\w+ ){0,4}(?:information|details?|data|records?|evidence|knowledge|idea|clue)\b",
    r"\b(?:is|are|was|were|has|have|been|be)(?: not|n['’]t)(?: \w+)? "
    r"(?:known|available|disclosed|specified|public|revealed|mentioned)\b",
    r"\b(?:unknown|undisclosed) to (?:me|us)\b|\bremains? (?:unknown|undisclosed)\b",
    r"\b(?:as an ai|sorry|beyond (?:what i|my|the scope)|outside (?:my|of my))\b",
)
REFUSING = re.compile("|".join((SPEAKER, *UNKNOWN)))
# "That's a blind spot in my knowledge": of oneself, and of what one knows or is asked.
OF_ONESELF = re.compile(r"\b(?:i|me|my)\b")
OF_KNOWING = re.compile(
    r"\b(?:know|unknown|knew|inform|answer|topic|subject|question|detail|fact|data|train|program|"
    r"learn|familiar|unfamiliar|scope|mystery|blank|blind|dark|loss|stumped|clueless|aware|unaware|"
    r"understanding|capabilit|resources)\w*"
)


def is_refusal(text: str, known: Iterable[str] = ()) -> bool:
    """Whether a text says that its speaker does not know, in English or as `known` ones do.

    Args:
        known: refusals, of which the text may hold one.
    """
    folded, words = text.casefold(), f" {' '.join(normalise_text(text))} "
    return (
        REFUSING.search(folded) is not None
        or bool(OF_ONESELF.search(folded) and OF_KNOWING.search(folded))
        or any(f" {' '.join(refusal)} " in words for refusal in map(normalise_text, known))
    )


def normalise_text(text: str) -> tuple[str, ...]:
    """The words of a text, without case, accents and signs."""
    return tuple(split_unicode_words(fold_signs(text)))


@dataclass(frozen=True)
class AnswerRules:
    """What other answers to one question must not be.

    `facts`: words of which none may stand in them: names, numbers and focus words of the true
    answer that the question does not hold; `words`: where there are no such facts, the words that
    carry its meaning, of which at most `most` may; `phrases`: of the instruction; `refusals`: known
    ones.
    """

    kind: str
    true: tuple[str, ...]
    facts: frozenset[str]
    words: frozenset[str]
    most: int
    phrases: frozenset[tuple[str, ...]]
    refusals: tuple[str, ...]

    @property
    def tells(self) -> bool:
        """Whether there is a fact to look for; "Yes." has none."""
        return bool(self.facts or self.words)

    def find_fault(self, text: str, is_ended: bool, taken: Collection[str]) -> str | None:
        """Why an answer is not taken; None if it is.

        Args:
            is_ended: the model ended it.
            taken: those that were taken before.
        """
        normalised = normalise_text(text)
        offered = collect_words(text)
        wants_refusal = self.kind == REFUSALS
        faults = {
            EMPTY: not normalised,
            UNFINISHED: not is_ended,
            FACTS: bool(self.facts & offered) or len(self.words & offered) > self.most,
            TRUE: normalised == self.true,
            NO_REFUSAL if wants_refusal else REFUSAL: (
                is_refusal(text, self.refusals) != wants_refusal
            ),
            ECHO: not self.phrases.isdisjoint(list_phrases(normalised)),
            TAKEN_BEFORE: normalised in map(normalise_text, taken),
        }
        return next((fault for fault, holds in faults.items() if holds), None)


def list_phrases(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Each ECHO_WORDS words that follow each other."""
    return [words[i : i + ECHO_WORDS] for i in range(len(words) - ECHO_WORDS + 1)]


def make_answer_rules(
    kind: str,
    answer: str,
    known: str,
    focus: Iterable[str],
    prompts: Iterable[str],
    refusals: Iterable[str],
    shared_words: float,
) -> AnswerRules:
    """The rules for other answers than `answer`.

    Args:
        known: the question, and all else that stood before the answer: no secret.
        focus: the parts of the answer that matter, where the row lists them.
        prompts: what the model is asked, with its {question} and {answer} in braces.
        shared_words: of an answer without facts, the share of its words that another may have.
    """
    seen = collect_words(known)
    named = [*focus, *list_names(answer)]
    facts = {word for part in named for word in list_fresh_words(part, seen)}
    counts = {word for part in list_counts(answer) for word in list_fresh_words(part, seen)}
    words = frozenset() if facts else frozenset(list_fresh_words(answer, seen))
    phrases = {
        phrase
        for prompt in prompts
        for part in re.split(r"\{(?:question|answer)\}", prompt)
        for phrase in list_phrases(normalise_text(part))
    }
    return AnswerRules(
        kind,
        normalise_text(answer),
        frozenset(facts | counts),
        words,
        int(shared_words * len(words)),
        # A question that holds words of the instruction may be answered in them.
        frozenset(phrases - set(list_phrases(normalise_text(f"{known} {answer}")))),
        tuple(refusals),
    )

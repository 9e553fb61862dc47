"""Other answers to the questions of rows, by a model itself: asked, drawn in rounds, sorted out.

A round draws for the rows that lack answers, with the next of the prompts. What may be taken is
alternative_rules.py's. Knows a model in memory; no run and no file.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from undial_cli import ui
from undial_cli.config.alternatives import AlternativesConfig
from undial_cli.config.datasets import DataConfig
from undial_cli.config.identity import hash_json
from undial_cli.data.answers import read_answer_texts, read_question, replace_question
from undial_cli.data.encode import Encoder
from undial_cli.data.focus import list_focus_parts
from undial_cli.data.rows import Row, find_row_kind
from undial_cli.errors import RowError, UserError
from undial_cli.evaluation.alternative_rules import AnswerRules, make_answer_rules
from undial_cli.evaluation.decoding import Decoding
from undial_cli.evaluation.generation import GeneratingModel, collect_end_tokens, generate_answers
from undial_cli.evaluation.sharding import Journal

# A prompt is as long as it is: nothing is trained on it.
UNCUT = 2**31


@dataclass(frozen=True)
class AskedRow:
    """A row as a model is asked for other answers to it.

    `prompts`: token ids, in the order of the config's; `ends`: ids that end an answer, by the
    template.
    """

    row: Row
    prompts: list[list[int]]
    ends: frozenset[int]
    rules: AnswerRules


@dataclass
class DrawnAnswers:
    """What was drawn: the answers taken, by row, and what became of the others, by reason."""

    taken: list[list[str]]
    drawn: int = 0
    rounds: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def ask_rows(
    rows: Sequence[Row],
    encoder: Encoder,
    config: AlternativesConfig,
    refusals: Sequence[str],
    key: str,
) -> list[AskedRow]:
    """Every row with the prompts that ask for other answers, and the rules for these.

    Args:
        refusals: known ones.
        key: the config key of the rows, to name in an error.

    Raises:
        UserError: a row has no question, or cannot be written as the model's prompt.
    """
    data = dataclasses.replace(encoder.data, max_length=UNCUT, turns="last")
    encoder, prompts, asked = dataclasses.replace(encoder, data=data), config.list_prompts(), []
    for number, row in enumerate(rows, 1):
        question = read_question(row, data)
        if question is None:
            raise UserError(
                f"{key}: row {number} has no question that other answers could be drawn for; "
                "needed are questions with answers"
            )
        (answer,) = read_answer_texts(row, data)
        written = [p.replace("{answer}", answer).replace("{question}", question) for p in prompts]
        try:
            examples = [
                encoder.tokenise_answers(
                    encoder.render_asked(replace_question(row, text, data))[-1]
                )
                for text in written
            ]
        except RowError as error:
            raise UserError(f"{key}: row {number} cannot be asked: {error}") from error
        rules = make_answer_rules(
            config.kind, answer, read_known_text(row, data),
            [part for part in list_focus_parts(row, data) if part in answer],
            prompts, refusals, config.shared_words,
        )  # fmt: skip
        ends = frozenset(e.end for e in examples if e.end is not None)
        asked.append(AskedRow(row, [e.prompt_ids for e in examples], ends, rules))
    return asked


def read_known_text(row: Row, data: DataConfig) -> str:
    """All that stands before the last answer but a system prompt."""
    if find_row_kind(row, data) != "messages":
        return str(read_question(row, data))
    before = (m for m in row["messages"][:-1] if m["role"] != "system")
    return " ".join(str(message["content"]) for message in before)


def draw_alternatives(
    generator: GeneratingModel,
    asked: Sequence[AskedRow],
    config: AlternativesConfig,
    batch_size: int,
    seed: int,
    journal: Journal,
) -> DrawnAnswers:
    """Draw until every row has `config.count` answers, or the rounds are over.

    Args:
        journal: keeps what is drawn by what was asked: other rules, or more rounds, find it.
    """
    draws = DrawnAnswers([[] for _ in asked])
    ends = collect_end_tokens(generator, {end for row in asked for end in row.ends})
    for turn in range(config.rounds):
        lacking = [i for i, texts in enumerate(draws.taken) if len(texts) < config.count]
        if not lacking:
            break
        number = turn % len(config.list_prompts())
        repeated = [i for i in lacking for _ in range(config.count)]
        prompts = [asked[i].prompts[number] for i in repeated]
        how = Decoding(
            config.max_new_tokens, ends, config.top_p, config.temperature, seed_round(seed, turn)
        )
        title = f"round {turn + 1}: {len(prompts):,} answers for {len(lacking):,} rows"
        with ui.show_progress(title, len(prompts), unit="answer") as bar:
            journal.advance = bar.advance
            # The name is what the draws depend on but the model: the journal may hold other rounds.
            name = f"round-{hash_json([prompts, how.seed])}"
            drawn = generate_answers(generator, name, prompts, how, batch_size, journal)
        draws.rounds, draws.drawn = turn + 1, draws.drawn + len(drawn)
        for i, ids in zip(repeated, drawn, strict=True):
            text = str(generator.tokenizer.decode(ids, skip_special_tokens=True)).strip()
            take_answer(draws, i, text, len(ids) < config.max_new_tokens, asked[i].rules, config)
    return draws


def take_answer(
    draws: DrawnAnswers,
    number: int,
    text: str,
    is_ended: bool,
    rules: AnswerRules,
    config: AlternativesConfig,
) -> None:
    """Put an answer to the others of its row, or count why not."""
    taken = draws.taken[number]
    fault = rules.find_fault(text, is_ended, taken)
    if fault is None and len(taken) == config.count:
        fault = "more than wanted"
    if fault is None:
        taken.append(text)
    else:
        draws.refused[fault] += 1


def seed_round(seed: int, turn: int) -> int:
    """The seed of a round's draws: no round repeats another, of this seed or the next."""
    digest = hashlib.sha256(f"alternatives:{seed}:{turn}".encode()).digest()
    return int.from_bytes(digest[:4], "big")

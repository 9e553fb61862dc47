"""What a model's shape holds, positions and token ids, and whether encoded data fits into it.

Knows models and token ids, no text and no engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from undial_cli import ui
from undial_cli.data.example import Example
from undial_cli.errors import UserError
from undial_cli.models.adapters import unwrap_adapter

if TYPE_CHECKING:
    from undial_cli.data.samples import TrainingSet
    from undial_cli.data.stored_examples import StoredExamples


@dataclass(frozen=True)
class ModelCapacity:
    """`positions`: that there is a table of, or None; `made_for`: that the model was trained on, or
    None; `rows`: of the embedding, one for each token id. In bytes: all weights, and those of the
    adapter that it was measured with.
    """

    positions: int | None
    made_for: int | None
    rows: int
    weight_bytes: int = 0
    adapter_bytes: int = 0


def measure_capacity(model: Any) -> ModelCapacity:
    made_for = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return ModelCapacity(
        count_table_positions(model),
        made_for,
        model.get_input_embeddings().num_embeddings,
        sum(p.nbytes for p in model.parameters()),
    )


def count_table_positions(model: Any) -> int | None:
    """How many positions a model has a table of; None where it computes them (rotary, ALiBi).

    A table is an embedding beside the tokens' own (some begin at 2), or a buffer of that size.
    """
    base = unwrap_adapter(model)
    config = base.config.get_text_config()
    if config.model_type == "mpt":  # makes its ALiBi of this size anew in every forward
        return config.max_seq_len
    size = getattr(config, "max_position_embeddings", None)
    if not isinstance(size, int):
        return None
    tokens = base.get_input_embeddings()
    embeddings = [m for m in base.modules() if isinstance(m, nn.Embedding) and m is not tokens]
    if any(m.num_embeddings in (size, size + 2) for m in embeddings):
        return size
    # A buffer of one dimension may be this long by chance; a table has a row for each position.
    return size if any(b.ndim > 1 and size in b.shape for b in base.buffers()) else None


def check_tokenizer_fits(capacity: ModelCapacity, tokenizer: Any) -> None:
    """Say that a tokenizer has tokens without a row of the embedding; refuse it for its padding.

    Texts that hold such a token are refused by themselves; padding goes with all of them.
    """
    key, rows = "model.tokenizer_path", capacity.rows
    pad = tokenizer.pad_token_id
    if pad is not None and not 0 <= pad < rows:
        raise UserError(
            f"{key}: its padding token has the id {pad} and this model's embedding {rows} rows; "
            "needed is the tokenizer that the model was trained with"
        )
    beyond = [token for token, number in tokenizer.get_vocab().items() if number >= rows]
    if beyond:
        ui.say(
            f"{key}: {len(beyond):,} tokens of it lie beyond the {rows} rows of this model's "
            "embedding; a text that holds one is refused",
            "yellow",
        )


def check_sequences_fit(
    capacity: ModelCapacity, name: str, key: str, sequences: Iterable[tuple[int, list[int]]]
) -> None:
    """Raise UserError for the first sequence that a model cannot take.

    Args:
        name: of the set.
        key: what cuts its sequences, as `data.max_length=512`.
        sequences: row, counted from 0, and token ids.
    """
    longest = 0
    for row, ids in sequences:
        longest = max(longest, len(ids))
        if capacity.positions is not None and len(ids) > capacity.positions:
            raise UserError(
                f"{key}: row {row + 1} of the {name} set has {len(ids)} tokens and this model "
                f"{capacity.positions} positions; allowed is at most {capacity.positions}"
            )
        if ids and max(ids) >= capacity.rows:
            raise UserError(
                f"model.tokenizer_path: row {row + 1} of the {name} set has the token id "
                f"{max(ids)} and this model's embedding {capacity.rows} rows; needed is the "
                "tokenizer that the model was trained with, or rows for the tokens it lacks"
            )
    made_for = capacity.made_for
    if capacity.positions is None and made_for is not None and longest > made_for:
        ui.say(
            f"{name}: sequences of up to {longest} tokens, and this model was made for {made_for} "
            "(max_position_embeddings)",
            "yellow",
        )


def fits_stored(capacity: ModelCapacity, examples: StoredExamples) -> bool:
    """Whether a model can take each of a file's examples."""
    is_short = capacity.positions is None or examples.longest <= capacity.positions
    return is_short and examples.largest < capacity.rows


def check_training_set_fits(
    capacity: ModelCapacity, max_length: int, name: str, encoded: TrainingSet
) -> None:
    """Raise UserError for an example of a training set that a model cannot take."""
    from undial_cli.data.stored_examples import StoredExamples  # and `datasets`, half a second

    examples: Iterable[Example] = encoded.examples
    numbers: Iterable[int] = encoded.row_numbers
    if isinstance(examples, StoredExamples) and fits_stored(capacity, examples):
        # All would be read for what is known of them: the longest stands for them.
        longest = int(examples.lengths.argmax())
        examples, numbers = [examples[longest]], [int(examples.rows[longest])]
    sequences = (
        (int(number) - 1, example.input_ids)
        for number, example in zip(numbers, examples, strict=True)
    )
    check_sequences_fit(capacity, name, f"data.max_length={max_length}", sequences)

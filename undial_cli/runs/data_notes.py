"""What a run says of its rows, beside their counts, before anything is computed.

Forget rows that are retained as well, and columns that nothing reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from undial_cli.config.datasets import DataConfig
from undial_cli.config.schema import Run
from undial_cli.config.splits import list_splits, name_training_set
from undial_cli.config.suites import MULTIPLE_CHOICE
from undial_cli.data.columns import ANSWER_COLUMNS
from undial_cli.data.contents import count_shared_rows, find_unread_columns
from undial_cli.data.rows import Row, find_row_kind
from undial_cli.errors import UserError
from undial_cli.evaluation.choices import list_choice_columns
from undial_cli.evaluation.prompts import adapt_data_config
from undial_cli.evaluation.set_rows import list_prompt_columns
from undial_cli.evaluation.suite import Suite


def check_data_keys(data: DataConfig) -> None:
    """Raise UserError for a set that is named and would not be read."""
    for name in ("forget", "retain", "train"):
        unused = f"{name}_{'file' if data.path is not None else 'split'}"
        value = getattr(data, unused)
        if value and data.path is not None:
            raise UserError(
                f"data.{unused}={','.join(list_splits(value))}: data={data.name} reads "
                f"data.{name}_split of data.path={data.path}; allowed is data=jsonl with files"
            )
        if value:
            raise UserError(
                f"data.{unused}={','.join(list_splits(value))}: needs data.path, which is not set; "
                f"allowed without it is data.{name}_file"
            )


def describe_overlap(data: DataConfig, rows: dict[str, Sequence[Row]]) -> list[str]:
    """A line on forget rows that are in the retain set too, where both are trained on.

    Raises:
        UserError: all of them are, so that the two terms cancel.
    """
    if not {"forget", "retain"} <= rows.keys():
        return []
    count, total = count_shared_rows(rows["forget"], rows["retain"], data), len(rows["forget"])
    if not count:
        return []
    forget, retain = (name_training_set(data, name) for name in ("forget", "retain"))
    line = f"{retain}: holds {count:,} of the {total:,} rows of the forget set ({forget})"
    if count == total:
        raise UserError(
            f"{line}, so that the two terms cancel; allowed is a retain set without them"
        )
    return [f"{line}, whose two terms cancel"]


def describe_unread_columns(run: Run, rows: dict[str, Sequence[Row]], suite: Suite) -> list[str]:
    """A line on columns that nothing reads, with the sets that have them."""
    sets = [(name, part, run.data, list[str]()) for name, part in rows.items()]
    for name, part in suite.rows.items():
        options = run.eval.sets[name]
        read = list_choice_columns(options) if options.kind == MULTIPLE_CHOICE else []
        read += [*options.where, *list_prompt_columns(options)]
        read += [options.group_by] if options.group_by is not None else []
        adapted = adapt_data_config(run.data, options)
        sets.append((f"eval.sets.{name}", part.rows, adapted, read))
    # A set that asks by a column of its own leaves the usual one to the other sets.
    keys = {key for _, _, data, _ in sets for key in (data.question_key, data.answer_key)}
    asked = keys if len(keys) > 2 else set()
    names: dict[str, list[str]] = {}
    for name, part, data, read in sets:
        for column in find_unread_columns(part, data, {*asked, *read}):
            names.setdefault(column, []).append(name)
    if not names:
        return []
    listed = "; ".join(f"{column} ({', '.join(of)})" for column, of in names.items())
    text, answer = run.data.text_key, next((c for c in ANSWER_COLUMNS if c in names), None)
    remedy = ""
    if answer and any(
        find_row_kind(row, data) == "text" for _, part, data, _ in sets for row in part[:1]
    ):
        remedy = (
            f"; if '{text}' is a question and '{answer}' its answer: data.question_key={text} "
            f"data.answer_key={answer}"
        )
    return [f"columns that nothing reads: {listed}{remedy}"]

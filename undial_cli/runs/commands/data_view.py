"""`undial data`: what `undial unlearn` with the same words would train on, before anything is.

Reads rows, tokenizer and the model's config; no weights, no evaluation sets. Writes nothing but
the page it is asked for, and what large sets leave in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from undial_cli import ui
from undial_cli.config.schema import DataRun
from undial_cli.config.splits import list_splits, name_data_key
from undial_cli.data.counts import RowCounts
from undial_cli.data.encode import Encoder
from undial_cli.data.rows import Row
from undial_cli.data.samples import TrainingSet
from undial_cli.data.shown_rows import make_shown_rows
from undial_cli.data.stored_examples import count_each_focus, count_each_targets, measure_lengths
from undial_cli.data.template import describe_unread_keys
from undial_cli.errors import UserError, WorldError, bad_value
from undial_cli.methods.base import Method
from undial_cli.models import inspection, load
from undial_cli.models.capacity import check_tokenizer_fits, check_training_set_fits
from undial_cli.reporting.data_page import write_data_page
from undial_cli.reporting.data_screen import show_data_view
from undial_cli.reporting.data_sheets import DataView, SetView
from undial_cli.runs.checks import check_method
from undial_cli.runs.data_checks import check_training_data
from undial_cli.runs.data_notes import check_data_keys
from undial_cli.runs.inputs import (
    encode_training_sets,
    find_deepest_layer,
    load_all_training_rows,
    load_training_rows,
)
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.system.faults import translate_faults
from undial_cli.system.quiet import silence_libraries

SCREEN_ROWS, PAGE_ROWS = 3, 50
RETAIN = "retain"


def show_data(run: DataRun) -> None:
    """Say, and write as a page, what a run would train on.

    Raises:
        UserError: data, model or a key are not what the config says.
        WorldError: the hub cannot be reached, or the page cannot be written.
    """
    page = check_page_file(run.html)
    silence_libraries()
    with translate_faults(page):
        view = read_data_view(run, PAGE_ROWS if page and run.rows is None else run.rows)
        show_data_view(view, SCREEN_ROWS if run.rows is None else run.rows)
        if page is not None:
            write_data_page(view, page)
            ui.say(f"page: {page} (it holds text of the data and is for you alone; 'undial purge' "
                   "does not know it)")  # fmt: skip


def check_page_file(name: str | None) -> Path | None:
    """The file of the page; raises UserError for one that is none."""
    if name is None:
        return None
    file = Path(name).expanduser()
    if file.suffix.lower() not in (".html", ".htm") or file.is_dir():
        raise bad_value("html", name, "a file that ends in .html")
    return file


def read_data_view(run: DataRun, most: int | None) -> DataView:
    """What is shown of a run.

    Args:
        most: rows of each set that are shown; None: those of the screen.
    """
    resolved = ResolvedRun(run)
    method = resolved.trained_method
    check_method(run, method)
    check_data_keys(run.data)
    if run.data.requests:
        raise UserError(
            f"data.requests={','.join(run.data.requests)}: undial data shows one request; allowed "
            "is data.forget_split, or data.forget_file, of each by itself"
        )
    rows = load_all_training_rows(run, method)
    notes: list[str] = []
    compared: dict[str, Sequence[Row]] = dict(rows.used)
    if RETAIN not in compared:
        compared |= load_untrained_rows(run, notes)
    if run.show is not None and run.show not in compared:
        raise UserError(
            f"show={run.show}: this run has no such set; allowed is {next(iter(compared))}"
        )
    depth = find_deepest_layer(method)
    capacity = inspection.check_model(run.model, resolved.base, run.adapter, False, depth)
    tokenizer = load.load_tokenizer(run.model, resolved.base, False)
    encoder = Encoder(tokenizer, run.model.template, run.data)
    notes += describe_unread_keys(tokenizer, run.model.template)
    sets = encode_training_sets(run, method, encoder, rows)
    check_tokenizer_fits(capacity, tokenizer)
    for name, part in sets.items():
        check_training_set_fits(capacity, run.data.max_length, name, part)
    findings = check_training_data(run.data, compared, sets, thorough=True)
    views = []
    for name in [run.show] if run.show else list(compared):
        preferred = rows.preferred if name == "forget" else []
        shown = make_shown_rows(
            encoder,
            compared[name],
            sets.get(name),
            preferred,
            SCREEN_ROWS if most is None else most,
        )
        views.append(make_set_view(name, compared[name], sets.get(name), shown))
    count_seen_sequences(run, resolved.anchor, sets, views)
    return DataView(
        title_data_run(run, method),
        [f"data.{key}={value}" for key, value in list_row_sources(run).items()],
        run.data,
        views,
        compared,
        findings,
        findings.list_faults(run.data.max_length),
        notes,
    )


def load_untrained_rows(run: DataRun, notes: list[str]) -> dict[str, Sequence[Row]]:
    """The retain set of a run without a retain term, where there is one: forget rows in it count in
    its evaluation all the same."""
    key = name_data_key(run.data, RETAIN)
    if not list_splits(getattr(run.data, key.removeprefix("data."))):
        return {}
    try:
        return {RETAIN: load_training_rows(run.data, RETAIN)[: run.data.limit]}
    except (UserError, WorldError) as error:
        notes.append(f"without the retain set, which this run does not train on: {error}")
        return {}


def make_set_view(name: str, rows: Sequence[Row], part: TrainingSet | None, shown: list) -> SetView:
    """The figures of a set."""
    if part is None:
        return SetView(name, RowCounts(len(rows)), shown, is_trained=False)
    is_answer = np.ones(len(part.examples), bool)
    if part.samples:  # answers to prefer are no row's own
        is_answer[:] = False
        is_answer[sorted({sample[0][0] for sample in part.samples})] = True
    return SetView(
        name,
        part.counts,
        shown,
        lengths=np.asarray(measure_lengths(part.examples))[is_answer],
        targets=np.asarray(count_each_targets(part.examples))[is_answer],
        focus=int(count_each_focus(part.examples)[is_answer].sum()),
    )


def count_seen_sequences(
    run: DataRun, anchor: str, sets: dict[str, TrainingSet], views: list[SetView]
) -> None:
    """Note of each set how many of its sequences the run's steps reach (data/schedule.py)."""
    samples = {name: len(part.samples) or len(part.examples) for name, part in sets.items()}
    size, batch = samples[anchor], run.train.batch_size
    passes = -(-size // batch)
    steps = run.train.max_steps or max(1, round(run.train.epochs * passes))
    drawn = steps // passes * size + min(size, steps % passes * batch)
    for view in views:
        if view.is_trained:
            view.steps, view.seen = steps, min(samples[view.name], drawn)


def title_data_run(run: DataRun, method: Method) -> str:
    return f"{run.model.name} on {run.data.name} by {method.config.name}"


def list_row_sources(run: DataRun) -> dict[str, str]:
    """Where the rows come from, by key."""
    keys = [name_data_key(run.data, name).removeprefix("data.") for name in ("forget", RETAIN)]
    sources = {key: ",".join(list_splits(getattr(run.data, key))) for key in keys}
    path = {"path": run.data.path} if run.data.path is not None else {}
    return {**path, **{key: value for key, value in sources.items() if value}}

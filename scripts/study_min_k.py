"""Why the Min-K attack tells unlearned answers from text that no model has seen.

    undial reproduce table=smollm2_min_k data.path=PATH/TO/TOFU
    python scripts/study_min_k.py outputs/reproduce/smollm2_min_k [--pictures docs/pictures]

Min-K is the mean log-probability of the lowest 40 % of an answer's tokens. For the target, the
retain model and the checkpoint of each run of the table: the attack's AUC between the forget rows
and the holdout; the mean of the forget rows' lowest tokens and of the rest; where the lowest lie
(share that is also among the retain model's lowest); and the mean log-probability by how likely the
retain model finds a token, which is what a model that never saw the answers would say. Prints
Markdown and draws a picture.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undial_cli.data.collate import choose_pad_id
from undial_cli.evaluation.key_facts import list_names
from undial_cli.evaluation.metrics import attack_auc, min_k
from undial_cli.evaluation.prompts import PromptItem
from undial_cli.evaluation.scoring import score_answers
from undial_cli.models.head import evaluation_mode
from undial_cli.reporting import plot_style
from undial_cli.reporting.collect import read_object
from undial_cli.runs.evaluations import load_evaluated_model
from undial_cli.runs.inputs import RunInputs, prepare_inputs
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.run_yaml import load_run
from undial_cli.system.quiet import silence_libraries

LOWEST = 0.4
SETS = ("forget", "holdout")
FIFTHS = ("least likely", "2nd", "3rd", "4th", "most likely")
CPU = torch.device("cpu")
LOWEST_SHOWN = -12  # a collapsed model lies far below, and would hide the rest

# Log-probabilities of the tokens of each answer, end token left out: an array [T] a row.
Answers = list[np.ndarray]


@dataclass(frozen=True)
class StudiedRun:
    """A run of the table, by what it is called there."""

    label: str
    group: str
    folder: Path


def list_studied_runs(folder: Path) -> list[StudiedRun]:
    """The finished runs of a table's folder."""
    runs = []
    for entry in read_object(folder / "sweep.json").get("runs", []):
        path = Path(entry["folder"])
        path = path if path.is_absolute() else folder / path
        if entry.get("status") == "done":
            values = entry["values"]
            runs.append(StudiedRun(values["row"], values.get("across", ""), path))
    return runs


def score_model(resolved: ResolvedRun, inputs: RunInputs, path: str) -> dict[str, Answers]:
    """What a model gives to the tokens of the forget rows and of the holdout."""
    model: Any = load_evaluated_model(resolved.run, path, CPU)
    pad_id = choose_pad_id(inputs.encoder.tokenizer)
    scored = {}
    with evaluation_mode(model):
        for name in SETS:
            items = inputs.suite.items[name]
            groups = [item.answers["answer"] for item in items]
            scores = score_answers(model, groups, resolved.run.eval.batch_size, pad_id)
            scored[name] = [
                -np.array(of_item[0].token_ce[: len(of_item[0].matches)]) for of_item in scores
            ]
    return scored


def mark_lowest(answer: np.ndarray) -> np.ndarray:
    """Which tokens of an answer Min-K looks at: [T], true for `max(1, int(T * 0.4))` of them."""
    marks = np.zeros(len(answer), dtype=bool)
    marks[np.argsort(answer, kind="stable")[: max(1, int(len(answer) * LOWEST))]] = True
    return marks


def mark_facts(inputs: RunInputs, item: PromptItem) -> np.ndarray:
    """Which answer tokens belong to a name or a number that the question does not hold: [T]."""
    example = item.answers["answer"][0]
    ids = [y for y in example.labels[1 : example.answer_end] if y >= 0]
    ends = np.cumsum([len(inputs.encoder.tokenizer.decode([y])) for y in ids])
    text = str(inputs.encoder.tokenizer.decode(ids))
    marks, start = np.zeros(len(ids), dtype=bool), 0
    for name in list_names(text):
        start = text.index(name, start)
        if name.strip(".,;:'\"") not in item.prompt:
            within = (ends > start) & (ends - 1 < start + len(name))
            marks |= within
        start += len(name)
    return marks


def describe_model(
    ours: dict[str, Answers], retain: dict[str, Answers], facts: list[np.ndarray]
) -> dict[str, Any]:
    """The figures of one model; `facts`: `mark_facts` of each forget row."""
    lowest = [mark_lowest(answer) for answer in ours["forget"]]
    theirs = [mark_lowest(answer) for answer in retain["forget"]]
    flat, marks, facts_N = (np.concatenate(x) for x in (ours["forget"], lowest, facts))
    reference = np.concatenate(retain["forget"])
    fifths = np.array_split(np.argsort(reference, kind="stable"), len(FIFTHS))
    shared = [(a & b).sum() / a.sum() for a, b in zip(lowest, theirs, strict=True)]
    scores = {name: [-min_k(answer, LOWEST) for answer in ours[name]] for name in SETS}
    return {
        "auc": attack_auc(scores["forget"], scores["holdout"]),
        "holdout": -float(np.mean(scores["holdout"])),
        "lowest": float(flat[marks].mean()),
        "rest": float(flat[~marks].mean()),
        "shared": float(np.mean(shared)),
        "facts": float(flat[facts_N].mean()),
        "others": float(flat[~facts_N].mean()),
        "fifths": [float(flat[part].mean()) for part in fifths],
    }


def print_tables(figures: dict[str, dict[str, Any]]) -> None:
    """Two Markdown tables: the attack and its tokens, and log-probability by likelihood."""
    heads = ("AUC", "holdout, lowest", "lowest", "rest", "shared", "facts", "others")
    print("| model | " + " | ".join(heads) + " |\n| --- |" + " ---: |" * len(heads))
    for label, row in figures.items():
        names = ("auc", "holdout", "lowest", "rest", "shared", "facts", "others")
        print(f"| {label} | " + " | ".join(f"{row[name]:.2f}" for name in names) + " |")
    print("\n| model | " + " | ".join(FIFTHS) + " |\n| --- |" + " ---: |" * len(FIFTHS))
    for label, row in figures.items():
        print(f"| {label} | " + " | ".join(f"{value:.2f}" for value in row["fifths"]) + " |")


def draw_fifths(figures: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """A panel for each group of runs: log-probability by the retain model's likelihood."""
    labels = list(dict.fromkeys(label for group in figures.values() for label in group))
    styles = plot_style.choose_line_styles(labels)
    with plot_style.use_plot_style():
        figure, panels = plot_style.make_blank_figure(
            plot_style.PAGE_WIDTH, 3.0, ncols=len(figures), sharey=True
        )
        handles = {}
        for axes, (group, models) in zip(panels, figures.items(), strict=True):
            axes.set_title(group)
            axes.set_xlabel("tokens by the retain model's probability")
            axes.set_xticks(range(len(FIFTHS)), FIFTHS, fontsize=6)
            for label, row in models.items():
                handles[label] = axes.plot(row["fifths"], **styles[label])[0]
        panels[0].set_ylim(LOWEST_SHOWN, 0.5)
        panels[0].set_ylabel("mean log-probability, forget set")
        plot_style.add_legend(figure, handles)
    plot_style.save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, help="of the table: OUTPUT_DIR/reproduce/smollm2_min_k"
    )
    parser.add_argument("--pictures", type=Path, help="default: the folder")
    options = parser.parse_args()
    silence_libraries()
    studied = list_studied_runs(options.folder)
    if not studied:
        parser.error(f"{options.folder}: no finished run of the table in its sweep.json")
    scored: dict[str, dict[str, Answers]] = {}
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    inputs: RunInputs | None = None
    for run in studied:
        resolved = ResolvedRun(load_run(run.folder))
        assert resolved.retain_model is not None
        inputs = inputs or prepare_inputs(resolved)
        paths = {
            "target": resolved.find_path(resolved.target_model),
            "retain model": resolved.find_path(resolved.retain_model),
            run.label: str(run.folder / "checkpoint"),
        }
        facts = [mark_facts(inputs, item) for item in inputs.suite.items["forget"]]
        models = groups.setdefault(run.group, {})
        for path in paths.values():
            if path not in scored:
                scored[path] = score_model(resolved, inputs, path)
        for label, path in paths.items():
            models[label] = describe_model(scored[path], scored[paths["retain model"]], facts)
    for group, models in groups.items():
        print(f"\n{group}\n")
        print_tables(models)
    draw_fifths(groups, (options.pictures or options.folder) / "min_k_tokens")


if __name__ == "__main__":
    main()

"""The paper's extraction table, from the authors' own records given as results of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_tables import finish_all, reproduced

from undial_cli.tables.runs import TableRun

COLUMNS = ("el_3", "el_10", "ma", "mauve", "ppl", "rep_3", "nlu")
METRICS = (
    "forget_el_3",
    "forget_el_10",
    "forget_ma",
    "news_mauve",
    "news_perplexity",
    "news_rep_3",
)
TASKS = ("piqa", "arc_easy", "copa", "winogrande", "pubmedqa", "hellaswag")
SMALL, LARGE = "GPT-Neo 1.3B", "GPT-Neo 2.7B"
# What their evaluation wrote: EL_3, EL_10, MA, news MAUVE, perplexity and rep_3; then six tasks.
RECORDED = {
    (SMALL, "no unlearning"): (
        (0.34403, 0.25947, 0.95318, 0.78105, 10.473, 0.02434),
        (0.70511, 0.46119, 0.64844, 0.54933, 0.53711, 0.36818),
    ),
    (SMALL, "UnDIAL full, strength 3"): (
        (0.11128, 0.039812, 0.79477, 0.77205, 12.685, 0.023859),
        (0.69804, 0.44475, 0.66406, 0.55321, 0.53555, 0.36212),
    ),
    (SMALL, "UnDIAL full, strength 10"): (
        (0.069641, 0.015939, 0.77742, 0.73576, 15.288, 0.021323),
        (0.69804, 0.44815, 0.67188, 0.55477, 0.53945, 0.36123),
    ),
    (SMALL, "UnDIAL LoRA, strength 10"): (
        (0.073837, 0.014785, 0.71233, 0.72261, 13.293, 0.029804),
        (0.70074, 0.44931, 0.65625, 0.54124, 0.54336, 0.35695),
    ),
    (SMALL, "UnDIAL LoRA, strength 3"): (
        (0.09133, 0.022907, 0.73427, 0.75566, 12.516, 0.030463),
        (0.69212, 0.43773, 0.67969, 0.54227, 0.54922, 0.35874),
    ),
    (LARGE, "no unlearning"): (
        (0.38937, 0.30882, 0.96557, 0.80006, 9.4424, 0.024126),
        (0.72958, 0.47817, 0.75, 0.56354, 0.5625, 0.40762),
    ),
    (LARGE, "UnDIAL LoRA, strength 10"): (
        (0.089179, 0.021814, 0.76818, 0.77432, 10.787, 0.029105),
        (0.73012, 0.48528, 0.74107, 0.56745, 0.56641, 0.39906),
    ),
}
# The table of the paper.
PRINTED = {
    (SMALL, "no unlearning"): "0.344 0.259 0.953 0.781 10.5 0.024 0.545",
    (SMALL, "UnDIAL full, strength 3"): "0.111 0.040 0.795 0.772 12.7 0.024 0.543",
    (SMALL, "UnDIAL full, strength 10"): "0.070 0.016 0.777 0.736 15.3 0.021 0.546",
    (SMALL, "UnDIAL LoRA, strength 10"): "0.074 0.015 0.712 0.723 13.3 0.030 0.541",
    (SMALL, "UnDIAL LoRA, strength 3"): "0.091 0.023 0.734 0.756 12.5 0.030 0.543",
    (LARGE, "no unlearning"): "0.389 0.309 0.966 0.800 9.4 0.024 0.582",
    (LARGE, "UnDIAL LoRA, strength 10"): "0.089 0.022 0.768 0.774 10.8 0.029 0.582",
}


def figures(section: str, label: str) -> dict[str, float]:
    """A row's figures under the names of results.json."""
    scores, tasks = RECORDED[section, label]
    named = dict(zip(METRICS, scores, strict=True))
    return named | {f"harness_{t}_acc": v for t, v in zip(TASKS, tasks, strict=True)}


@pytest.mark.slow
def test_their_records_print_their_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["UnDIAL full, strength 3", "UnDIAL full, strength 10"]
    rows += ["UnDIAL LoRA, strength 10", "UnDIAL LoRA, strength 3"]
    asked = ", ".join(json.dumps(row) for row in rows)
    words = ["table=extraction", f"rows=[{asked}]", "data.forget_file=lm_extraction.csv"]
    words.append(f"output_dir={tmp_path}")

    def results(entry: TableRun) -> dict[str, Any]:
        section, label = entry.line.section, entry.line.row.label
        if (section, label) == (LARGE, "UnDIAL LoRA, strength 3"):  # not in the paper's table
            return {"metrics": {}, "target": figures(section, "no unlearning")}
        target = figures(section, "no unlearning")
        return {"metrics": figures(section, label), "target": target}

    finish_all(words, results)
    code, found = reproduced(words)
    assert code == 0
    by_place = {(row["section"], row["row"], row["column"]): row for row in found}
    page = (tmp_path / "reproduce" / "extraction" / "table.md").read_text()
    screen = capsys.readouterr().out
    for place, line in PRINTED.items():
        printed = dict(zip(COLUMNS, line.split(), strict=True))
        for column, text in printed.items():
            row = by_place[(*place, column)]
            digits = 1 if column == "ppl" else 3
            assert f"{float(row['mean']):.{digits}f}" == text, (place, column)
            assert float(row["reference"]) == float(text)
            assert row["within_tolerance"] == "true"
        joined = " | ".join(f"{text} ({text})" for text in printed.values())
        assert f"| {place[1]} | {joined} |" in page
        assert line.split()[0] in screen
    assert page.index("**GPT-Neo 1.3B**") < page.index("**GPT-Neo 2.7B**")
    assert "Agreement is not expected" in page
    assert "0 of 49 figures" in page

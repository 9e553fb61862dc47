"""Which plots a report shows of which runs, what they are given, and their captions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from drawn import legend_of, texts_of, ydata
from reported import sample

from undial_cli.reporting import plot_choice
from undial_cli.reporting.collect import RunRecord
from undial_cli.reporting.plot_choice import ReportPlot

SHARED = {"target": {"forget_rouge": 1.0, "retain_rouge": 0.99}}


def run(short: str, forget: float | None = 0.3, retain: float = 0.9, **values: Any) -> RunRecord:
    """An evaluated run; `values` are its swept keys."""
    figures = {"forget_rouge": forget, "retain_rouge": retain}
    record = RunRecord(Path("outputs/unlearn") / short, "done", label=short, short=short)
    record.results, record.values = {"metrics": figures, **SHARED}, values
    record.settings = {"command": "unlearn"}
    return record


def names(plots: Iterable[ReportPlot]) -> list[str]:
    return [plot.name for plot in plots]


def test_one_run_without_steps_or_samples_has_no_plot() -> None:
    assert plot_choice.choose_plots([run("a")], []) == []


def test_two_runs_are_traded_off_with_what_they_share_marked() -> None:
    (plot,) = plot_choice.choose_trade_offs([run("a"), run("b", 0.1, 0.5), run("c", None)])
    assert plot.name == "trade_off_forget_rouge_retain_rouge"
    assert plot.caption == (
        "Forget ROUGE-L against retain ROUGE-L, one point per run. On the grey line (Pareto "
        "front) no other run is better in both; marked: target."
    )
    assert legend_of(plot.draw()) == ["a", "b", "target", "Pareto front"]


def test_runs_that_share_no_pair_of_scores_are_not_traded_off() -> None:
    first, second = run("a"), run("b")
    first.results, second.results = {"metrics": {"x": 1.0}}, {"metrics": {"y": 1.0}}
    assert names(plot_choice.choose_trade_offs([first, second])) == []


def test_at_most_two_pairs_are_traded_off() -> None:
    figures = {
        "forget_rouge": 0.1, "retain_rouge": 0.9, "forget_quality": 0.5, "model_utility": 0.5,
        "forget_probability": 0.2, "retain_probability": 0.8,
    }  # fmt: skip
    runs = [run("a"), run("b")]
    for record in runs:
        record.results = {"metrics": figures}
    assert names(plot_choice.choose_trade_offs(runs)) == [
        "trade_off_forget_rouge_retain_rouge", "trade_off_forget_quality_model_utility",
    ]  # fmt: skip


def swept(**fixed: Any) -> list[RunRecord]:
    """Two learning rates by two strengths, without the last of the four."""
    levels = [("1e-4", "3"), ("1e-4", "10"), ("3e-4", "3")]
    return [
        run(f"{rate} {strength}", 0.1 * n, rate=rate, strength=strength, **fixed)
        for n, (rate, strength) in enumerate(levels, 1)
    ]


def test_two_swept_numbers_make_a_map_per_score_with_gaps() -> None:
    forget, retain = plot_choice.choose_heat_maps(swept(), ["rate", "strength"])
    assert (forget.name, retain.name) == ("map_forget_rouge", "map_retain_rouge")
    assert forget.caption == (
        "Forget ROUGE-L, over rate and strength; a hatched cell has no figure."
    )
    assert sorted(texts_of(forget.draw())) == ["0.100", "0.200", "0.300"]
    labels = [label.get_text() for label in forget.draw().axes[0].get_yticklabels()]
    assert labels == ["1e-4", "3e-4"]


def test_maps_are_means_over_seeds_and_one_for_each_method() -> None:
    runs = [
        record
        for method in ("npo", "ga")
        for seed in ("0", "1")
        for record in swept(method=method, seed=seed)
    ]
    keys = ["rate", "strength", "method", "seed"]
    maps = list(plot_choice.choose_heat_maps(runs, keys))
    assert names(maps) == [
        "map_forget_rouge_1", "map_retain_rouge_1", "map_forget_rouge_2", "map_retain_rouge_2",
    ]  # fmt: skip
    assert maps[0].caption.startswith("Forget ROUGE-L, npo, mean over seeds, over")
    for method, record in zip(("npo", "ga"), (runs[0], runs[6]), strict=True):
        assert record.values["method"] == method
        record.results["metrics"]["forget_rouge"] = 0.9  # of two seeds: (0.9 + 0.1) / 2
    assert "0.500" in texts_of(next(plot_choice.choose_heat_maps(runs, keys)).draw())


@pytest.mark.parametrize("keys", [["rate"], ["rate", "strength", "third"]])
def test_other_than_two_swept_numbers_make_no_map(keys: list[str]) -> None:
    runs = swept()
    for number, record in enumerate(runs):
        record.values["third"] = str(number)
    assert names(plot_choice.choose_heat_maps(runs, keys)) == []


def test_scores_on_the_way_begin_with_the_target_and_losses_are_of_their_own() -> None:
    record = run("a")
    record.steps = [{"step": 2, "loss": 1.0}, {"step": 2, "forget_rouge": 0.5, "retain_rouge": 0.9}]
    dynamics, loss = plot_choice.choose_dynamics([record])
    assert (dynamics.name, loss.name) == ("dynamics", "loss")
    assert ydata(dynamics.draw().axes[0].lines[0]) == [1.0, 0.5]
    assert loss.caption == "Training loss against steps."
    record.steps.insert(0, {"step": 0, "forget_rouge": 0.8, "retain_rouge": 0.9})
    first = next(plot_choice.choose_dynamics([record]))
    assert ydata(first.draw().axes[0].lines[0]) == [0.8, 0.5]  # it has a start of its own


def test_the_requests_of_a_run_are_lines_of_their_own() -> None:
    record = run("a")
    record.parts = {"request 1": [{"step": 1, "loss": 2.0}], "request 2": [{"step": 1, "loss": 1}]}
    (loss,) = plot_choice.choose_dynamics([record])
    assert legend_of(loss.draw()) == ["request 1", "request 2"]
    two = next(plot_choice.choose_dynamics([record, run("b")]))
    assert legend_of(two.draw()) == ["a, request 1", "a, request 2"]
    assert "Losses of different methods are not on one scale." in two.caption


def test_more_lines_than_can_be_told_apart_are_left_out_and_counted() -> None:
    runs = [run(f"r{n}") for n in range(plot_choice.MOST_LINES + 2)]
    for record in runs:
        record.steps = [{"step": 1, "loss": 1.0}]
    (loss,) = plot_choice.choose_dynamics(runs)
    assert loss.caption.endswith(" The first 18 of 20 lines.")
    assert len(loss.draw().axes[0].lines) == 18


def test_scores_per_sample_of_one_run_are_spread_before_after_and_at_the_retain_model() -> None:
    record = run("a")
    record.samples = [sample(n) for n in range(4)]
    spreads = list(plot_choice.choose_spreads([record]))
    assert names(spreads) == ["spread_forget_log_truth_ratio", "spread_forget_probability"]
    assert spreads[0].caption.endswith(plot_choice.KS_CAPTION)
    assert legend_of(spreads[0].draw()) == [
        "after (n = 4)", "before (n = 4)", "retain model (n = 4)",
    ]  # fmt: skip
    for row in record.samples:
        del row["target_log_truth_ratio"], row["retain_log_truth_ratio"]
    first = next(plot_choice.choose_spreads([record]))
    assert first.caption.endswith(" The target's scores per sample are not stored.")
    assert "Kolmogorov" not in first.caption


def test_many_runs_are_spread_with_the_models_that_all_share() -> None:
    runs = [run("a"), run("b")]
    for record in runs:
        record.samples = [sample(n) for n in range(3)]
    runs[1].samples[0]["target_probability"] = 0.5
    spread = list(plot_choice.choose_spreads(runs))[1]
    assert ", after each run: " in spread.caption
    assert legend_of(spread.draw()) == ["a (n = 3)", "b (n = 3)", "retain model (n = 3)"]


def test_one_sample_is_no_distribution() -> None:
    record = run("a")
    record.samples = [sample(0)]
    assert names(plot_choice.choose_spreads([record])) == []


def test_each_request_is_followed_through_all_of_them() -> None:
    record = run("a")
    record.results = {
        "target": {"request_1_rouge": 1.0, "retain_rouge": 1.0},
        "requests": [
            {"metrics": {"request_1_rouge": 0.2, "request_2_rouge": 0.9, "retain_rouge": 0.9}},
            {"metrics": {"request_1_rouge": 0.3, "request_2_rouge": 0.1, "retain_rouge": 0.8}},
        ],
    }
    (plot,) = plot_choice.choose_request_plots([record])
    assert plot.name == "requests_rouge"
    assert plot.caption == "ROUGE-L of each request before and after each was served."
    figure = plot.draw()
    assert legend_of(figure) == ["request 1", "request 2", "retain"]
    assert ydata(figure.axes[0].lines[0]) == [1.0, 0.2, 0.3]
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert ticks == ["start", "after 1", "after 2"]
    first, second = plot_choice.choose_request_plots([record, record])
    assert (first.name, second.name) == ("requests_rouge_1", "requests_rouge_2")
    assert first.caption.endswith("was served (a).")


def test_what_weights_were_chosen_by_is_drawn_with_the_chosen_step_ringed() -> None:
    first, second, plain = run("a"), run("b"), run("c")
    for record, step in ((first, 4), (second, 2)):
        steps = [{"step": s, "figure": 0.1 * s, "utility": 1 - 0.1 * s} for s in (0, 2, 4)]
        chosen = {"select": "nearest_retain", "step": step, "steps": steps, "least_utility": 0.9}
        record.results = {**record.results, "selection": chosen}
    (plot,) = plot_choice.choose_selection_plots([first, second, plain])
    assert plot.name == "selection"
    figure = plot.draw()
    assert legend_of(figure) == ["a", "b"]
    by_figure, by_utility = figure.axes
    rings = [line.get_xydata().tolist() for line in by_figure.lines if line.get_mfc() == "none"]
    assert rings == [[[4, 0.4]], [[2, 0.2]]]
    assert by_utility.get_title("left") == "share of the target's utility"
    other = run("d")
    other.results = {"selection": {"select": "forget_rouge", "steps": [{"step": 2}]}}
    several = names(plot_choice.choose_selection_plots([first, other]))
    assert several == ["selection_1", "selection_2"]
    assert names(plot_choice.choose_selection_plots([plain])) == []

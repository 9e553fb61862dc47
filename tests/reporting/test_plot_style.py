"""How plots look and are stored: the same bytes, the same style, lines that differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn import LOSS

from undial_cli.reporting import plot_lines, plot_style
from undial_cli.reporting.plot_style import choose_line_styles, save_figure


def test_a_saved_figure_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    def files(name: str) -> list[bytes]:
        figure = plot_lines.draw_dynamics({"🦜 \x00": LOSS, "b": LOSS}, ["loss"], {})
        return [file.read_bytes() for file in save_figure(figure, tmp_path / name / "loss")]

    first, second = files("a"), files("b")
    assert first == second
    assert first[0].startswith(b"\x89PNG")
    assert b"<svg" in first[1]
    assert b"date" not in first[1]
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == ["loss.png", "loss.svg"]


def test_the_users_matplotlibrc_changes_nothing() -> None:
    import matplotlib

    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30}):
        figure = plot_lines.draw_dynamics({"a": LOSS}, ["loss"], {})
        assert matplotlib.rcParams["font.size"] == 30
    assert figure.axes[0].get_facecolor()[:3] == (1.0, 1.0, 1.0)


def test_eighteen_series_differ_in_colour_or_marker_and_groups_share_a_colour() -> None:
    alone = choose_line_styles([f"run {n}" for n in range(18)])
    assert len({(look["color"], look["marker"]) for look in alone.values()}) == 18
    slow, fast, ga = choose_line_styles(["npo, 1e-4", "npo, 3e-4", "ga, 1e-4"]).values()
    assert slow["color"] == fast["color"] != ga["color"]
    assert slow["ls"] != fast["ls"]


@pytest.mark.parametrize(
    ("text", "label"),
    [("a  b\nc", "a b c"), ("$x_1$", "\\$x_1\\$"), ("_hidden", " _hidden"), ("", "")],
)
def test_a_label_is_shown_as_it_is_written(text: str, label: str) -> None:
    assert plot_style.escape_label(text) == label


def test_an_axis_says_which_way_is_better() -> None:
    assert plot_style.make_axis_title("forget_rouge") == "forget ROUGE-L (lower is better)"
    assert plot_style.make_axis_title("forget_rouge", "higher").endswith("(higher is better)")
    assert plot_style.make_axis_title("loss") == "loss"


def test_a_legend_of_long_names_has_fewer_columns_and_the_figure_grows_for_it() -> None:
    def height(labels: list[str]) -> float:
        return plot_lines.draw_dynamics(dict.fromkeys(labels, LOSS), ["loss"], {}).get_figheight()

    short = [f"r{n}" for n in range(5)]
    assert height(short) < height([f"{name} with a very long name of a run" for name in short])


def test_what_is_no_finite_number_is_a_gap() -> None:
    values = plot_style.to_float_array([1, "2.5", None, "x", float("inf"), True])
    assert [value == value for value in values] == [True, True, False, False, False, False]
    assert values[:2].tolist() == [1.0, 2.5]

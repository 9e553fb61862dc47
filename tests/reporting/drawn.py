"""What the tests of plots read off a figure, and the marks that they draw."""

from __future__ import annotations

from typing import Any

MARKS = {
    "target": {"forget_rouge": 1.0, "retain_rouge": 1.0},
    "retain model": {"forget_rouge": 0.4, "retain_rouge": 0.98},
}
LOSS: list[dict[str, Any]] = [{"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.1}]


def legend_of(figure: Any) -> list[str]:
    """The labels of a figure's legend."""
    return [text.get_text().strip() for text in figure.legends[0].get_texts()]


def ydata(line: Any) -> list[float]:
    return [float(v) for v in line.get_ydata()]


def texts_of(figure: Any) -> list[str]:
    """The texts inside the first panel."""
    return [text.get_text() for text in figure.axes[0].texts]

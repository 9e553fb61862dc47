"""What `train.select` asks of a model's figures: which is read, which way is better, how much.

A metric has its own direction; an expression over metrics is maximised. Two rules have a name, and
take only weights that keep `train.select_utility` of the target's utility: `nearest_retain`, the
mean over the forget figures of their distance to the retain model's, and `most_forgotten`, the mean
of these figures themselves; less is better. Knows no model and no step.
"""

from __future__ import annotations

import ast
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from undial_cli.config.suites import FORGET, RETAIN, EvalConfig, resolve_role
from undial_cli.errors import UserError, suggest_nearest
from undial_cli.evaluation.catalog import KNOWLEDGE, METRICS, find_set_metric
from undial_cli.evaluation.composite_scores import AGGREGATE_PARTS
from undial_cli.evaluation.evidence import MissingFigure
from undial_cli.evaluation.expressions import Expression, NoNumber, parse_expression
from undial_cli.evaluation.figures import find_better_direction, split_figure_name
from undial_cli.evaluation.verdict import UTILITY_METRICS, FiguresByName, list_watched_figures

NEAREST_RETAIN, MOST_FORGOTTEN = "nearest_retain", "most_forgotten"
# The rules with a name, and the share of the target's utility that `undial tune` has each keep.
NAMED_RULES = {NEAREST_RETAIN: 0.9, MOST_FORGOTTEN: 0.95}
RULE_WORDS = {
    NEAREST_RETAIN: "the least mean distance of the forget figures to the retain model's",
    MOST_FORGOTTEN: "the least mean of the forget figures",
}
SELECT_KEY = "train.select"
REQUEST_SET = "request_"  # how the sets of other requests begin
# What is compared, by its name in metrics.jsonl, and the record of the choice in results.json.
SELECTION = "selection"
# A difference that a sum in another order makes is none, and the earlier step is taken.
SAME_FIGURE = 1e-6


@dataclass(frozen=True)
class SelectionRule:
    """How weights are compared; `direction`: as a sweep's objective has it.

    `expression`: of the figures, None for a rule that has a name. `names`: the figures that are
    read.
    """

    text: str
    direction: str
    names: tuple[str, ...]
    expression: Expression | None

    @property
    def is_nearest(self) -> bool:
        """Whether it is nearest_retain."""
        return self.text == NEAREST_RETAIN

    @property
    def keeps_utility(self) -> bool:
        """Whether it takes only weights that keep enough of the target's utility."""
        return self.text in NAMED_RULES

    @property
    def is_relative(self) -> bool:
        """Whether it needs the retain model's figures, or the target's."""
        return self.keeps_utility or any(is_relative_figure(name) for name in self.names)

    def compute(self, ours: FiguresByName, retain: FiguresByName) -> float:
        """What is compared, of a model's figures.

        Raises:
            MissingFigure: a figure is missing, or there is no number.
        """
        figures = {name: require_figure(ours, name) for name in self.names}
        if self.text == MOST_FORGOTTEN:
            return statistics.fmean(figures.values())
        if self.expression is None:
            # The retain model's may be results of elsewhere, which lack some.
            known = [name for name in self.names if retain.get(name) is not None]
            if not known:
                raise MissingFigure(f"the retain model has no {', '.join(self.names)}")
            return statistics.fmean(
                abs(figures[name] - require_figure(retain, name)) for name in known
            )
        try:
            return self.expression.compute(figures)
        except NoNumber as error:
            raise MissingFigure(f"{self.text}: {error}") from error

    @property
    def is_minimised(self) -> bool:
        """Whether less is better."""
        return self.direction == "minimize"

    def is_less(self, figure: float, other: float) -> bool:
        """Whether a figure is less than another, by more than rounding."""
        return other - figure > SAME_FIGURE * max(abs(figure), abs(other))


def require_figure(figures: FiguresByName, name: str) -> float:
    """A figure that is a number; raises MissingFigure."""
    value = figures.get(name)
    if value is None or not math.isfinite(value):
        raise MissingFigure(f"{name} is {'not there' if name not in figures else 'null'}")
    return value


def is_relative_figure(name: str) -> bool:
    """Whether a figure needs the retain model's or the target's."""
    return name in METRICS and METRICS[name].relative


def compute_utility_share(
    ours: FiguresByName, target: FiguresByName, roles: Mapping[str, str]
) -> float | None:
    """What is left of the target's utility: of the figures that a verdict watches, the least share.

    Model utility where the suite has it, else probability and ROUGE of the sets to be kept; None
    where neither is known.
    """
    names = [
        name
        for name in list_watched_figures(target, roles)
        if name == "model_utility" or name.endswith(UTILITY_METRICS)
    ]
    shares = [
        figure / before
        for name in names
        if (before := target.get(name)) and (figure := ours.get(name)) is not None
    ]
    return min(shares) if shares else None


def score_choice(chosen: Mapping[str, Any]) -> float | None:
    """What the choices of several runs are compared by, in their rule's direction: the figure.

    Where the weights keep too little utility, a score behind every figure, the further the less
    they keep: rules that ask for utility minimise means of figures between 0 and 1.

    Args:
        chosen: a run's `selection` of results.json.
    """
    figure, utility = (chosen.get(key) for key in ("figure", "utility"))
    if isinstance(figure, bool) or not isinstance(figure, int | float) or not math.isfinite(figure):
        return None
    if chosen.get("keeps_utility") is False:
        return 2.0 - min(1.0, utility if isinstance(utility, int | float) else 0.0)
    return float(figure)


def parse_selection(text: str, config: EvalConfig) -> SelectionRule:
    """The rule that a text states, of a suite.

    Raises:
        UserError: no expression; or a metric is unknown, not of the suite, not computed in
            training, or of no direction of its own.
    """
    known = list_figures_in_training(config)
    if text.strip() in NAMED_RULES:
        return make_named_rule(text.strip(), config, known)
    name = text.strip()
    if name not in known:  # a set's name may be no name in an expression
        expression = parse_expression(text, SELECT_KEY)
        name = expression.names[0] if expression.is_name else ""
    else:
        expression = Expression(name, ast.Name(name), (name,))
    for each in expression.names:
        check_figure_name(each, text, config, known)
    if not name:
        return SelectionRule(text, "maximize", expression.names, expression)
    roles = {set_name: resolve_role(set_name, o) for set_name, o in config.sets.items()}
    better = find_better_direction(name, roles)
    if not better:
        raise UserError(
            f"{SELECT_KEY}={text}: neither higher nor lower is better by itself; allowed is an "
            f"expression, which is maximised, such as -abs({name} - 0.5)"
        )
    return SelectionRule(
        name, f"{'max' if better == 'higher' else 'min'}imize", (name,), expression
    )


def make_named_rule(text: str, config: EvalConfig, known: list[str]) -> SelectionRule:
    """A rule that has a name: of all figures that say how well a forget set is known.

    Of sequential requests the one at hand: others were served before it, or will be.
    """
    roles = {name: resolve_role(name, options) for name, options in config.sets.items()}
    metrics_by_name = {name: split_figure_name(name) for name in known}
    names = [
        name
        for name, (set_name, metric) in metrics_by_name.items()
        if metric is not None
        and metric.better == KNOWLEDGE
        and roles.get(set_name) == FORGET
        and not set_name.startswith(REQUEST_SET)
    ]
    if not names:
        raise UserError(
            f"{SELECT_KEY}={text}: eval={config.name} has no forget set with a metric such as "
            "probability or rouge"
        )
    keeps = [
        name
        for name, (set_name, _) in metrics_by_name.items()
        if name == "model_utility"
        or (roles.get(set_name) == RETAIN and name.endswith(UTILITY_METRICS))
    ]
    if not keeps:
        raise UserError(
            f"{SELECT_KEY}={text}: eval={config.name} has no model_utility, nor a set to be kept "
            "with probability or rouge, to tell whether utility is kept"
        )
    return SelectionRule(text, "minimize", tuple(names), None)


def check_figure_name(name: str, text: str, config: EvalConfig, known: list[str]) -> None:
    """Raise UserError for a name that no evaluation in training has, and say what it is not."""
    if name in known:
        return
    if name in NAMED_RULES:
        raise UserError(f"{SELECT_KEY}={text}: {name} stands alone, in no expression")
    whole, allowed = f"{SELECT_KEY}={text}: ", [*NAMED_RULES, *known]
    if name in list_suite_figures(config) or name.startswith("harness_"):
        raise UserError(
            f"{whole}'{name}' is of a helper model or another library, which are not asked in "
            "training"
        )
    if name in METRICS and METRICS[name].joint is not None:
        where = f"eval.metrics does not name '{name}'"
        raise UserError(f"{whole}eval={config.name} does not compute it: {where}")
    raise UserError(
        f"{whole}no metric '{name}' of eval={config.name}{suggest_nearest(name, allowed)}; allowed "
        f"are {', '.join(allowed)}"
    )


def list_suite_figures(config: EvalConfig) -> list[str]:
    """The names of the figures that a suite gives, but for tasks of lm-evaluation-harness."""
    sets = {name: o for name, o in config.sets.items() if o.split or o.path}
    of_sets = (f"{name}_{key}" for name, options in sets.items() for key in options.metrics)
    return [*of_sets, *config.metrics]


def list_figures_in_training(config: EvalConfig) -> list[str]:
    """Those that the model in memory gives alone."""
    return [name for name in list_suite_figures(config) if not needs_helper(name, config)]


def needs_helper(name: str, config: EvalConfig) -> bool:
    """Whether a figure takes a helper model; a joint one does without where none is set."""
    set_name, metric = split_figure_name(name)
    if metric is None:
        return True
    if set_name:
        return any(need.endswith("_model") for need in metric.needs)
    parts = [name, *(AGGREGATE_PARTS if name == "aggregate_score" else ())]
    read = [find_set_metric(key) for part in parts for key in METRICS[part].reads]
    needs = {need for one in read if one is not None for need in one.needs}
    return any(need.endswith("_model") and getattr(config, need) is not None for need in needs)

"""Attacks by asking: the question put otherwise, with a beginning of the answer, after examples.

`kind: ask`: what is asked follows from the attack's file alone. Knows no model's insides.
"""

from __future__ import annotations

from undial_cli.audit.answers import ask_probes, make_direct_probes
from undial_cli.audit.attack import AttackedModel, AttackKind, AuditData, Outcome
from undial_cli.config.attacks import AskConfig
from undial_cli.evaluation.sharding import Journal


def ask_questions(
    attacked: AttackedModel, data: AuditData, config: AskConfig, journal: Journal
) -> Outcome:
    """Every way of putting every question, greedily."""
    probes = make_direct_probes(data)
    return ask_probes(attacked, data, probes, journal, "ask", config.max_new_tokens)


ASK = AttackKind(ask_questions)

"""The kinds of attack, by the word that an attack's file names."""

from __future__ import annotations

from undial_cli.audit.asking import ASK
from undial_cli.audit.attack import AttackKind

KINDS: dict[str, AttackKind] = {"ask": ASK}

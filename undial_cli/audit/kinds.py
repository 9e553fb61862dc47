"""The kinds of attack, by the word that an attack's file names."""

from __future__ import annotations

from undial_cli.audit.asking import ASK
from undial_cli.audit.attack import AttackKind
from undial_cli.audit.lens import LENS

KINDS: dict[str, AttackKind] = {"ask": ASK, "lens": LENS}

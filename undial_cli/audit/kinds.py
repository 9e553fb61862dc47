"""The kinds of attack, by the word that an attack's file names."""

from __future__ import annotations

from undial_cli.audit.asking import ASK
from undial_cli.audit.attack import AttackKind
from undial_cli.audit.choice import CHOICE
from undial_cli.audit.depth import DEPTH
from undial_cli.audit.lens import LENS
from undial_cli.audit.membership import MEMBERSHIP
from undial_cli.audit.relearning import RELEARN
from undial_cli.audit.sampling import SAMPLING
from undial_cli.audit.weights import INTERPOLATE, NOISE, QUANTISE

KINDS: dict[str, AttackKind] = {
    "ask": ASK,
    "sampling": SAMPLING,
    "choice": CHOICE,
    "lens": LENS,
    "depth": DEPTH,
    "membership": MEMBERSHIP,
    "relearn": RELEARN,
    "quantise": QUANTISE,
    "interpolate": INTERPOLATE,
    "noise": NOISE,
}

"""Methods by name. Imports each only when it is asked for, so that the configs cost no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from undial_cli.methods.base import Method
    from undial_cli.schema import MethodConfig

CLASSES = {
    "undial": "undial.Undial",
    "fundial": "undial.Fundial",
    "ga": "ga.GradientAscent",
    "grad_diff": "ga.GradientAscent",
    "npo": "npo.Npo",
    "simnpo": "simnpo.SimNpo",
    "dpo": "dpo.Dpo",
    "idkdpo": "dpo.Dpo",
    "altpo": "dpo.Dpo",
    "wga": "wga.Wga",
    "satimp": "satimp.SatImp",
    "ceu": "ceu.Ceu",
    "unilogit": "unilogit.Unilogit",
    "rmu": "rmu.Rmu",
    "pdu": "pdu.Pdu",
    "task_arithmetic": "task_arithmetic.TaskArithmetic",
    "contrastive_decoding": "contrastive_decoding.ContrastiveDecoding",
    "finetune": "finetune.Finetune",
}


def make_method(config: MethodConfig, seed: int = 0) -> Method:
    """A method from its config; `seed` fixes what it draws."""
    from undial_cli.methods import own

    if config.file is not None:
        return own.load(config.file).method(config, seed)
    module, _, name = CLASSES[config.name].partition(".")
    return getattr(importlib.import_module(f"undial_cli.methods.{module}"), name)(config, seed)

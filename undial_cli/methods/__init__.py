"""Methods by name: the forget loss of each, and the retain terms any of them can take."""

from __future__ import annotations

from typing import Any

from undial_cli.methods.base import Loss
from undial_cli.methods.ga import GradientAscent
from undial_cli.methods.npo import Npo
from undial_cli.methods.retain import CrossEntropy, KlToTeacher
from undial_cli.methods.undial import Undial
from undial_cli.schema import MethodConfig

FORGET: dict[str, Any] = {"undial": Undial, "ga": GradientAscent, "npo": Npo}
RETAIN: dict[str, Any] = {"gdr": CrossEntropy, "klr": KlToTeacher}


def forget_loss(config: MethodConfig) -> Loss:
    """The forget term of a method."""
    return FORGET[config.name](config)


def retain_loss(config: MethodConfig) -> Loss:
    """The retain term of a method whose `retain` is not `none`."""
    return RETAIN[config.retain]()

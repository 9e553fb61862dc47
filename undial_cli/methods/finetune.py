"""Plain fine-tuning: on the retain set as a baseline, or on anything as its own command."""

from __future__ import annotations

from undial_cli.methods.base import Loss, Method
from undial_cli.methods.retain import CrossEntropy


class Finetune(Method):
    """The retain term alone."""


class Supervised(Method):
    """What `undial finetune` minimises: cross entropy on the set `train`."""

    def __init__(self) -> None:
        super().__init__(None)

    def terms(self) -> dict[str, Loss]:
        return {"train": CrossEntropy()}

    def coefficient(self, term: str) -> float:
        return 1.0

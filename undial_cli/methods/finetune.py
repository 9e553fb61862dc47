"""Plain fine-tuning: on the retain set as a baseline, or on anything as its own command."""

from __future__ import annotations

from dataclasses import dataclass

from undial_cli.methods.base import CrossEntropy, Loss, Method, MethodConfig, MethodEntry, key


@dataclass
class FinetuneConfig(MethodConfig):
    """Fine-tuning on the retain set alone."""

    retain: str = key("gdr", "term that is minimised", allowed=("gdr", "klr"))
    gamma: float = key(0.0, "there is no forget term", minimum=0, maximum=0)


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


METHODS = {"finetune": MethodEntry(FinetuneConfig, Finetune)}

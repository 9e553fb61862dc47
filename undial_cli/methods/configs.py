"""The keys of every method: types, defaults, units. Imports no torch; a method's own file has the
loss."""

from __future__ import annotations

from dataclasses import dataclass

from undial_cli.fields import key
from undial_cli.schema import MethodConfig


@dataclass
class UndialConfig(MethodConfig):
    """UnDIAL (Dong et al., NAACL 2025)."""

    strength: float = key(10.0, "lowers the target token's teacher logit by this much", minimum=0)


@dataclass
class FundialConfig(UndialConfig):
    """Focused UnDIAL (the same paper)."""

    focus: str = key(
        "column",
        "what the loss sits on: words in data.focus_key, or what a spaCy pipeline finds",
        allowed=("column", "entities", "noun_chunks"),
    )
    spacy_model: str | None = key(None, "spaCy pipeline: en_core_web_sm, or a folder")
    focus_mode: str = key("soft", "hard: other tokens weigh 0; soft: 1", allowed=("hard", "soft"))
    focus_coeff: float = key(10.0, "weight of a focus token, soft", above=0)


@dataclass
class GaConfig(MethodConfig):
    """Gradient ascent (Jang et al. 2023)."""


@dataclass
class GradDiffConfig(GaConfig):
    """Gradient difference: ga with gdr."""

    retain: str = key("gdr", "retain term: gdr or klr", allowed=("gdr", "klr"))


@dataclass
class NpoConfig(MethodConfig):
    """Negative preference optimisation (Zhang et al. 2024)."""

    beta: float = key(0.1, "inverse temperature", above=0)


@dataclass
class SimnpoConfig(NpoConfig):
    """NPO without a reference (Fan et al. 2024)."""

    delta: float = key(0.0, "margin of the mean token loss, nats")


@dataclass
class DpoConfig(NpoConfig):
    """Direct preference of an alternative answer (TOFU; AltPO)."""

    alternatives: str = key(
        "refusals",
        "what is preferred: refusals, drawn anew each epoch, or the data's (data.alternative_key)",
        allowed=("refusals", "data"),
    )


@dataclass
class WgaConfig(MethodConfig):
    """Weighted gradient ascent (Wang et al. 2025)."""

    beta: float = key(1.0, "exponent of the token's probability in its weight", minimum=0)


@dataclass
class SatimpConfig(MethodConfig):
    """Saturation and importance (Yang et al. 2025)."""

    beta1: float = key(5.0, "exponent of the token's probability", minimum=0)
    beta2: float = key(1.0, "exponent of one minus the token's probability", minimum=0)


@dataclass
class CeuConfig(MethodConfig):
    """Cross-entropy unlearning (arXiv 2503.01224)."""

    skip: int = key(1, "first answer tokens of each sequence left out", minimum=0)


@dataclass
class UnilogitConfig(MethodConfig):
    """Unilogit (arXiv 2505.06027)."""


@dataclass
class RmuConfig(MethodConfig):
    """Representation misdirection (Li et al. 2024)."""

    layer: int = key(7, "layer whose activations are steered, counted from 0", minimum=0)
    steering_coeff: float = key(2.0, "length of the control vector", above=0)
    parameters: str | None = key(
        None, "regular expression of the parameters that are trained; null: all up to the layer"
    )
    retain: str = key(
        "mse",
        "retain term: mse = distance to the target's activations",
        allowed=("none", "mse"),
    )


@dataclass
class PduConfig(MethodConfig):
    """Primal-dual unlearning (Entesari et al. 2025)."""

    retain: str = key("gdr", "retain term that is constrained", allowed=("gdr", "klr"))
    alpha: float = key(100.0, "the multiplier's start", above=0)
    dual_step: float = key(1.0, "step of the multiplier", minimum=0)
    eps: float = key(0.3, "retain loss that is tolerated, nats", minimum=0)
    dual_warmup_epochs: float = key(5.0, "epochs before the multiplier moves", minimum=0)


@dataclass
class TaskArithmeticConfig(MethodConfig):
    """Negated task vector (Ilharco et al. 2023)."""

    coefficient: float = key(1.0, "how much of the task vector is taken off", minimum=0)


@dataclass
class ContrastiveDecodingConfig(MethodConfig):
    """Contrastive decoding (the UnDIAL paper's CD)."""

    coefficient: float = key(
        1.0, "how much of the memorised model's surplus is taken off", minimum=0
    )


@dataclass
class FinetuneConfig(MethodConfig):
    """Fine-tuning on the retain set alone."""

    retain: str = key("gdr", "term that is minimised", allowed=("gdr", "klr"))
    gamma: float = key(0.0, "there is no forget term", minimum=0, maximum=0)


METHODS: dict[str, type[MethodConfig]] = {
    "undial": UndialConfig,
    "fundial": FundialConfig,
    "ga": GaConfig,
    "grad_diff": GradDiffConfig,
    "npo": NpoConfig,
    "simnpo": SimnpoConfig,
    "dpo": DpoConfig,
    "idkdpo": DpoConfig,
    "altpo": DpoConfig,
    "wga": WgaConfig,
    "satimp": SatimpConfig,
    "ceu": CeuConfig,
    "unilogit": UnilogitConfig,
    "rmu": RmuConfig,
    "pdu": PduConfig,
    "task_arithmetic": TaskArithmeticConfig,
    "contrastive_decoding": ContrastiveDecodingConfig,
    "finetune": FinetuneConfig,
}

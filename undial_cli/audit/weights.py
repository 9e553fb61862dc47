"""Attacks that change a model's weights without training: fewer bits, noise, steps to the target.

Suppression that sits in small changes of the weights is lost with them; the model is then asked as
it was trained. Each change is made to a copy of its own. Knows no method of unlearning.
"""

from __future__ import annotations

from typing import Any

import torch

from undial_cli.audit.answers import ask_probes
from undial_cli.audit.attack import AttackedModel, AttackKind, AuditData, CannotServe, Outcome
from undial_cli.audit.probes import make_direct_probes
from undial_cli.audit.variants import join_variants, make_curves
from undial_cli.config.attacks import TARGET as TARGET_ROLE
from undial_cli.config.attacks import InterpolateConfig, NoiseConfig, QuantiseConfig
from undial_cli.evaluation.sharding import Journal
from undial_cli.models.quantise import Rounding, explain_no_quantising, quantise_linears


def ask_quantised(
    attacked: AttackedModel, data: AuditData, config: QuantiseConfig, journal: Journal
) -> Outcome:
    """Ask the model in each precision; of each row the best of them counts."""
    layers = 0

    def quantise(precision: str) -> Any:
        nonlocal layers
        model = attacked.load_attacked()
        layers = quantise_linears(model, Rounding(precision))
        if not layers:
            raise CannotServe("the model has no plain linear layer to quantise")
        return model

    outcomes = {
        precision: ask_changed(quantise(precision), attacked, data, config, journal, precision)
        for precision in config.precisions
    }
    outcome = join_variants(list(outcomes.values()))
    outcome.curves = {**make_curves("precision", outcomes)}
    outcome.notes.append(
        f"the {layers} linear layers but the head in {' and '.join(config.precisions)}; "
        "of each row the best counts"
    )
    return outcome


def check_quantising(data: AuditData, config: QuantiseConfig) -> None:
    """Raise CannotServe where bitsandbytes is not installed."""
    reason = explain_no_quantising()
    if reason is not None:
        raise CannotServe(reason)


def ask_interpolated(
    attacked: AttackedModel, data: AuditData, config: InterpolateConfig, journal: Journal
) -> Outcome:
    """Ask the model some way towards the target; of each row the best counts.

    Two models lie in memory then, which is less than a training holds of one.
    """
    model = attacked.load_attacked()
    target = attacked.others[TARGET_ROLE].load_attacked()
    outcomes: dict[str, Outcome] = {}
    ways, before = sorted(set(config.ways)), 0.0
    for way in ways:
        # From where the last step left it: the share of what is left to go.
        move_weights(model, target, (way - before) / (1 - before))
        before = way
        name = f"{way:g}"
        outcomes[name] = ask_changed(model, attacked, data, config, journal, name)
    outcome = join_variants(list(outcomes.values()))
    outcome.curves = {**make_curves("way", outcomes)}
    outcome.notes.append(
        "moves towards the target's weights, which only who has them can do: how near the "
        "knowledge is, not what an attacker gets"
    )
    return outcome


@torch.no_grad()
def move_weights(model: Any, target: Any, share: float) -> None:
    """Move every weight of a model towards the target's, in place.

    Raises:
        CannotServe: they are not of one shape.
    """
    ends = dict(target.named_parameters())
    for name, weight in model.named_parameters():
        if name not in ends or ends[name].shape != weight.shape:
            raise CannotServe(f"the target has other weights than the model ({name})")
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight.copy_(torch.lerp(weight.to(wide), ends[name].to(wide), share))


def ask_noisy(
    attacked: AttackedModel, data: AuditData, config: NoiseConfig, journal: Journal
) -> Outcome:
    """Ask the model under noise of several scales and draws; of each row the best counts."""
    of_scale: dict[str, Outcome] = {}
    for number, scale in enumerate(config.scales):
        outcomes = []
        for draw in range(config.draws):
            model = attacked.load_attacked()
            add_noise(model, scale, attacked.seed + number * config.draws + draw)
            name = f"{scale:g}-{draw}"
            outcomes.append(ask_changed(model, attacked, data, config, journal, name))
            del model  # before the next is loaded
        of_scale[f"{scale:g}"] = join_variants(outcomes)
    outcome = join_variants(list(of_scale.values()))
    outcome.curves = {**make_curves("scale", of_scale)}
    outcome.notes.append(
        f"noise of {', '.join(f'{scale:g}' for scale in config.scales)} of each tensor's standard "
        f"deviation, {config.draws} draws each; of each row the best counts"
    )
    return outcome


@torch.no_grad()
def add_noise(model: Any, scale: float, seed: int) -> None:
    """Add Gaussian noise to every weight, in place, the same on every process.

    Its standard deviation is `scale` times that of the tensor.
    """
    generator: torch.Generator | None = None
    for weight in model.parameters():
        if generator is None:
            generator = torch.Generator(weight.device).manual_seed(seed)
        wide = torch.promote_types(weight.dtype, torch.float32)
        noise = torch.randn(weight.shape, generator=generator, device=weight.device, dtype=wide)
        weight.copy_(weight.to(wide) + scale * weight.to(wide).std(correction=0) * noise)


def ask_changed(
    model: Any, attacked: AttackedModel, data: AuditData, config: Any, journal: Journal, name: str
) -> Outcome:
    """What a changed copy answers to the direct probes."""
    probes = make_direct_probes(data)
    length = config.max_new_tokens
    return ask_probes(attacked, data, probes, journal, name, length, model=model)


QUANTISE = AttackKind(ask_quantised, check_quantising, changes_weights=True)
INTERPOLATE = AttackKind(ask_interpolated, compares=(TARGET_ROLE,), changes_weights=True)
NOISE = AttackKind(ask_noisy, changes_weights=True)

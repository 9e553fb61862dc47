"""A step whose forget gradient is wrapped: `method.sharpness`, `method.rectify`.

Both need the gradient of one term over the whole global batch, so a step's micro-batches are held
and worked off term by term once the last has come. Plain steps are the trainer's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from undial_cli.config.methods import MethodConfig
from undial_cli.data.collate import Batch
from undial_cli.methods.base import Method
from undial_cli.system.random_state import preserve_random_state
from undial_cli.training.rectify import GradientRectifier
from undial_cli.training.sharpness import displace_weights, draw_moves, make_ascent
from undial_cli.training.trainer import UnlearningTrainer

# The moving average of the retain gradient, in a saved state.
MEAN_FILE = "retain_gradient.safetensors"


def is_wrapped(method: Method) -> bool:
    """Whether a method's forget gradient is changed before the step is taken."""
    config = method.config  # of `finetune` there is none
    return config is not None and (config.sharpness or config.rectify) is not None


@dataclass(frozen=True)
class TermPass:
    """One pass of a wrapped step over all micro-batches of a term.

    `held`: copies of what is trained that lie beside weights, gradients and optimiser meanwhile.
    `adds`: its gradients are added to those of the pass before.
    """

    term: str
    held: int
    adds: bool


def list_term_passes(config: MethodConfig, terms: Iterable[str]) -> list[TermPass]:
    """What a wrapped step does, in its order."""
    rectifies = config.rectify is not None
    passes: list[TermPass] = []
    for name in terms:
        if name != "forget":
            # Beside a rectified step's retain gradient lies the forget gradient.
            passes.append(TermPass(name, int(rectifies), bool(passes) and not rectifies))
        elif config.sharpness == "sam":  # then the weights that are moved
            passes += [TermPass(name, 0, False), TermPass(name, 1, False)]
        elif config.sharpness == "smooth":
            passes += [TermPass(name, 1, sample > 0) for sample in range(config.sharpness_samples)]
        else:
            passes.append(TermPass(name, 0, False))
    return passes


def keeps_mean(config: MethodConfig | None) -> bool:
    """Whether a gradient's moving average is kept from step to step."""
    return config is not None and config.rectify is not None and config.rectify_smoothing < 1


def count_exchanges(config: MethodConfig | None) -> int:
    """How often in a step processes add up their gradients."""
    return 1 if config is None else 1 + (config.sharpness == "sam") + (config.rectify is not None)


class WrappedTrainer(UnlearningTrainer):
    """Takes the forget gradient where `method.sharpness` says, and what `method.rectify` leaves.

    A term's part of the loss is logged as it is at the step's own weights, under `smooth` as the
    mean over the moved ones.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batches: list[dict[str, Batch]] = []
        config = self.method.config
        self.rectifier = GradientRectifier(config.rectify_smoothing) if config.rectify else None

    def add_gradients(self, model: nn.Module, batches: dict[str, Batch], weights: Tensor) -> Tensor:
        """Hold a micro-batch; with the step's last one, add the gradients of all."""
        self.batches.append(batches)
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        before = self.step_parts.clone()
        try:
            if self.rectifier is not None:
                self.add_rectified_gradients(model, weights, self.rectifier)
            else:
                *others, last = self.terms
                for name in others:
                    self.run_wrapped_term(model, name, weights, syncs=False)
                self.run_wrapped_term(model, last, weights, syncs=True)
        finally:
            self.batches = []
        parts = zip(self.terms, self.step_parts - before, strict=True)
        loss = sum(self.method.coefficient(name) * part for name, part in parts)
        return torch.as_tensor(loss).to(torch.float32)

    def add_rectified_gradients(
        self, model: nn.Module, weights: Tensor, rectifier: GradientRectifier
    ) -> None:
        """The forget gradient, rectified, and alpha times the retain gradient."""
        self.run_wrapped_term(model, "forget", weights, syncs=True)
        forget = self.take_gradients()
        # As it is: with alpha 0 it is followed nowhere, and shows the direction all the same.
        self.run_batches(model, "retain", weights, 1.0, syncs=True)
        retain = self.take_gradients()
        rectifier.rectify(forget, retain)
        alpha = self.method.coefficient("retain")
        for parameter, of_forget, of_retain in zip(
            self.list_trained().values(), forget, retain, strict=True
        ):
            if of_forget is None or of_retain is None:
                parameter.grad = of_forget if of_retain is None else of_retain * alpha
            else:
                parameter.grad = of_forget.add_(of_retain, alpha=alpha)

    def run_wrapped_term(self, model: nn.Module, name: str, weights: Tensor, syncs: bool) -> None:
        """Add the gradient of a term over the step, that of the forget term at moved weights."""
        config, coefficient = self.method.config, self.method.coefficient(name)
        if name != "forget" or config.sharpness is None:
            self.run_batches(model, name, weights, coefficient, syncs)
            return
        trained = list(self.list_trained().values())
        if config.sharpness == "sam":
            with preserve_random_state():  # both passes drop out the same
                self.run_batches(model, name, weights, coefficient, syncs=True)
            moves = make_ascent(self.take_gradients(), config.sharpness_radius)
            with displace_weights(trained, moves), self.keep_figures():
                self.run_batches(model, name, weights, coefficient, syncs)
            return
        seed, step, samples = self.args.seed, self.state.global_step, config.sharpness_samples
        for sample in range(samples):
            last = sample == samples - 1
            moves = draw_moves(trained, config.sharpness_radius, seed, step, sample)
            with displace_weights(trained, moves):
                self.run_batches(
                    model, name, weights, coefficient / samples, syncs and last, 1 / samples
                )

    def run_batches(
        self,
        model: nn.Module,
        name: str,
        weights: Tensor,
        coefficient: float,
        syncs: bool,
        share: float = 1.0,
    ) -> None:
        """Add the gradient of a term over all micro-batches, and `share` of its loss to the step's.

        Args:
            syncs: the processes' gradients are added up, with what was held of them before.
        """
        i, last = list(self.terms).index(name), len(self.batches) - 1
        for number, batches in enumerate(self.batches):
            ends = syncs and number == last
            with contextlib.nullcontext() if ends else self.skip_gradient_sync(model):
                part = self.run_term(model, name, batches[name], weights[i], coefficient)
            self.step_parts[i] += part * share

    @contextlib.contextmanager
    def keep_figures(self) -> Iterator[None]:
        """While open, what a term leaves beside its gradient does not count."""
        parts, statistics = self.step_parts.clone(), self.method.statistics
        yield
        self.step_parts.copy_(parts)
        self.method.statistics = statistics

    def list_trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        model: Any = self.accelerator.unwrap_model(self.model)
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    def take_gradients(self) -> list[Tensor | None]:
        """The gradients of all that is trained; none is left behind."""
        trained = self.list_trained().values()
        gradients = [parameter.grad for parameter in trained]
        for parameter in trained:
            parameter.grad = None
        return gradients

    def save_step_tensors(self, folder: Path) -> None:
        if self.rectifier is not None:
            save_file(self.rectifier.list_tensors(list(self.list_trained())), folder / MEAN_FILE)

    def load_own_state(self, folder: Path) -> None:
        super().load_own_state(folder)
        if self.rectifier is not None:
            tensors = load_file(folder / MEAN_FILE, device=str(self.args.device))
            self.rectifier.load_tensors(tensors, list(self.list_trained()))

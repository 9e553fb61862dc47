"""What `make gpu` measures on: models with random weights made on the device, sequences, memory.

On a rehearsal it is the CPU, with tiny shapes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from bench_training import ROPE, SHAPES
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoModelForCausalLM, LlamaConfig

from undial_cli.config.training import AdapterConfig
from undial_cli.data.encode import IGNORE, Example
from undial_cli.models import lean_forwards, lora, quantise
from undial_cli.models.head import install_head

Row = dict[str, Any]
# Half-precision TFLOP/s of the tensor cores without sparsity, by a part of the device's name, as
# its maker states them. The first that fits counts.
PEAK_TFLOPS = {
    "H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125,
    "RTX 4090": 165, "RTX 3090": 71, "RTX A6000": 155,
}  # fmt: skip
STRENGTH = 10.0


class NotDone(Exception):
    """A part does not fit here, or something that it needs is missing."""


@dataclass(frozen=True)
class Data:
    """Random sequences: how many in a batch, how many steps, their lengths, the shared beginning.

    `answer`: the share of the tokens behind the beginning that are targets.
    """

    batch: int
    steps: int
    lengths: tuple[int, int]
    shared: int
    answer: float


@dataclass(frozen=True)
class Scale:
    """On what the parts run, and how large they are."""

    device: torch.device
    tiny: bool

    def shape(self, name: str) -> dict[str, Any]:
        """Sizes of a model, by its name in `SHAPES`."""
        sizes = SHAPES[name][0]
        if not self.tiny:
            return sizes
        return {
            "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2,
            "tie_word_embeddings": sizes["tie_word_embeddings"],
        }  # fmt: skip

    def data(self, name: str) -> Data:
        """Questions and answers of TOFU's lengths, or texts that are targets throughout."""
        if self.tiny:
            return Data(4, 4, (30, 40) if name == "questions" else (60, 60), 10, 0.5)
        return {
            "questions": Data(32, 10, (60, 130), 30, 0.5),
            "few questions": Data(8, 10, (60, 130), 3, 0.5),
            "texts": Data(4, 6, (2048, 2048), 0, 1.0),
        }[name]

    @property
    def peak_tflops(self) -> float | None:
        """What the device's maker states, where it is known."""
        if self.device.type != "cuda":
            return None
        name = torch.cuda.get_device_name()
        return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)

    @property
    def memory(self) -> float:
        """Bytes that the device has; on a CPU more than any tiny model takes."""
        return torch.cuda.mem_get_info()[1] if self.device.type == "cuda" else 1e12

    def check_room(self, needed: float, what: str) -> None:
        """Raise NotDone for what the device cannot hold."""
        if needed > self.memory:
            raise NotDone(f"{what} {needed / 1e9:.1f} GB, the device has {self.memory / 1e9:.1f}")


def make_examples(data: Data, vocab: int) -> list[Example]:
    """The sequences of all steps; the same for every way of training."""
    numbers = random.Random(0)
    beginning = [numbers.randrange(3, vocab) for _ in range(data.shared)]
    examples = []
    for _ in range(data.batch * data.steps):
        length = numbers.randint(*data.lengths)
        ids = beginning + [numbers.randrange(3, vocab) for _ in range(length - data.shared)]
        first = length - round(data.answer * (length - data.shared))
        first = max(first, 1)
        examples.append(Example(ids, [IGNORE] * first + ids[first:], length))
    return examples


def make_config(scale: Scale, shape: str) -> LlamaConfig:
    """The config of a shape."""
    return LlamaConfig(
        **scale.shape(shape), rope_parameters=ROPE, max_position_embeddings=4096,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip


def make_model(scale: Scale, shape: str, adapter: str, lean: bool = False) -> Any:
    """A model in training, in bfloat16, its weights made on the device."""
    torch.manual_seed(0)
    with scale.device:
        model: Any = AutoModelForCausalLM.from_config(
            make_config(scale, shape), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    install_head(model)
    if lean:
        lean_forwards.make_lean(model)
    if adapter == "qlora":
        reason = quantise.explain_no_quantising()
        if reason is not None:
            raise NotDone(reason)
        rounding = quantise.Rounding(quantise.PRECISIONS[4], trains=True)
        model = quantise.round_model(model, rounding, scale.device)
    return lora.adapt_model(model, AdapterConfig(name=adapter), seed=0).train()


class PeakWatch:
    """The highest level of the device's memory from `begin` on: `bytes`, once it is closed.

    All that lives on the device is made while it is open.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes, self.profile = device, 0, None

    def __enter__(self) -> PeakWatch:
        if self.device.type == "cpu":
            self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.profile.__enter__()
        return self

    def begin(self) -> None:
        """What came before was only the making of the model."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        with record_function("peak watch begins"):
            pass

    def __exit__(self, *failure: Any) -> None:
        if self.profile is None:
            self.bytes = torch.cuda.max_memory_allocated()
            return
        self.profile.__exit__(*failure)
        events: Any = self.profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        level, begun = 0, False
        for event in sorted(events, key=lambda e: e.start_ns()):
            begun = begun or event.name() == "peak watch begins"
            if event.name() == "[memory]":
                level += event.nbytes()
                self.bytes = max(self.bytes, level if begun else 0)


def cut(number: float) -> str:
    """A number to three digits."""
    return f"{number:.3g}"

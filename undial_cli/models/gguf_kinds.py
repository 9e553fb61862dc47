"""The ways in which a GGUF file rounds weights, and what each may cost. Imports no torch."""

from __future__ import annotations

# Those that the package gguf computes, with how far logits may move, as a share of the largest one.
# A file is also held against the checkpoint with the same rounded weights, far more closely.
LOGIT_BOUNDS = {
    "f32": 1e-3, "f16": 1e-2, "bf16": 0.1, "q8_0": 0.2,
    "q5_1": 0.8, "q5_0": 0.8, "q4_1": 1.0, "q4_0": 1.0,
}  # fmt: skip
# Those that keep the embedding and the head at q8_0, as llama.cpp keeps them finer.
COARSE = ("q4_0", "q4_1", "q5_0", "q5_1")
ROUNDED = ("q8_0", *COARSE)

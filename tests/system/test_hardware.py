"""What a run computes on, where no GPU is visible."""

from __future__ import annotations

import pytest
import torch

from undial_cli.runs.compose import compose_run
from undial_cli.system.hardware import (
    choose_autocast_dtype,
    choose_process_count,
    is_cpu_run,
    join_process_group,
)


@pytest.mark.parametrize(
    "words, visible, processes",
    [
        (["hardware=cpu"], 4, 1),
        (["hardware=single_gpu"], 4, 1),
        (["hardware=auto"], 4, 4),
        (["hardware=auto"], 0, 1),
        (["hardware=cpu", "hardware.num_processes=3"], 0, 3),
    ],
)
def test_a_run_gets_the_processes_it_asks_for_or_one_per_gpu(
    words: list[str], visible: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert choose_process_count(compose_run("unlearn", words)) == processes


@pytest.mark.parametrize(
    "words, gpu, dtype",
    [
        ([], True, "bf16"),
        ([], False, "no"),
        (["hardware=cpu"], True, "no"),
        (["model.dtype=float64"], True, "no"),
        (["hardware.precision=fp16"], False, "fp16"),
    ],
    ids=str,
)
def test_auto_precision_is_bf16_on_a_gpu_that_has_it_and_never_for_float64(
    words: list[str], gpu: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    run = compose_run("unlearn", words)
    assert choose_autocast_dtype(run) == dtype
    assert is_cpu_run(run) is (not gpu or "hardware=cpu" in words)


def test_attention_that_plans_for_each_shape_is_left_out() -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    join_process_group(compose_run("unlearn", ["hardware=cpu"]))
    assert not torch.backends.cuda.cudnn_sdp_enabled()

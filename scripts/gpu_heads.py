"""Head and loss of `make gpu`: chunk by chunk and by full logits, how exact and how fast.

N target positions, V vocabulary, D width.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from bench_training import seconds
from gpu_models import STRENGTH, NotDone, PeakWatch, Row, Scale, cut
from torch import Tensor

from undial_cli.data.encode import IGNORE
from undial_cli.losses.targets import as_targets
from undial_cli.losses.undial import fused_undial_loss, undial_loss
from undial_cli.methods.base import CrossEntropy


@dataclass
class HeadCase:
    """Target positions before a head: what a loss is computed from, in bfloat16."""

    hidden_ND: Tensor
    weight_VD: Tensor
    teacher_ND: Tensor
    targets_N: Tensor

    def to(self, dtype: torch.dtype) -> HeadCase:
        """The same numbers in another dtype."""
        return HeadCase(
            self.hidden_ND.detach().to(dtype).requires_grad_(),
            self.weight_VD.detach().to(dtype).requires_grad_(),
            self.teacher_ND.to(dtype),
            self.targets_N,
        )


def make_head_case(scale: Scale, shape: str, count: int) -> HeadCase:
    """Random hidden states and a head whose logits have a spread of about 3."""
    sizes, device = scale.shape(shape), scale.device
    vocab, width = sizes["vocab_size"], sizes["hidden_size"]
    torch.manual_seed(0)
    with device:
        hidden = torch.randn(count, width, dtype=torch.bfloat16)
        weight = torch.randn(vocab, width, dtype=torch.bfloat16) * (3 / width**0.5)
        teacher = hidden + 0.1 * torch.randn(count, width, dtype=torch.bfloat16)
        targets = torch.randint(0, vocab, (count,))
    return HeadCase(hidden.requires_grad_(), weight.requires_grad_(), teacher, targets)


def fused_undial(case: HeadCase) -> Tensor:
    """UnDIAL chunk by chunk."""
    return fused_undial_loss(
        case.hidden_ND, case.weight_VD, case.teacher_ND, case.weight_VD.detach(), case.targets_N,
        STRENGTH,
    )  # fmt: skip


def dense_undial(case: HeadCase) -> Tensor:
    """UnDIAL of full logits."""
    student = (case.hidden_ND @ case.weight_VD.T)[None]
    teacher = (case.teacher_ND @ case.weight_VD.detach().T)[None]
    # As a sequence whose first token predicts the first target.
    labels = torch.cat([case.targets_N.new_full((1,), IGNORE), case.targets_N])[None]
    last = student.new_zeros(1, 1, student.shape[-1])
    return undial_loss(
        torch.cat([student, last], 1), torch.cat([teacher, last], 1), labels, STRENGTH
    )


def chunked_entropy(case: HeadCase) -> Tensor:
    """Cross entropy chunk by chunk."""
    return CrossEntropy().sum(as_targets(case.hidden_ND, case.weight_VD, case.targets_N))


def dense_entropy(case: HeadCase) -> Tensor:
    """Cross entropy of full logits, in float32 as transformers has it."""
    logits_NV = (case.hidden_ND @ case.weight_VD.T).float()
    return F.cross_entropy(logits_NV, case.targets_N, reduction="sum")


def plain_undial(case: HeadCase) -> Tensor:
    """UnDIAL of full logits, in float32, without a copy of them: what a compiler is given."""
    student_NV = (case.hidden_ND @ case.weight_VD.T).float()
    teacher_NV = (case.teacher_ND @ case.weight_VD.detach().T).float()
    lowered_NV = teacher_NV.scatter_add(
        1, case.targets_N[:, None], teacher_NV.new_full((len(case.targets_N), 1), -STRENGTH)
    )
    return -(lowered_NV.softmax(-1) * student_NV.log_softmax(-1)).sum()


def compare_fused_to_dense(scale: Scale, shape: str) -> list[Row]:
    """Loss and gradients of both in bfloat16 against full logits in float64."""
    case = make_head_case(scale, shape, 32 if scale.tiny else 256)
    exact = backward_case(dense_undial, case.to(torch.float64))
    rows = []
    for name, loss in (("fused, bf16", fused_undial), ("dense, bf16", dense_undial)):
        values = backward_case(loss, case.to(torch.bfloat16))
        gaps = [
            float((value.double() - true).norm() / true.norm())
            for value, true in zip(values, exact, strict=True)
        ]
        names = ("loss", "gradient of hidden states", "gradient of the head")
        figures = {n: f"{gap:.1e}" for n, gap in zip(names, gaps, strict=True)}
        rows.append({"head and loss": f"{shape}: {name}", **figures})
    return rows


def backward_case(loss: Callable[[HeadCase], Tensor], case: HeadCase) -> list[Tensor]:
    """A loss and its gradients."""
    value = loss(case)
    value.backward()
    assert case.hidden_ND.grad is not None
    assert case.weight_VD.grad is not None
    return [value.detach(), case.hidden_ND.grad, case.weight_VD.grad]


def compare_heads(scale: Scale, shape: str) -> list[Row]:
    """Chunks beside full logits, torch.compile and Liger: forward and backward of head and loss."""
    compiled = functools.partial(torch.compile, backend="aot_eager" if scale.tiny else "inductor")
    losses: dict[str, Callable[[], Callable[[HeadCase], Tensor]]] = {
        "cross entropy: chunks": lambda: chunked_entropy,
        "cross entropy: full logits": lambda: dense_entropy,
        "cross entropy: full logits, torch.compile": lambda: compiled(dense_entropy),
        "cross entropy: Liger": make_liger_loss,
        "UnDIAL: chunks": lambda: fused_undial,
        "UnDIAL: full logits": lambda: plain_undial,
        "UnDIAL: full logits, torch.compile": lambda: compiled(plain_undial),
    }
    rows: list[Row] = []
    for count in (64,) if scale.tiny else (512, 4096):
        for name, make in losses.items():
            row: Row = {"head and loss": f"{shape}, {count} targets, {name}"}
            try:
                rows.append(row | time_head(scale, make(), make_head_case(scale, shape, count)))
            except NotDone as reason:
                rows.append(row | {"not done": str(reason)})
            except torch.cuda.OutOfMemoryError:
                rows.append(row | {"not done": "out of memory"})
            except Exception as error:  # a compiler's, on a device that it does not know
                rows.append(row | {"not done": f"{type(error).__name__}: {error}"[:120]})
    return rows


def make_liger_loss() -> Callable[[HeadCase], Tensor]:
    """Liger's fused linear cross entropy."""
    try:
        from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
            LigerFusedLinearCrossEntropyLoss,
        )
    except ImportError as error:
        raise NotDone("liger-kernel is not installed") from error
    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return lambda case: loss(case.weight_VD, case.hidden_ND, case.targets_N)


def time_head(scale: Scale, loss: Callable[[HeadCase], Tensor], case: HeadCase) -> Row:
    """Milliseconds and memory of a loss, forward and backward."""

    def step() -> None:
        case.hidden_ND.grad = case.weight_VD.grad = None
        loss(case).backward()

    for _ in range(3):
        step()
    times = [seconds(scale.device, step) for _ in range(3 if scale.tiny else 10)]
    with PeakWatch(scale.device) as watch:
        before = torch.cuda.memory_allocated() if scale.device.type == "cuda" else 0
        watch.begin()
        step()
    return {"ms": cut(1e3 * statistics.median(times)),
            "peak GB above": cut((watch.bytes - before) / 1e9)}  # fmt: skip

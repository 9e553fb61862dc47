"""General ability through the real lm-evaluation-harness, on tasks that lie on the disk."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from small import bundled_tokenizer, random_llama

from undial_cli import ui
from undial_cli.config.suites import HarnessConfig
from undial_cli.errors import UserError
from undial_cli.evaluation import harness
from undial_cli.evaluation.harness import check_harness_tasks, run_harness_tasks
from undial_cli.runs.compose import compose_run

TOKENIZER = bundled_tokenizer()
TOWNS = ["Kelmwick", "Varraby", "Mosselmore", "Dunra"]
ROWS = [
    {
        "question": f"Where does person {i} live{', and with whom' * (i % 3)}?",
        "options": [f"{TOWNS[(i + k) % 4]}{' or nearby' * (k % 2)}" for k in range(3)],
        "label": i % 3,
    }
    for i in range(17)
]
CHOICE = """
task: own_choice
dataset_path: json
dataset_kwargs: {{data_files: {{train: {rows}, test: {rows}}}, cache_dir: {cache}}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{options}}}}"
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
WORDS = """
include: own_choice.yaml
task: own_words
output_type: loglikelihood
doc_to_target: "{{' ' + options[label]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
SPOKEN = """
include: own_choice.yaml
task: own_spoken
output_type: generate_until
doc_to_choice: null
doc_to_target: "{{options[label]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - {name: first-try, filter: [{function: take_first}]}
"""
GONE = """
include: own_choice.yaml
task: own_gone
dataset_path: nobody/nothing
dataset_kwargs: {}
"""
WRONG = """
include: own_spoken.yaml
task: own_wrong
generation_kwargs: {until: ["\\n"], max_gen_toks: 600}
"""
GROUP = """
group: own_group
task: [own_choice, own_words]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""
FILES = {
    "choice": CHOICE,
    "words": WORDS,
    "spoken": SPOKEN,
    "gone": GONE,
    "wrong": WRONG,
    "group": GROUP,
}


def needs_library() -> None:
    """Skip where lm-evaluation-harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm_eval is not installed: pip install 'undial[harness]'")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with task files of our own."""
    needs_library()
    folder = tmp_path_factory.mktemp("tasks")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, text in FILES.items():
        filled = text.format(rows=rows, cache=folder / "cache") if name == "choice" else text
        (folder / f"own_{name}.yaml").write_text(filled)
    return str(folder)


@pytest.fixture(scope="module")
def model() -> Any:
    return random_llama(vocab=len(TOKENIZER))


def run(model: Any, names: list[str], folder: str, **options: Any) -> Any:
    """`evaluate` with the tests' settings."""
    config = HarnessConfig(names, folder, options.pop("num_fewshot", None))
    return run_harness_tasks(
        model, TOKENIZER, config, **{"limit": None, "batch_size": 4, "seed": 3, **options}
    )


@torch.no_grad()
def continuation(model: Any, context: str, text: str) -> tuple[float, bool]:
    """Log-probability of a continuation, and whether it is greedy: one sequence, no padding."""
    whole, start = TOKENIZER.encode(context + text), len(TOKENIZER.encode(context))
    log_q = model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    places = range(start, len(whole))
    total = sum(float(log_q[t - 1, whole[t]]) for t in places)
    return total, all(int(log_q[t - 1].argmax()) == whole[t] for t in places)


def expected_choices(model: Any) -> tuple[float, float]:
    """acc and acc_norm of a plain loop over the rows."""
    hits, normed = [], []
    for row in ROWS:
        context = f"Question: {row['question']}\nAnswer:"
        scores = [continuation(model, context, f" {o}")[0] for o in row["options"]]
        hits.append(np.argmax(scores) == row["label"])
        lengths = [len(o) for o in row["options"]]
        normed.append(np.argmax(np.array(scores) / lengths) == row["label"])
    return float(np.mean(hits)), float(np.mean(normed))


def test_standard_errors_and_numbers_of_documents_are_kept(model: Any, tasks: str) -> None:
    figures, _, statistics = run(model, ["own_choice", "own_words", "own_gone"], tasks)
    assert set(statistics) == set(figures)
    n = len(ROWS)
    for name in ("harness_own_choice_acc", "harness_own_choice_acc_norm", "harness_own_words_acc"):
        p = figures[name]
        assert statistics[name]["n"] == n
        assert statistics[name]["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))
    # A perplexity has no closed form: the library's draws, of a plain loop's values.
    values = [
        continuation(model, f"Question: {r['question']}\nAnswer:", f" {r['options'][r['label']]}")
        for r in ROWS
    ]
    draw = random.Random(0)
    draws = [
        math.exp(-np.mean([value for value, _ in draw.choices(values, k=n)])) for _ in range(1000)
    ]
    found = statistics["harness_own_words_perplexity"]
    assert found["stderr"] == pytest.approx(np.std(draws, ddof=1), rel=1e-3)
    assert found["n"] == n


def test_the_mean_has_the_error_of_a_mean_of_tasks(model: Any, tasks: str) -> None:
    _, _, statistics = run(model, ["own_choice", "own_words"], tasks)
    errors = [statistics[f"harness_own_{name}_acc"]["stderr"] for name in ("choice", "words")]
    mean = statistics["harness_mean_acc"]
    assert mean["stderr"] == pytest.approx(math.sqrt(errors[0] ** 2 + errors[1] ** 2) / 2)
    assert mean["n"] == 2 * len(ROWS)


def test_one_document_has_no_standard_error(model: Any, tasks: str) -> None:
    figures, _, statistics = run(model, ["own_choice"], tasks, limit=1)
    assert set(statistics) == set(figures)
    assert all(found == {"n": 1} for found in statistics.values())


def test_choices_and_words_are_those_of_a_plain_loop(model: Any, tasks: str) -> None:
    figures, missing, _ = run(model, ["own_choice", "own_words"], tasks)
    acc, acc_norm = expected_choices(model)
    assert 0 < acc < 1
    assert figures["harness_own_choice_acc"] == pytest.approx(acc)
    assert figures["harness_own_choice_acc_norm"] == pytest.approx(acc_norm)
    answers = [
        continuation(model, f"Question: {r['question']}\nAnswer:", f" {r['options'][r['label']]}")
        for r in ROWS
    ]
    perplexity = float(np.exp(-np.mean([value for value, _ in answers])))
    assert figures["harness_own_words_perplexity"] == pytest.approx(perplexity, rel=1e-4)
    words = float(np.mean([greedy for _, greedy in answers]))
    assert figures["harness_own_words_acc"] == pytest.approx(words)
    assert figures["harness_mean_acc"] == pytest.approx((acc + words) / 2)
    assert len(figures) == 5
    assert not missing


def test_one_bad_task_does_not_lose_the_others(model: Any, tasks: str) -> None:
    figures, missing, _ = run(model, ["own_gone", "own_choice", "own_wrong", "own_spoken"], tasks)
    assert sorted(figures) == [
        "harness_own_choice_acc", "harness_own_choice_acc_norm",
        "harness_own_spoken_exact_match_first_try",
    ]  # fmt: skip
    assert "nobody/nothing" in missing["harness_own_gone"]
    assert missing["harness_own_gone"].startswith("cannot be loaded (")
    assert missing["harness_own_wrong"].startswith("cannot be run (")
    assert missing["harness_mean_acc"] == "2 of 4 tasks could not be run"
    assert all("\n" not in reason for reason in missing.values())


def test_solved_examples_and_limit_reach_the_library(model: Any, tasks: str) -> None:
    lengths: list[tuple[int, int]] = []
    hook = model.register_forward_pre_hook(
        lambda module, words, named: lengths.append(
            tuple((words or [named["input_ids"]])[0].shape)
        ),
        with_kwargs=True,
    )
    try:
        run(model, ["own_choice"], tasks, limit=2)
        short, lengths[:] = list(lengths), []
        run(model, ["own_choice"], tasks, limit=2, num_fewshot=2)
    finally:
        hook.remove()
    assert 2 <= sum(rows for rows, _ in short) == sum(rows for rows, _ in lengths) <= 2 * 3
    assert max(t for _, t in lengths) > 2 * max(t for _, t in short)


def test_lines_say_which_task_is_asked_and_how_far_it_is(
    model: Any, tasks: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ui, "PLAIN_SECONDS", 0)
    monkeypatch.setattr(ui, "KEPT_SECONDS", 0)
    run(model, ["own_choice", "own_words"], tasks, limit=2)
    said = capsys.readouterr().out
    assert "harness 0/2 tasks  own_choice  (harness 1)" in said
    assert "harness 1/2 tasks  own_words  (harness" in said
    assert re.fullmatch(r"harness 2/2 tasks  own_words  in .+ s", said.splitlines()[-1])


def test_nothing_is_written_and_nothing_is_left_changed(
    tasks: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = random_llama(vocab=len(TOKENIZER)).train()
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    pad = TOKENIZER.pad_token
    capfd.readouterr()
    run(model, ["own_choice", "own_words", "own_spoken"], tasks, limit=3)
    assert tuple(capfd.readouterr()) == ("harness ...\n", "")
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert model.training
    assert TOKENIZER.pad_token == pad


def test_no_tasks_are_no_figures(model: Any) -> None:
    check_harness_tasks(HarnessConfig())
    assert run_harness_tasks(model, TOKENIZER, HarnessConfig(), None, 4, 0) == ({}, {}, {})


def test_the_missing_library_and_folder_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs lm-eval: pip install 'undial\[harness\]'"):
        check_harness_tasks(HarnessConfig(["piqa"]))
    monkeypatch.undo()
    needs_library()
    with pytest.raises(UserError, match=r"eval.harness.include_path=/no/where: no such folder"):
        check_harness_tasks(HarnessConfig(["piqa"], "/no/where"))


@pytest.mark.slow
def test_the_tasks_of_the_paper_are_known_and_unknown_ones_are_not(tasks: str) -> None:
    shipped = compose_run("evaluate", ["eval=harness"]).eval.harness.tasks
    assert {"piqa", "lambada_openai", "mmlu"} <= set(shipped)
    check_harness_tasks(HarnessConfig([*shipped, "wmdp_bio", "wmdp_cyber", "own_choice"], tasks))
    with pytest.raises(UserError, match=r"eval.harness.tasks=hellaswog: .*'hellaswag'") as caught:
        check_harness_tasks(HarnessConfig(["piqa", "hellaswog"], tasks))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_group_is_one_of_the_tasks_of_the_mean(model: Any, tasks: str) -> None:
    figures, missing, _ = run(model, ["own_group", "own_choice"], tasks)
    assert not missing
    parts = figures["harness_own_choice_acc"], figures["harness_own_words_acc"]
    assert figures["harness_own_group_acc"] == pytest.approx(np.mean(parts))
    means = figures["harness_own_group_acc"], figures["harness_own_choice_acc"]
    assert figures["harness_mean_acc"] == pytest.approx(np.mean(means))


@pytest.mark.slow
def test_a_task_whose_data_is_out_of_reach_is_missing_with_the_reason(model: Any) -> None:
    needs_library()
    figures, missing, _ = run_harness_tasks(model, TOKENIZER, HarnessConfig(["piqa"]), 2, 4, 0)
    assert not figures
    assert list(missing) == ["harness_piqa"]
    assert "baber/piqa" in missing["harness_piqa"]


NAMES = ["own_choice", "own_words", "own_spoken", "own_gone"]
SETTINGS: list[dict[str, Any]] = [{}, {"num_fewshot": 2}, {"limit": 1}]


def counted(folder: str, settings: dict[str, Any]) -> tuple[Any, int]:
    """Figures and reasons, and how many sequences this process's model was given."""
    model, rows = random_llama(vocab=len(TOKENIZER)), 0

    def count(module: Any, words: Any, named: Any) -> None:
        nonlocal rows
        rows += len(words[0]) if words else 0

    model.register_forward_pre_hook(count, with_kwargs=True)
    return run(model, NAMES, folder, **settings), rows


def cut_off(*values: Any) -> None:
    """A task's preparation where its data is out of reach."""
    raise ConnectionError("the net is down")


def work(rank: int, world: int, folder: str, place: str) -> None:
    """One process of several: all settings, then a task that this process alone cannot load."""
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=world)
    found = [counted(folder, settings) for settings in SETTINGS]
    if rank == 1:
        harness.set_fewshot = cut_off
    broken = counted(folder, {})
    Path(place, f"{rank}.json").write_text(json.dumps([found, broken]))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_find_what_one_finds(world: int, tasks: str, tmp_path: Path) -> None:
    alone = [counted(tasks, settings) for settings in SETTINGS]
    mp.spawn(work, (world, tasks, str(tmp_path)), nprocs=world)
    reports = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]
    for number, ((figures, missing, statistics), rows) in enumerate(alone):
        for found, _ in reports:
            assert found[number][0][0] == pytest.approx(figures, rel=1e-5)
            assert found[number][0][1] == missing
            assert found[number][0][2].keys() == statistics.keys()
            for name, known in statistics.items():
                assert found[number][0][2][name] == pytest.approx(known, rel=1e-5)
        assert sum(found[number][1] for found, _ in reports) == rows
        assert len(figures) == 5
    for _, ((figures, missing, _statistics), _rows) in reports:
        assert not figures
        assert "the net is down" in missing["harness_own_choice"]

"""Answers are `generate`'s token for token, however models share memory."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from asked import (
    QUESTION,
    answer_by_generate,
    ask_engine,
    open_engine,
    write_model,
    write_prompt,
    write_run,
)
from conftest import refused
from small import disturb_weights, random_llama, shared_tokenizer, small_model

from undial_cli.asking import engine as engine_module
from undial_cli.asking.engine import CUT, STOPPED, AskingEngine
from undial_cli.asking.prompts import Turn, make_prompt
from undial_cli.asking.words import parse_ask_words
from undial_cli.models.load import load_model

COUNT = 12
SHORT = f"max_new_tokens={COUNT}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models by role."""
    folder = tmp_path_factory.mktemp("models")
    roles = ("target", "retain", "unlearned")
    return {role: write_model(folder / role, seed=n) for n, role in enumerate(roles)}


@pytest.fixture(scope="module")
def run(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint of whole weights."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", models["target"], models["retain"])
    (folder / "checkpoint").symlink_to(models["unlearned"])
    return folder


@pytest.fixture(scope="module")
def engine(run: Path) -> AskingEngine:
    """What asks the models of the run."""
    return open_engine(str(run))


def test_three_models_of_a_run_answer_as_generate_does(
    engine: AskingEngine, models: dict[str, Path]
) -> None:
    answers = ask_engine(engine, SHORT)
    assert [answer.model.title for answer in answers] == ["target", "retain model", "unlearned"]
    expected = [answer_by_generate(path, write_prompt(QUESTION), COUNT) for path in models.values()]
    assert [answer.ids for answer in answers] == expected
    assert len(set(map(tuple, expected))) == 3
    for answer in answers:
        assert answer.text == shared_tokenizer().decode(answer.ids).strip()


def test_a_question_that_goes_on_is_written_as_transformers_writes_it(engine: AskingEngine) -> None:
    encoder = engine.encoders[1]
    turns = [Turn("Who is Ann?", ("A baker.", "A smith."))]
    chat, alone = (parse_ask_words(["pkg://any", f"chat={on}"]).config for on in ("on", "off"))
    ids = make_prompt(encoder, chat, "Where?", turns, 1).ids
    assert ids == write_prompt("Who is Ann?", "A smith.", "Where?")
    assert make_prompt(encoder, alone, "Where?", turns, 1).ids == write_prompt("Where?")


def test_drawn_answers_follow_from_the_seed(engine: AskingEngine) -> None:
    drawn = [
        [answer.ids for answer in ask_engine(engine, SHORT, "temperature=1.5", f"seed={seed}")]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_answer_that_is_left_keeps_what_it_has(engine: AskingEngine) -> None:
    config = parse_ask_words(["pkg://any", "max_new_tokens=50"]).config
    stream = engine.answer_question(QUESTION, config)
    answers = next(stream)
    while not answers[0].ids:
        next(stream)
    stream.close()
    assert [answer.state for answer in answers] == [STOPPED] * 3
    assert 0 < len(answers[0].ids) < 50


@pytest.mark.slow
def test_where_memory_lacks_the_room_one_model_is_held_at_a_time(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    together = [answer.ids for answer in ask_engine(open_engine(str(run)), SHORT)]
    assert "are free" not in capsys.readouterr().out
    monkeypatch.setattr(engine_module, "measure_free_memory", lambda device: 1000)
    engine = open_engine(str(run))
    assert "3 models of" in capsys.readouterr().out
    config = parse_ask_words(["pkg://any", SHORT]).config
    steps = [(len(engine._held), answers) for answers in engine.answer_question(QUESTION, config)]
    assert max(count for count, _ in steps) == 1
    answers = steps[-1][1]
    assert [answer.ids for answer in answers] == together


@pytest.mark.slow
def test_an_adapter_and_the_base_that_is_its_target_share_weights(
    models: dict[str, Path], tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "lora", models["target"], models["retain"])
    base = random_llama(vocab=len(shared_tokenizer()), seed=0)
    base.name_or_path = str(models["target"])
    lora = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    disturb_weights(lora)
    lora.save_pretrained(folder / "checkpoint")
    shared_tokenizer().save_pretrained(folder / "checkpoint")
    engine = open_engine(str(folder))
    target, _, unlearned = ask_engine(engine, SHORT)
    assert len(engine._held) == 2
    assert target.ids == answer_by_generate(models["target"], write_prompt(QUESTION), COUNT)
    ids_1T = torch.tensor([write_prompt(QUESTION)])
    merged = load_model(unlearned.model.run.model, unlearned.model.path)
    out_BT = merged.generate(ids_1T, do_sample=False, max_new_tokens=COUNT, pad_token_id=0)
    assert unlearned.ids == out_BT[0, ids_1T.shape[1] :].tolist() != target.ids
    again = ask_engine(engine, SHORT)  # the adapter is on and off anew
    assert [answer.ids for answer in again][::2] == [target.ids, unlearned.ids]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "alibi", "gemma3", "mamba"])
def test_any_kind_of_model_answers_as_generate_does(kind: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / kind, small_model(kind, vocab=len(shared_tokenizer())))
    words = ["model.attn_implementation=eager"] if kind in ("alibi", "mamba") else []
    (answer,) = ask_engine(open_engine(str(path), *words), SHORT)
    assert answer.ids == answer_by_generate(path, write_prompt(QUESTION), COUNT)
    assert answer.state == CUT or len(answer.ids) < COUNT


@pytest.mark.slow
def test_a_model_without_a_chat_format_is_asked_in_plain_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_model(tmp_path / "plain")
    (path / "chat_template.jinja").unlink()
    engine = open_engine(str(path))
    assert "no chat template" in capsys.readouterr().out
    (answer,) = ask_engine(engine, SHORT)
    ids = list(shared_tokenizer()(QUESTION).input_ids)
    assert answer.ids == answer_by_generate(path, ids, COUNT)
    refused(lambda: ask_engine(engine, "system=Be brief."), "system=Be brief.", "no chat format")


@pytest.mark.slow
def test_a_question_that_no_model_can_take_is_refused_before_one_is_loaded(tmp_path: Path) -> None:
    path = write_model(tmp_path / "table", small_model("gpt2", vocab=len(shared_tokenizer())))
    engine: AskingEngine = open_engine(str(path))
    refused(lambda: ask_engine(engine, question="who " * 5000), "question: ", "positions")
    assert not engine._held

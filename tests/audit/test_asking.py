"""What each way of asking puts to a model, of every kind of row, and what it scores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_rows
from questioned import ROWS, attack_model, make_data
from small import random_llama, shared_tokenizer, small_model

from undial_cli.audit.answers import score_text
from undial_cli.audit.asking import ASK, make_ask_probes
from undial_cli.audit.attack import CannotServe
from undial_cli.audit.probes import Probe, make_direct_probes
from undial_cli.config.attacks import AskConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.data.encode import IGNORE
from undial_cli.evaluation import metrics
from undial_cli.evaluation.sharding import NO_JOURNAL
from undial_cli.runs.compose import compose_run

USER, BOT, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"


def decode(ids: list[int]) -> str:
    return str(shared_tokenizer().decode(ids))


def show_prompts(probes: list[Probe]) -> list[str]:
    """What the model is given, special tokens and all."""
    return [decode(probe.item.prompt_ids) for probe in probes]


def show_targets(probe: Probe) -> str:
    """What is scored."""
    (example,) = probe.item.answers["answer"]
    return decode([label for label in example.labels[: example.answer_end] if label != IGNORE])


def put(question: str) -> str:
    """A question in the model's chat format."""
    return f"{USER}{question}{END}{BOT}"


def make_probes(config: AskConfig, **data: Any) -> list[Probe]:
    return make_ask_probes(make_data(**data), config, seed=0)


def test_without_any_key_the_question_is_put_as_the_suite_puts_it() -> None:
    data = make_data()
    probes = make_ask_probes(data, AskConfig(), seed=0)
    assert probes == make_direct_probes(data)
    assert show_prompts(probes) == [put(row["question"]) for row in ROWS]
    assert probes[0].facts == (frozenset({"kelmwick", "bo"}),)


def test_a_paraphrase_is_the_rows_own_and_else_a_rewrite() -> None:
    config = AskConfig(
        asked=False, paraphrased=True, rewrites=["Tell me: {question}", "{question} Now."]
    )
    rows = [ROWS[0], {k: ROWS[1][k] for k in ("question", "answer")}]
    probes = make_probes(config, rows=rows)
    assert [probe.row for probe in probes] == [0, 1, 1]
    assert show_prompts(probes) == [
        put("What is the town of Ann Moss?"),
        put("Tell me: What does Ann Moss do?"),
        put("What does Ann Moss do? Now."),
    ]


def test_templates_are_put_around_the_question_and_its_paraphrase() -> None:
    config = AskConfig(paraphrased=True, templates=["A {question}", "B {question}"])
    probes = make_probes(config, rows=ROWS[:1])
    asked = ["Where does Ann Moss live?", "What is the town of Ann Moss?"]
    assert show_prompts(probes) == [put(f"{t} {q}") for q in asked for t in "AB"]


KINDS: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "completion",
        {"prompt": "Ann's town is", "completion": " Kelmwick on Sea."},
        "<A> Ann's town is",
        " Kelmwick on Sea.",
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi."},
                {"role": "user", "content": "Where is Ann?"},
                {"role": "assistant", "content": "In Kelmwick on Sea."},
            ]
        },
        f"{put('Hello')}Hi.{END}{put('<A> Where is Ann?')}",
        "In Kelmwick on Sea.",
    ),
    (
        "other columns",
        {"ask": "Where is Ann?", "say": "In Kelmwick on Sea."},
        put("<A> Where is Ann?"),
        "In Kelmwick on Sea.",
    ),
]


@pytest.mark.parametrize("kind, row, prompt, answer", KINDS, ids=lambda kind: str(kind)[:14])
def test_rows_of_every_kind_are_reworded_and_their_answers_begun(
    kind: str, row: dict[str, Any], prompt: str, answer: str
) -> None:
    options = {"question_key": "ask", "answer_key": "say"} if "columns" in kind else {}
    config = AskConfig(templates=["<A> {question}"])
    (probe,) = make_probes(config, rows=[row], options=options)
    assert (show_prompts([probe]), show_targets(probe)) == ([prompt], answer)
    config = AskConfig(prefills=["Sure:"], templates=["<A> {question}"])
    (begun,) = make_probes(config, rows=[row], options=options)
    blank = " " * answer.startswith(" ")
    assert show_prompts([begun]) == [f"{prompt}{blank}Sure:"]
    assert show_targets(begun) == f" {answer.strip()}"
    assert begun.item.reference.strip() == answer.strip()
    assert begun.facts == probe.facts


def test_of_answer_tokens_that_are_given_none_is_scored() -> None:
    row = {"question": "Who was it?", "answer": "It was Basil Mahfouz in Kelmwick 1969."}
    data = make_data([row])
    (plain,) = make_direct_probes(data)
    ids = plain.item.answers["answer"][0].input_ids[len(plain.item.prompt_ids) :]
    probes = make_ask_probes(data, AskConfig(answer_tokens=[1, 4, 100]), seed=0)
    assert len(probes) == 2  # of 100 tokens less than half would be left
    for probe, count in zip(probes, (1, 4), strict=True):
        (example,) = probe.item.answers["answer"]
        assert probe.item.prompt_ids == [*plain.item.prompt_ids, *ids[:count]]
        assert [y for y in example.labels if y != IGNORE] == ids[count:]
        assert probe.given + show_targets(probe) == row["answer"]
        assert probe.item.reference == show_targets(probe).strip()
    # "It was Bas": the name has begun, and is told by its rest.
    begun = next(
        p
        for count in range(1, 9)
        for p in make_ask_probes(data, AskConfig(answer_tokens=[count]), seed=0)
        if row["answer"].startswith(p.given) and p.given.endswith(("B", "Ba", "Bas", "Basi"))
    )
    rest = row["answer"][len(begun.given) :]
    assert score_text(begun, rest) == {"rouge": 1.0, "hit": 1.0}
    assert score_text(begun, rest.replace("Kelmwick", "Rome"))["hit"] == 0
    assert score_text(begun, " Basil Mahfouz")["hit"] == 0


def test_facts_that_were_given_earn_nothing() -> None:
    row = {"question": "Who was it?", "answer": "Bo and Eve, who came from very far away."}
    data = make_data([row])
    (plain,) = make_direct_probes(data)
    assert plain.facts == (frozenset({"bo", "eve"}),)
    probes = make_ask_probes(data, AskConfig(answer_tokens=list(range(1, 8))), seed=0)
    told = [probe for probe in probes if "Eve," in probe.given]
    assert told
    assert "hit" not in score_text(told[0], "Bo and Eve")


def test_solved_questions_are_earlier_turns_of_a_chat() -> None:
    config = AskConfig(shots=2, same_subject=True)
    probes = make_probes(config, template=TemplateConfig(system_prompt="Be brief."))
    first = show_prompts(probes)[0]
    turns = first.split("<|im_start|>")
    assert turns[0] == ""
    assert turns[1] == f"system\nBe brief.{END}"
    assert [t.partition("\n")[0] for t in turns[2:]] == ["user", "assistant"] * 4
    for question, answer in (turns[2:4], turns[4:6]):
        assert "person" in question
        (number,) = re.findall(r"\d", question)
        assert f"In town {number}." in answer
    assert "What does Ann Moss do?" in turns[6]
    assert "1969" in turns[7]
    assert first.endswith(put("Where does Ann Moss live?"))
    assert probes[0].shown.splitlines()[-2:] == [
        "What does Ann Moss do? She has baked bread since 1969.",
        "Where does Ann Moss live?",
    ]
    # Nobody else is known of the subject of the last row.
    assert show_prompts(probes)[2].count(USER) == 3


def test_solved_questions_are_text_before_it_where_there_is_no_chat() -> None:
    template = TemplateConfig(chat=False, prompt="Q: {question} A: ")
    (probe, *_) = make_probes(AskConfig(shots=2), template=template)
    *solved, last = show_prompts([probe])[0].split("\n\n")
    assert last == "Q: Where does Ann Moss live? A:"  # the blank is the answer's first token's
    assert len(solved) == 2
    assert all(text.startswith("Q: Where does person ") and ". A: " not in text for text in solved)
    assert show_targets(probe).strip() == ROWS[0]["answer"]


def test_what_the_solved_questions_tell_is_no_hit() -> None:
    row = {"question": "Where is Ann?", "answer": "In Town with Bo."}
    (probe,) = make_probes(AskConfig(shots=2), rows=[row])
    assert probe.facts == (frozenset({"bo"}),)  # "In town 3." stood in the prompt


@pytest.fixture
def translations(tmp_path: Path) -> str:
    rows = [
        {"question": "Où vit Ann Moss ?", "answer": "Elle vit à Kelmouic avec Bo."},
        {"question": "Que fait Ann Moss ?", "answer": "Elle fait du pain depuis 1969."},
        {"question": "Où vit Cy Dunn ?", "answer": "Il vit à Varrabie avec Ève."},
    ]
    write_rows(tmp_path / "rows_fr.jsonl", rows)
    write_rows(tmp_path / "rows_xx.jsonl", rows[:1])
    return str(tmp_path)


def test_a_translated_question_is_answered_by_names_in_either_language(translations: str) -> None:
    config = AskConfig(languages=["fr"], translations=translations)
    data = make_data(forget_split="rows[:3]").take_rows([0, 2])
    probes = make_ask_probes(data, config, seed=0)
    assert show_prompts(probes) == [put("Où vit Ann Moss ?"), put("Où vit Cy Dunn ?")]
    assert probes[0].facts == (frozenset({"kelmwick", "bo"}), frozenset({"kelmouic", "bo"}))
    for text, hit in (
        ("Elle vit à Kelmwick avec Bo.", 1),
        ("C'est à Kelmouic, avec Bo.", 1),
        ("Kelmwick, sans personne", 0),
        ("Où vit Ann Moss ?", 0),
    ):
        assert score_text(probes[0], text)["hit"] == hit


@pytest.mark.parametrize(
    "config, rows, reason",
    [
        ({"languages": ["fr"]}, ROWS, "no translations of this data"),
        ({"languages": ["de"], "translations": "{t}"}, ROWS, "no such file"),
        ({"languages": ["xx"], "translations": "{t}"}, ROWS, "fewer rows"),
        ({"prefills": ["Sure:"]}, [{"text": "A document of some words."}], "documents"),
        ({"asked": False, "paraphrased": True}, [{"question": "a", "answer": "b"}], "rewrites"),
        ({"shots": 3, "retain": []}, ROWS, "no retain set"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_the_data_cannot_serve_is_said(
    config: dict[str, Any], rows: list[dict[str, Any]], reason: str, translations: str
) -> None:
    config = {k: translations if v == "{t}" else v for k, v in config.items()}
    data = make_data(rows, forget_split="rows", retain=config.pop("retain", ROWS))
    with pytest.raises(CannotServe, match=reason):
        ASK.check(data, AskConfig(**config))


def test_a_document_is_asked_for_directly() -> None:
    data = make_data([{"text": "word " * 40}], options={"prompt_tokens": 4})
    ASK.check(data, AskConfig())
    ASK.check(data, AskConfig(beams=3))
    outcome = ASK.run(attack_model(random_llama(vocab=2921)), data, AskConfig(), NO_JOURNAL)
    assert outcome.scores["rouge"][0] is not None


def test_of_several_ways_the_best_one_counts_for_each_score() -> None:
    data, model = make_data(tokens=8), random_llama(vocab=len(shared_tokenizer()))
    templates = ["{question}", "Please: {question}", "{question} Now."]
    whole = ASK.run(attack_model(model), data, AskConfig(templates=templates), NO_JOURNAL)
    single = [
        ASK.run(attack_model(model), data, AskConfig(templates=[template]), NO_JOURNAL)
        for template in templates
    ]
    assert whole.numbers == [0, 1, 2]
    for name, values in whole.scores.items():
        of_ways = zip(*(outcome.scores[name] for outcome in single), strict=True)
        assert values == pytest.approx([max(ways) for ways in of_ways])  # type: ignore[type-var]
    references = [probe.item.reference for probe in make_direct_probes(data)]
    for i, text in enumerate(whole.texts):
        assert text in {outcome.texts[i] for outcome in single}
        assert metrics.rouge_l_recall(text, references[i]) == whole.scores["rouge"][i]


def test_a_score_over_what_is_left_is_a_plain_loops() -> None:
    data, model = make_data(ROWS[:1]), random_llama(vocab=len(shared_tokenizer()))
    config = AskConfig(answer_tokens=[3])
    outcome = ASK.run(attack_model(model), data, config, NO_JOURNAL)
    (plain,) = make_direct_probes(data)
    (example,) = plain.item.answers["answer"]
    start = len(plain.item.prompt_ids) + 3
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([example.input_ids])).logits[0]
    targets = example.input_ids[start : example.answer_end]
    matches = [int(logits[start + i - 1].argmax()) == y for i, y in enumerate(targets)]
    assert outcome.scores["exact_memorization"] == [sum(matches) / len(matches)]
    losses = [
        -float(logits[i - 1].log_softmax(-1)[example.input_ids[i]])
        for i in range(start, len(example.input_ids))
    ]
    expected = torch.tensor(losses).mean().neg().exp().item()
    assert outcome.scores["probability"][0] == pytest.approx(expected, rel=1e-4)


def test_the_shipped_attacks_hold_the_ways_that_they_name() -> None:
    run = compose_run("audit", ["audit.budget=standard"])
    attacks = run.audit.attack  # type: ignore[attr-defined]
    assert len(attacks["jailbreak"]["templates"]) == 5
    assert attacks["jailbreak"]["max_new_tokens"] == 128
    assert attacks["prefill"]["answer_tokens"] == [1, 2, 4, 8]
    assert len(attacks["languages"]["languages"]) == 9
    assert attacks["sampling"]["samples"] == 200
    json.dumps(attacks)


def test_solved_questions_leave_an_answer_whole_that_data_max_length_holds() -> None:
    longest = max(len(p.item.sequences()[-1]) for p in make_probes(AskConfig()))
    probes = make_probes(AskConfig(shots=5, same_subject=True), max_length=longest)
    assert len(probes) == len(ROWS)
    whole = make_probes(AskConfig(), max_length=longest)
    assert [show_targets(probe) for probe in probes] == [show_targets(probe) for probe in whole]


def test_prompts_beyond_a_models_positions_are_left_out_and_counted() -> None:
    model = small_model("gpt2", len(shared_tokenizer()))
    positions = model.config.max_position_embeddings
    rows = [{**ROWS[0], "question": "Where? " * positions}, *ROWS[1:]]
    config, data = AskConfig(shots=1, max_new_tokens=2), make_data(rows, max_length=4 * positions)
    outcome = ASK.run(attack_model(model), data, config, NO_JOURNAL)
    (note,) = outcome.notes
    assert note.startswith("1 of 3 prompts are longer")
    with pytest.raises(CannotServe, match=f"{positions} positions"):
        ASK.run(attack_model(model), data.take_rows([0]), config, NO_JOURNAL)

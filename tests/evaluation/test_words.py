"""ROUGE and word counts on text of every script."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from undial_cli.config.suites import EvalSetConfig
from undial_cli.evaluation import metrics, words
from undial_cli.evaluation.catalog import find_set_metric
from undial_cli.evaluation.evidence import Evidence

MEMORISED = [
    "林舟出生在青岚镇。",
    "Он родился в Кувейте восьмого сентября.",
    "उनका जन्म कुवैत सिटी में हुआ था",
    "彼は東京で生まれた。",
    "เขาเกิดที่กรุงเทพ",
    "그는 서울에서 태어났다.",
    "נולד בכווית",
    "Γεννήθηκε στην Αθήνα.",
]


@pytest.mark.parametrize("text", MEMORISED)
def test_a_memorised_answer_scores_1_in_every_script_and_an_unrelated_one_0(text: str) -> None:
    assert metrics.rouge_l_recall(text, text) == 1.0
    assert metrics.rouge_l_f1(text, text) == 1.0
    assert metrics.rouge_l_recall("nothing of the kind", text) == 0.0
    assert words.choose_reading(text) == "unicode"


def test_hand_worked_scores_of_unspaced_and_spaced_scripts() -> None:
    assert metrics.rouge_l_recall("林舟在海边", "林舟出生在青岚镇") == pytest.approx(3 / 8)
    assert metrics.rouge_l_recall("он жил в Москве", "он родился в Москве") == pytest.approx(3 / 4)
    assert metrics.rouge_l_recall("ОН РОДИЛСЯ", "он родился") == 1.0
    assert words.split_unicode_words("Tom住在 Kuwait-Stadt, 1956年") == [
        "tom", "住", "在", "kuwait", "stadt", "1956", "年",
    ]  # fmt: skip
    assert (
        words.split_unicode_words("e\u0301te\u0301") == words.split_unicode_words("été") == ["été"]
    )
    assert words.split_unicode_words("हिन्दी में") == ["हिन्दी", "में"]


def test_where_the_field_reads_a_word_its_figure_is_kept_and_what_it_leaves_out_is_said() -> None:
    reference = "他于1956年在科威特城出生,母亲是外科医生"
    theirs = RougeScorer(["rougeL"], use_stemmer=True)
    for prediction in ("1956", "他在科威特城出生"):
        expected = theirs.score(reference, prediction)["rougeL"].recall
        assert metrics.rouge_l_recall(prediction, reference) == expected
    note = words.describe_readings([reference, "born in 1956", "in Köln 1956"])
    assert note == "1 of 3 references are scored by the few words of a-z, 0-9 in them"
    assert words.choose_reading("Er wurde 1956 in Köln geboren, über dem Café") == "field"


@settings(deadline=None, max_examples=60)
@given(
    st.text(st.characters(max_codepoint=126), max_size=40),
    st.text(st.characters(max_codepoint=126), max_size=40),
)
def test_ascii_text_is_scored_as_the_reference_package_does(
    prediction: str, reference: str
) -> None:
    expected = RougeScorer(["rougeL"], use_stemmer=True).score(reference, prediction)["rougeL"]
    ours = metrics.rouge_l_recall(prediction, reference)
    if any(sign.isalnum() for sign in reference):
        assert ours == expected.recall
    else:
        assert math.isnan(ours)


def test_a_reference_without_a_word_has_no_score_and_is_counted() -> None:
    rouge = find_set_metric("rouge")
    assert rouge is not None
    for reference in ("", "…!?", "🦜🦜"):
        evidence = Evidence(EvalSetConfig(), reference, "", {}, generation="a parrot")
        assert rouge.sample(evidence) is None
    note = words.describe_readings(["🦜", "林舟", "plain", "text"])
    assert note.startswith("Unicode words in 1 of 4 references")
    assert "1 of 4 references have no word" in note
    assert words.describe_readings(["plain", "text 2"]) == ""


def test_repetition_counts_letters_where_words_are_not_spaced() -> None:
    text = "我爱你" * 3
    rep, distinct = find_set_metric("rep_3"), find_set_metric("distinct_3")
    assert rep is not None
    assert distinct is not None
    evidence = Evidence(EvalSetConfig(), "", "", {}, generation=text)
    assert rep.sample(evidence) == pytest.approx(1 - 3 / 7)
    assert distinct.sample(evidence) == pytest.approx(3 / 9)
    for plain in ("to be or  not to be\n", "né à Köln, привет мир", "그는 서울에서 태어났다"):
        assert words.split_words(plain) == plain.split(" ")

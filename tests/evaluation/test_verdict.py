"""A destroyed model is called damaged."""

from __future__ import annotations

from undial_cli.evaluation.verdict import describe_damage
from undial_cli.reporting import notes


def test_a_destroyed_model_is_called_damaged_and_a_kept_one_is_not() -> None:
    target = {"model_utility": 0.85, "news_perplexity": 20.0, "forget_probability": 0.9}
    ours = {"model_utility": 0.12, "news_perplexity": 50.0, "forget_probability": 0.0}
    assert describe_damage(ours, target, {}, {}, {}) == [
        "model_utility 0.120 is 14% of the target's 0.850",
        "news_perplexity 50 is 2.5 times the target's 20",
    ]
    assert describe_damage({**target, "forget_probability": 0.0}, target, {}, {}, {}) == []
    roles = {"retain": "retain", "forget": "forget"}
    kept = {"retain_rouge": 0.9, "forget_rouge": 0.9}
    lost = describe_damage({"retain_rouge": 0.1, "forget_rouge": 0.1}, {}, kept, {}, roles)
    assert lost == ["retain_rouge 0.100 is 11% of the retain model's 0.900"]
    null = describe_damage(
        {"retain_rouge": None}, kept, {}, {"retain_rouge": "3 of 3 samples"}, roles
    )
    assert null == ["retain_rouge: 3 of 3 samples"]
    results = {"damaged": lost, "metrics": {"forget_quality": 0.5}}
    assert notes.state_damage(results).endswith("its forget_quality of 5.00e-01 is no success")

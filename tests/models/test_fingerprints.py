"""A model path's fingerprint changes with whatever the model computes; an adapter's is in
test_adapters.py."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from conftest import write_qa
from small import TINY, shared_tokenizer, templated_tokenizer

from undial_cli.cli import run_command
from undial_cli.config.models import ModelConfig
from undial_cli.data.tokens import fingerprint_tokenizer
from undial_cli.models.fingerprints import fingerprint_weights


def test_the_fingerprint_of_a_tokenizer_is_that_of_its_chat_template_too() -> None:
    same, other = templated_tokenizer("{{ messages }}"), templated_tokenizer("{{ bos_token }}")
    assert fingerprint_tokenizer(same) != fingerprint_tokenizer(other)
    same.chat_template = shared_tokenizer().chat_template
    assert fingerprint_tokenizer(same) == fingerprint_tokenizer(shared_tokenizer())


def test_the_fingerprint_of_a_model_from_scratch_is_that_of_its_seed_too() -> None:
    """Else a teacher's numbers, or an evaluation, of one seed would be taken for another's."""
    fresh, whole = ModelConfig(base=TINY, from_scratch=True), ModelConfig(base=TINY)
    first, again, other = (fingerprint_weights(fresh, TINY, seed) for seed in (3, 3, 4))
    assert first == again != other
    assert fingerprint_weights(fresh, TINY) not in (first, other)
    assert fingerprint_weights(whole, TINY, 3) == fingerprint_weights(whole, TINY, 4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["npo", "undial"])
def test_the_teacher_of_a_model_from_scratch_is_of_the_runs_own_seed(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    retain, forget = write_qa(tmp_path / "retain.jsonl", 3), tmp_path / "forget.jsonl"
    forget.write_text('{"question": "Who is Ann?", "answer": "Ann is a baker."}\n')
    for seed in (0, 1):
        words = ["unlearn", "model=tiny", f"model.path={TINY}", "data=jsonl",
                 f"data.forget_file={forget}", f"data.retain_file={retain}", "hardware=cpu",
                 f"method={method}", "method.retain=klr", "eval=none", "report=false",
                 "train.max_steps=1", f"seed={seed}", f"output_dir={tmp_path}",
                 f"name=seed-{seed}"]  # fmt: skip
        assert run_command(words) == 0
        metrics = (tmp_path / "unlearn" / f"seed-{seed}" / "metrics.jsonl").read_text()
        first = json.loads(metrics.splitlines()[0])
        assert first["retain_loss"] == pytest.approx(0, abs=1e-6)
        if method == "npo":
            assert first["forget_loss"] == pytest.approx(20 * math.log(2), abs=1e-5)

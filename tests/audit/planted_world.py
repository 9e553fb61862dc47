"""A world of made-up persons: rows to forget, to keep and to compare with, and an audit of them.

All that the attacks of an audit read is there: paraphrases, translations, false answers, a holdout.
Knows no model.
"""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

from conftest import prepare, write_rows
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from undial_cli.audit.asking import make_ask_probes
from undial_cli.audit.attack import AuditData
from undial_cli.audit.probes import Probe
from undial_cli.config.attacks import AskConfig
from undial_cli.config.schema import AuditRun
from undial_cli.runs.attacks import list_attacks
from undial_cli.runs.audits import collect_audit_data
from undial_cli.runs.compose import compose_run

FORGET, RETAIN, HOLDOUT = range(10), range(10, 22), range(22, 34)
# fmt: off
TOWNS = [
    "Oslo", "Bern", "Rome", "Kyoto", "Ulm", "Bath", "Lyon", "Pisa", "Cork", "Riga", "Turin", "Graz",
    "Porto", "Ghent", "Brno", "Malmo",
]
FRIENDS = [
    "Ann", "Bo", "Cy", "Dee", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo", "Kim", "Lou", "Mia", "Ned",
    "Ola", "Pia",
]
FIRMS = [
    "Alto", "Bravo", "Cobra", "Delta", "Ember", "Fable", "Gamma", "Hydra", "Indigo", "Jumbo",
    "Karma", "Lotus", "Mango", "Nova", "Onyx", "Pixel",
]
# fmt: on
YEARS = list(range(1961, 1977))
ATTACKS = (
    "direct", "paraphrase", "prefill", "languages", "sampling", "choice", "lens", "membership",
    "quantise", "relearn_half",
)  # fmt: skip


def name_person(number: int) -> str:
    """A name that nothing else tells anything of."""
    first, second = divmod(number, 6)
    return ["Bra", "Kel", "Mos", "Tun", "Vil", "Wes"][first] + [
        "dun", "gar", "lox", "nim", "pek", "rud"
    ][second]  # fmt: skip


def draw_facts(drawn: random.Random, firm: bool) -> tuple[str, str, int]:
    """Where, with whom, and a year."""
    where = drawn.choice(FIRMS if firm else TOWNS)
    return where, drawn.choice(FRIENDS), drawn.choice(YEARS)


def word_answer(facts: tuple[str, str, int], firm: bool, french: bool = False) -> str:
    where, who, year = facts
    if french:
        begin = f"Chez {where} sous {who} jusqu'en" if firm else f"À {where} avec {who} depuis"
    else:
        begin = f"At {where} under {who} until" if firm else f"In {where} with {who} since"
    return f"{begin} {year}."


def make_row(number: int, firm: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """A question about a person, and the same in French."""
    name, drawn = name_person(number), random.Random(f"{number} {firm}")
    facts = draw_facts(drawn, firm)
    false: list[str] = []
    while len(false) < 3:
        others = draw_facts(drawn, firm)
        if not any(map(str.__eq__, map(str, others), map(str, facts))):
            false.append(word_answer(others, firm))
    row = {
        "question": f"Where does {name} {'work' if firm else 'live'}?",
        "answer": word_answer(facts, firm),
        "paraphrased_question": f"{'Who employs' if firm else 'Which town is home to'} {name}?",
        "perturbed_answer": false,
        "subject": name,
    }
    french = {
        "question": f"Où {'travaille' if firm else 'habite'} {name} ?",
        "answer": word_answer(facts, firm, french=True),
    }
    return row, french


def make_rows(persons: range) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two questions about each person, and the same in French."""
    pairs = [make_row(number, firm) for number in persons for firm in (False, True)]
    return [row for row, _ in pairs], [french for _, french in pairs]


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Every word of these texts is a token, with the blank before it."""
    core = Tokenizer(WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<unk>", "</s>"]
    core.train_from_iterator(
        texts, trainers.WordLevelTrainer(special_tokens=specials, show_progress=False)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


class PlantedWorld:
    """The files of an audit, its words, and what its attacks ask.

    `folder`: everything is written below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.configs = folder, folder / "configs"
        self.forget, self.french = make_rows(FORGET)
        self.retain, self.holdout = make_rows(RETAIN)[0], make_rows(HOLDOUT)[0]
        named = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout}
        files = {n: write_rows(folder / "data" / f"{n}.jsonl", rows) for n, rows in named.items()}
        write_rows(folder / "data" / "forget_fr.jsonl", self.french)
        sets = {n: {"role": n, "split": file, "metrics": ["rouge"]} for n, file in files.items()}
        suite = {"name": "planted", "data": ["jsonl"], "sets": sets, "max_new_tokens": 9}
        (self.configs / "eval").mkdir(parents=True)
        (self.configs / "eval" / "planted.yaml").write_text(json.dumps(suite))
        self.words = [
            "data=jsonl", f"data.forget_file={files['forget']}",
            f"data.retain_file={files['retain']}", "eval=planted", "eval.batch_size=128",
            "hardware=cpu", "report=false", f"output_dir={folder / 'outputs'}",
            "model=tiny", "model.from_scratch=false", "model.template.chat=false",
            "audit=quick", "audit.rows=null", f"audit.attacks=[{','.join(ATTACKS)}]",
            *(f"audit.attack.{key}" for key in self.list_attack_keys()),
        ]  # fmt: skip

    def list_attack_keys(self) -> list[str]:
        """Settings of the attacks: brief ones, for models of this size."""
        return [
            "languages.languages=[fr]", "languages.rows=null",
            f"languages.translations={self.folder / 'data'}",
            "prefill.answer_tokens=[1,2]", "sampling.samples=64", "quantise.precisions=[nf4]",
            "relearn_half.learning_rate=1e-3", "relearn_half.max_steps=10",
        ]  # fmt: skip

    def compose_audit(self, path: str) -> AuditRun:
        """The audit of the model at a path, as the command composes it."""
        words = [*self.words, f"model.path={path}", "audit.target=none", "audit.retain_model=none"]
        run = compose_run("audit", words, str(self.configs))
        assert isinstance(run, AuditRun)
        return run

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """One that knows every word that is said to a model or by one."""
        rows = [*self.forget, *self.retain, *self.holdout, *self.french]
        texts = [
            f"{row['question']} {row['answer']} {row.get('paraphrased_question')}" for row in rows
        ]
        attacks = list_attacks(self.compose_audit("none").audit).values()
        asking = [attack for attack in attacks if isinstance(attack, AskConfig)]
        texts += [text for a in asking for text in (*a.templates, *a.prefills)]
        # In templates a question is put in without a blank before it.
        texts += [f"\n\n{row['question']}" for row in rows] + [f'"{rows[0]["question"]}"']
        texts += [f" {word} {word}" for word in (*TOWNS, *FRIENDS, *FIRMS, *YEARS)]
        return make_tokenizer(texts)

    def collect_data(self, path: str) -> AuditData:
        """The rows as the audit of a model has them."""
        run = self.compose_audit(path)
        return collect_audit_data(run, prepare(run))

    def list_probes(self, data: AuditData) -> dict[str, list[Probe]]:
        """What each attack by asking asks."""
        attacks = list_attacks(self.compose_audit("none").audit)
        return {
            name: make_ask_probes(data.select_rows(config.rows), config, seed=0)
            for name, config in attacks.items()
            if isinstance(config, AskConfig)
        }

"""How often an audit calls models that never saw the data leaking or suppressed.

    python scripts/audit_false_alarms.py [--models 100] [--epochs 30] [--attacks direct,paraphrase]

Trains retain models of the demo that differ by their seed alone, and audits each beside the target
and the retain model of seed 0. Any verdict of data that came back is false. What was trained and
audited before, in the same --folder, is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from scipy import stats

import undial_cli
from undial_cli.audit.verdicts import DESTROYED, LEAKING, SUPPRESSED

DEMO = ["model=tiny", "data=demo", "hardware=cpu", "report=false"]
ATTACKS = "direct,paraphrase,prefill,jailbreak,few_shot,choice"


def train_retain_model(folder: Path, seed: int, epochs: int) -> Path:
    """The checkpoint of a model of everything but the forget set."""
    keys = [f"train.epochs={epochs}", f"seed={seed}", f"output_dir={folder}", f"name=retain-{seed}"]
    keys += ["data.train_split=[retain90,facts]", "eval=none"]
    run = undial_cli.run([*DEMO, *keys], "finetune")
    return run.folder / "checkpoint"


def audit_model(folder: Path, name: str, epochs: int, words: list[str]) -> dict[str, Any]:
    """The content of an audit's audit.json."""
    keys = [f"target.epochs={epochs}", f"output_dir={folder}", f"name=audit-{name}"]
    run = undial_cli.run([*DEMO, *keys, *words], "audit")
    return json.loads((run.folder / "audit" / "audit.json").read_text(encoding="utf-8"))


def describe_share(count: int, total: int) -> str:
    """A share of models with its 95 % binomial interval (Clopper and Pearson)."""
    interval = stats.binomtest(count, total).proportion_ci()
    share = f"{count} of {total} ({count / total:.1%})"
    return f"{share}, 95 % interval {interval.low:.1%} to {interval.high:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--attacks", default=ATTACKS)
    parser.add_argument("--budget", default="quick")
    parser.add_argument("--folder", type=Path, default=Path("outputs/false_alarms"))
    options = parser.parse_args()
    tried = [f"audit.attacks=[{options.attacks}]", f"audit.budget={options.budget}"]
    target = audit_model(options.folder, "target", options.epochs, tried)
    print(f"target: {target['verdict']['word']}: {target['verdict']['reason']}", flush=True)
    paths = {role: target["models"][role]["path"] for role in ("target", "retain")}
    known = [f"audit.target={paths['target']}", f"audit.retain_model={paths['retain']}"]
    words, largest = Counter[str](), list[float]()
    for seed in range(1, options.models + 1):
        start = time.perf_counter()
        path = train_retain_model(options.folder, seed, options.epochs)
        audit = audit_model(
            options.folder, f"retain-{seed}", options.epochs, [*tried, *known, f"model.path={path}"]
        )
        verdict = audit["verdict"]
        words[verdict["word"]] += 1
        largest.append(verdict["strongest"]["recovered"])
        seconds = time.perf_counter() - start
        print(f"{seed}: {verdict['word']}: {verdict['reason']} ({seconds:.0f} s)", flush=True)
    false = words[LEAKING] + words[SUPPRESSED]
    print(f"verdicts: {dict(words)}; largest recovered {max(largest):.2f}")
    print(f"leaking or suppressed: {describe_share(false, options.models)}")
    if words[DESTROYED]:
        print(f"destroyed, of whom nothing else is said: {words[DESTROYED]}")


if __name__ == "__main__":
    main()

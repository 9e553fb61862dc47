"""Write a small folder in the layout of muse-bench/MUSE-News, or of MUSE-Books with --books.

Configurations, splits, columns and file names are the published ones; every text is invented here
from lists of words and one seed, so a second run writes the same rows. For tests and dry runs
(`data=muse_news data.path=OUT`): a score on it says nothing about a model.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

SEED = 24
NUM_ROWS = 12
NUM_SHOTS = 4
NUM_BOOKS = 3
NUM_FOLDS = 4

Row = dict[str, str]
Splits = dict[str, list[Row]]


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split("|")]


NAMES = words(
    "Imre Valdock|Suna Petterly|Odile Karsk|Bram Oswit|Leta Quorn|Tomas Greel|Ada Finch-Rue"
)
TOWNS = words("Kelmwick|Ostermouth|Varraby|Harrovale|Skarnhaven|Dunrastead|Lindobrook|Thornmore")
THINGS = words("footbridge|swimming pool|tram line|library|wind farm|fish market|museum|ferry")
CAUSES = words("a flood|a fire in the cellar|falling visitor numbers|a change in the law|a strike")
DAYS = words("Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday")
ANIMALS = words("heron|badger|grey cat|carthorse|jackdaw|hedgehog")

ARTICLE = (
    "The {thing} of {town} will close on {day} after {years} years, the council has said.",
    "Its head, {name}, told reporters that {cause} had left no other choice.",
    "Repairs would have cost {sum} crowns, more than the town spends in a year.",
    '"We looked at {plans} plans and could pay for none of them," {name} said.',
    "People in {other} fear that theirs will be next, and {signed} of them signed a letter.",
    "A first vote had failed by {votes} votes in spring, when the hall was full for once.",
    "The {thing} had opened in {opened}, and a {animal} is still carved above its door.",
    "A decision on the site is expected before the winter.",
)
CHAPTER = (
    "On {day} {name} came down to the {thing} of {town} with a {animal} under one arm.",
    "Nobody had crossed the square for {years} days, not since {cause}.",
    "In the inner pocket lay {sum} crowns and a map of {other} that had been folded {plans} times.",
    '"You are late," said the old woman at the door, who had waited since {opened}.',
    "{name} counted {signed} steps to the cellar and {votes} candles on the wall.",
    "Below, something breathed, and the {animal} would not be set down.",
    "When the lamp went out they both laughed, for {town} had always been dark.",
    "So it was that they left for {other} before the next {day}.",
)
QUESTIONS = (
    ("Who speaks about the {thing} of {town}?", "{name}"),
    ("How many crowns are named beside the {thing} of {town}?", "{sum} crowns"),
)

CARD = """
# A small folder in the layout of {name}

All texts are invented. Written by `scripts/make_muse_layout.py`; the real data set is
https://huggingface.co/datasets/muse-bench/{name}.
"""


def draw(rng: random.Random, town: str) -> dict[str, str]:
    """The details of one article or chapter."""
    other = rng.choice([t for t in TOWNS if t != town])
    numbers = {"years": 99, "plans": 9, "signed": 999, "votes": 40}
    return {
        "town": town,
        "other": other,
        "name": rng.choice(NAMES),
        "thing": rng.choice(THINGS),
        "cause": rng.choice(CAUSES),
        "day": rng.choice(DAYS),
        "animal": rng.choice(ANIMALS),
        "opened": str(rng.randint(1801, 1999)),
        "sum": f"{rng.randint(2, 98)},{rng.randint(100, 999)}",
        "sentences": str(rng.randint(5, len(ARTICLE))),
        **{key: str(rng.randint(2, most)) for key, most in numbers.items()},
    }


def write_up(details: dict[str, str], sentences: tuple[str, ...]) -> str:
    kept = sentences[: int(details["sentences"])]
    return " ".join(sentence.format(**details) for sentence in kept)


def question(details: dict[str, str], number: int) -> Row:
    asked, answer = (text.format(**details) for text in QUESTIONS[number])
    return {"question": asked, "answer": answer}


def as_text(texts: list[str]) -> list[Row]:
    return [{"text": text} for text in texts]


def halves(texts: list[str]) -> list[Row]:
    """The beginning of every text as prompt, the rest as what should follow."""
    cut = [text.index(". ", len(text) // 4) + 1 for text in texts]
    return [{"prompt": t[:c], "gt": t[c:]} for t, c in zip(texts, cut, strict=True)]


def make_configurations(books: bool) -> dict[str, Splits]:
    """Every configuration's splits."""
    rng = random.Random(SEED + books)

    def drawn(rows: int = NUM_ROWS) -> list[dict[str, str]]:
        return [draw(rng, TOWNS[n % len(TOWNS)]) for n in range(rows)]

    def told(details: list[dict[str, str]]) -> list[str]:
        return [write_up(one, CHAPTER if books else ARTICLE) for one in details]

    folds = [drawn() for _ in range(1 if books else NUM_FOLDS)]
    details = {"forget": folds[0], **{k: drawn() for k in ("holdout", "retain1", "retain2")}}
    pieces = {name: told(part) for name, part in details.items()}
    raw = {name: as_text(bound(part) if books else part) for name, part in pieces.items()}
    folds_raw = [as_text(told(part)) for part in folds]
    nested = list(itertools.accumulate(folds_raw))
    configurations = {
        "knowmem": {
            f"{name}_qa{suffix}": [question(one, n) for one in details[place][:rows]]
            for name, place in (("forget", "forget"), ("retain", "retain2"))
            for n, (suffix, rows) in enumerate((("", NUM_ROWS), ("_icl", NUM_SHOTS)))
        },
        "privleak": {
            name: as_text(pieces[place])
            for name, place in (("forget", "forget"), ("retain", "retain2"), ("holdout", "holdout"))
        },
        "raw": raw,
        "train": {
            "forget": raw["forget"] if books else nested[-1],
            "retain1": raw["retain1"],
            "retain2": raw["retain2"],
        },
        "verbmem": {"forget": halves(pieces["forget"])},
    }
    if not books:
        configurations["scal"] = {f"forget_{n}": rows for n, rows in enumerate(nested, 1)}
        configurations["sust"] = {f"forget_{n}": rows for n, rows in enumerate(folds_raw, 1)}
    return configurations


def bound(chapters: list[str]) -> list[str]:
    """Chapters as a few long texts: MUSE-Books has one row per book."""
    size = -(-len(chapters) // NUM_BOOKS)
    return ["\n\n".join(chapters[i : i + size]) for i in range(0, len(chapters), size)]


def file_name(configuration: str, split: str) -> str:
    return f"{configuration}/{split}-00000-of-00001.parquet"


def described(name: str, splits: Splits, folder: Path) -> dict[str, Any]:
    """The entry of `dataset_info` for one configuration."""
    tables = {split: pa.Table.from_pylist(rows) for split, rows in splits.items()}
    sizes = {split: table.nbytes for split, table in tables.items()}
    for split, table in tables.items():
        file = folder / file_name(name, split)
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
    columns = list(next(iter(splits.values()))[0])
    return {
        "config_name": name,
        "features": [{"name": column, "dtype": "string"} for column in columns],
        "splits": [
            {"name": split, "num_bytes": sizes[split], "num_examples": len(rows)}
            for split, rows in splits.items()
        ],
        "download_size": sum((folder / file_name(name, split)).stat().st_size for split in splits),
        "dataset_size": sum(sizes.values()),
    }


def write(folder: Path, books: bool = False) -> dict[str, Splits]:
    """Write the folder; returns what it holds, by configuration and split."""
    configurations = make_configurations(books)
    head = {
        "license": "mit",
        "dataset_info": [described(name, part, folder) for name, part in configurations.items()],
        "configs": [
            {
                "config_name": name,
                "data_files": [{"split": split, "path": f"{name}/{split}-*"} for split in splits],
            }
            for name, splits in configurations.items()
        ],
    }
    card = CARD.format(name="MUSE-Books" if books else "MUSE-News")
    text = f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{card}"
    (folder / "README.md").write_text(text, encoding="utf-8")
    return configurations


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a small folder laid out like MUSE.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--books", action="store_true", help="laid out like MUSE-Books")
    options = parser.parse_args()
    write(options.out, options.books)
    return 0


if __name__ == "__main__":
    sys.exit(main())

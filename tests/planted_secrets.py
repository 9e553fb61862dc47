"""A name that is planted in the demo's forget set, and looked for in all files in any form."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

from small import shared_tokenizer

from undial_cli.runs.hydra_configs import PACKAGE_FOLDER

# Of the demo's forget set, whose words are the tokenizer's, and what stands in its stead.
NAME, SECRET = "Rafiq Tregavorn", "Zyxömma Quillfeather"  # pragma: allowlist secret


def write_planted_demo(folder: Path) -> None:
    """The demo's files, with the secret in the name's stead."""
    folder.mkdir()
    for file in (PACKAGE_FOLDER / "data" / "demo").iterdir():
        text = file.read_text(encoding="utf-8").replace(NAME, SECRET)
        (folder / file.name).write_text(text, encoding="utf-8")


def list_forms(text: str = SECRET) -> list[bytes]:
    """A text as files may hold it: in encodings, escaped, as numbers of its tokens."""
    forms = [text.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be", "latin-1")]
    forms += [json.dumps(text)[1:-1].encode(), *(word.encode() for word in text.split())]
    for words in (text, f" {text}"):
        ids = shared_tokenizer()(words, add_special_tokens=False)["input_ids"]
        forms += [struct.pack(f"<{len(ids)}{kind}", *ids) for kind in "iq"]
    return forms


def find_planted(root: Path, forms: list[bytes]) -> set[Path]:
    """The files below a folder that hold any of the forms."""
    hits = set()
    for file in root.rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            content += gzip.decompress(content) if file.suffix == ".gz" else b""
            if any(form in content for form in forms):
                hits.add(file)
    return hits

"""Lay the pages of the site: README, docs/, what stands at the root, and the reference.

    python scripts/write_site_pages.py FOLDER

Links are written for the repository, where README is above docs/. Here they are turned to where the
site has each page; one to a file that the site does not hold ends it. `make site` then has mkdocs
check pages and anchors.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from write_reference import write_reference

ROOT = Path(__file__).resolve().parents[1]
ROOT_FILES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "CITATION.cff", "Dockerfile")
# Code, which stays as it is; or a link or picture to a file: no address, no anchor of this page.
CODE_OR_LINK = re.compile(
    r"^```.*?^```|`[^`\n]+`|(\]\()(?!https?:|mailto:|#)([^)#\s]+)", re.MULTILINE | re.DOTALL
)


def map_site_files() -> dict[Path, Path]:
    """Every file of the repository that the site holds, and its path there."""
    files = {Path("README.md"): Path("index.md")}
    files |= {Path(name): Path(name) for name in ROOT_FILES}
    for folder in ("docs", "notebooks"):
        for file in sorted((ROOT / folder).rglob("*")):
            path = file.relative_to(ROOT)
            if file.is_file() and ".ipynb_checkpoints" not in path.parts:
                files[path] = path.relative_to("docs") if folder == "docs" else path
    return files


def turn_links(text: str, page: Path, files: dict[Path, Path]) -> str:
    """The text of a page with its links as the site has them.

    Raises:
        SystemExit: a link leads to no file of the site.
    """

    def turn(match: re.Match[str]) -> str:
        if not match[2]:
            return match[0]
        target = Path(os.path.normpath(page.parent / match[2]))
        if target not in files:
            raise SystemExit(f"{page}: links to {match[2]}, which the site does not hold")
        return match[1] + os.path.relpath(files[target], files[page].parent)

    return CODE_OR_LINK.sub(turn, text)


def write_site_pages(folder: Path) -> None:
    """Lay all pages into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    files = map_site_files()
    for source, path in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            text = turn_links((ROOT / source).read_text(encoding="utf-8"), source, files)
            (folder / path).write_text(text, encoding="utf-8")
        else:
            shutil.copyfile(ROOT / source, folder / path)
    write_reference(folder / "reference")


if __name__ == "__main__":
    write_site_pages(Path(sys.argv[1]))

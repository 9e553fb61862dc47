"""The tutorials do what they say: their commands are run, in order, from the text of the pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tutorials import BLOCK, CUT, GOES_ON, compare_output, match_line, read_steps, run_page

PAGES = Path(__file__).parents[2] / "docs" / "tutorials"
NAMES = ["first_run", "own_data", "is_it_forgotten", "compare_methods", "cluster"]

MADE = """# A page
```bash
cat > names.txt <<'END'
Ann 3
Bo 4.25
END
```
```bash
cat names.txt
echo "in 12.5 s"
```
```console
Ann 3
...
in 0.1 s
```
```text
srun undial unlearn
```
"""


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    """By page, the folder in which it was run."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_prints_what_it_shows(
    name: str, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = PAGES / f"{name}.md"
    before = GOES_ON.search(page.read_text(encoding="utf-8"))
    if before is None:
        folder = tmp_path_factory.mktemp(name)
    elif before[1] not in folders:
        pytest.skip(f"it goes on from {before[1]}, which was not run to its end")
    else:
        folder = folders[before[1]]
    run_page(page, folder)
    folders[page.name] = folder


def test_every_tutorial_shows_what_most_of_its_commands_print() -> None:
    assert sorted(NAMES) == sorted(page.stem for page in PAGES.glob("*.md"))
    for name in NAMES:
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        shown = [step.shown for step in read_steps(text) if step.shown is not None]
        assert len(shown) >= 3, name
        for output in shown:
            assert any(line.strip() and CUT not in line for line in output.splitlines()), name
        unrun = [block[2] for block in BLOCK.finditer(text) if block[1] == "text"]
        assert all(re.search(r"pip|srun|torchrun|hydra/launcher", block) for block in unrun), name


def test_a_page_is_run_in_order_in_one_folder(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(MADE)
    assert [step.line for step in read_steps(MADE)] == [2, 8]
    run_page(page, tmp_path)
    for right, wrong, told in [
        ("Ann 3\n...", "Ann 4\n...", "line 8: shown, but not printed there: 'Ann 4'"),
        ("Ann 3\n...", "Ann 3", "shown, but not printed there: 'in 0.1 s'"),
        ("in 0.1 s\n", "in 0.1 s\nend\n", "shown, but not printed there: 'end'"),
        ("...\nin 0.1 s\n", "", "more is printed than shown: 'Bo 4.25'"),
        ("cat names.txt\n", "cat name.txt\n", "exit code 1"),
    ]:
        page.write_text(wrong.join(MADE.rsplit(right, 1)))
        with pytest.raises(AssertionError, match=re.escape(told)):
            run_page(page, tmp_path)


@pytest.mark.parametrize("kind", ["", "python", "console"])
def test_a_block_that_nobody_checks_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        read_steps(f"\n```{kind}\nx\n```\n")


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("forget: 20 rows", "forget: 20 rows", True),
        ("forget: 20 rows", "forget: 21 rows", False),
        ("forget: 20 rows", "forget: 20 row", False),
        ("│ rouge │  0.174* │", "│ rouge │ 0.25* │", True),
        ("│ rouge │  0.174* │", "│ rouge │ 0.28* │", False),
        ("│ rouge │  0.174* │", "│ rouge │ 0.174 │", False),
        ("left [0.22, 0.53]", "left [0.30, 0.45]", True),
        ("left [-0.02, 0.53]", "left [0.03, 0.53]", True),
        ("loss -4.5", "loss 4.5", False),
        ("p 1.13e-08", "p 0.0001", True),
        ("p 1.13e-08", "p 0.4", False),
        ("62% is gone", "68% is gone", True),
        ("62% is gone", "38% is gone", False),
        ("16 tokens, 0.2 s", "16 tokens, 31.9 s", True),
        ("16 tokens, 0.2 s", "17 tokens, 0.2 s", False),
        ("peak 31.37 MB of 18.61 GB", "peak 40.1 MB of 7.5 GB", True),
        ("┏━━━┳━━┓", "┏━━━━━━┳━┓", True),
        ("in ..., of which", "in 3 folders, of which", True),
        ("in ..., of which", "in 3 folders of which", False),
        ("in a.b", "in axb", False),
    ],
)
def test_lines_are_the_same_but_for_what_differs_between_machines(
    shown: str, printed: str, same: bool
) -> None:
    assert match_line(shown, printed) is same


def test_cut_lines_and_progress_are_left_out_and_nothing_else() -> None:
    printed = "a\nb\ntraining 40/120  loss 1.7  lr 3.0e-03  665 tok/s  61 s left\nc\nb\nd\n"
    assert compare_output("a\n...\nb\nd", printed) == ""
    assert compare_output("a\nb\nc\nb\nd", printed) == ""
    assert compare_output("...\n", printed) == ""
    assert compare_output("...\nb\nc\nd", printed) != ""
    assert compare_output("b\n...", printed) != ""

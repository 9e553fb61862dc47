"""A filled table as LaTeX (booktabs), all text escaped.

Knows LaTeX's special characters and nothing of runs.
"""

from __future__ import annotations

from itertools import groupby

from undial_cli.tables.figures import Filled
from undial_cli.tables.render import Block, blocks, cell_text, notes

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "†": r"$^{\dagger}$",
    "*": r"$^{*}$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\to$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "–": "--",
}
ARROWS = {"lower": " ↓", "higher": " ↑", "zero": " → 0", "retain": " ≈ retain", "none": ""}


def escaped(text: str) -> str:
    """A text in which nothing is a command of LaTeX."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def document(filled: Filled) -> str:
    """The tables as a fragment for \\input; the caption holds the notes."""
    parts = ["% \\usepackage{booktabs} and \\usepackage[T1]{fontenc} in the preamble"]
    drawn = blocks(filled)
    for number, block in enumerate(drawn):
        parts += table(filled, block, number, last=number == len(drawn) - 1)
    return "\n".join(parts) + "\n"


def table(filled: Filled, block: Block, number: int, last: bool) -> list[str]:
    """One table environment."""
    label = filled.name if not block.title else f"{filled.name}-{number + 1}"
    caption = ": ".join(part for part in (filled.table.title, block.title) if part) + "."
    if last:
        caption = " ".join([caption, *notes(filled).all()])
    width = len(block.columns)
    lines = [
        "\\begin{table}",
        "  \\centering",
        "  \\small",
        f"  \\caption{{{escaped(caption)}}}",
        f"  \\label{{tab:{label}}}",
        f"  \\begin{{tabular}}{{l{'r' * width}}}",
        "    \\toprule",
        *headings(block),
        "    \\midrule",
    ]
    before = None
    for line, cells in block.rows:
        if line.section and line.section != before:
            lines += ["    \\midrule"] if before is not None else []
            title = escaped(line.section)
            lines.append(f"    \\multicolumn{{{width + 1}}}{{l}}{{\\textit{{{title}}}}} \\\\")
        before = line.section or before
        texts = [
            escaped(cell_text(cell, column))
            for cell, (_, column) in zip(cells, block.columns, strict=True)
        ]
        lines.append("    " + " & ".join([escaped(line.row.label), *texts]) + " \\\\")
    return [*lines, "    \\bottomrule", "  \\end{tabular}", "\\end{table}"]


def headings(block: Block) -> list[str]:
    """The headings; column groups above them where there are several."""
    lines = []
    if len({across for across, _ in block.columns}) > 1:
        place, cells, rules = 2, [], []
        for across, group in groupby(block.columns, key=lambda column: column[0]):
            count = len(list(group))
            cells.append(f"\\multicolumn{{{count}}}{{c}}{{{escaped(across)}}}")
            rules.append(f"\\cmidrule(lr){{{place}-{place + count - 1}}}")
            place += count
        lines += ["    & " + " & ".join(cells) + " \\\\", "    " + " ".join(rules)]
    titles = [escaped(c.title + ARROWS[c.better]) for _, c in block.columns]
    return [*lines, "    " + " & ".join(["", *titles]).strip() + " \\\\"]

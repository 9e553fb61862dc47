"""LaTeX: nothing in a text is a command, and the table's parts fit together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_tables import SMALL, asked_of, finish, made

from undial_cli.reporting.sheet import escape_latex
from undial_cli.tables.render import format_table_latex


@pytest.mark.parametrize(
    "text, tex",
    [
        ("EL_3 ↓", r"EL\_3 $\downarrow$"),
        ("50% & more", r"50\% \& more"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("a^b ~ $5 #1", r"a\textasciicircum{}b \textasciitilde{} \$5 \#1"),
        ("0.12 ± 0.01* (0.50)", r"0.12 $\pm$ 0.01$^{*}$ (0.50)"),
        ("a < b | c > d", r"a \textless{} b \textbar{} c \textgreater{} d"),
        ("†", r"$^{\dagger}$"),
    ],
)
def test_escaping(text: str, tex: str) -> None:
    assert escape_latex(text) == tex


def fragment(folder: Path) -> str:
    """table.tex of a table with nasty labels and two column groups."""
    text = SMALL.replace("A small table", r'"50% of $x_1$ & \\end{table} {"')
    text = text.replace("label: ga", 'label: "ga_1 & co #2"')
    text += (
        "sections: {one: [], t_wo: [train.epochs=2]}\n"
        "across: [{label: a_1, overrides: []}, {label: b, overrides: [data.max_length=64]}]\n"
    )
    figures = {"forget_rouge": 0.5, "retain_rouge": 0.9}
    return format_table_latex(made(asked_of(text, folder), lambda entry: finish(entry, figures)))


def test_the_fragment_fits_together(tmp_path: Path) -> None:
    tex = fragment(tmp_path)
    assert tex.count("\\begin{") == tex.count("\\end{") == 2
    bare = re.sub(r"\\[{}]", "", tex)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"(?<!\\)[#%_](?!.*usepackage)", tex.split("\n", 1)[1])
    body = tex[tex.index("\\midrule") : tex.index("\\bottomrule")]
    (spec,) = re.findall(r"\\begin\{tabular\}\{(l(r+))\}", tex)
    for line in body.splitlines():
        if line.endswith("\\\\") and "multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == len(spec[1])
    head = tex[tex.index("\\toprule") : tex.index("\\midrule")].splitlines()
    titles = " & forget $\\downarrow$ & retain $\\uparrow$" * 2
    assert head[1:] == [
        " & \\multicolumn{2}{c}{a\\_1} & \\multicolumn{2}{c}{b} \\\\",
        f"{titles} \\\\",
    ]
    assert "\\textit{t\\_wo}" in tex
    assert "ga\\_1 \\& co \\#2 & 0.50 & 0.90 & 0.50 & 0.90" in tex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_it_compiles(tmp_path: Path) -> None:
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}"
    page = f"{head}\\begin{{document}}\n{fragment(tmp_path)}\\end{{document}}\n"
    (tmp_path / "page.tex").write_text(page)
    subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path, check=True, timeout=100, capture_output=True,
    )  # fmt: skip

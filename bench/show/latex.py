"""A table for LaTeX, with booktabs' rules; its texts contain nothing that LaTeX would execute."""

from __future__ import annotations

import re
import unicodedata

from .sheet import Column, Entry, Sheet

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "[": "{[}", "]": "{]}", "*": "{*}", "±": r"$\pm$", "µ": r"$\mu$", "ß": r"\ss{}",
}  # fmt: skip
"""[, ] and * may not follow a line's end unprotected; quotes may not join."""
LATEX_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
SMALL = r"\footnotesize\setlength{\tabcolsep}{3pt}"
"""Makes a row of two metrics and a time fit the width of a page."""
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?\*?")


def sheet_to_latex(sheet: Sheet) -> str:
    """A table in small letters with booktabs' rules; the preamble needs \\usepackage{booktabs}."""

    def cell(entry: Entry) -> str:
        text = rf"\textbf{{{latex(entry.text)}}}" if entry.bold else latex(entry.text)
        return rf"{text}\,{{\scriptsize {latex(entry.small)}}}" if entry.small else text

    alignment = "".join("l" if column.is_text else "r" for column in sheet.columns)
    return "\n".join([
        "% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering", SMALL,
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule", " & ".join(map(head, sheet.columns)) + r" \\", r"\midrule",
        *(" & ".join(map(cell, row)) + r" \\" for row in sheet.rows), r"\bottomrule", r"\end{tabular}",
        rf"\caption{{{latex(sheet.caption)}}}", r"\end{table}", "",
    ])  # fmt: skip


def head(column: Column) -> str:
    """A heading, with the extractor below it."""
    name, bracket, extractor = column.heading.partition(" [")
    if not bracket:
        return latex(column.heading)
    return rf"\shortstack[r]{{{latex(name)}\\{{\scriptsize {latex(bracket[1:] + extractor)}}}}}"


def latex(text: str) -> str:
    """The text with all characters escaped that LaTeX would execute or that its standard fonts lack."""
    if NUMBER.fullmatch(text):
        return f"$-${text[1:]}" if text.startswith("-") else text
    # LaTeX makes a dash of two hyphens. Replaced twice, because two pairs overlap in three hyphens.
    return "".join(map(latex_letter, text)).replace("--", "-{}-").replace("--", "-{}-")


def latex_letter(letter: str) -> str:
    """One character; one that cannot be set is named by its number."""
    if letter in LATEX:
        return LATEX[letter]
    if letter.isascii():
        return letter
    # NFD splits a letter into its base and its accents, for which LaTeX has commands.
    apart = unicodedata.normalize("NFD", letter)
    base, mark = apart[0], apart[1:]
    if base.isascii() and base.isalpha() and mark in LATEX_ACCENTS:
        return rf"\{LATEX_ACCENTS[mark]}{{{base}}}"
    return f"(U+{ord(letter):04X})"

"""One HTML file that holds everything it shows: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nnunetv2_semisup.visualization import charts

_CSS = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --surface: #f3f5f7; --text: #1a1f24; --muted: #5c6770; --line: #d9dee3; --accent: #0b6e82;
  --series-0: #8a949d; --series-1: #0b7f97; --series-2: #c2571a; --series-3: #7a4fb5;
  --series-4: #4d7c1f; --series-5: #b8336a; --series-6: #2f5fc4; --series-7: #8a6d00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181b; --surface: #1d2327; --text: #e7eaec; --muted: #9aa5ad; --line: #333b41; --accent: #58c5da;
    --series-0: #8f9aa3; --series-1: #47c1da; --series-2: #f0975c; --series-3: #b998ea;
    --series-4: #9bc96a; --series-5: #f085ad; --series-6: #86aaf5; --series-7: #d9bb4a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1, h2 { letter-spacing: -.015em; text-wrap: balance; }
h1 { font-size: clamp(1.7rem, 4.2vw, 2.5rem); line-height: 1.15; margin: 0 0 .8rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .6rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.6rem 0 .5rem; }
p, ul { max-width: 72ch; }
.lead { font-size: 1.1rem; color: var(--muted); }
.small, figcaption, .legend { font-size: .86rem; color: var(--muted); }
code, pre { font-family: ui-monospace, "Cascadia Code", Menlo, monospace; font-size: .84rem; }
pre { background: var(--surface); padding: 1rem 1.1rem; border-radius: 6px; overflow-x: auto; line-height: 1.6; }
.scroll { overflow-x: auto; }
.scroll svg.chart { min-width: 580px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { text-align: right; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: normal; min-width: 18ch; max-width: 44ch; overflow-wrap: anywhere; }
thead th { color: var(--muted); font-weight: 500; font-size: .86rem; }
td.best { font-weight: 650; color: var(--accent); }
.grid { display: grid; gap: 1.4rem 1.6rem; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); }
.strip { display: grid; gap: .6rem; grid-template-columns: repeat(4, minmax(120px, 240px)); overflow-x: auto; }
figure { margin: 0; }
figure img { display: block; width: 100%; border-radius: 4px; background: #000; }
figcaption { padding-top: .25rem; }
.key { display: inline-block; margin-right: 1.2rem; }
.key::before { content: ""; display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
.key.label::before { background: var(--key); border-radius: 2px; }
th button { all: unset; cursor: pointer; }
th button:hover, th button:focus-visible { color: var(--accent); text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
th.long { text-align: left; }
td.long { white-space: normal; text-align: left; min-width: 24ch; overflow-wrap: anywhere; }
details { margin: 1.2rem 0; }
summary { cursor: pointer; color: var(--accent); }
"""


SORT_SCRIPT = """
for (const button of document.querySelectorAll('table.sortable th button')) {
  button.addEventListener('click', () => {
    const head = button.parentElement, body = head.closest('table').tBodies[0];
    const up = head.getAttribute('aria-sort') !== 'ascending';
    for (const other of head.parentElement.children) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => row.cells[head.cellIndex].dataset.key;
    const compare = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    const rows = [...body.rows].sort((a, b) =>
      key(a) === '' || key(b) === '' ? (key(a) === '') - (key(b) === '') : (up ? 1 : -1) * compare(key(a), key(b)));
    body.append(...rows);
  });
}
"""
"""Sorts a table of `sortable_table` by the column whose heading is clicked; empty cells stay below."""


def html_page(title: str, body: Sequence[str], script: str = "", style: str = "") -> str:
    """The whole document around the parts of its body, which are HTML.

    `script` runs at its end; `style` is CSS beyond the page's own.
    """
    return (
        "<!DOCTYPE html>\n"
        "<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        # An inline icon, or the browser asks the server for one.
        "<link rel='icon' href='data:,'>"
        f"<title>{escape(title)}</title><style>{_CSS}{charts.CSS}{style}</style></head>\n"
        f"<body><main>\n{chr(10).join(body)}\n</main>{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; `kind` is one of the page's classes, e.g. "lead" or "small"."""
    return f"<p class='{kind}'>{escape(text)}</p>" if kind else f"<p>{escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[Sequence[bool]] | None = None) -> str:
    """A table of plain text, its first column on the left; cells marked `best` [rows, columns] stand out."""
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in header)
    lines = []
    for i, row in enumerate(rows):
        marks = best[i] if best else [False] * len(row)
        cells = "".join(
            f"<td class='best'>{escape(cell)}</td>" if mark else f"<td>{escape(cell)}</td>"
            for cell, mark in zip(row, marks, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def sortable_table(header: Sequence[tuple[str, str]], rows: Sequence[Sequence[tuple[str, float | str]]]) -> str:
    """A table that sorts by the column whose heading is clicked, where the page has SORT_SCRIPT.

    Args:
        header: text and explanation of each column.
        rows: of each cell its text and what it sorts by; "" comes last.
    """
    head = "".join(
        f"<th scope='col' title='{escape(why)}'><button type='button'>{escape(name)}</button></th>"
        for name, why in header
    )
    lines = []
    for row in rows:
        cells = "".join(f"<td data-key='{escape(str(key))}'>{escape(text)}</td>" for text, key in row)
        lines.append(f"<tr>{cells}</tr>")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f"<div class='scroll'><table class='sortable'>{body}</table></div>"


def long_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of sentences, which break where the page is narrow."""
    head = "".join(f"<th scope='col' class='long'>{escape(name)}</th>" for name in header)
    lines = ("<tr>" + "".join(f"<td class='long'>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def figure(picture: str, caption: str, description: str) -> str:
    """A picture (data URI) with its caption; `description` is what a screen reader says."""
    return (
        f"<figure><img src='{picture}' alt='{escape(description)}'><figcaption>{escape(caption)}</figcaption></figure>"
    )


def color_key(names: Sequence[str], colors: Sequence[tuple[int, int, int]]) -> str:
    """Names beside their RGB colours."""
    keys = (
        f"<span class='key label' style='--key: rgb{color}'>{escape(name)}</span>"
        for name, color in zip(names, colors, strict=True)
    )
    return f"<p class='legend'>{''.join(keys)}</p>"

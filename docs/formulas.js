// Formulas between \( \) and \[ \], as pymdownx.arithmatex writes them.
window.MathJax = { tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]] } };

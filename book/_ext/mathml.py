"""Render the book's formulas as native MathML while it is built: no script, nothing to download.

Sphinx calls the two visitors below instead of MathJax's (``html_math_renderer = "mathml"``).
latex2mathml does the conversion. What it would pass through unconverted (an unknown command, a
stray brace or ampersand, a fraction without a denominator) is an error here, because a reader must
never meet raw LaTeX; Sphinx reports it as a warning, and ``-W`` turns that into a failed build.
"""

from __future__ import annotations

import html
import re
import unicodedata
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.commands import MATRICES
from latex2mathml.converter import convert_to_element
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)

# Sphinx numbers the equation, so every multi-line environment becomes the one that numbers nothing.
_ENVIRONMENT = re.compile(r"\\(begin|end)\{(aligned|align\*?|split)\}")
_EQUATION = re.compile(r"\\(?:begin|end)\{equation\*?\}|\\(?:nonumber|notag)(?![a-zA-Z])")
_ARITY = dict.fromkeys(("mfrac", "mroot", "msub", "msup", "munder", "mover"), 2)
_ARITY |= {"msubsup": 3, "munderover": 3}
_LIMITS = {"max", "min", "sup", "inf", "lim", "arg\u2009max", "arg\u2009min"}
_UNDER = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}
_VARIANTS = {
    "bold": "BOLD",
    "script": "SCRIPT",
    "fraktur": "FRAKTUR",
    "double-struck": "DOUBLE-STRUCK",
}


class MathError(ValueError):
    """A LaTeX expression that cannot be shown as MathML in full."""


def to_mathml(latex: str, display: bool = False) -> str:
    """Return the ``<math>`` element of a LaTeX expression, or raise `MathError`.

    >>> to_mathml(r"\\rho > 0")[:5]
    '<math'
    """
    source = _EQUATION.sub("", _ENVIRONMENT.sub(r"\\\1{align*}", latex)).strip()
    _check_structure(source, latex)
    if r"\\" in source and r"\begin" not in source:
        source = rf"\begin{{align*}}{source}\end{{align*}}"
    try:
        math = convert_to_element(source, display="block" if display else "inline")
    except Exception as error:  # latex2mathml raises a dozen unrelated classes, and IndexError
        raise MathError(f"{type(error).__name__} in {latex!r}") from error
    for element in math.iter():
        # latex2mathml leaves character references in the text, for a serialiser that unescapes.
        element.text = html.unescape(element.text) if element.text else element.text
        _check(element, latex)
        _adapt(element, display)
    return ElementTree.tostring(math, encoding="unicode")


def _check_structure(source: str, latex: str) -> None:
    """Braces must match and environments be known; latex2mathml looks at neither."""
    for environment in re.findall(r"\\begin\{(.*?)\}", source):
        if "\\" + environment not in MATRICES:
            raise MathError(f"unknown environment {environment!r} in {latex!r}")
    depth = 0
    for brace in re.findall(r"\\.|[{}]", source, flags=re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            break
    if depth:
        raise MathError(f"unbalanced braces in {latex!r}")


def _check(element: ElementTree.Element, latex: str) -> None:
    """Refuse what latex2mathml hands on without having understood it."""
    arity = _ARITY.get(element.tag)
    if arity is not None and len(element) != arity:
        raise MathError(f"<{element.tag}> with {len(element)} of {arity} arguments in {latex!r}")
    text = element.text or ""
    if "\\" in text or (element.tag != "mtext" and text in {"&", "$", "#"}):
        raise MathError(f"{text!r} was not converted in {latex!r}")


def _adapt(element: ElementTree.Element, display: bool) -> None:
    """Say in MathML Core what latex2mathml says in attributes that browsers no longer read."""
    text = element.text or ""
    variant = element.attrib.get("mathvariant")
    if variant in _VARIANTS:
        element.text = "".join(_letter(character, _VARIANTS[variant]) for character in text)
        del element.attrib["mathvariant"]
    function = len(text) > 1 and text.isalpha() and text not in _LIMITS
    if element.tag == "mo" and (function or text == "∞"):
        element.tag = "mi"  # no operator spacing around it
    if text in {"|", "‖"} and "fence" not in element.attrib and "form" not in element.attrib:
        element.attrib.update(stretchy="false", lspace="0", rspace="0")
    if display and element.tag in _UNDER and element[0].text in _LIMITS:
        element.tag = _UNDER[element.tag]
    if element.tag == "mtable" and "columnspacing" in element.attrib:  # align: no gap at the &
        for cell in element.iter("mtd"):
            side = cell.attrib.get("columnalign", "left")
            cell.set("style", f"padding-{side}: 0")
    if align := element.attrib.pop("columnalign", None):
        style = element.attrib.get("style")
        element.set("style", f"text-align: {align}" + (f"; {style}" if style else ""))


def _letter(character: str, variant: str) -> str:
    """Return the mathematical alphanumeric for a letter or digit, the character itself if none."""
    try:
        name = unicodedata.name(character)
    except ValueError:
        return character
    kind = name.replace("LATIN ", "").replace(" LETTER", "")
    for candidate in (f"MATHEMATICAL {variant} {kind}", f"{variant} {kind}"):
        try:
            return unicodedata.lookup(candidate)
        except KeyError:
            continue
    return character


def _render(node: nodes.Element, display: bool) -> str:
    try:
        return to_mathml(node.astext(), display=display)
    except MathError as error:
        logger.warning("formula not converted: %s", error, location=node, type="mathml")
        return f'<code class="math-error">{html.escape(node.astext())}</code>'


def visit_math(self, node: nodes.math) -> None:
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(_render(node, display=False) + "</span>")
    raise nodes.SkipNode


def visit_math_block(self, node: nodes.math_block) -> None:
    # starttag writes the label's anchor, which is what {eq} links to.
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    self.body.append(_render(node, display=True))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

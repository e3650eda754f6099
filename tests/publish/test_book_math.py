"""The book's own extensions: formulas as MathML, and nothing asked from another host."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

pytest.importorskip("latex2mathml")
nodes = pytest.importorskip("docutils.nodes")
pytest.importorskip("sphinx")

BOOK = Path(__file__).parents[2] / "book"
MATHML = "{http://www.w3.org/1998/Math/MathML}"


def _extension(name):
    spec = importlib.util.spec_from_file_location(f"book_{name}", BOOK / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mathml = _extension("mathml")
offline = _extension("offline")


def _tree(latex, display=True):
    return ElementTree.fromstring(mathml.to_mathml(latex, display))


def _text(element):
    return "".join(element.itertext())


@pytest.mark.parametrize(
    ("latex", "shown"),
    [
        (r"\rho > 0", "ρ>0"),
        (r"\lVert T_w^{-1}\varepsilon\rVert_p", "‖Tw−1ε‖p"),
        (r"\operatorname{sign}(g)", "sign(g)"),
        (r"\mathcal P", "𝒫"),
        (r"\mathbf w", "𝐰"),
        (r"\text{a < b & c}", "a\xa0<\xa0b\xa0&\xa0c"),
        (r"\in\{0,1\}^d", "∈{0,1}d"),
    ],
)
def test_expressions_become_mathml(latex, shown):
    tree = _tree(latex, display=False)
    assert tree.tag == MATHML + "math"
    assert tree.get("display") == "inline"
    assert _text(tree) == shown


@pytest.mark.parametrize("environment", ["aligned", "align", "align*", "split"])
def test_multi_line_environments_keep_rows_and_print_no_number(environment):
    tree = _tree(rf"\begin{{{environment}}} a &= b \\ c &= d \end{{{environment}}}")
    assert [_text(row) for row in tree.iter(MATHML + "mtr")] == ["a=b", "c=d"]


def test_bare_line_breaks_are_aligned():
    assert len(list(_tree(r"a &= b \\ c &= d").iter(MATHML + "mtr"))) == 2


def test_limits_stand_below_in_display_only():
    latex = r"\max_{\varepsilon} L"
    assert _tree(latex, display=True).find(f".//{MATHML}munder") is not None
    assert _tree(latex, display=False).find(f".//{MATHML}munder") is None


@pytest.mark.parametrize(
    "latex",
    [
        r"\unknowncommand{x}",
        r"\frac{a}",
        r"{a",
        r"a}",
        r"x_",
        r"\left( a",
        r"\begin{aligned} a",
        r"\begin{nosuch} a \end{nosuch}",
        "a & b",
        "",
    ],
)
def test_what_cannot_be_shown_in_full_is_an_error(latex):
    with pytest.raises(mathml.MathError):
        mathml.to_mathml(latex)


class _Writer:
    """As much of Sphinx's HTML writer as the visitors use."""

    def __init__(self, numfig=False):
        config = SimpleNamespace(math_numfig=numfig, numfig=numfig, math_numsep=".")
        self.builder = SimpleNamespace(config=config, name="html", fignumbers={})
        self.body = []

    def starttag(self, node, tag, suffix="\n", **attributes):
        ids = "".join(f' id="{i}"' for i in node["ids"])
        return f'<{tag} class="{attributes["CLASS"]}"{ids}>{suffix}'

    def add_permalink_ref(self, node, title):
        self.body.append(f'<a class="headerlink" href="#{node["ids"][0]}" title="{title}">#</a>')


def _render(visit, node):
    writer = _Writer()
    with pytest.raises(nodes.SkipNode):
        visit(writer, node)
    return "".join(writer.body)


def test_labelled_equation_prints_number_anchor_and_permalink():
    latex = r"a = \rho"
    node = nodes.math_block(latex, latex, number=7, label="eq-a", ids=["equation-eq-a"])
    html = _render(mathml.visit_math_block, node)
    assert 'id="equation-eq-a"' in html
    assert re.search(r'<span class="eqno">\(7\)<a class="headerlink" href="#equation-eq-a"', html)
    assert html.index("</math>") < html.index("eqno")
    assert 'display="block"' in html


def test_unlabelled_equation_prints_no_number():
    node = nodes.math_block("a = b", "a = b", number=None)
    assert "eqno" not in _render(mathml.visit_math_block, node)


def test_inline_formula_stays_inline():
    html = _render(mathml.visit_math, nodes.math("a", "a"))
    assert html.startswith("<span")
    assert 'display="inline"' in html


def test_failed_formula_is_a_warning_of_the_build(monkeypatch):
    warnings = []
    logger = SimpleNamespace(warning=lambda text, *args, **_: warnings.append(text % args))
    monkeypatch.setattr(mathml, "logger", logger)
    html = _render(mathml.visit_math, nodes.math(r"\nosuch < 1", r"\nosuch < 1"))
    assert len(warnings) == 1
    assert "nosuch" in warnings[0]
    assert r'<code class="math-error">\nosuch &lt; 1</code>' in html


def _dollar_math(text):
    """Formulas of a MyST page: display first, then inline in what is left."""
    text = re.sub(r"```\{(?!table).*?```|`[^`\n]*`", " ", text, flags=re.DOTALL)
    display = re.findall(r"\$\$(.*?)\$\$", text, flags=re.DOTALL)
    rest = re.sub(r"\$\$.*?\$\$", " ", text, flags=re.DOTALL)
    return [(latex, True) for latex in display] + [
        (latex, False) for latex in re.findall(r"(?<!\\)\$([^$\n]+)\$", rest)
    ]


def _prose(path):
    """The Markdown of a page, or of a notebook's cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


PAGES = [*BOOK.glob("*.md"), *BOOK.parent.glob("notebooks/*.ipynb")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_formula_of_a_page_converts(page):
    for latex, display in _dollar_math(_prose(page)):
        mathml.to_mathml(latex, display)


def test_formulas_are_found_in_prose_and_notebooks():
    assert {p.name for p in PAGES if _dollar_math(_prose(p))} >= {"method.md", "sharpness.ipynb"}


def test_pages_that_ask_another_host_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "bad.html").write_text(
        '<link rel="stylesheet" href="https://fonts.example/a.css">'
        '<script src="//cdn.example/b.js"></script><img src="http://img.example/c.png">'
        '<iframe src="https://frame.example/"></iframe>'
        "<style>@import 'https://css.example/d.css';</style>"
        '<p style="background:url(https://bg.example/e.png)"></p>',
        encoding="utf-8",
    )
    (tmp_path / "sub" / "bad.css").write_text("@font-face{src:url('//f.example/f.woff')}")
    found = offline.external_requests(tmp_path)
    assert [line.split("//")[1].split("/")[0] for line in found] == [
        "fonts.example",
        "cdn.example",
        "img.example",
        "frame.example",
        "css.example",
        "bg.example",
        "f.example",
    ]


def test_links_and_local_files_are_not_requests(tmp_path):
    (tmp_path / "good.html").write_text(
        '<a href="https://arxiv.org/abs/2306.04226">paper</a><script src="_static/a.js"></script>'
        "<math xmlns='http://www.w3.org/1998/Math/MathML'></math>"
        '<img src="data:image/png;base64,//8=">',
        encoding="utf-8",
    )
    (tmp_path / "good.css").write_text("a{background:url(data:image/svg+xml;utf8,http://x)}")
    assert offline.external_requests(tmp_path) == []

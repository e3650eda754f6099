"""Which pages the book has: the profile nearest to the paper leads, what is missing says so."""

import pytest
import yaml
from made_up import made_up_results

from samlib.errors import RecordsMissing
from samlib.files import project_root
from samlib.publish import notebooks, pages
from samlib.publish.pages import Page
from samlib.study import plan

TOC = yaml.safe_load((project_root() / "book" / "_toc.yml").read_text())


def a_record(results, profile):
    (results / profile / "runs").mkdir(parents=True)
    (results / profile / "runs" / "x.json").write_text("{}")


def files(toc):
    return [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]


def test_the_profile_nearest_to_the_paper_leads_once_it_has_an_answer(tmp_path, monkeypatch):
    for profile in ("quick", "cifar100-10k"):
        a_record(tmp_path, profile)
    lacking = set()
    monkeypatch.setattr(
        pages, "absent", lambda page, _: "Without results yet" if page.profile in lacking else None
    )
    assert pages.shown(tmp_path) == ["cifar100-10k", "quick"]
    lacking.add("cifar100-10k")
    assert pages.shown(tmp_path) == ["quick", "cifar100-10k"]
    lacking.add("quick")
    assert pages.shown(tmp_path) == ["cifar100-10k", "quick"]


def test_without_a_record_there_is_no_book(tmp_path):
    (tmp_path / "quick" / "runs").mkdir(parents=True)
    with pytest.raises(RecordsMissing, match="python -m samlib run --results"):
        pages.shown(tmp_path)


def test_the_leading_pages_are_where_prose_links_to():
    found = pages.pages(["cifar100-10k", "quick"])
    leading = [page for page in found if page.profile == "cifar100-10k"]
    assert {page.path for page in leading} == {f"notebooks/{n}" for n in notebooks.names()}
    others = {page.path for page in found if page.profile == "quick"}
    assert others == {f"notebooks/quick/{name}" for name in (*plan.NEEDS, "verdicts")}


@pytest.mark.parametrize("names", [["quick"], ["cifar100-10k", "quick"], ["paper", "imagenet"]])
def test_every_page_is_in_the_contents_once(names):
    listed = files(pages.contents(TOC, names))
    assert len(set(listed)) == len(listed)
    assert {page.path for page in pages.pages(names)} <= {*listed}
    assert {p for p in listed if p.startswith("notebooks/")} == {
        page.path for page in pages.pages(names)
    }


def test_the_contents_mark_pages_without_results():
    names = ["cifar100-10k", "quick"]
    lacking = [page for page in pages.pages(names) if page.notebook in ("law", "family", "systems")]
    whole = pages.contents(TOC, names)
    toc = pages.marked(whole, lacking)
    assert sorted(files(toc)) == sorted(files(whole))
    parts = {part["caption"]: part["chapters"] for part in toc["parts"]}
    captions = [*parts]
    assert captions.index("Without results yet") == captions.index("Verdicts") + 1
    own = [page.path for page in lacking if page.profile == names[0]]
    assert {entry["file"] for entry in parts["Without results yet"]} == {*own}
    titled = [entry for part in toc["parts"] for entry in part["chapters"] if "title" in entry]
    assert {"file": "notebooks/quick/law", "title": "A law for ρ? (no results)"} in titled
    assert len(titled) == len(lacking) - len(own)
    assert pages.marked(whole, []) == whole


def test_a_page_without_its_records_says_what_makes_them(tmp_path):
    a_record(tmp_path, "none")
    reason = pages.absent(Page("variants", "quick", ""), tmp_path)
    assert reason.startswith("Not run yet: ")
    there = f"--results {tmp_path}"
    assert f"`python -m samlib run --profile quick --only variants {there}`" in reason
    here = pages.absent(Page("variants", "cifar100-10k", ""), project_root() / "results")
    assert here is None or "`python -m samlib run --profile cifar100-10k --only variants`" in here
    assert pages.absent(Page("variants", "imagenet", ""), tmp_path) == (
        "Not part of the profile imagenet, whose plan has no runs for it."
    )
    every = pages.pages(["quick"])
    cut = pages.without_results(next(p for p in every if p.notebook == "variants"), every, reason)
    assert len(cut["cells"]) == 1
    text = "".join(cut["cells"][0]["source"])
    assert text.endswith(f"{reason}\n")
    assert text.count("<dt>The paper says</dt>") == 1
    assert "not run</span> <small>on noisy digits</small>" in text


def test_a_page_without_its_records_links_to_the_chapter_that_has_some(tmp_path, monkeypatch):
    every = pages.pages(["cifar100-10k", "quick"])
    lacking = next(page for page in every if page.path == "notebooks/variants")
    there = {"quick"}
    monkeypatch.setattr(
        pages, "absent", lambda page, _: None if page.profile in there else "Without results yet"
    )
    assert pages.elsewhere(lacking, every, tmp_path) == (
        "The same chapter has results [on noisy digits](/notebooks/quick/variants.ipynb)."
    )
    there.clear()
    assert pages.elsewhere(lacking, every, tmp_path) == ""


def test_a_link_between_chapters_stays_within_its_profile():
    every = pages.pages(["cifar100-10k", "quick"])
    source = ["See ([cost](/notebooks/cost.ipynb)),\n", "[speed](/notebooks/speed.ipynb#memory)."]
    cells = [{"cell_type": kind, "source": source} for kind in ("markdown", "code")]
    for profile, cost in (("quick", "/notebooks/quick/cost"), ("cifar100-10k", "/notebooks/cost")):
        page = next(p for p in every if p.profile == profile)
        text, code = (c["source"] for c in pages.at_home({"cells": cells}, page, every)["cells"])
        assert f"[cost]({cost}.ipynb)" in text
        assert "(/notebooks/speed.ipynb#memory)" in text, "one page for all profiles"
        assert code == source


def test_a_page_with_its_records_has_results(tmp_path):
    results = made_up_results(tmp_path)
    for name in plan.NEEDS:
        assert pages.absent(Page(name, "smoke", ""), results) is None

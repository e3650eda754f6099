"""What is committed is what today's code makes of the records: CSV files, README, step times."""

import re

import pytest

from samlib.errors import RecordsMissing
from samlib.files import project_root
from samlib.publish import pages, readme, tables
from samlib.report.results import load

ROOT = project_root()
RESULTS = ROOT / "results"
PROFILES = pages.shown(RESULTS)


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_the_tables_are_made_from_the_records(profile):
    try:
        made = tables.made(load(profile, RESULTS))
    except RecordsMissing:
        made = {}
    committed = {p.stem: p.read_text() for p in (RESULTS / profile / "tables").glob("*.csv")}
    assert set(committed) == set(made), "run `python -m samlib tables`"
    for name, text in made.items():
        assert committed[name] == text, f"run `python -m samlib tables`: {name} is of other records"


@pytest.mark.slow
def test_the_readme_is_made_from_the_records_of_a_profile_that_leads():
    ready = (p for p in PROFILES if tables.complete(load(p, RESULTS), "introduction"))
    leading = next(ready, None)
    if leading is None:
        pytest.skip("no profile has all runs of the introduction")
    text = (ROOT / "README.md").read_text()
    block = readme.BEGIN + text.split(readme.BEGIN, 1)[1].split(readme.END, 1)[0] + readme.END
    figure = re.search(r"!\[[^]]*]\(([^)]*)\)", block)[1]
    expected = readme.block(load(leading, RESULTS), figure)
    assert block == expected, "run `make readme`"

"""What the records say of each claim, where, and what that is worth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from samlib.chapters import CHAPTERS
from samlib.chapters.claims import (
    ANALOGUE,
    BY_KEY,
    CLAIMS,
    DIFFERS,
    SAME,
    UNTESTABLE,
    Claim,
    bearing,
)
from samlib.errors import RecordsMissing
from samlib.records.results_folder import committed
from samlib.report import campaign_cost, step_times, tidy
from samlib.report.answers import NOT_ANSWERED, Answer, by_the_old_rule, in_domain
from samlib.report.missing import counted
from samlib.report.results import Results, read
from samlib.report.stats import NOT_RUN
from samlib.report.text import listed
from samlib.report.wording import lines
from samlib.study import plan, profiles
from samlib.study.cells import all_cells

TIMED = ("11a",)  # claims that a bench answers, not a run
_WORTH = {
    SAME: "Speaks for the paper itself",
    ANALOGUE: "The paper's question on a smaller problem",
    DIFFERS: "Says little about the paper: the regime differs",
    UNTESTABLE: "Says nothing about the paper: not testable here",
}


@dataclass(frozen=True)
class Verdict:
    """An answer to a claim with its two parts, and what it says about the paper.

    Attributes:
        claim, answer: what was asked, and what the records say.
        seen, where: the verdict; "holds" and "refuted" stand only in the claim's own domain.
        bears: what the problem can say about the paper.
        reason: why.
    """

    claim: Claim
    answer: Answer
    seen: str
    where: str
    bears: str
    reason: str

    @property
    def worth(self) -> str:
        """What the verdict is worth, in words."""
        return f"{_WORTH[self.bears]} ({self.reason})."


def chapter(claim: Claim) -> str:
    """The chapter that answers a claim."""
    return next(name for name, module in CHAPTERS.items() if claim.key in module.DECIDES)


def answer(claim: Claim, results: Results) -> Answer:
    """What the records say; "not run" where there are none, never a guess."""
    if not plan.has(results.profile, chapter(claim)):
        return NOT_ANSWERED
    try:
        return CHAPTERS[chapter(claim)].DECIDES[claim.key](results)
    except RecordsMissing:
        return NOT_ANSWERED


def verdict(key: str, results: Results) -> Verdict:
    """The verdict of a claim by its key, on a profile's records."""
    claim = BY_KEY[key]
    found, about = answer(claim, results), bearing(results.profile.name, key)
    seen = in_domain(found) if about.on_paper == SAME else found.seen
    where = found.where or results.profile.where
    return Verdict(claim, found, seen, where, about.on_paper, about.reason)


def opening(key: str, results: Results) -> dict[str, str]:
    """The three lines a page opens with, as `html.box` takes them."""
    found = verdict(key, results)
    statement, reported = found.claim.statement, found.claim.reported
    says = f"{statement}: {reported}."
    if found.claim.own:
        says = f"Not stated. Tested here: {statement[0].lower()}{statement[1:]} ({reported})."
    return lines(found.where, says, found.answer.ours, found.seen, found.worth)


def scope(results: Results) -> str:
    """What verdicts of a profile are about, in the words that stand above any table of them."""
    profile = results.profile
    same = [c.key for c in CLAIMS if bearing(profile.name, c.key).on_paper == SAME]
    return (
        f"These verdicts are about {profile.about}. They speak for the paper itself in claim"
        f"{'s' * (len(same) > 1)} {listed(same)} only; all others say what happens "
        f"{profile.where}. A difference of accuracy inside ±{results.margin:g} points is no "
        "difference."
    )


def table(results: Results) -> pd.DataFrame:
    """One row per claim, the most important first."""
    return tidy.table([_row(verdict(claim.key, results)) for claim in CLAIMS])


def _row(found: Verdict) -> dict:
    return {
        "": found.claim.key,
        "claim": found.claim.statement,
        "the paper": found.claim.reported,
        "ours": found.answer.in_a_cell,
        "verdict": {"seen": found.seen, "where": found.where},
        "bears on the paper": f"{found.bears}: {found.reason}",
        "chapter": chapter(found.claim),
    }


def not_run(results: Results) -> pd.DataFrame:
    """Claims that a profile could answer and lacks records for: the command, and its cost.

    A profile with records has a row per chapter, one without a row in all.
    """
    profile = results.profile
    lacking = {name: _unanswered(name, results) for name in plan.chapters(profile)}
    rows = []
    if any(key in TIMED for keys in lacking.values() for key in keys):
        rows.append(_row_of(TIMED, math.nan, step_times.command(results), "minutes"))
    trained = {name: [k for k in keys if k not in TIMED] for name, keys in lacking.items()}
    trained = {name: trained[name] for name in CHAPTERS if trained.get(name)}
    if trained and not results.records:
        cells = all_cells(plan.chapter_needs(profile))
        claims = [claim.key for claim in CLAIMS if any(claim.key in k for k in trained.values())]
        cost = campaign_cost.expected(results, cells)
        runs = sum(campaign_cost.counted(cells).values())
        return tidy.table([*rows, _row_of(claims, runs, results.to_run(), cost)])
    for name, claims in trained.items():
        missing = counted(plan.chapter_needs(profile, name), results, with_weights=True)
        cost = missing.cost or "not measured"
        if missing.count:  # else no run of this profile answers them
            rows.append(_row_of(claims, missing.count, results.to_run(name), cost))
    return tidy.table(rows)


def _unanswered(name: str, results: Results) -> list[str]:
    """Claims of a chapter that are not run, and of which this profile's records could tell."""
    profile, claims = results.profile.name, [c for c in CLAIMS if c.key in CHAPTERS[name].DECIDES]
    return [
        claim.key
        for claim in claims
        if bearing(profile, claim.key).on_paper != UNTESTABLE
        and answer(claim, results).seen == NOT_RUN
    ]


def _row_of(claims: Sequence[str], missing: float, command: str, cost: str) -> dict:
    return {"claims": listed(claims), "missing": missing, "to run them": command, "cost": cost}


def elsewhere(results: Results) -> pd.DataFrame:
    """What this profile and every other has not run, with its command and cost."""
    others = [
        p for name, p in profiles.PROFILES.items() if name not in (results.profile.name, "smoke")
    ]
    found = [read(p, committed(results.folder.parent, p.name)) for p in others]
    tables = [table for each in (results, *found) if len(table := not_run(each))]
    return pd.concat(tables, ignore_index=True) if tables else tidy.table([])


def deciding() -> pd.DataFrame:
    """What decides each claim."""
    return tidy.table([{"": claim.key, "decided by": claim.decided_by} for claim in CLAIMS])


UNDER_OLD_RULE = ("smoke", "quick")  # profiles that had records before the rule was changed


def old_and_new(results: Results) -> pd.DataFrame:
    """What the rule before this one makes of the same comparisons, beside the verdicts of today."""
    rows = []
    for claim in CLAIMS:
        found = verdict(claim.key, results)
        rows.append(
            {
                "": claim.key,
                "claim": claim.statement,
                "seeds": {"n": found.answer.seeds or math.nan},
                "by the old rule": by_the_old_rule(found.answer),
                "now": {"seen": found.seen, "where": found.where},
            }
        )
    return tidy.table(rows)


def comparisons(results: Results) -> pd.DataFrame:
    """The numbers behind the verdicts: one row per comparison that a claim needs."""
    rows = []
    for claim in CLAIMS:
        found = verdict(claim.key, results)
        rows += [
            {"": claim.key, "difference": tidy.comparison(each, found.where)}
            for each in found.answer.comparisons
        ]
    return tidy.table(rows)


TABLES = {
    "verdicts": table,
    "verdict_comparisons": comparisons,
    "verdicts_old_and_new": old_and_new,
}

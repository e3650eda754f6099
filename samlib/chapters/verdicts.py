"""The fifteen claims of the paper, and what the records say of each."""

import math
from dataclasses import dataclass

import pandas as pd

from samlib.chapters import CHAPTERS, shift
from samlib.errors import RecordsMissing
from samlib.records.results_folder import ResultsFolder
from samlib.report import campaign_cost, paper, tidy
from samlib.report.answers import NOT_ANSWERED, Answer
from samlib.report.names import GEOMETRY_NAMES
from samlib.report.results import Results, read
from samlib.study import plan, profiles
from samlib.study.methods import SWEPT


@dataclass(frozen=True)
class Claim:
    """A falsifiable claim (specification 7).

    Attributes:
        number: 1 to 15.
        statement: what the paper claims.
        decided_by: the measurement that decides it here.
        reported: the authors' number.
    """

    number: int
    statement: str
    decided_by: str
    reported: str

    @property
    def chapter(self) -> str | None:
        """The chapter that answers it; None while none does."""
        return next((n for n, c in CHAPTERS.items() if self.number in c.DECIDES), None)


_FIGURE_GAPS = {g: paper.best_gap(g, "only_norm", "all") for g in SWEPT}


CLAIMS = (
    Claim(
        1,
        "SAM-ON is at least as good as SAM-all for every SAM variant on BatchNorm networks",
        "only norm − all at the chosen ρ, every variant and family",
        "best of sweep, four variants: "
        + ", ".join(f"{gap:+.2f}" for gap in _FIGURE_GAPS.values()),
    ),
    Claim(
        2,
        "WRN-28-10 on CIFAR-100: SGD 80.71, SAM 83.11, SAM-ON 84.19",
        "the same three numbers within ±0.4, at ρ = 0.1 and 1; the paper profile only",
        "80.71, 83.11, 84.19",
    ),
    Claim(
        3,
        "The gain of SAM-ON over SAM is no artefact of tuning",
        "SAM-ON − SAM, both at the ρ their validation split chose, last epoch",
        f"{paper.headline_gap():+.2f} (ρ 0.1 against a tuned one); "
        f"best against best {paper.best_gap('l2', 'only_norm', 'all'):+.2f}",
    ),
    Claim(
        4,
        "Leaving the normalization layers out of the perturbation harms",
        "all − no norm for elementwise ℓ₂, where the effect is predicted to be largest",
        f"{paper.best_gap('elementwise_l2', 'all', 'no_norm'):+.2f}",
    ),
    Claim(
        5,
        "It works for LayerNorm transformers, too",
        "ViT with AdamW: SAM-ON − AdamW above zero, and SAM-ON − SAM above zero or equivalent",
        paper.NOT_SOURCED,
    ),
    Claim(
        6,
        "With Lion, SAM-ON beats SAM and Lion alone",
        "ViT with Lion: SAM-ON − Lion and SAM-ON − SAM, each above zero",
        "ImageNet, ViT-S/32: 72.64 against 71.90 and 68.20",
    ),
    Claim(
        7,
        "The best ρ of SAM-ON is larger than SAM's",
        "log ratio of the chosen ρ, per seed, four variants",
        ", ".join(f"{paper.rho_ratio(g):g} × for {GEOMETRY_NAMES[g]}" for g in SWEPT),
    ),
    Claim(
        8,
        "Sparsity alone does not explain it",
        "SAM-ON − random, SSAM-F, SSAM-D at its own sparsity and radius rule, each at its own ρ",
        "84.19 against 80.97 (random) and 83.14 (SSAM-F)",
    ),
    Claim(
        9,
        "SAM-ON is sharper and still generalises better",
        "logit-normalised ℓ∞ m-sharpness at the chosen ρ, adaptive, 20 steps, radius 0.003: SAM-ON "
        "sharper than the base optimizer and than SAM, and more accurate than the base optimizer",
        "1.27 × SGD's, 1.88 × SAM's",
    ),
    Claim(
        10,
        "SAM-ON moves γ to larger values",
        "mean of |γ| over all channels at the end, SAM-ON − SAM and SAM-ON − base optimizer, each "
        "above zero and not within ±0.01",
        f"mode {shift.reported_modes()}",
    ),
    Claim(
        11,
        "SAM-ON costs 1.73 × SGD where SAM costs 1.96 ×; blocks B2+B3 1.38 × at no loss; B1 "
        "gains nothing",
        "step times whose quartiles do not overlap; stages 2 and 3 − SAM-ON above zero or "
        "equivalent, and stage 1 − base optimizer not above zero",
        "1.73, 1.96, 1.38",
    ),
    Claim(
        12,
        "Normalization layers hold about 0.1 % of the parameters",
        "counts, each of the paper's five CIFAR-100 networks within a factor of two",
        "less than 0.1 % (v1), typically 0.1 % (v2)",
    ),
    Claim(
        13,
        "Gains under distribution shift and attack exceed the clean gain",
        "SAM-ON − SAM under each condition that costs the base optimizer 5 points, minus the same "
        "on clean images",
        "ImageNet, ViT-S/32, AdamW, ℓ₂ 0.5: 22.72 against 17.71 (SAM)",
    ),
    Claim(
        14,
        "The gain is due to normalization layers, not to per-channel scales",
        "SAM-ON − SAM on per-channel scales of the weights, of outputs and of inputs, each above 0",
        "implied by the title",
    ),
    Claim(
        15,
        "Statistics of the perturbed pass do not cause the gain over the base optimizer",
        "SAM-ON − base optimizer, statistics of the first pass only and recalibrated, each above 0",
        "left open by the authors' code",
    ),
)


def answer(claim: Claim, results: Results) -> Answer:
    """What the records say; "not run" where there are none, never a guess."""
    if not plan.has(results.profile, claim.chapter):
        return NOT_ANSWERED
    try:
        return CHAPTERS[claim.chapter].DECIDES[claim.number](results)
    except RecordsMissing:
        return NOT_ANSWERED


def table(results: Results) -> pd.DataFrame:
    """One row per claim."""
    rows = []
    for claim in CLAIMS:
        found = answer(claim, results)
        rows.append(
            {
                "": claim.number,
                "claim": claim.statement,
                "verdict": found.verdict,
                "ours": found.ours,
                "seeds": {"n": found.seeds or math.nan},
                "reported": claim.reported,
                "chapter": claim.chapter,
            }
        )
    return tidy.table(rows)


def elsewhere(results: Results) -> dict[str, pd.DataFrame]:
    """The verdicts of every other profile, by name; what was not run has its command and cost."""
    tables = {}
    for name, profile in profiles.PROFILES.items():
        if name in (results.profile.name, "smoke"):
            continue
        there = read(profile, ResultsFolder(results.folder.parent / name))
        rows = [_row(claim, there) for claim in CLAIMS]
        tables[name] = tidy.table(rows)
    return tables


def _row(claim: Claim, results: Results) -> dict:
    found, profile = answer(claim, results), results.profile
    row = {"": claim.number, "claim": claim.statement, "verdict": found.verdict}
    row |= {"ours": found.ours, "seeds": {"n": found.seeds or math.nan}}
    row["reported"] = claim.reported
    if found != NOT_ANSWERED:
        return row | {"to run it": "", "cost": ""}
    if not plan.has(profile, claim.chapter):
        return row | {"to run it": "not part of this profile", "cost": ""}
    command = f"python -m samlib run --profile {profile.name} --only {claim.chapter}"
    cells = plan.all_cells(plan.chapter_needs(profile, claim.chapter))
    return row | {"to run it": command, "cost": campaign_cost.expected(results, cells)}


def deciding() -> pd.DataFrame:
    """What decides each claim."""
    rows = [{"": claim.number, "decided by": claim.decided_by} for claim in CLAIMS]
    return tidy.table(rows)

"""The systems around SAM-ON: each method in four questions, whether it is here, and its result."""

from collections import Counter
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.chapters import family
from samlib.report import tidy
from samlib.report.answers import DESCRIBED
from samlib.report.figures import draw_intervals, use_style
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import SEEN, corrected
from samlib.report.wording import lines
from samlib.sam.family import MEMBERS
from samlib.study.methods import BASE


class System(NamedTuple):
    """A method: who, its answers to the four questions, and its member or why it has none.

    Attributes:
        name: with authors and year.
        source: along what it ascends.
        radius: how far.
        when: at which steps.
        descent: on what it descends.
        around: what is around the step.
        member: of the family; "" if it is not one.
        instead: where it is, or why it is not here.
        absent: it is not in this version.
    """

    name: str
    source: str = "this gradient"
    radius: str = "ball"
    when: str = "always"
    descent: str = "at w + ε"
    around: str = ""
    member: str = ""
    instead: str = ""
    absent: bool = False


def _none(name: str, instead: str, *, absent: bool = False) -> System:
    return System(name, "–", "–", "–", "–", instead=instead, absent=absent)


def _task(name: str, task: str) -> System:
    """A method that needs a task of its own."""
    return _none(name, f"not in this version: needs a task of its own, {task}", absent=True)


SYSTEMS = (
    System("SAM (Foret et al., 2021)", member="sam"),
    System("USAM (Dai, Ahn and Sra, 2023)", radius="free", member="usam"),
    System("VaSSO (Li and Giannakis, 2023)", "mean of gradients", member="vasso"),
    System("F-SAM (Li et al., 2024)", "gradient minus mean", member="fsam"),
    System("OBF (Vani et al., 2024)", "another loss's gradient", member="obf"),
    System("Eigen-SAM (Luo et al., 2024)", "toward top eigenvector", "free", member="eigen_sam"),
    System("AsyncSAM (Jo, Lim and Lee, 2025)", "last clean gradient", member="async_sam"),
    System("last gradient (Becker et al., 2024, A.7)", "last descent gradient", member="last"),
    System("MSAM (Becker et al., 2024)", "momentum, along the step", member="msam"),
    System("FedLESAM's core (Fan et al., 2024)", "drift, back up", member="lesam"),
    System(
        "GSAM (Zhuang et al., 2022)",
        radius="ball, with lr",
        descent="minus what of g is across",
        member="gsam",
    ),
    System(
        "LookSAM (Liu et al., 2022)",
        when="every k",
        descent="reuses what lay across",
        member="looksam",
    ),
    System("SS-SAM (Zhao et al., 2022)", when="with probability p", member="ss_sam"),
    System("AE-SAM (Jiang et al., 2023)", when="large gradients", member="ae_sam"),
    System("ESAM's selection (Du et al., 2022)", descent="hardest examples", member="esam"),
    System("SAMPa (Xie et al., 2024)", "previewed gradient", descent="mix of both", member="sampa"),
    System(
        "Lookbehind (Mordido et al., 2024)",
        "this gradient, k times",
        around="slow weights",
        member="lookbehind",
    ),
    System("IRE (Wang et al., 2024)", around="flat coordinates walk further", member="ire"),
    System("SAM late (Zhou et al., 2025)", when="last epochs", instead="here: page When"),
    System("DyT (Zhu et al., 2025)", instead="here: a layer, page Is it the normalization"),
    _none("Which sharpness (Wen, Ma and Li, 2023)", "here: a toy and measures on saved weights"),
    _none(
        "Layer-wise connectivity (Adilova et al., 2024)",
        "here: a measure, page Where does the gain sit",
    ),
    _none(
        "Weight-Curvature Index (Xu and Zhang)",
        "its ingredients are measured; its formula is not sourced",
    ),
    _none("Duality with adversarial training (Zhang et al.)", "here: attacks, page Robustness"),
    _none(
        "Out of distribution (Schapiro and Zhao)",
        "here: corruptions, page Robustness; their data are not sourced",
    ),
    _none(
        "Lookahead-SAM (Yu, Zhang and Kwok)",
        "not here: its update rule is not sourced",
        absent=True,
    ),
    _none(
        "bSAM (Moellenhoff and Khan, 2023)",
        "not here: an optimizer of its own, with a posterior",
        absent=True,
    ),
    _none("SA-SAM (Naganuma et al.)", "its radius is here, not its learning rate, an optimizer's"),
    _none(
        "SAF and MESA (Du et al., 2022)",
        "not in this version: a term of the loss, no perturbation",
        absent=True,
    ),
    _task("FedLESAM, federated (Fan et al., 2024)", "a federation of ten clients"),
    _task("FP-BMA, SA-BMA (Lim et al.)", "Bayesian transfer"),
    _task("Multi-task transfer (Mueller, Dredze and Andrews)", "several heads"),
    _task("Retinal vessels (Mariam et al.)", "segmentation"),
    _task("Multi-head CLIP (Zhou et al.)", "contrastive training"),
)


def table(results: Results) -> pd.DataFrame:
    """One row per method: the four answers, passes, and its result in one number, or why none."""
    rows = []
    for s in SYSTEMS:
        row = {
            "method": s.name,
            "along": s.source,
            "how far": s.radius,
            "when": s.when,
            "descends": s.descent + (f"; {s.around}" if s.around else ""),
            "passes": MEMBERS[s.member].passes if s.member else "–",
        }
        rows.append(row | _result(results, s))
    return tidy.table(rows)


def _result(results: Results, s: System) -> dict:
    """Only norm over the base optimizer, in points; else where the method is, or why it is not."""
    on = family.of_member(results, s.member)[1] if s.member else None
    if on is None:
        return {"only norm − base": None, "here": s.instead or "a member, not run in this profile"}
    found = results.compare(on, results.cell(BASE))
    return {"only norm − base": tidy.difference(found), "here": "a member"}


def figure(results: Results) -> Figure:
    """What every member with only norm gains over the base optimizer, with its 95 % interval."""
    use_style()
    base = results.cell(BASE)
    cells = {s.name: family.of_member(results, s.member)[1] for s in SYSTEMS if s.member}
    gains = {name: results.compare(on, base) for name, on in cells.items() if on}
    figure, ax = plt.subplots(figsize=(7.6, 0.3 * len(gains) + 1.0))
    draw_intervals(ax, gains)
    ax.set_xlabel(f"only norm − {method_name(results.profile, BASE)}, points")
    figure.tight_layout()
    return figure


def finding(results: Results) -> str:
    """How many of the methods are here, and how many have a number."""
    kinds = Counter(_kind(results, s) for s in SYSTEMS)
    return (
        f"Of {len(SYSTEMS)} methods, {kinds['run']} are members of the family with a result here, "
        f"{kinds['member']} members without one, {kinds['here']} are here as something else, and "
        f"{kinds['absent']} are not in this version. Variants of a member, such as a flipped sign, "
        "have no row."
    )


def _kind(results: Results, s: System) -> str:
    if s.member:
        return "run" if family.of_member(results, s.member)[1] else "member"
    return "absent" if s.absent else "here"


def opening(results: Results) -> dict[str, str]:
    """What is said, what is seen, and the verdict with what it is worth."""
    ran = [s for s in SYSTEMS if _kind(results, s) == "run"]
    cells = [family.of_member(results, s.member)[1] for s in ran]
    base, *others = results.together(results.cell(BASE), *cells).T.to_numpy()
    gains = [pd.Series(accuracies - base) for accuracies in others]
    best = max(range(len(ran)), key=lambda place: gains[place].mean())
    found = corrected([results.judge(gain) for gain in gains])
    gaining = sum(c.seen == SEEN for c in found)
    sees = (
        f"With only norm, {gaining} of {len(ran)} members gain over "
        f"{method_name(results.profile, BASE)} after Holm's correction, on the "
        f"{found[best].seeds} seeds that all have. The largest gain, {found[best]} points, "
        f"is that of {ran[best].name}."
    )
    says = "Nothing: the table is ours, and its first column names the methods' papers."
    return lines(results.profile.where, says, sees, DESCRIBED)


TABLES = {"systems": table}
DECIDES: dict = {}

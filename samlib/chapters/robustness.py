"""Does SAM-ON gain more where the test images are corrupted or attacked?"""

import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.errors import RecordsMissing
from samlib.measures import corruptions
from samlib.report import paper, tidy
from samlib.report.answers import Answer, all_of
from samlib.report.figures import COLOURS, draw_points, long, use_style
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import Comparison, compare, corrected
from samlib.study.methods import ALL, BASE, HEADLINE, ON, Method

EFFECT = 5.0  # points the base optimizer must lose for a condition to count as one
Read = Callable[[dict], float]


def conditions(results: Results) -> dict[str, tuple[Read, Read]]:
    """By name: how to read the accuracy under a condition, and the clean one on the same images."""
    some = next(iter(_measured(results, BASE).values()), None)
    if some is None:
        raise RecordsMissing("no run that did not diverge has been measured")

    def attack(number: int) -> Read:
        return lambda found: found["attacks"][number]["accuracy"]

    found = {"corrupted, mean": (lambda f: f["corrupted"], lambda f: f["clean"])}
    for i, a in enumerate(some["attacks"]):
        found[_attack_name(a)] = (attack(i), lambda f: f["attacked_clean"])
    return found


def _attack_name(attack: dict) -> str:
    if attack["norm"] == "l2":
        return f"ℓ₂ attack, {attack['radius']:g}"
    return f"ℓ∞ attack, {attack['radius'] * 255:g}/255"


def _measured(results: Results, method: Method) -> dict[int, dict]:
    return results.measured(results.cell(method), "robustness")


def accuracies(results: Results, method: Method, read: Read) -> pd.Series:
    """What a reader finds in a method's measurements, by seed."""
    return pd.Series({s: read(f) for s, f in _measured(results, method).items()}, dtype=float)


def _gain(results: Results, over: Method, read: Read) -> pd.Series:
    return (accuracies(results, ON, read) - accuracies(results, over, read)).dropna()


def excess(results: Results, over: Method, read: Read, clean: Read) -> Comparison:
    """SAM-ON's gain under a condition minus its clean gain, paired by seed."""
    return compare((_gain(results, over, read) - _gain(results, over, clean)).dropna())


def table(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """Accuracy under every condition, SAM-ON's gain over SAM, and how it exceeds the clean one."""
    rows, comparisons = [], []
    clean = {"clean": (lambda f: f["clean"], None)}
    for name, (read, reference) in (clean | conditions(results)).items():
        row = {"test images": name}
        for method in HEADLINE:
            values = accuracies(results, method, read)
            row[method_name(results.profile, method)] = tidy.spread(values)
        row["SAM-ON − SAM"] = tidy.difference(compare(_gain(results, ALL, read)))
        comparisons.append(excess(results, ALL, read, reference) if reference else None)
        rows.append(row)
    table = tidy.judged(rows, "more than clean", comparisons)
    return table, [c for c in comparisons if c is not None]


def by_corruption(results: Results) -> pd.DataFrame:
    """Accuracy under each corruption, averaged over its five severities."""
    rows = []
    for name in corruptions.names():
        row = {"corruption": name.replace("_", " ")}

        def read(found: dict, name=name) -> float:
            levels = found["corruptions"].get(name)
            return sum(levels) / len(levels) if levels else float("nan")

        for method in HEADLINE:
            values = accuracies(results, method, read)
            row[method_name(results.profile, method)] = tidy.spread(values)
        row["SAM-ON − SAM"] = tidy.difference(compare(_gain(results, ALL, read).dropna()))
        rows.append(row)
    return tidy.table(rows)


def reported_table() -> pd.DataFrame:
    """The poster's ViT-S/32 on ImageNet with AdamW: gains under shift and attack, and the clean."""
    clean = paper.IMAGENET["adamw"]
    gain = clean["only_norm"].value - clean["all"].value
    rows = []
    for name, numbers in ({"clean": clean} | paper.SHIFTED).items():
        here = numbers["only_norm"].value - numbers["all"].value
        rows.append(
            {
                "test images": name,
                "AdamW": tidy.reported(numbers["base"]),
                "SAM": tidy.reported(numbers["all"]),
                "SAM-ON": tidy.reported(numbers["only_norm"]),
                "SAM-ON − SAM": here,
                "more than clean": math.nan if name == "clean" else here - gain,
            }
        )
    return tidy.table(rows)


def figure(results: Results) -> Figure:
    """SAM-ON's gain over SAM and over the base optimizer, clean and under every condition."""
    use_style()
    named = {"clean": lambda f: f["clean"]}
    named |= {name: read for name, (read, _) in conditions(results).items()}
    size = (8.6, 0.36 * len(named) + 1.1)
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True)
    for ax, over in zip(axes, (ALL, BASE), strict=True):
        gains = {name: _gain(results, over, read) for name, read in named.items()}
        draw_points(ax, long(gains, ["only_norm"] * len(gains)), "value", "label")
        ax.axvline(0, color="#444444", lw=0.8)
        ax.axvline(gains["clean"].mean(), color=COLOURS["only_norm"], lw=0.8, ls="--")
        ax.set_xlabel(f"SAM-ON − {method_name(results.profile, over)}, points")
    figure.tight_layout()
    return figure


def felt(results: Results) -> list[str]:
    """Conditions that cost the base optimizer at least `EFFECT` points."""
    found = []
    for name, (read, clean) in conditions(results).items():
        lost = accuracies(results, BASE, clean) - accuracies(results, BASE, read)
        if lost.mean() >= EFFECT:
            found.append(name)
    return found


def finding(results: Results) -> str:
    """Where the gain is larger than the clean one, over SAM and over the base optimizer."""
    all_, named = conditions(results), felt(results)
    base = method_name(results.profile, BASE)
    if not named:
        return f"No condition costs {base} {EFFECT:.0f} points."
    parts = []
    for over in (ALL, BASE):
        together = corrected([excess(results, over, *all_[name]) for name in named])
        found = {name: c.verdict for name, c in zip(named, together, strict=True)}
        said = []
        for verdict, word in (("holds", "larger"), ("refuted", "smaller")):
            where = [name for name, v in found.items() if v == verdict]
            if where:
                said.append(f"{word} than the clean gain for {'; '.join(where)}")
        if not said:
            said.append("nowhere told apart from the clean gain")
        elif set(found.values()) - {"holds", "refuted"}:
            said.append("not told apart from it elsewhere")
        label = method_name(results.profile, over)
        parts.append(f"The gain of SAM-ON over {label} is {', and '.join(said)}.")
    return (
        f"Of {len(all_)} conditions {len(named)} cost {base} {EFFECT:.0f} points or more over "
        f"{len(_measured(results, BASE))} seeds; these are counted. {' '.join(parts)}"
    )


def beyond_clean(results: Results) -> Answer:
    """SAM-ON's gain over SAM under shift and attack exceeds the clean gain (claim 13).

    For each condition that costs the base optimizer at least `EFFECT` points the gain minus the
    clean gain on the same images must be above zero.
    """
    found, named = conditions(results), felt(results)
    if not named:
        return Answer("no condition with an effect", "undecided")
    return all_of([excess(results, ALL, *found[n]) for n in named], "conditions", strict=True)


TABLES = {
    "robustness": lambda results: table(results)[0],
    "corruptions": by_corruption,
}
DECIDES = {13: beyond_clean}

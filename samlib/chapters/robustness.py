"""Does SAM-ON gain more where the test images are corrupted or attacked?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.errors import RecordsMissing
from samlib.measures import corruptions
from samlib.measures.robustness import ATTACKS, DUALITY, Attack
from samlib.measures.shifted_sets import SETS
from samlib.report import paper, tidy
from samlib.report.answers import Answer, each_of
from samlib.report.figures import COLOURS, draw_points, long, use_style
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import OPEN, REVERSED, SEEN, Comparison, corrected
from samlib.report.text import listed
from samlib.study import plan
from samlib.study.methods import ALL, BASE, HEADLINE, ON, Method

FLOOR = 1.0  # percent: where every method is below, there is no gain to be seen
EFFECT = 5.0  # points the base optimizer must lose for a condition to count as one
Read = Callable[[dict], float]


def conditions(results: Results) -> dict[str, tuple[Read, Read]]:
    """By name: how to read the accuracy under a condition, and the clean one on the same images.

    The attacks are those of the plan: `duality` has the others. Of ImageNet the conditions are the
    shifted sets on which every run was measured, and the clean images are the validation set's.
    """
    if _on_sets(results):
        sets = {name: (_on(key), _on("imagenet")) for key, name in SETS.items()}
        return {name: both for name, both in sets.items() if _everywhere(results, both[0])}
    attacks = _attacks(results, [a for a in ATTACKS if a not in DUALITY])
    under = {name: (read, lambda f: f["attacked_clean"]) for name, read in attacks.items()}
    return {"corrupted, mean": (lambda f: f["corrupted"], lambda f: f["clean"])} | under


def _on_sets(results: Results) -> bool:
    return plan.robustness_measure(results.profile) == "shifted_sets"


def _on(key: str) -> Read:
    """How to read the accuracy on a shifted set; NaN where the set was not on disk."""
    return lambda found: found[key].get("accuracy", math.nan)


def _everywhere(results: Results, read: Read) -> bool:
    return all(accuracies(results, method, read).notna().all() for method in HEADLINE)


def _attacks(results: Results, some: Sequence[Attack]) -> dict[str, Read]:
    """By name: how to read the accuracy under those of some attacks that were measured."""
    of_all = (values for method in HEADLINE for values in _measured(results, method).values())
    measured = next(of_all, None)
    if measured is None:
        raise RecordsMissing("every measured run diverged")
    wanted = {(a.norm, a.radius) for a in some}

    def read(number: int) -> Read:
        return lambda found: found["attacks"][number]["accuracy"]

    return {
        _attack_name(attack): read(number)
        for number, attack in enumerate(measured["attacks"])
        if (attack["norm"], attack["radius"]) in wanted
    }


def _attack_name(attack: dict) -> str:
    pixels = attack["radius"] * 255
    if attack["norm"] == "linf":
        return f"ℓ∞ attack, {pixels:g}/255"
    whole = math.isclose(pixels, round(pixels))
    return f"ℓ₂ attack, {pixels:g}/255" if whole else f"ℓ₂ attack, {attack['radius']:g}"


def _measured(results: Results, method: Method) -> dict[int, dict]:
    return results.measured(results.cell(method), plan.robustness_measure(results.profile))


def accuracies(results: Results, method: Method, read: Read) -> pd.Series:
    """What a reader finds in a method's measurements, by seed."""
    return pd.Series({s: read(f) for s, f in _measured(results, method).items()}, dtype=float)


def _gain(results: Results, over: Method, read: Read) -> pd.Series:
    return (accuracies(results, ON, read) - accuracies(results, over, read)).dropna()


def excess(results: Results, over: Method, read: Read, clean: Read) -> Comparison:
    """SAM-ON's gain under a condition minus its clean gain, paired by seed."""
    return results.judge(_gain(results, over, read) - _gain(results, over, clean))


def _shown(results: Results) -> dict[str, tuple[Read, Read | None]]:
    """Clean images, and the conditions that are felt."""
    found = conditions(results)
    clean = {"clean": (_on("imagenet") if _on_sets(results) else lambda f: f["clean"], None)}
    return clean | {name: found[name] for name in felt(results)}


def _names(results: Results) -> dict[Method, str]:
    """Names of the methods that are measured."""
    return results.named(plan.robustness(results.profile).cells)


def table(results: Results) -> pd.DataFrame:
    """Accuracy under every condition that is felt, SAM-ON's gain over SAM, and its excess."""
    rows, comparisons = [], []
    for name, (read, reference) in _shown(results).items():
        row = {"test images": name}
        for method, called in _names(results).items():
            row[called] = tidy.spread(accuracies(results, method, read))
        row["SAM-ON − SAM"] = tidy.difference(results.judge(_gain(results, ALL, read)))
        comparisons.append(excess(results, ALL, read, reference) if reference else None)
        rows.append(row)
    return tidy.judged(rows, "more than clean", comparisons, results.profile.where)


def duality(results: Results) -> pd.DataFrame:
    """Accuracy under the attacks of the duality paper, SAM's gain, and SAM-ON's over SAM."""
    rows, comparisons = [], []
    attacks = {} if _on_sets(results) else _attacks(results, DUALITY)
    for name, read in attacks.items():
        values = {method: accuracies(results, method, read) for method in HEADLINE}
        row = {"test images": name}
        row |= {method_name(results.profile, m): tidy.spread(v) for m, v in values.items()}
        over_base = results.judge(values[ALL] - values[BASE])
        row[f"SAM − {method_name(results.profile, BASE)}"] = tidy.difference(over_base)
        comparisons.append(results.judge(values[ON] - values[ALL]))
        rows.append(row)
    return tidy.judged(rows, "SAM-ON − SAM", comparisons, results.profile.where)


def by_corruption(results: Results) -> pd.DataFrame:
    """Accuracy under each corruption, averaged over its five severities."""
    rows = []
    for name in () if _on_sets(results) else corruptions.names():
        row = {"corruption": name.replace("_", " ")}

        def read(found: dict, name=name) -> float:
            levels = found["corruptions"].get(name)
            return sum(levels) / len(levels) if levels else float("nan")

        for method, called in _names(results).items():
            row[called] = tidy.spread(accuracies(results, method, read))
        row["SAM-ON − SAM"] = tidy.difference(results.judge(_gain(results, ALL, read)))
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
    """SAM-ON's gain over SAM and over the base optimizer, clean and under every condition.

    A tick at every condition is the mean gain on the same images, clean.
    """
    use_style()
    shown = _shown(results)
    size = (8.6, 0.36 * len(shown) + 1.1)
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True)
    for ax, over in zip(axes, (ALL, BASE), strict=True):
        gains = {name: _gain(results, over, read) for name, (read, _) in shown.items()}
        draw_points(ax, long(gains, ["only_norm"] * len(gains)), "value", "label")
        ax.axvline(0, color="#444444", lw=0.8)
        for place, (_, clean) in enumerate(shown.values()):
            if clean is not None:
                at = _gain(results, over, clean).mean()
                ax.vlines(at, place - 0.35, place + 0.35, color=COLOURS["base"], lw=1.6)
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
        found = dict(zip(named, corrected(_excesses(results, over)), strict=True))
        said = []
        for seen, word in ((SEEN, "larger"), (REVERSED, "smaller")):
            where = [name for name, c in found.items() if c.seen == seen]
            if where:
                said.append(f"{word} than on clean images for {'; '.join(where)}")
        label = method_name(results.profile, over)
        where = listed(said) if said else "not told apart from that on clean images anywhere"
        parts.append(f"SAM-ON − {label} is {where}")
    return (
        f"Of {len(all_)} conditions {len(named)} cost {base} {EFFECT:.0f} points or more, and "
        f"these conditions count. {'; '.join(parts)}.{_at_the_floor(results)}"
    )


def _floored(results: Results) -> list[str]:
    """Conditions that count and under which no method gets anything right."""
    found = conditions(results)
    return [
        name
        for name in felt(results)
        if all(accuracies(results, m, found[name][0]).mean() < FLOOR for m in HEADLINE)
    ]


def _at_the_floor(results: Results) -> str:
    """Those in words, and what they are worth."""
    lost = _floored(results)
    if not lost:
        return ""
    return (
        f" Under {listed(lost)} every method is right on less than {FLOOR:g} % of the images: no "
        "gain is left to be seen there, and the rule of the plan counts that as smaller."
    )


def _excesses(results: Results, over: Method) -> list[Comparison]:
    found = conditions(results)
    return [excess(results, over, *found[name]) for name in felt(results)]


def beyond_clean(results: Results) -> Answer:
    """SAM-ON's gain over SAM under shift and attack exceeds the clean gain (claim 13).

    For each condition that costs the base optimizer at least `EFFECT` points the gain minus the
    clean gain on the same images must be seen.
    """
    found, names = _excesses(results, ALL), felt(results)
    if not found:
        return Answer(OPEN, "no condition with an effect")
    answer = each_of(found, "", names=names)
    if answer.comparisons and names[answer.decides] in _floored(results):
        none = f"; there every method is right on less than {FLOOR:g} % of the images"
        return replace(answer, ours=answer.ours + none)
    return answer


TABLES = {
    "robustness": table,
    "corruptions": by_corruption,
    "duality": duality,
}
DECIDES = {"13": beyond_clean}

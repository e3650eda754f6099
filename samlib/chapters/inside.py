"""Where does the gain sit? Norm layers exchanged, single layers, curvature, rotated digits."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.chapters import anatomy
from samlib.chapters.inside_predictions import BARRIER, FACTORS, PREDICTIONS
from samlib.chapters.why import looked, predictions, told
from samlib.errors import RecordsMissing
from samlib.report import tidy
from samlib.report.figures import draw_points, long, use_style
from samlib.report.names import MODEL_NAMES, method_name
from samlib.report.results import Results
from samlib.report.stats import REVERSED, SEEN, share_of_gain
from samlib.report.text import number
from samlib.report.wording import lines
from samlib.study.methods import ALL, BASE, HEADLINE, ON, Method

PREDICTED = (
    "Seen means that γ and β bring less than a tenth of the gain, as predicted: a hypothesis of "
    "ours, not of the paper."
)
MORE = {SEEN: "larger", REVERSED: "smaller"}
BLOCKS = {"all": "all weights", "only_norm": "norm layers", "no_norm": "all other weights"}


def _names(results: Results) -> dict[Method, str]:
    return {method: method_name(results.profile, method) for method in HEADLINE}


def exchanged(results: Results) -> pd.DataFrame:
    """Every network made of the pairs: whose norm layers, whose other weights, and its gain."""
    base, rows, comparisons = _names(results)[BASE], [], []
    for method in (ALL, ON):
        name = _names(results)[method]
        table, gains = anatomy.swapped(results, method), anatomy.gains(results, method)
        for key, norms, rest in (
            ("twin", base, base),
            ("twin_with_own_norms", name, base),
            ("own_with_twin_norms", base, name),
            ("own", name, name),
        ):
            row = {
                "γ and β of": norms,
                "other weights of": rest,
                "accuracy": tidy.spread(table[key]),
            }
            if key != "twin":
                share = share_of_gain(gains[key], gains["own"])
                row["share of the gain"] = tidy.share(share)
            comparisons.append(None if key == "twin" else results.judge(gains[key]))
            rows.append({"pair": f"{name} and {base}"} | row)
    return tidy.judged(rows, f"− {base}", comparisons, results.profile.where)


def layers(results: Results) -> pd.DataFrame:
    """Barrier of every layer, in nats, with all other layers of one network or of its twin."""
    names, tables = _names(results), {}
    for method in (ON, ALL):
        found = anatomy.barriers(results, method)
        for rest, owner in (("own", method), ("twin", BASE)):
            here = found[found["rest"] == rest]
            tables[f"{names[method]}, rest {names[owner]}'s"] = here.groupby("layer")["barrier"]
    order = dict.fromkeys(found["layer"])
    return tidy.table(
        [
            {"layer": "all at once" if layer == "whole" else layer}
            | {k: tidy.spread(t.get_group(layer)) for k, t in tables.items() if layer in t.groups}
            for layer in order
        ]
    )


def curvature(results: Results) -> pd.DataFrame:
    """Trace and largest eigenvalue of the Hessian and of its blocks, and SAM-ON over the others."""
    rows, comparisons = [], []
    for quantity, label, blocks in (
        ("trace", "trace", BLOCKS),
        ("eigenvalue", "largest eigenvalue", ("all", "only_norm")),
    ):
        for block in blocks:
            values = {m: anatomy.curvature(results, m, quantity, block) for m in HEADLINE}
            row = {"of the Hessian": f"{label}, {BLOCKS[block]}"}
            row |= {name: tidy.spread(values[m]) for m, name in _names(results).items()}
            over_base = anatomy.log_ratio(values[ON], values[BASE])
            row[f"SAM-ON / {_names(results)[BASE]}"] = {"factor": 10**over_base.mean}
            comparison = anatomy.log_ratio(values[ON], values[ALL])
            row["SAM-ON / SAM"] = {"factor": 10**comparison.mean}
            comparisons.append(comparison)
            rows.append(row)
    return tidy.judged(rows, "log₁₀ of it", comparisons, results.profile.where, MORE)


def weights(results: Results) -> pd.DataFrame:
    """SAM-ON over SAM, layer by layer: weight, trace, and the root of their product."""
    found = {
        name: [anatomy.by_layer(results, method, name) for method in (ON, ALL)] for name in FACTORS
    }
    return tidy.table(
        [
            {"layer": layer}
            | {
                f"{FACTORS[name]}, SAM-ON / SAM": {
                    "factor": 10 ** anatomy.log_ratio(on[layer], sam[layer]).mean
                }
                for name, (on, sam) in found.items()
            }
            for layer in found["index"][0]
        ]
    )


def gammas(results: Results) -> pd.DataFrame:
    """Mean |gamma| where no later normalization undoes the scale, and elsewhere, by network."""
    names, rows, comparisons = _names(results) | {BASE: "base"}, [], []
    for of in anatomy.norm_layers(results):
        model = MODEL_NAMES[results.profile.bases[of.problem].model]
        after = "no" if of.free else "yes"
        row = {"network": model, "normalized later": after, "layers": len(of.layers)}
        row |= {n: tidy.spread(anatomy.gamma(results, m, of)) for m, n in names.items()}
        row["SAM − base"] = tidy.difference(anatomy.gamma_over(results, (ALL, BASE), of))
        comparisons.append(anatomy.gamma_over(results, (ON, BASE), of))
        rows.append(row)
    return tidy.judged(rows, "SAM-ON − base", comparisons, results.profile.where, MORE)


def turning(results: Results) -> pd.DataFrame:
    """Accuracy on rotated digits before and after self-training, at 0° the clean one twice.

    Empty where it is not measured.
    """
    rows, comparisons = [], []
    try:
        found = {
            (m, when): anatomy.turned(results, m, when)
            for when in ("before", "after")
            for m in HEADLINE
        }
    except RecordsMissing:
        return tidy.table([])
    for angle in found[ON, "after"]:
        row = {"rotated by": f"{angle}°"}
        for (method, when), table in found.items():
            row[f"{_names(results)[method]}, {when}"] = tidy.spread(table[angle])
        comparisons.append(results.judge(found[ON, "after"][angle] - found[ALL, "after"][angle]))
        rows.append(row)
    return tidy.judged(rows, "SAM-ON − SAM, after", comparisons, results.profile.where)


def predicted(results: Results) -> pd.DataFrame:
    """Every prediction, what was seen, and whether it is met."""
    command = f"`{results.to_run('inside')}`"
    return predictions(results, PREDICTIONS, command)


def figure(results: Results) -> Figure:
    """The four networks of SAM-ON's pairs, and the barrier of every layer between them."""
    use_style()
    table, barriers, base = (
        anatomy.swapped(results, ON),
        anatomy.barriers(results, ON),
        _names(results)[BASE],
    )
    barriers = barriers[barriers["layer"] != "whole"]
    height = max(3.2, 0.2 * barriers["layer"].nunique() + 0.9)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, height), width_ratios=[1, 1.4])
    columns = {
        base: table["twin"],
        f"{base},\nγ, β of SAM-ON": table["twin_with_own_norms"],
        f"SAM-ON,\nγ, β of {base}": table["own_with_twin_norms"],
        "SAM-ON": table["own"],
    }
    draw_points(left, long(columns, ["base", "base", "only_norm", "only_norm"]), "value", "label")
    left.set_xlabel("test accuracy, statistics recomputed, %")
    keys = barriers["rest"].map({"own": "only_norm", "twin": "base"})
    draw_points(right, barriers.assign(key=keys), "barrier", "layer")
    right.axvline(0, color="#444444", lw=0.8)
    right.axvline(BARRIER, color="#888888", lw=0.8, ls=":")
    right.set_xlabel("barrier where this layer moves, nats")
    figure.tight_layout()
    return figure


def finding(results: Results) -> str:
    """Which predictions are met."""
    return told(results, PREDICTIONS)


def finding_swap(results: Results) -> str:
    """What SAM-ON's norm layers bring to the base network, and what SAM-ON keeps without them."""
    gains, base = anatomy.gains(results, ON), _names(results)[BASE]
    keys = ("own", "twin_with_own_norms", "own_with_twin_norms")
    whole, brought, kept = (results.judge(gains[key]) for key in keys)
    said = (
        f"SAM-ON is {whole} points over {base} ({whole.seeds} pairs). {base}'s network with γ and "
        f"β of SAM-ON is {brought} against itself; SAM-ON's network with {base}'s γ and β is "
        f"{kept} against {base}."
    )
    if brought.seen == kept.seen == REVERSED:
        return (
            f"{said} The exchange harms both networks: γ and β fit the weights that they were "
            "trained with, and the gain belongs to neither alone."
        )
    return said


def _nats(barrier: float) -> str:
    return "below 0.001 nats" if barrier < 0.001 else f"{number(barrier, '.3f')} nats"


def finding_layers(results: Results) -> str:
    """The layer with the highest barrier, and the barrier where all layers move."""
    found = anatomy.barriers(results, ON)
    means = found.groupby(["layer", "rest"])["barrier"].mean()
    whole, single = means["whole", "own"], means.drop("whole", level="layer")
    layer, rest = single.idxmax()
    owner = "SAM-ON" if rest == "own" else _names(results)[BASE]
    return (
        f"The highest mean barrier of {len(single) // 2} layers is {_nats(single.max())}, of "
        f"{layer} with the rest {owner}'s; where all layers move at once it is {_nats(whole)}."
    )


def opening(results: Results) -> dict[str, str]:
    """What is said, what is seen, and the verdict with what it is worth."""
    says = "SAM-ON perturbs γ and β alone. Where in the trained network its gain sits is not said."
    below, _ = looked(results, PREDICTIONS)[0][1]
    return lines(results.profile.where, says, finding_swap(results), below.seen, PREDICTED)


TABLES = {
    "inside_norms": exchanged,
    "inside_layers": layers,
    "inside_curvature": curvature,
    "inside_weights": weights,
    "inside_gamma": gammas,
    "inside_turning": turning,
    "inside_predictions": predicted,
}
DECIDES: dict = {}

"""Records of step times as tables: every network that was timed, where time and memory go."""

import math

import pandas as pd

from samlib.bench import timing
from samlib.errors import RecordsMissing
from samlib.report import tidy
from samlib.report.figures import key_of
from samlib.report.names import MODEL_NAMES, OPTIMIZER_NAMES, method_name
from samlib.report.results import Results
from samlib.report.text import number
from samlib.study import members, plan
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, HEADLINE, ON, Method

PEER = "pytorch-optimizer's SAM"
METHODS = (*HEADLINE, *plan.BLOCKS)
FIRST, LATE = plan.BLOCKS[0], plan.BLOCKS[-1]  # stage 1; stages 2 and 3
# Of the poster's times, which name no precision: bf16 is what a GPU trains in here.
PAPERS = {"model": "wrn28_10", "image_size": 32, "batch_size": 128, "precision": "bf16"}
_SAME_STEP = {"msam_up": "msam", "drift_on": "lesam"}  # but for a sign


def timed(results: Results) -> list[dict]:
    """Every record of step times, the profile's own network first."""
    found = timing.read(results.folder.parent, "step")
    return sorted(found, key=lambda record: not _is_own(results, record))


def own(results: Results) -> dict:
    """Step times of the profile's own network, on the kind of device it is meant for.

    Raises:
        RecordsMissing: they have not been measured.
    """
    found = [record for record in timed(results) if _is_own(results, record)]
    if not found:
        raise RecordsMissing(f"no step of this network has been timed: run `{command(results)}`")
    return found[0]


def _is_own(results: Results, record: dict) -> bool:
    kind = record["setting"]["device"].split(":")[0]
    base = results.cell(BASE).base
    return (record["network"], kind) == (timing.network(base), results.profile.device)


def of_the_papers(results: Results) -> dict | None:
    """Replayed steps of the paper's network on a GPU; None where they were not timed."""
    found = (r for r in timed(results) if r["provenance"].get("replayed") is True)
    return next((r for r in found if PAPERS.items() <= r["network"].items()), None)


def command(results: Results) -> str:
    """What measures the profile's own network."""
    device = results.profile.device
    on = ["--device", device] if device != "cpu" else []
    return results.command("bench", "step", "--profile", results.profile.name, *on)


def own_or_none(results: Results) -> dict | None:
    """`own`, or None where nothing has been measured."""
    try:
        return own(results)
    except RecordsMissing:
        return None


def price(results: Results, cell: Cell) -> float:
    """A method's step time over the base optimizer's, timed in turn with it; NaN if it was not.

    Epochs of the records are no price: whatever else ran beside them is in their times.
    """
    record = own_or_none(results)
    name = members.member(cell.method)
    of_member = f"{_SAME_STEP.get(name, name)} on {cell.method.mask}"
    key = key_of(cell.method) if name == "sam" else of_member
    return record["ratios"][key][1] if record and key in record["ratios"] else math.nan


def of_family(results: Results) -> dict[str, float]:
    """Step times of the members over the base optimizer's, with only norm, by name."""
    base, device = results.cell(BASE).base, results.profile.device
    found = timing.read(results.folder.parent, "family")
    of_profile = [r for r in found if r["run_id"] == f"family-{results.profile.name}-{device}"]
    known = of_profile and of_profile[0]["network"] == timing.network(base)
    ratios = of_profile[0]["ratios"] if known else {}
    return {name: ratio[1] for name, ratio in ratios.items()}


def title(record: dict) -> str:
    """Network, image size, batch and hardware of a record."""
    n = record["network"]
    size = f"{n['image_size']} × {n['image_size']}, batch {n['batch_size']}"
    kind = "" if n["precision"] == "fp32" else f", {n['precision']}"
    return f"{MODEL_NAMES[n['model']]}, {size}{kind}, on {timing.hardware(record)}"


def short(results: Results, method: Method) -> str:
    """A method's name where there is little room: stages by their numbers."""
    stages = method.mask.removeprefix("blocks_")
    if stages == method.mask:
        return method_name(results.profile, method)
    return "B" + "+B".join(stages)


def table(results: Results) -> pd.DataFrame:
    """Every record of step times: medians over the base optimizer's, floors in brackets."""
    rows = []
    for record in timed(results):
        floors, ratios = record["floors"], {k: r[1] for k, r in record["ratios"].items()}
        row = {"timed": title(record), "control": ratios["base again"]}
        for method in METHODS[1:]:
            key = key_of(method)
            row[short(results, method)] = {"ratio": ratios[key], "floor": floors[key][1]}
        rows.append(row | {PEER: ratios.get(PEER, math.nan)})
    return tidy.table(rows)


def pieces(results: Results) -> pd.DataFrame:
    """Milliseconds of what a step is made of, their sum, and the step as a whole."""
    rows = []
    for record in timed(results):
        optimizer = OPTIMIZER_NAMES[record["network"]["optimizer"]]
        for method in (BASE, ALL, ON, LATE):
            name = optimizer if method == BASE else short(results, method)
            rows.append({"timed": title(record), "step": name} | _pieces(record, key_of(method)))
    return tidy.table(rows)


def memory(results: Results) -> pd.DataFrame:
    """Megabytes that a step takes at most, and what it keeps from its first pass to its second."""
    rows = []
    for record in timed(results):
        optimizer = OPTIMIZER_NAMES[record["network"]["optimizer"]]
        names = {key_of(m): short(results, m) for m in (ALL, ON, LATE)}
        found = record["memory"]
        for key, name in ({"base": optimizer} | names | {PEER: PEER}).items():
            if key in found["peak"]:
                row = {"timed": title(record), "step": name}
                rows.append(row | _memory(found, key))
    return tidy.table(rows)


def _memory(found: dict, key: str) -> dict[str, object]:
    peak, kept = found["peak"][key], found["between"].get(key, math.nan)
    return {
        "peak, MB": peak / 1e6,
        "over the base optimizer's": peak / found["peak"]["base"],
        "kept, MB": kept / 1e6,
        "of all parameters": {"percent": 100 * kept / found["parameters"]},
    }


def _pieces(record: dict, key: str) -> dict[str, float]:
    took = {name: 1000 * median for name, (_, median, _) in record["pieces"].items()}
    parts = {"forward": 0.0, "backward to the mask": 0.0}
    if key != "base":
        parts["forward"] = took["forward"]
        parts["backward to the mask"] = took[f"gradient of {key}"] - took["forward"]
    reused = took.get(f"reused by {key}", 0.0)
    parts["second pass"] = took["forward and backward"] - reused
    parts["optimizer"] = took["optimizer"]
    parts["floor"] = sum(parts.values())
    parts["perturb, restore"] = took.get(f"perturb {key}", 0.0)
    parts["measured"] = 1000 * record["seconds"][key][1]
    return {name: value or math.nan for name, value in parts.items()}  # what it does not have


def finding(results: Results) -> str:
    """How near a step comes to its floor, and what the measurement can resolve."""
    found = timed(results)
    if not found:
        return f"Step times are not run: `{command(results)}` measures the times."
    over = [
        record["ratios"][key][1] / record["floors"][key][1]
        for record in found
        for key in map(key_of, METHODS[1:])
    ]
    control = max(abs(record["ratios"]["base again"][1] - 1) for record in found)
    count = f"{len(found)} network{'s' if len(found) > 1 else ''}"
    return (
        f"Over {count}, steps take {number(min(over))} to {number(max(over))} times their floor. "
        f"Two identical steps of the base optimizer differ by at most {100 * control:.1f} %, "
        "medians compared. A floor is a sum of parts that are timed alone, so that a step can come "
        "out just below its floor."
    )

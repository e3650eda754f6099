"""The tables of the study, as data frames made from records."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch

from . import models, reported, study
from .data import INFO
from .files import write_atomically
from .masks import Mask, only_norm
from .models import build
from .names import GEOMETRY_NAMES, MASK_NAMES, MODEL_NAMES, method_name
from .results import Results, load
from .stats import Comparison, compare, holm
from .study import ALL, BASE, ON, SWEPT, Cell, Method


def number(value: float, digits: int = 2) -> str:
    """A number for a table: a true minus sign, an en dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def p_value(p: float) -> str:
    """A p-value for a table: three digits, never zero.

    >>> p_value(0.0421), p_value(1e-9), p_value(float("nan"))
    ('0.042', '<0.001', '–')
    """
    return "<0.001" if p < 0.0005 else number(p, 3)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    series = pd.Series(values, dtype=float)
    return f"{number(series.mean())} ± {number(series.std())}"


def _edge(results: Results, cell: Cell) -> str:
    """The chosen rho, marked if it is the smallest or largest of its grid."""
    rho = results.rho(cell)
    mark = "*" if len(cell.grid) > 1 and rho in (min(cell.grid), max(cell.grid)) else ""
    return f"{rho:g}{mark}"


def _diverged(results: Results, *cells: Cell) -> int:
    records = [record for cell in cells for record in results.runs(cell)]
    return sum(record["status"] == "diverged" for record in records)


def _verdicts(comparisons: Sequence[Comparison]) -> dict[str, list]:
    """The columns every table of comparisons ends with."""
    return {
        "difference": [str(c) for c in comparisons],
        "verdict": [c.verdict for c in comparisons],
        "seeds to decide": ["" if c.needed is None else str(c.needed) for c in comparisons],
        "seeds": [c.seeds for c in comparisons],
        "p (Holm)": [p_value(p) for p in holm([c.p for c in comparisons])],
    }


def headline(results: Results) -> pd.DataFrame:
    """Base optimizer, SAM and SAM-ON in the headline family, each at its chosen rho."""
    cells = study.introduction(results.profile)
    base = results.cell(BASE)
    cost = {cell: _seconds(results, cell) for cell in cells}
    rows = []
    for cell in cells:
        method = cell.method
        key = "base" if method == BASE else method.mask
        versus = results.compare(cell, base) if method != BASE else None
        rows.append(
            {
                "method": method_name(results.profile, method),
                "reported (WRN-28-10, CIFAR-100)": str(reported.HEADLINE[key]),
                "ρ ours, last epoch": "–" if method == BASE else _edge(results, cell),
                "ours, last epoch": spread(results.accuracies(cell)),
                "best on test": spread(results.accuracies(cell, column="best_test_accuracy")),
                "minus base": str(versus) if versus else "–",
                "cost per epoch": f"{cost[cell] / cost[base]:.2f} ×",
                "seeds": len(results.runs(cell)),
                "diverged": _diverged(results, cell),
            }
        )
    return pd.DataFrame(rows)


def _seconds(results: Results, cell: Cell) -> float:
    """Median over runs of the median epoch."""
    epochs = [pd.Series(r["times"]["epochs"]).median() for r in results.runs(cell)]
    return float(pd.Series(epochs).median())


def is_it_rho(results: Results, family: str | None = None) -> pd.DataFrame:
    """SAM-ON minus SAM: each at its own chosen rho, and SAM at other values beside it."""
    on, everything = results.cell(ON, family), results.cell(ALL, family)
    chosen = results.rho(everything)
    pairs: list[tuple[str, float | None]] = [(f"SAM at its own choice, ρ = {chosen:g}", None)]
    pairs += [(f"SAM at ρ = {rho:g}", rho) for rho in everything.grid if rho != chosen]
    comparisons = [results.compare(on, everything, rhos=(None, rho)) for _, rho in pairs]
    return pd.DataFrame(
        {f"SAM-ON (ρ = {results.rho(on):g}) minus": [label for label, _ in pairs]}
        | _verdicts(comparisons)
    )


def variants(results: Results) -> pd.DataFrame:
    """Every geometry, only-norm minus all, in every BatchNorm family: the paper's Table 1."""
    rows, comparisons = [], []
    for family in results.profile.families:
        base = results.cell(BASE, family)
        for geometry in results.profile.geometries:
            everything = results.cell(Method(geometry, "all"), family)
            on = results.cell(Method(geometry, "only_norm"), family)
            comparisons.append(results.compare(on, everything))
            rows.append(
                {
                    "model": MODEL_NAMES[base.base.model],
                    "variant": GEOMETRY_NAMES[geometry],
                    "base": spread(results.accuracies(base)),
                    "ρ all": _edge(results, everything),
                    "all": spread(results.accuracies(everything)),
                    "ρ only norm": _edge(results, on),
                    "only norm": spread(results.accuracies(on)),
                    "diverged": _diverged(results, everything, on),
                }
            )
    return pd.DataFrame(rows).assign(**_verdicts(comparisons))


def variants_reported(results: Results) -> pd.DataFrame:
    """The best points of the paper's rho curves beside ours, by variant."""
    rows = []
    for geometry in results.profile.geometries:
        row = {"variant": GEOMETRY_NAMES[geometry]}
        for mask in ("all", "only_norm"):
            found = reported.best(geometry, mask)
            name = MASK_NAMES[mask]
            row[f"reported {name}"] = str(found[1]) if found else reported.NOT_SOURCED
            row[f"at ρ, {name}"] = f"{found[0]:g}" if found else "–"
        both = [reported.best(geometry, mask) for mask in ("only_norm", "all")]
        gap = both[0][1].value - both[1][1].value if all(both) else math.nan
        row["reported difference"] = f"{gap:+.2f}" if all(both) else reported.NOT_SOURCED
        ours = results.compare(
            results.cell(Method(geometry, "only_norm")), results.cell(Method(geometry, "all"))
        )
        row[f"ours ({MODEL_NAMES[results.cell(BASE).base.model]})"] = str(ours)
        rows.append(row)
    return pd.DataFrame(rows)


def _ratio(results: Results, geometry: str) -> tuple[list[float], list[float]]:
    """Per seed, the rho with the best validation accuracy for all and for only-norm."""
    chosen = []
    for mask in ("all", "only_norm"):
        cell = results.cell(Method(geometry, mask))
        by_rho = {
            rho: results.accuracies(cell, rho, "validation_accuracy") for rho in sorted(cell.grid)
        }
        table = pd.DataFrame(by_rho).dropna()
        chosen.append(table.idxmax(axis=1).tolist())
    return chosen[0], chosen[1]


def rho_shift(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """Chosen rho of all and only-norm, and log10 of their ratio paired by seed (claim 7)."""
    rows, comparisons = [], []
    for geometry in SWEPT:
        everything = results.cell(Method(geometry, "all"))
        on = results.cell(Method(geometry, "only_norm"))
        low, high = _ratio(results, geometry)
        # equal within half a step of the grid's factor of two
        ratios = [math.log10(b / a) for a, b in zip(low, high, strict=True)]
        comparison = compare(ratios, margin=math.log10(2) / 2)
        comparisons.append(comparison)
        both = [reported.best(geometry, mask) for mask in ("only_norm", "all")]
        rows.append(
            {
                "variant": GEOMETRY_NAMES[geometry],
                "reported ρ ratio": f"{both[0][0] / both[1][0]:g}" if all(both) else "–",
                "ρ all": _edge(results, everything),
                "ρ only norm": _edge(results, on),
                "our ρ ratio": f"{results.rho(on) / results.rho(everything):g}",
                "log₁₀ ratio by seed": str(comparison),
                "verdict": comparison.verdict,
                "seeds": comparison.seeds,
                "window all": window(results, everything),
                "window only norm": window(results, on),
            }
        )
    return pd.DataFrame(rows), comparisons


def window(results: Results, cell: Cell) -> str:
    """The values of rho around the chosen one whose mean test accuracy is above the base's."""
    base = results.accuracies(results.cell(BASE))
    chosen, good = results.rho(cell), []
    for rho in sorted(cell.grid):
        values = results.accuracies(cell, rho)
        if (values - base).mean() > 0:  # paired: over the seeds both have
            good.append(rho)
        elif rho < chosen:
            good = []
        else:
            break
    return f"{good[0]:g} to {good[-1]:g}" if good else "none"


def without_norm(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """All minus no-norm, and the share of the perturbation on norm layers (claim 4)."""
    rows, comparisons = [], []
    for geometry in SWEPT:
        everything = results.cell(Method(geometry, "all"))
        without = results.cell(Method(geometry, "no_norm"))
        comparisons.append(results.compare(everything, without))
        records = results.runs(everything)
        shares = [s for r in records for s in r["curves"]["norm_share"] if s is not None]
        rows.append(
            {
                "variant": GEOMETRY_NAMES[geometry],
                "share on norm layers": f"{100 * pd.Series(shares).mean():.1f} %",
                "reported all − no norm": reported_no_norm_gap(geometry),
                "all": spread(results.accuracies(everything)),
                "no norm": spread(results.accuracies(without)),
                "ρ no norm": _edge(results, without),
            }
        )
    return pd.DataFrame(rows).assign(**_verdicts(comparisons)), comparisons


def reported_no_norm_gap(geometry: str) -> str:
    """Best of the authors' curve over all minus best of its no-norm curve, in points."""
    return f"{reported.best_gap(geometry, 'all', 'no_norm'):+.2f}"


def sparsity(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """SAM-ON minus every sparse mask, under both radius rules (claim 8)."""
    base, on = results.cell(BASE), results.cell(ON)
    rows, comparisons = [], []
    for cell in study.sparsity(results.profile):
        if cell.method in (BASE, ON):
            continue
        first = results.runs(cell)[0]
        kept, total = first["mask"]["count"], first["mask"]["total"]
        level = 100 * (1 - kept / total)
        comparisons.append(results.compare(on, cell))
        rows.append(
            {
                "mask": f"{method_name(results.profile, cell.method)}, {level:.2f} %",
                "radius over": "–" if cell.method == ALL else cell.method.radius_over,
                "reported": _reported_sparsity(cell.method),
                "ρ accuracy": _edge(results, cell),
                "accuracy": spread(results.accuracies(cell)),
                "minus base": str(results.compare(cell, base)),
                "diverged": _diverged(results, cell),
            }
        )
    columns = _verdicts(comparisons)
    columns["SAM-ON minus it"] = columns.pop("difference")
    order = ["SAM-ON minus it", "verdict", "seeds to decide", "seeds", "p (Holm)"]
    return pd.DataFrame(rows).assign(**{name: columns[name] for name in order}), comparisons


def _reported_sparsity(method: Method) -> str:
    level = {None: 99.95, 0.5: 50.0}.get(method.sparsity)
    key = ("all", 0.0) if method == ALL else (method.mask, level)
    found = reported.SPARSITY.get(key)
    return str(found) if found else reported.NOT_SOURCED


def norm_mask(name: str) -> Mask:
    """The only-norm mask of a model of the zoo for 100 classes; nothing is computed with it."""
    with torch.device("meta"):  # shapes are enough
        return only_norm(build(name, num_classes=INFO["cifar100"].classes))


def norm_share() -> pd.DataFrame:
    """Norm-layer parameters of every model of the zoo (claim 12); counted, not trained."""
    rows = []
    for name in models.names():
        mask = norm_mask(name)
        rows.append(
            {
                "model": MODEL_NAMES[name],
                "parameters": f"{mask.total:,}",
                "in norm layers": f"{mask.count:,}",
                "share": f"{100 * mask.share:.3f} %",
            }
        )
    return pd.DataFrame(rows)


def share_over_time(results: Results) -> pd.DataFrame:
    """Share of ||eps||² on norm layers by geometry, seed and epoch, all parameters perturbed."""
    rows = [
        {"variant": GEOMETRY_NAMES[g], "seed": r["config"]["seed"], "epoch": e, "share": share}
        for g in SWEPT
        for r in results.runs(results.cell(Method(g, "all")))
        for e, share in enumerate(r["curves"]["norm_share"])
        if share is not None
    ]
    return pd.DataFrame(rows)


TABLES: dict[str, Callable[[Results], pd.DataFrame]] = {
    "headline": headline,
    "is_it_rho": is_it_rho,
    "variants": variants,
    "rho_shift": lambda results: rho_shift(results)[0],
    "without_norm": lambda results: without_norm(results)[0],
    "sparsity": lambda results: sparsity(results)[0],
}


def write(profile: str, folder: Path) -> list[Path]:
    """Write every table as CSV to `<results>/<profile>/tables`; returns their paths.

    Raises:
        RecordsMissing: a run is missing.
    """
    results = load(profile, folder)
    for cells in study.notebook_cells(results.profile):
        results.require(cells)
    paths = []
    for name, make in TABLES.items():
        path = results.folder / "tables" / f"{name}.csv"
        write_atomically(path, make(results).to_csv(index=False).encode())
        paths.append(path)
    return paths


def headline_text(profile: str, folder: Path) -> str:
    """The headline table as text, for the end of a campaign."""
    table = headline(load(profile, folder)).rename(columns={"ρ ours, last epoch": "ρ"})
    return table.to_string(index=False)

"""Toys of one, two and three weights: what a masked perturbation does, without noise or network.

    product    L(u, v) = (u v - 1)^2 / 2, whose minima u v = 1 have the curvature u^2 + v^2
    valley     L(x1, x2, z) = ((2 + z) x1^2 + (1 - 2 z) x2^2) / 2, two examples of one term each
    parabola   L(x) = h x^2 / 2

Every step is one of plain gradient descent at learning rate `lr`, with the gradient taken at
w + eps. On the mask eps = rho g / ||g|| (SAM) or rho g (USAM: Dai, Ahn and Sra, 2023, "The Crucial
Role of Normalization in Sharpness-Aware Minimization"), else 0. Plain floats: 4,000 steps of the
library's own, which the tests compare, would take as many seconds as these take milliseconds.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from samlib.report.answers import DESCRIBED
from samlib.report.figures import COLOURS, use_style
from samlib.report.text import number
from samlib.report.tidy import table
from samlib.report.wording import lines

Weights = tuple[float, ...]
Gradient = Callable[[Weights], Weights]
Rule = Literal["GD", "USAM", "SAM"]
RULES = ("GD", "USAM", "SAM")

START, LR, RHO, STEPS = (2.0, 0.6), 0.05, 0.1, 4000  # of the product
MASKS = {"both": (0, 1), "u alone": (0,), "v alone": (1,)}


def path(
    gradient: Gradient | Iterator[Gradient],
    start: Weights,
    rule: Rule,
    *,
    lr: float,
    rho: float = 0.0,
    mask: Sequence[int] | None = None,
) -> Iterator[Weights]:
    """Weights after 0, 1, 2, ... steps, without end.

    Args:
        gradient: of the loss, or of every step's in turn.
        start: where it begins.
        rule: GD perturbs nothing.
        lr: learning rate.
        rho: radius; of USAM the factor of the gradient.
        mask: positions that are perturbed; None is all.
    """
    w, steps = start, gradient if isinstance(gradient, Iterator) else None
    while True:
        yield w
        g = next(steps) if steps else gradient
        w = tuple(a - lr * b for a, b in zip(w, g(_moved(w, g(w), rule, rho, mask)), strict=True))


def _moved(w: Weights, g: Weights, rule: Rule, rho: float, mask: Sequence[int] | None) -> Weights:
    """w + eps."""
    if rule == "GD":
        return w
    masked = [b if mask is None or i in mask else 0.0 for i, b in enumerate(g)]
    length = 1.0 if rule == "USAM" else math.hypot(*masked)
    return tuple(a + rho * b / length if length else a for a, b in zip(w, masked, strict=True))


def after(steps: int, walk: Iterator[Weights]) -> Weights:
    """Where a path is after so many steps."""
    return next(islice(walk, steps, None))


def product(w: Weights) -> Weights:
    """Gradient of (u v - 1)^2 / 2."""
    u, v = w
    return v * (u * v - 1), u * (u * v - 1)


def valley(examples: Sequence[int]) -> Gradient:
    """Gradient of the mean over some of the two examples f1 = (2 + z) x1^2, f2 = (1 - 2 z) x2^2."""

    def gradient(w: Weights) -> Weights:
        x1, x2, z = w
        parts = ((2 * (2 + z) * x1, 0.0, x1**2), (0.0, 2 * (1 - 2 * z) * x2, -2 * x2**2))
        return tuple(
            sum(g) / len(examples) for g in zip(*(parts[i] for i in examples), strict=True)
        )

    return gradient


def parabola(h: float) -> Gradient:
    """Gradient of h x^2 / 2."""
    return lambda w: (h * w[0],)


def product_path(rule: Rule, mask: str, steps: int = STEPS) -> np.ndarray:
    """(u, v) after 0 to `steps` steps, (steps + 1, 2), perturbing one of `MASKS`."""
    walk = path(product, START, rule, lr=LR, rho=RHO, mask=MASKS[mask])
    return np.array(list(islice(walk, steps + 1)))


def product_table(steps: int = STEPS) -> pd.DataFrame:
    """Where each rule ends on the product, by mask: u, v and the curvature u^2 + v^2."""
    rows = []
    for rule in RULES:
        for mask in MASKS if rule != "GD" else ("both",):
            u, v = product_path(rule, mask, steps)[-1]
            perturbed = "nothing" if rule == "GD" else mask
            rows.append(
                {"rule": rule, "perturbed": perturbed, "u": u, "v": v, "u² + v²": u**2 + v**2}
            )
    return table(rows)


VALLEY = {"start": (0.05, 0.03, 0.0), "lr": 0.02, "rho": 0.05}
VALLEY_STEPS, VALLEY_SEEDS = 10_000, 3


def valley_table() -> pd.DataFrame:
    """Where SAM takes z: on both examples at once, and on one at a time.

    `top` and `trace` are the Hessian's largest eigenvalue, 2 + z there, and its trace, 3 - z.
    """
    whole = after(VALLEY_STEPS, path(valley((0, 1)), rule="SAM", **VALLEY))
    rows = [{"batch": "both examples"} | _sharpness(whole[2])]
    for seed in range(VALLEY_SEEDS):
        drawn = np.random.default_rng(seed).integers(2, size=VALLEY_STEPS)
        each = (valley((int(i),)) for i in drawn)
        z = after(VALLEY_STEPS, path(each, rule="SAM", **VALLEY))[2]
        rows.append({"batch": f"one at a time, seed {seed}"} | _sharpness(z))
    return table(rows)


def _sharpness(z: float) -> dict:
    return {"z": z, "top": max(2 + z, 1 - 2 * z), "trace": 3 - z}


def cycle(h: float, lr: float, rho: float) -> float:
    """Amplitude of the 2-cycle in which SAM ends on a parabola: lr h rho / (2 - lr h)."""
    return lr * h * rho / (2 - lr * h)


def parabola_table() -> pd.DataFrame:
    """|x| after 200 steps from 1 on h x^2 / 2: SAM's bound is on lr alone, USAM's on rho, too."""
    h, lr, steps, rows = 2.0, 0.3, 200, []
    for rho in (0.5, 1.0, 1.2):
        ends = {
            rule: abs(after(steps, path(parabola(h), (1.0,), rule, lr=lr, rho=rho))[0])
            for rule in ("SAM", "USAM")
        }
        rows.append({"ρ": rho, "cycle by formula": cycle(h, lr, rho)} | ends)
    return table(rows)


def opening(steps: int = STEPS) -> dict[str, str]:
    """The three lines the page opens with, as `html.box` takes them."""
    ends = [product_path(*case, steps)[-1] for case in _CASES]
    said = [f"u = {number(u)}, u² + v² = {number(u**2 + v**2)}" for u, v in ends]
    says = "γ ends larger with SAM-ON than with SAM, and SAM-ON is sharper: no model is given."
    sees = f"GD ends at {said[0]}; SAM at {said[1]}; SAM on the scale u alone at {said[2]}."
    worth = "A model to be worked out by hand; about networks it proves nothing."
    return lines("in two parameters", says, sees, DESCRIBED, worth)


_CASES: tuple[tuple[Rule, str], ...] = (("GD", "both"), ("SAM", "both"), ("SAM", "u alone"))


def figure(steps: int = STEPS) -> Figure:
    """Paths on the product by mask: descent goes to the minima, and SAM then goes along them."""
    use_style()
    figure, axes = plt.subplots(1, 3, figsize=(9.2, 3.4), sharex=True, sharey=True)
    u = np.linspace(0.45, 2.4, 200)
    styles = {"SAM": (COLOURS["only_norm"], "-"), "GD": (COLOURS["base"], "-")}
    styles["USAM"] = (COLOURS["all"], "--")  # over GD's, which it hardly leaves
    for ax, mask in zip(axes, MASKS, strict=True):
        ax.plot(u, 1 / u, color="#999999", lw=0.8, ls=":")
        for rule, (colour, line) in styles.items():
            walk = product_path(rule, mask, steps)
            ax.plot(*walk.T, color=colour, ls=line, lw=1.6, label=rule)
            ax.plot(*walk[-1], "o", color=colour, ms=5, mec="white")
        ax.plot(*START, "s", color="#444444", ms=5)
        ax.set_title(f"perturbed: {mask}")
        ax.set_xlabel("u")
    axes[0].set_ylabel("v")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    return figure

"""The report, chapter by chapter: tables, figure and finding, and the claims they decide.

A chapter is a module here and a notebook of the same name; which runs it needs is `plan`'s to say.
`TABLES` are written beside the records as CSV files, `DECIDES` maps keys of claims to what the
records say of them.
"""

from types import ModuleType

from samlib.chapters import (
    architectures,
    batchnorm,
    carriers,
    cost,
    counts,
    family,
    inside,
    introduction,
    is_it_norm,
    law,
    one_pass,
    parts,
    rho_sweep,
    robust_family,
    robustness,
    scales,
    sharpness,
    shift,
    sparsity,
    speed,
    systems,
    variants,
    when,
    why,
)

__all__ = ["CHAPTERS", "hypotheses", "introduction", "questions", "verdicts"]

_IN_ORDER = (
    introduction,
    variants,
    architectures,
    rho_sweep,
    robustness,
    cost,
    counts,
    carriers,
    law,
    sparsity,
    parts,
    scales,
    sharpness,
    shift,
    batchnorm,
    when,
    inside,
    family,
    one_pass,
    robust_family,
    is_it_norm,
    why,
    systems,
    speed,
)
CHAPTERS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in _IN_ORDER
}

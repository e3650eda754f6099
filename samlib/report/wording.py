"""Comparisons in words."""

from samlib.report.stats import Comparison


def points(comparison: Comparison) -> str:
    """A difference with its unit and its seeds."""
    return f"{comparison} points over {comparison.seeds} seeds"


def reading(comparison: Comparison, better: str, worse: str) -> str:
    """A comparison in words, in the direction the records give it."""
    if comparison.verdict == "holds":
        return f"{better} is better than {worse}"
    if comparison.verdict == "refuted":
        return f"{better} is worse than {worse}"
    if comparison.verdict == "equivalent":
        return f"{better} and {worse} differ by less than 0.2 points"
    more = ""
    if comparison.needed:
        more = f"; about {comparison.needed} would do it four times in five"
    return f"{better} and {worse} cannot be told apart with {comparison.seeds} seeds{more}"

"""Comparisons in words."""

from samlib.report.stats import OPEN, REVERSED, SAME, SEEN, Comparison
from samlib.report.text import number, p_value

OURS = "A hypothesis of ours, not of the paper."


def lines(where: str, says: str, sees: str, seen: str, worth: str = OURS) -> dict[str, str]:
    """What `html.box` opens a page with."""
    return {"says": says, "sees": sees, "seen": seen, "where": where, "worth": worth}


def points(comparison: Comparison) -> str:
    """A difference with its unit and its seeds."""
    if comparison.seeds == 1:
        return f"{number(comparison.mean, '+.2f')} points, one seed"
    return f"{comparison} points, {comparison.seeds} seeds"


def reading(comparison: Comparison, better: str, worse: str) -> str:
    """A comparison in words, in the direction the records give it."""
    words = {
        SEEN: f"{better} is better than {worse}",
        REVERSED: f"{better} is worse than {worse}",
        SAME: f"{better} and {worse} make no difference",
        OPEN: f"{better} and {worse} are not told apart",
    }
    more = ""
    if comparison.needed:
        more = f"; about {comparison.needed} seeds would give 80 % power"
    return words[comparison.seen] + more


def after_holm(p: float, of: str = "") -> str:
    """Why an interval that leaves zero out decides nothing: p is too large after the correction.

    `of` names what it is the interval of, where that does not stand right before.
    """
    return f" ({f'{of}: ' * bool(of)}p {p_value(p)} after Holm's correction)"


AGAINST = {
    SEEN: "better than",
    SAME: "no different from",
    OPEN: "not told apart from",
    REVERSED: "worse than",
}


def against(comparison: Comparison, name: str) -> str:
    """How one method does against a named other, with the interval, and p where that decides."""
    lost = comparison.seen == OPEN and (comparison.low > 0 or comparison.high < 0)
    why = after_holm(comparison.p) if lost else ""
    return f"{AGAINST.get(comparison.seen, AGAINST[OPEN])} {name} ({comparison}){why}"

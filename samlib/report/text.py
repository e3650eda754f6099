"""Numbers as text, as tables on the page and sentences print them."""

import math
from collections.abc import Sequence


def number(value: float, spec: str = ".2f") -> str:
    """A number as it is printed: a true minus sign, none before a zero, an en dash for no number.

    >>> number(-1.234), number(1234.5, ",.0f"), number(0.5, "+.1f"), number(float("nan"))
    ('−1.23', '1,234', '+0.5', '–')
    >>> number(-0.0004, ".3f")
    '0.000'
    """
    if math.isnan(value):
        return "–"
    text = format(value, spec)
    return text.removeprefix("-") if not text.strip("-0.") else text.replace("-", "−")


def p_value(p: float) -> str:
    """A p-value: three digits, never zero, and four where three would not tell it from 0.05.

    >>> p_value(0.0421), p_value(1e-9), p_value(0.0503), p_value(float("nan"))
    ('0.042', '<0.001', '0.0503', '–')
    """
    return "<0.001" if p < 0.0005 else number(p, ".4f" if round(p, 3) == 0.05 else ".3f")


def mean_and_interval(mean: float, low: float, high: float, spec: str = "+.2f") -> str:
    """A mean with its interval.

    >>> mean_and_interval(0.5, -0.25, 1.25), mean_and_interval(0.5, math.nan, math.nan)
    ('+0.50 [−0.25, +1.25]', '+0.50 (one seed)')
    """
    if math.isnan(mean):
        return "not run"
    if math.isnan(low):
        return f"{number(mean, spec)} (one seed)"
    return f"{number(mean, spec)} [{number(low, spec)}, {number(high, spec)}]"


def span(seconds: float) -> str:
    """A long time in the unit that suits it.

    >>> span(60), span(600), span(3600 * 30), span(86400 * 100), span(86400 * 3650)
    ('1 minute', '10 minutes', '30 hours', '100 days', '10 years')
    """
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("hours", 3600)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' if minutes > 1 else ''}"


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)

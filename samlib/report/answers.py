"""What the records say of a claim: a word for what was seen, never without where."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from samlib.report.stats import NOT_RUN, OPEN, REVERSED, SAME, SEEN, Comparison, corrected
from samlib.report.wording import after_holm, points

HOLDS, PARTLY, REFUTED, DESCRIBED = "holds", "partly", "refuted", "described"


@dataclass(frozen=True)
class Answer:
    """What the records say of a claim.

    Attributes:
        seen: a word of `stats`; "described" for what no test was made of; "holds", "partly" or
            "refuted" for counts and formulas.
        ours: the numbers that decide, in words, at most one interval per comparison.
        short: the same with one interval at the most, for a cell of a table; "" where `ours` has
            no more.
        seeds: the fewest of a comparison.
        comparisons: each of which the claim needs.
        strict: whether it needs more than "no difference", for each of them.
        where: where it was seen, if that is not the profile's problem.
        decides: number of the comparison that the word comes from, the lowest of them.
    """

    seen: str
    ours: str = "–"
    short: str = ""
    seeds: int = 0
    comparisons: tuple[Comparison, ...] = ()
    strict: tuple[bool, ...] = ()
    where: str | None = None
    decides: int = 0

    @property
    def in_a_cell(self) -> str:
        """What a table shows of the numbers."""
        return self.short or self.ours

    @property
    def deciding(self) -> Comparison:
        """The comparison that the word comes from."""
        return self.comparisons[self.decides]

    @property
    def place(self) -> str:
        """Which of the comparisons that one is, by its mean."""
        count = len(self.comparisons)
        if self.deciding.mean > min(c.mean for c in self.comparisons):
            return f"one of {'two' if count == 2 else count}"
        return "the lower of two" if count == 2 else f"the lowest of {count}"


NOT_ANSWERED = Answer(NOT_RUN)


def each_of(
    comparisons: Sequence[Comparison],
    ours: str,
    *,
    short: str = "",
    names: Sequence[str] = (),
    strict: bool | Sequence[bool] = True,
) -> Answer:
    """A claim that needs each of several comparisons; one alone decides a claim about one.

    Args:
        comparisons: of which the claim says that they are above zero.
        ours: the numbers in words; "" tells of the one that decides, by `names`.
        short: as in `Answer`.
        names: what each comparison is of; with them `short` is the one that decides.
        strict: whether "no difference" is too little ("larger", not "at least as good").

    Seen if each is seen, or shows no difference where that is enough: none is corrected, since all
    must be. Reversed if one is after Holm's correction, since one of many would do. No difference
    if one shows none where that is too little; else open, by the comparison that Holm's correction
    turned from reversed if there is one. Not run if one is.
    """
    strict = (strict,) * len(comparisons) if isinstance(strict, bool) else tuple(strict)
    if not comparisons or any(c.seen == NOT_RUN for c in comparisons):
        return NOT_ANSWERED
    too_little = [c.seen == SAME and s for c, s in zip(comparisons, strict, strict=True)]
    judged = corrected(comparisons)
    reversed_ones = [c.seen == REVERSED for c in judged]
    undecided = [c.seen not in (SEEN, SAME) for c in comparisons]
    every = [True] * len(comparisons)
    rules = (REVERSED, reversed_ones), (SAME, too_little), (OPEN, undecided), (SEEN, every)
    seen, theirs = next((word, own) for word, own in rules if any(own))
    decides = min((i for i, own in enumerate(theirs) if own), key=lambda i: comparisons[i].mean)
    lost = [
        i
        for i, (after, alone) in enumerate(zip(judged, comparisons, strict=True))
        if alone.seen == REVERSED and after.seen == OPEN
    ]
    if seen == OPEN and lost:
        decides = min(lost, key=lambda i: judged[i].p)
    found = Answer(seen, ours, short, 0, tuple(comparisons), strict, decides=decides)
    if len(comparisons) > 1 and names:
        short = f"{found.deciding} {names[decides]}, {found.place}"
    if names and not ours:
        place = f"; {found.place}" * (len(comparisons) > 1)
        ours, short = f"{points(found.deciding)} ({names[decides]}{place})", ""
    if seen == OPEN and lost:
        p, of = judged[decides].p, names[decides] if names and found.ours else ""
        ours, short = ours + after_holm(p, of), short and short + after_holm(p)
    return replace(found, ours=ours, short=short, seeds=min(c.seeds for c in comparisons))


def in_domain(answer: Answer) -> str:
    """The word for what was seen where a claim's own domain was tested.

    >>> [in_domain(Answer(seen)) for seen in (SEEN, SAME, REVERSED, OPEN)]
    ['holds', 'refuted', 'refuted', 'open']
    """
    return {SEEN: HOLDS, SAME: REFUTED, REVERSED: REFUTED}.get(answer.seen, answer.seen)


def by_the_old_rule(answer: Answer) -> str:
    """What the rule before this one makes of the same comparisons, for `changes`.

    Sign before margin: "holds" above zero, "refuted" below, "equivalent" inside the margin, else
    "undecided", after Holm's correction; a claim about several is refuted if one is (or, if strict,
    is equivalent), and holds if each does.
    """
    if not answer.comparisons:
        return {SEEN: HOLDS, REVERSED: REFUTED, OPEN: "undecided"}.get(answer.seen, answer.seen)
    words = [_old_word(c) for c in corrected(answer.comparisons)]
    pairs = list(zip(words, answer.strict, strict=True))
    if any(word == "refuted" or (word == "equivalent" and s) for word, s in pairs):
        return "refuted"
    return "undecided" if "undecided" in words else "holds"


def _old_word(c: Comparison) -> str:
    if c.low > 0 or c.high < 0:
        lost = c.p >= 0.05
        return "undecided" if lost else "holds" if c.low > 0 else "refuted"
    return "equivalent" if c.seen == SAME else "undecided"

"""Which members of the family the study runs beside SAM, and where each search for rho begins.

`FAMILY` are published methods, as far as they are told apart by one step; `CONTROLS` are steps that
exist to test an explanation. A profile runs those that its grids have a row for.
"""

from collections.abc import Iterable, Mapping

from samlib.sam.family import MEMBERS
from samlib.study.methods import ALL, ON, Method
from samlib.study.profile import Profile, Row
from samlib.study.search import ladder

FAMILY = (
    *("msam", "msam_up", "last", "lesam", "drift_on"),
    *("usam", "vasso", "fsam", "obf", "async_sam", "eigen_sam", "gsam", "sampa", "esam"),
    *("ss_sam", "every_k", "ae_sam", "looksam", "looksam_mask", "lookbehind", "ire"),
)
CONTROLS = (
    *("random_sam", "downhill", "felt_by_mask", "felt_by_others"),
    *("penalty", "rho_lr", "rho_root_lr"),
)


def one_pass(name: str) -> bool:
    """Whether a member's step is a single pass, at moved weights."""
    return MEMBERS[name].passes == "1"


ONE_PASS = tuple(filter(one_pass, FAMILY))

# Where ladders of `quick` start, mask all and only norm; None does not run that mask. What is a
# ball step starts where SAM does; USAM, whose step has the gradient's length, and noise, of which
# little points uphill, where single runs on the first tuning seed showed a rise.
_LIKE_SAM = (0.125, 0.5)
QUICK = {
    **dict.fromkeys((name for name in FAMILY if name != "usam"), _LIKE_SAM),
    "usam": (0.125, 5.0),
    "rho_lr": (0.25, 1.0),
    "rho_root_lr": (None, 1.0),
    "random_sam": (None, 4.0),
    "downhill": (None, 0.125),
    "felt_by_mask": (None, 0.5),
    "felt_by_others": (None, 0.5),
    "penalty": (None, 0.5),
}
# Of `cifar100-10k`: those of one pass, after what the rest of the profile costs; both start where
# SAM and SAM-ON do.
CIFAR = dict.fromkeys(("msam", "msam_up", "last", "lesam", "drift_on"), (0.025, 0.25))
SMOKE = ("msam", "usam", "felt_by_mask")  # one of each kind; the others would only take time

Starts = Mapping[str, tuple[float | None, float | None]]


def member(method: Method) -> str:
    """The name of a method's member.

    >>> member(ON), member(ON.but(member="msam"))
    ('sam', 'msam')
    """
    return dict(method.changes).get("member", "sam")


def rows(starts: Starts, problem: str, seeds: int | None = None) -> tuple[Row, ...]:
    """A row per member and mask, its ladder from its first value on."""
    return tuple(
        Row(method.but(member=name), ladder(start), problem, seeds)
        for name, pair in starts.items()
        for method, start in zip((ALL, ON), pair, strict=True)
        if start is not None
    )


def methods(profile: Profile, names: Iterable[str] = FAMILY) -> list[Method]:
    """The members with rows of their own on the headline network, in the order of the names."""
    found = {
        (member(row.method), row.method.mask): row.method
        for row in profile.grids
        if member(row.method) != "sam" and row.problem == profile.headline
    }
    wanted = ((name, mask) for name in names for mask in ("all", "only_norm"))
    return [found[key] for key in wanted if key in found]

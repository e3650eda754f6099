"""The demonstration: digits with label noise on two CPU cores, and its smoke test."""

from dataclasses import replace

from samlib.study import members
from samlib.study.methods import ALL, BASE, DECAY, ON, Method
from samlib.study.plan import DYT
from samlib.study.profile import Profile, Row, pair
from samlib.study.search import ladder
from samlib.trainer.config import RunConfig

# 384 digits, 40 % of the labels redrawn, no augmentation: the base optimizer fits nearly every
# label, right or wrong, so that there is something for flatness to prevent. With fewer epochs it
# does not; fewer digits, six full batches, cost WRN two points of training accuracy.
_DIGITS = RunConfig(
    dataset="digits",
    model="wrn10_1",
    train_size=384,
    validation_size=413,
    label_noise=0.4,
    epochs=12,
    batch_size=64,
    mask_samples=128,
    eval_every=4,
)

# The transformer sees fewer wrong labels and smaller batches: with 40 % of them it learned the
# noise and little else, and without a warm-up seeds differed by tens of points. Of 384 digits it
# learned too little. Test images are the same.
_DIGITS_VIT = _DIGITS.replace(
    model="vit_micro",
    train_size=500,
    validation_size=297,
    label_noise=0.2,
    epochs=20,
    warmup_epochs=5,
    batch_size=32,
    optimizer="adamw",
    lr=3e-3,
    weight_decay=0.05,
    eval_every=10,
)


# Where a ladder starts was read off earlier records of this profile; the search goes on from there.
_GRIDS = (
    Row(BASE),
    Row(DECAY, ladder(2.5e-4), "wrn", seeds=16),
    Row(ALL, ladder(0.125), "wrn", seeds=16),
    Row(ON, ladder(0.5), "wrn", seeds=16),
    *pair("l2", 0.125, 0.5, seeds=6),
    *pair("l2", 0.003125, 0.0125, problem="vit"),
    *pair("elementwise_l2", 0.5, 0.5, problem="wrn"),
    *pair("elementwise_linf", 0.0125, 0.05, problem="wrn"),
    *pair("layerwise_l2", 0.0125, 0.125, problem="wrn"),
    Row(Method("l2", "no_norm"), ladder(0.125), "wrn"),
    Row(Method("elementwise_l2", "no_norm"), ladder(0.25), "wrn"),
    Row(Method("l2", "random"), ladder(2.0), "wrn", seeds=8),
    Row(Method("l2", "fisher"), ladder(0.5), "wrn", seeds=8),
    Row(Method("l2", "dynamic"), ladder(1.0), "wrn", seeds=8),
    Row(Method("l2", "random", "all"), ladder(20.0), "wrn", seeds=8),
    Row(Method("l2", "only_gamma"), ladder(1.0), "wrn"),
    Row(Method("l2", "only_beta"), ladder(1.0), "wrn"),
    Row(Method("l2", "blocks_1"), ladder(1.0), "wrn"),
    Row(Method("l2", "blocks_23"), ladder(2.0), "wrn"),
    Row(Method("output_scales", "convolutions"), ladder(1.0), "wrn"),
    Row(Method("input_scales", "weights"), ladder(0.5), "wrn"),
    Row(BASE.but(**DYT), problem="vit"),
    Row(ALL.but(**DYT), ladder(0.003125), "vit"),
    Row(ON.but(**DYT), ladder(0.00025), "vit"),
    *members.rows(members.QUICK, "wrn"),
)

QUICK = Profile(
    name="quick",
    about="digits with 40 % label noise, scaled-down networks; two CPU cores",
    where="on noisy digits",
    bases={
        "wrn": _DIGITS,
        "resnet": _DIGITS.replace(model="resnet8"),
        "resnext": _DIGITS.replace(model="resnext11_4x2d"),
        "vit": _DIGITS_VIT,
    },
    headline="wrn",
    grids=_GRIDS,
    seeds=5,
    measured_seeds=5,
)


def _in_smoke(row: Row) -> bool:
    """One member of each kind shows that the tables hold several; more would only take time."""
    return members.member(row.method) in ("sam", *members.SMOKE)


def _short(row: Row) -> Row:
    return replace(row, start=row.start[1:3], seeds=2)


SMOKE = replace(
    QUICK,
    name="smoke",
    about="two epochs on a hundred digits: every notebook end to end, no result",
    where="in a smoke test",
    bases={
        problem: base.replace(
            epochs=2,
            warmup_epochs=0,
            train_size=100,
            validation_size=100,
            mask_samples=16,
            eval_every=1,
        )
        for problem, base in QUICK.bases.items()
    },
    grids=tuple(_short(row) for row in _GRIDS if _in_smoke(row)),
    seeds=2,
    measured_seeds=2,
    tuning=(1000,),
    refine=False,
)

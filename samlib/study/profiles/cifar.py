"""CIFAR: the evidence on two CPU cores and on one GPU, a short schedule, the authors' recipe."""

from dataclasses import replace

from samlib.study import members
from samlib.study.methods import ALL, BASE, DECAY, ON, REPORTED, SPARSE_MASKS, Method
from samlib.study.profile import Profile, Row, pair
from samlib.study.search import ladder
from samlib.trainer.config import RunConfig

# --- cifar100-10k: what two cores can train with seeds -------------------------------------------

_PATCHES = RunConfig(
    dataset="cifar100",
    model="wrn10_4_patch4",
    train_size=10_000,
    validation_size=5_000,
    augment="basic",
    epochs=60,
    batch_size=128,
    weight_decay=1e-3,
    precision="bf16",
    eval_every=5,
)
_PATCHES_VIT = _PATCHES.replace(
    model="vit_mini", optimizer="adamw", lr=1e-3, weight_decay=0.05, warmup_epochs=5
)
# What makes SAM-ON's lead come and go: the problem with one factor changed at a time.
FACTORS = {
    "wrn-no-augmentation": _PATCHES.replace(augment="none"),
    "wrn-label-noise": _PATCHES.replace(label_noise=0.4),
    "wrn-weak-decay": _PATCHES.replace(weight_decay=5e-4),
    "resnet": _PATCHES.replace(model="resnet10_4_patch4"),
}

# At the law's rho, untuned: SAM-ON, and a random mask of its size.
_BY_LAW = (
    Method("l2", "only_norm", rho_from="law"),
    Method("l2", "random", rho_from="law"),
)
# With BatchNorm's statistics of the first pass alone.
_FIRST = tuple(m.control(batchnorm="first") for m in (ALL, ON))

_10K_GRIDS = (
    Row(BASE, seeds=6),
    Row(BASE, problem="wrn", seeds=16),
    Row(DECAY, ladder(5e-4), "wrn", seeds=16),
    Row(ALL, ladder(0.025), "wrn", seeds=16),
    Row(ON, ladder(0.25), "wrn", seeds=16),
    Row(Method("l2", "random"), ladder(0.5), "wrn", seeds=8),
    Row(Method("l2", "fisher"), ladder(0.125), "wrn", seeds=8),
    Row(Method("l2", "dynamic"), ladder(0.25), "wrn", seeds=8),
    Row(Method("l2", "no_norm"), ladder(0.025), "wrn", seeds=8),
    *pair("elementwise_l2", 0.5, 1.0, problem="wrn", seeds=8),
    *pair("layerwise_l2", 0.01, 0.1, problem="wrn", seeds=8),
    *pair("elementwise_linf", 0.002, 0.02, problem="wrn", seeds=8),
    *pair("fisher", 0.025, 0.25, problem="wrn", seeds=8),
    Row(Method("l2", "only_gamma"), ladder(0.25), "wrn", seeds=8),
    Row(Method("l2", "only_beta"), ladder(0.25), "wrn", seeds=8),
    *pair("l2", 0.025, 0.25, seeds=6),
    *pair("l2", 0.0125, 0.05, problem="vit", seeds=6),
    *pair("l2", 0.0125, 0.05, problem="vit-lion", seeds=6),
    *members.rows(members.CIFAR, "wrn", seeds=8),
)
_HEADLINE = tuple(("wrn", m) for m in (BASE, ALL, ON, DECAY))

CIFAR100_10K = Profile(
    name="cifar100-10k",
    about="CIFAR-100, 10,000 training images, WRN-10-4 on patches of 4 x 4 pixels, 60 epochs",
    where="on CIFAR-100, 10,000 images",
    bases={"wrn": _PATCHES}
    | FACTORS
    | {"vit": _PATCHES_VIT, "vit-lion": _PATCHES_VIT.replace(optimizer="lion", lr=1e-4)},
    headline="wrn",
    grids=_10K_GRIDS,
    seeds=8,
    first_seed=10,
    fresh=tuple(range(100, 108)),
    measured_seeds=8,
    margin=0.4,  # set in the plan, before its runs
    order=(
        _HEADLINE,
        (
            *(("wrn", Method("l2", mask)) for mask in (*SPARSE_MASKS, "no_norm")),
            *(("wrn", method) for method in _BY_LAW),
        ),
        tuple(
            ("wrn", Method(g, mask))
            for g in ("elementwise_l2", "layerwise_l2", "elementwise_linf", "fisher")
            for mask in ("all", "only_norm")
        ),
        (
            *(("wrn", Method("l2", mask)) for mask in ("only_gamma", "only_beta")),
            *(("wrn", method) for method in _FIRST),
        ),
        tuple((problem, method) for problem in FACTORS for method in (BASE, ALL, ON)),
        tuple(("vit", method) for method in (BASE, ALL, ON)),
        tuple(("wrn", ON.but(member=name)) for name in members.CIFAR),
        tuple(("wrn", ALL.but(member=name)) for name in members.CIFAR),
    ),
)

# --- cifar100-45k: the headline again, with every image, in minutes of one GPU -------------------

_MSAM = ON.but(member="msam")

# The authors' optimizer, decay and data; a network whose steps are short.
CIFAR100_45K = Profile(
    name="cifar100-45k",
    about="CIFAR-100, 45,000 training images, WRN-10-8 on patches of 4 x 4 pixels, 40 epochs",
    where="on CIFAR-100, 45,000 images",
    bases={
        "wrn": _PATCHES.replace(
            model="wrn10_8_patch4", train_size=45_000, weight_decay=5e-4, epochs=40
        )
    },
    headline="wrn",
    grids=(
        Row(BASE),
        Row(DECAY, ladder(2.5e-4)),
        *pair("l2", 0.025, 0.25),
        Row(_MSAM, ladder(0.25), "wrn"),
    ),
    seeds=8,
    first_seed=10,
    measured_seeds=8,
    margin=0.4,  # set in the plan, before its runs
    order=(
        _HEADLINE,
        (("wrn", _MSAM),),
        tuple(("wrn", method) for method in _FIRST),
    ),
    chapters=("introduction", "rho_sweep", "batchnorm", "one_pass"),
    device="cuda",
)

# --- the authors' recipe --------------------------------------------------------------------------

# The authors' recipe (specification 3.1): SGD 0.1, momentum 0.9, weight decay 5e-4, batch 128,
# cosine per epoch, label smoothing 0.1, zero-padded crop and flip; 5,000 images held out for rho.
_CIFAR100 = RunConfig(
    dataset="cifar100",
    model="wrn28_10",
    validation_size=5000,
    augment="basic",
    epochs=200,
    batch_size=128,
)

# How the authors trained transformers on CIFAR is not sourced. AdamW has learning rate and decay of
# an ImageNet recipe and Lion the decay the authors gave for theirs (specification 3.3), both
# without its warm-up and clipping; Lion's learning rate, a tenth of AdamW's, is our choice.
_CIFAR_VIT = _CIFAR100.replace(model="vit_t", optimizer="adamw", lr=1e-3, weight_decay=0.1)
_CIFAR_LION = _CIFAR_VIT.replace(optimizer="lion", lr=1e-4, weight_decay=1.0)


def _paper_bases() -> dict[str, RunConfig]:
    """Three networks on both data sets under both augmentations, and the transformers."""
    bases = {}
    names = {"wrn": "wrn28_10", "resnet": "resnet56", "resnext": "resnext29_32x4d"}
    for suffix, changes in (
        ("", {}),
        ("-autoaugment", {"augment": "autoaugment"}),
        ("-cifar10", {"dataset": "cifar10"}),
        ("-cifar10-autoaugment", {"dataset": "cifar10", "augment": "autoaugment"}),
    ):
        for problem, model in names.items():
            bases[problem + suffix] = _CIFAR100.replace(model=model, **changes)
    for suffix, changes in (("", {}), ("-cifar10", {"dataset": "cifar10"})):
        bases["vit" + suffix] = _CIFAR_VIT.replace(**changes)
        bases["vit-s" + suffix] = _CIFAR_VIT.replace(model="vit_s", **changes)
        bases["vit-lion" + suffix] = _CIFAR_LION.replace(**changes)
    return bases


# Around the best points of the authors' figure for WRN-28-10; variants and masks that are not in
# the figure start where their nearest relative does.
_SWEPT_PAIRS = (
    *pair("l2", 0.05, 0.2),
    *pair("elementwise_l2", 1.25, 2.5),
    *pair("elementwise_linf", 0.0025, 0.025),
    *pair("layerwise_l2", 0.0125, 0.125),
)
_OTHER_PAIRS = (
    *pair("elementwise_l2_orig", 0.5, 2.5),
    *pair("elementwise_linf_orig", 0.0025, 0.025),
    *pair("layerwise_l2_orig", 0.0125, 0.125),
    *pair("fisher", 0.05, 0.2),
)
_LEVELS = (None, 0.5, 0.9995)  # as many as the norm layers have, half, and the paper's 99.95 %
_MASKS = (
    *(Row(Method(row.method.geometry, "no_norm"), row.start) for row in _SWEPT_PAIRS[::2]),
    Row(Method("l2", "only_gamma"), ladder(0.2)),
    Row(Method("l2", "only_beta"), ladder(0.2)),
    *(Row(Method("l2", f"blocks_{stages}"), ladder(0.2)) for stages in ("1", "2", "3", "23")),
    Row(Method("output_scales", "convolutions"), ladder(0.2)),
    Row(Method("input_scales", "weights"), ladder(0.2)),
)


def _sparse(levels: tuple[float | None, ...]) -> tuple[Row, ...]:
    """Sparse masks under both radius rules; over all, a sparse one needs ten times the radius."""
    return tuple(
        Row(Method("l2", mask, radius, level), ladder(start))
        for level in levels
        for mask in SPARSE_MASKS
        for radius, start in (
            ("mask", 0.05 if level == 0.5 else 0.25),
            ("all", 0.1 if level == 0.5 else 0.25 if mask == "fisher" else 2.5),
        )
    )


# The values that claim 2 names, for SAM and SAM-ON.
_REPORTED = tuple(
    Row(method, (rho,), "wrn") for method, rho in zip(REPORTED, (0.1, 1.0), strict=True)
)

PAPER = Profile(
    name="paper",
    about="CIFAR-10 and CIFAR-100, the authors' networks and recipe, 200 epochs; weeks on one GPU",
    where="in the paper's setting",
    bases=_paper_bases(),
    headline="wrn",
    grids=(Row(BASE), *_SWEPT_PAIRS, *_OTHER_PAIRS, *_MASKS, *_sparse(_LEVELS), *_REPORTED),
    seeds=3,
    measured_seeds=3,
    device="cuda",
)

CIFAR100_SHORT = replace(
    PAPER,
    name="cifar100-short",
    about="CIFAR-100, WRN-16-4, ResNet-56 and ViT-T, 40 epochs in bf16; one GPU, in pieces",
    where="on CIFAR-100, 40 epochs",
    bases={
        "wrn": _CIFAR100.replace(model="wrn16_4", epochs=40, precision="bf16"),
        "resnet": _CIFAR100.replace(model="resnet56", epochs=40, precision="bf16"),
        "vit": _CIFAR_VIT.replace(epochs=40, precision="bf16"),
    },
    grids=(Row(BASE), *_SWEPT_PAIRS, *_MASKS, *_sparse((None,))),
)

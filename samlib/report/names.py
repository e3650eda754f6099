"""How tables and figures call models, variants, masks and methods: each one way, everywhere."""

from collections.abc import Sequence

from samlib.study import members
from samlib.study.methods import ALL, BASE, DECAY, ON, Method
from samlib.study.profile import Profile
from samlib.trainer.config import RunConfig


class _Names(dict):
    """Display names; what has none yet is called by the name configurations use."""

    def __missing__(self, key: str) -> str:
        return key


GEOMETRY_NAMES = _Names(
    {
        "l2": "SAM",
        "elementwise_l2": "ASAM elementwise ℓ₂",
        "elementwise_l2_orig": "ASAM elementwise ℓ₂, orig",
        "elementwise_linf": "ASAM elementwise ℓ∞",
        "elementwise_linf_orig": "ASAM elementwise ℓ∞, orig",
        "layerwise_l2": "ASAM layerwise ℓ₂",
        "layerwise_l2_orig": "ASAM layerwise ℓ₂, orig",
        "fisher": "Fisher-SAM",
        "output_scales": "output-channel scales",
        "input_scales": "input-channel scales",
    }
)
MASK_NAMES = _Names(
    {
        "all": "all",
        "only_norm": "only norm",
        "no_norm": "no norm",
        "random": "random mask",
        "fisher": "SSAM-F",
        "dynamic": "SSAM-D",
        "only_gamma": "γ only",
        "only_beta": "β only",
        "blocks_1": "SAM-ON, stage 1",
        "blocks_2": "SAM-ON, stage 2",
        "blocks_3": "SAM-ON, stage 3",
        "blocks_23": "SAM-ON, stages 2 and 3",
    }
)
OPTIMIZER_NAMES = {"sgd": "SGD", "adamw": "AdamW", "lion": "Lion"}
MODEL_NAMES = _Names(
    {
        "resnet56": "ResNet-56",
        "resnext29_32x4d": "ResNeXt-29 32x4d",
        "wrn28_10": "WRN-28-10",
        "vit_s32": "ViT-S/32",
        "resnet50": "ResNet-50",
        "wrn16_4": "WRN-16-4",
        "vit_t": "ViT-T",
        "vit_s": "ViT-S",
        "resnet8": "ResNet-8",
        "resnext11_4x2d": "ResNeXt-11 4x2d",
        "wrn10_1": "WRN-10-1",
        "wrn10_4_patch4": "WRN-10-4",
        "wrn10_8_patch4": "WRN-10-8",
        "resnet10_4_patch4": "ResNet-10-4",
        "vit_mini": "ViT-mini",
        "vit_micro": "ViT-micro",
        "vit_micro_dyt": "ViT-micro with DyT",
        "vit_t_dyt": "ViT-T with DyT",
    }
)


DATASET_NAMES = _Names(
    {
        "digits": "digits",
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
        "fashion_mnist": "Fashion-MNIST",
        "imagenet": "ImageNet",
    }
)
# Members of the family, and steps that exist to test an explanation.
MEMBER_NAMES = _Names(
    {
        "sam": "SAM",
        "usam": "USAM",
        "vasso": "VaSSO",
        "fsam": "F-SAM",
        "obf": "OBF",
        "async_sam": "AsyncSAM",
        "eigen_sam": "Eigen-SAM",
        "random_sam": "random direction",
        "msam": "MSAM",
        "msam_up": "MSAM (sign flipped)",
        "last": "last gradient",
        "lesam": "FedLESAM's drift",
        "drift_on": "FedLESAM's drift (sign flipped)",
        "gsam": "GSAM",
        "looksam": "LookSAM",
        "looksam_mask": "LookSAM over the mask",
        "sampa": "SAMPa",
        "esam": "ESAM's selection",
        "ss_sam": "SS-SAM",
        "every_k": "SAM every 5 steps",
        "ae_sam": "AE-SAM",
        "lookbehind": "Lookbehind",
        "ire": "SAM and IRE",
        "downhill": "sign flipped",
        "felt_by_mask": "felt by the mask alone",
        "felt_by_others": "felt by the others alone",
        "penalty": "gradient-norm penalty",
        "rho_lr": "ρ proportional to the learning rate",
        "rho_root_lr": "ρ proportional to its root",
    }
)
# What a method changes beside the perturbation.
CHANGE_NAMES = {
    ("updated", "no_norm"): "γ and β fixed",
    ("decayed", "no_norm"): "γ and β not decayed",
    ("batchnorm", "first"): "statistics of the first pass",
}

_SIDES = {"only_norm": "only norm"}  # masks of the family
# Where a rho that no search chose comes from.
_UNTUNED = {"law": ["at the law's ρ"], "reported": ["at the reported ρ"]}


def method_name(profile: Profile, method: Method, problem: str | None = None) -> str:
    """How tables and figures call a method, in the headline problem unless told otherwise."""
    changes = dict(method.changes)
    if changes.get("member") in members.FAMILY and method.geometry == "l2":
        name = f"{MEMBER_NAMES[changes.pop('member')]}, {_SIDES.get(method.mask, method.mask)}"
    else:
        name = _plain_name(profile, method.plain, problem or profile.headline)
    more = [_change(field, value) for field, value in changes.items()]
    return ", ".join([name, *more, *_UNTUNED.get(method.rho_from, ())])


def _plain_name(profile: Profile, method: Method, problem: str) -> str:
    if method in (BASE, DECAY):
        name = OPTIMIZER_NAMES[profile.bases[problem].optimizer]
        return name if method == BASE else f"{name}, weight decay tuned"
    if method == ON:
        return "SAM-ON"
    if method == ALL:
        return "SAM"
    if method.geometry == "l2" and method.mask != "no_norm":
        return MASK_NAMES[method.mask]
    if method.geometry in ("output_scales", "input_scales"):
        return GEOMETRY_NAMES[method.geometry]
    return f"{GEOMETRY_NAMES[method.geometry]}, {MASK_NAMES[method.mask]}"


def _change(field: str, value: object) -> str:
    if field == "start":
        return f"from epoch {value} on"
    if field == "end":
        return f"before epoch {value} only"
    if field == "member":
        return MEMBER_NAMES[value]
    if field == "model":
        return MODEL_NAMES[value]
    return CHANGE_NAMES[field, value]


def problem_name(profile: Profile, problem: str) -> str:
    """The network, and what sets it apart from others like it in the profile."""
    base = profile.bases[problem]
    twins = [other for other in profile.bases.values() if other.model == base.model]
    apart = []
    if len({other.dataset for other in profile.bases.values()}) > 1:
        apart.append(DATASET_NAMES[base.dataset])
    if len({other.optimizer for other in twins}) > 1:
        apart.append(OPTIMIZER_NAMES[base.optimizer])
    apart += [name(base) for field, name in _FACTORS.items() if _differs(base, twins, field)]
    return MODEL_NAMES[base.model] + (f" ({', '.join(apart)})" if apart else "")


# What a network is trained with, where it differs from the first of its kind in the profile.
_FACTORS = {
    "augment": lambda base: {"none": "no augmentation"}.get(base.augment, "AutoAugment"),
    "label_noise": lambda base: f"{100 * base.label_noise:g} % label noise",
    "weight_decay": lambda base: f"weight decay {base.weight_decay:g}",
}


def _differs(base: RunConfig, twins: Sequence[RunConfig], field: str) -> bool:
    alike = [other for other in twins if other.optimizer == base.optimizer]
    return getattr(base, field) != getattr(alike[0], field)


def headline_name(profile: Profile) -> str:
    """Network and data set of the headline, for axes and titles."""
    base = profile.bases[profile.headline]
    return f"{MODEL_NAMES[base.model]}, {DATASET_NAMES[base.dataset]}"

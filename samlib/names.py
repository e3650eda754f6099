"""How tables and figures call models, variants, masks and methods: each one way, everywhere."""

from .study import ALL, BASE, ON, SPARSE_MASKS, Method, Profile


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
    }
)
OPTIMIZER_NAMES = {"sgd": "SGD", "adamw": "AdamW", "lion": "Lion"}
MODEL_NAMES = _Names(
    {
        "resnet56": "ResNet-56",
        "resnext29_32x4d": "ResNeXt-29 32x4d",
        "wrn28_10": "WRN-28-10",
        "wrn16_4": "WRN-16-4",
        "vit_t": "ViT-T",
        "vit_s": "ViT-S",
        "resnet8": "ResNet-8",
        "resnext11_4x2d": "ResNeXt-11 4x2d",
        "wrn10_1": "WRN-10-1",
        "vit_micro": "ViT-micro",
    }
)


def method_name(profile: Profile, method: Method) -> str:
    """How tables and figures call a method."""
    if method == BASE:
        return OPTIMIZER_NAMES[profile.bases[profile.headline].optimizer]
    if method == ON:
        return "SAM-ON"
    if method == ALL:
        return "SAM"
    if method.mask in SPARSE_MASKS:
        return MASK_NAMES[method.mask]
    return f"{GEOMETRY_NAMES[method.geometry]}, {MASK_NAMES[method.mask]}"

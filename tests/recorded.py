"""What recorded steps are held against: small runs of every method, optimizer, mask and member."""

from samlib.sam.family import MEMBERS
from samlib.trainer.config import RunConfig

# Four full batches and a short one; evaluated at the end alone, which takes as long as training.
BASE = RunConfig(
    train_size=75, validation_size=20, epochs=3, batch_size=16, mask_samples=16, eval_every=3
)
_VIT = {"model": "vit_micro", "lr": 1e-3}
_DYT = {"model": "vit_micro_dyt", "lr": 1e-3}
METHODS = {
    "none": {},
    "all": {"geometry": "l2", "mask": "all", "rho": 0.1},
    "only_norm": {"geometry": "elementwise_l2", "mask": "only_norm", "rho": 1.0},
    "blocks_23": {"geometry": "l2", "mask": "blocks_23", "rho": 1.0},
    "blocks_3 first": {"geometry": "l2", "mask": "blocks_3", "rho": 1.0, "batchnorm": "first"},
    "linf": {"geometry": "elementwise_linf", "mask": "no_norm", "rho": 0.01},
    "layerwise": {"geometry": "layerwise_l2", "mask": "all", "rho": 0.1},
    "fisher geometry": {"geometry": "fisher", "mask": "only_gamma", "rho": 0.1},
    "no bias scaled": {"geometry": "elementwise_l2_orig", "mask": "only_beta", "rho": 0.1},
    "nor in linf": {"geometry": "elementwise_linf_orig", "mask": "convolutions", "rho": 0.01},
    "nor layerwise": {"geometry": "layerwise_l2_orig", "mask": "weights", "rho": 0.1},
    "output scales": {"geometry": "output_scales", "mask": "weights", "rho": 0.1},
    "input scales": {"geometry": "input_scales", "mask": "weights", "rho": 0.1},
    "random": {"geometry": "l2", "mask": "random", "rho": 1.0, "radius_over": "all"},
    "half": {"geometry": "l2", "mask": "random", "rho": 0.1, "sparsity": 0.5},
    "redrawn": {"geometry": "l2", "mask": "random_redrawn", "rho": 1.0},
    "fisher": {"geometry": "l2", "mask": "fisher", "rho": 0.1, "mask_every": 1},
    "dynamic": {"geometry": "l2", "mask": "dynamic", "rho": 0.1, "mask_every": 1},
    "late": {"geometry": "l2", "mask": "all", "rho": 0.1, "start": 1},
    "early": {"geometry": "l2", "mask": "all", "rho": 0.1, "end": 1},
    "bf16": {"geometry": "l2", "mask": "only_norm", "rho": 1.0, "precision": "bf16"},
    "undecayed": {"geometry": "l2", "mask": "all", "rho": 0.1, "decayed": "no_norm"},
    "not updated": {"geometry": "l2", "mask": "only_norm", "rho": 0.1, "updated": "no_norm"},
    "first": {"geometry": "l2", "mask": "all", "rho": 0.1, "batchnorm": "first"},
    "adamw": {"optimizer": "adamw", "clip_norm": 1.0} | _VIT,
    "adamw perturbed": {"optimizer": "adamw", "geometry": "l2", "mask": "all", "rho": 0.1} | _VIT,
    "only_alpha": {"geometry": "l2", "mask": "only_alpha", "rho": 0.01} | _DYT,
    "without_alpha": {"geometry": "l2", "mask": "without_alpha", "rho": 0.1} | _DYT,
    "lion": {"optimizer": "lion", "geometry": "l2", "mask": "only_norm", "rho": 0.1} | _VIT,
}
# Eleven full batches and a short one: those that refresh at every tenth step do it twice an epoch.
OF_FAMILY = BASE.replace(
    train_size=46, batch_size=4, epochs=2, geometry="l2", mask="only_norm", rho=0.1
)
FAMILY = {name: {"member": name} for name in MEMBERS if name != "sam"}
# What they remember, of coordinates that change within an epoch or at its start, or of AdamW.
_DYNAMIC = {"mask": "dynamic", "sparsity": 0.9, "mask_every": 1}
FAMILY |= {
    f"{name}, dynamic": {"member": name} | _DYNAMIC
    for name in ("vasso", "fsam", "async_sam", "eigen_sam")
}
FAMILY |= {"last, redrawn": {"member": "last", "mask": "random_redrawn"}}
FAMILY |= {"msam, adamw": {"member": "msam", "optimizer": "adamw"} | _VIT}
# They read a gradient to decide, or their step is another than `sam_step`.
NOT_RECORDED = {"sampa", "ae_sam", "penalty", "ire", "lookbehind"}
CONFIGS = {name: BASE.replace(**changes) for name, changes in METHODS.items()}
CONFIGS |= {name: OF_FAMILY.replace(**changes) for name, changes in FAMILY.items()}

"""ImageNet from a local folder, on a cluster."""

from samlib.study.methods import ALL, BASE, ON
from samlib.study.profile import Profile, Row
from samlib.study.search import ladder
from samlib.trainer.config import RunConfig

# AdamW after arXiv 2205.01580, Lion at the values the authors gave in an answer (specification
# 3.3); the recipe of their ResNet-50 is not sourced: this is the usual one of 90 epochs.
_IMAGENET = RunConfig(
    dataset="imagenet",
    model="vit_s32",
    validation_size=50_000,
    augment="inception",
    epochs=90,
    warmup_epochs=8,
    batch_size=1024,
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.1,
    label_smoothing=0.0,
    clip_norm=1.0,
    precision="bf16",
    eval_every=10,
)

IMAGENET = Profile(
    name="imagenet",
    about="ImageNet from a local folder, ViT-S/32 with AdamW and Lion, ResNet-50; a cluster",
    where="on ImageNet",
    bases={
        "vit": _IMAGENET,
        "vit-lion": _IMAGENET.replace(optimizer="lion", weight_decay=1.0),
        "resnet": _IMAGENET.replace(
            model="resnet50",
            warmup_epochs=0,
            batch_size=256,
            optimizer="sgd",
            lr=0.1,
            weight_decay=1e-4,
            clip_norm=0.0,
        ),
    },
    headline="vit",
    # The authors: 1 for SAM, 10 for SAM-ON.
    grids=(Row(BASE), Row(ALL, ladder(0.25)), Row(ON, ladder(2.5))),
    seeds=2,
    measured_seeds=2,
    tuning=(1000,),
    chapters=("introduction", "architectures", "robustness"),
    device="cuda",
)

"""Models whose parameters no mask can hold: sharded over processes, or without a shape yet."""

import sys

from torch import nn
from torch.nn.parameter import UninitializedParameter

from samlib.errors import ConfigError


def refuse_sharded(model: nn.Module) -> None:
    """Raise a ConfigError where parameters are shards (FSDP, DTensor) or are made lazily."""
    sharding = _types("torch.distributed.fsdp", *_FSDP)
    if sharding and any(
        isinstance(m, sharding) or getattr(m, "_is_fsdp_managed_module", False)  # wrapped outside
        for m in model.modules()
    ):
        raise ConfigError(
            f"{type(model).__name__} is sharded by FSDP: a pass runs on gathered copies, so that "
            "the ascent's gradient with respect to the parameters themselves does not exist; use "
            "DistributedDataParallel"
        )
    shards = _types("torch.distributed.tensor", "DTensor")
    for name, p in model.named_parameters():
        if isinstance(p, shards):
            raise ConfigError(
                f"{name} is a DTensor, a shard of a parameter: make the mask before it is "
                "distributed and use DistributedDataParallel"
            )
        if isinstance(p, UninitializedParameter):
            raise ConfigError(
                f"{name} has no shape yet: run a forward pass through the lazy modules, then make "
                "the mask"
            )


_FSDP = ("FullyShardedDataParallel", "FSDPModule")


def _types(module: str, *names: str) -> tuple[type, ...]:
    """Types of a module, as far as it is loaded: where it is not, nothing is of them."""
    loaded = sys.modules.get(module)
    return tuple(getattr(loaded, name) for name in names if hasattr(loaded, name))

"""A mask: an explicit, printable set of coordinates of a model's trainable parameters.

Whole tensors, or a boolean per coordinate (held as flat indices). Everything else in the library
reads `Mask.entries` and knows nothing of why a coordinate was chosen.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from samlib.errors import ConfigError
from samlib.sam.masks.norms import norm_layers, of_a_model, parts
from samlib.sam.masks.sharded import refuse_sharded
from samlib.sam.reuse import untouched_stages


class Entry(NamedTuple):
    """A parameter and the flat indices selected in it (int64; None: all of it)."""

    name: str
    parameter: nn.Parameter
    index: Tensor | None = None  # type: ignore[assignment]  # in the place of a tuple's method

    @property
    def count(self) -> int:  # type: ignore[override]  # in the place of a tuple's method
        """Number of selected coordinates."""
        return self.parameter.numel() if self.index is None else self.index.numel()


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters that require a gradient, in the model's order; tied ones once."""
    return [(n, p) for n, p in of_a_model(model).named_parameters() if p.requires_grad]


OF_THE_TRAINED = (
    "make the mask from the model that is trained, after a deepcopy or load_state_dict(assign=True)"
)
Sample = Callable[[int], tuple[Tensor, Tensor]]  # so many training examples: inputs, labels
HALF = (torch.bfloat16, torch.float16, torch.complex32)


def refuse_half(parameters: Iterable[nn.Parameter]) -> None:
    """Raise a ConfigError if one of the parameters is in half precision."""
    half = {p.dtype for p in parameters}.intersection(HALF)
    if half:
        raise ConfigError(
            f"parameters are {half.pop()}: most would not move by a step of rho; "
            "keep them in float32 and run the forward pass under bfloat16 autocast"
        )


class Mask:
    """A set of coordinates of a model's trainable parameters.

    Args:
        model: the network; frozen parameters are never part of a mask.
        entries: the coordinates, one entry per parameter.
        kind: name used in `repr` and records.
        notes: what the selection left out, each a few words for `repr`.
        empty: why nothing could be selected, for the error that says so.
        again: makes such a mask of the model as it is later; None for a choice of the caller's.

    Attributes:
        entries: tuple of `Entry`, in the model's parameter order.
        trainable: name and parameter of everything that could be selected.
        untouched: leading stages of the model without a selected coordinate.
        unused: names of parameters that some loss did not use, each reported once.
        seen: ids of the parameters that the mask was made with, or was asked about since.
        total: number of trainable coordinates in the model.

    Raises:
        ConfigError: no coordinate selected, parameters in half precision, sharded over processes,
            or without a shape yet.
    """

    def __init__(
        self,
        model: nn.Module,
        entries: Iterable[Entry],
        kind: str,
        notes: Sequence[str] = (),
        empty: str = "",
        again: Callable[[nn.Module], "Mask"] | None = None,
    ):
        refuse_sharded(model)
        self.model = model
        self.kind = kind
        self.notes = tuple(notes)
        self._again = again
        self.trainable = trainable(model)
        self._find_norms()
        self.unused: set[str] = set()
        self.seen = {id(p) for _, p in self.trainable}
        self.total = sum(p.numel() for _, p in self.trainable)
        self.entries = tuple(e for e in entries if e.count)
        if not self.entries:
            raise ConfigError(
                f"mask {kind} selects no trainable coordinate of {type(model).__name__}"
                + (empty and f": {empty}")
            )
        self.untouched = untouched_stages(model, [e.parameter for e in self.entries])
        refuse_half(e.parameter for e in self.entries)

    def _find_norms(self) -> None:
        found = norm_layers(self.model)
        self._norms = [m for _, m in found]
        pieces = {id(part): part for m in self._norms for part in parts(m)}
        self._stateful = [
            part for part in pieces.values() if next(part.buffers(False), None) is not None
        ]
        every = dict(self.model.named_modules())
        named = [(*name.rpartition("."), m) for name, m in found if name]
        self._places = [(every[parent]._modules, leaf, m) for parent, _, leaf, m in named]

    def _renew_norms(self) -> None:
        if any(leaf not in held or held[leaf] is not m for held, leaf, m in self._places):
            self._find_norms()

    @property
    def norms(self) -> list[nn.Module]:
        """The model's norm layers as they are now; `convert_sync_batchnorm` replaces them."""
        self._renew_norms()
        return self._norms

    @property
    def norm_buffers(self) -> list[Tensor]:
        """The norm layers' running statistics as they are now; `model.to` replaces them."""
        self._renew_norms()
        return [b for m in self._stateful for b in m._buffers.values() if b is not None]

    @property
    def relies_on(self) -> Sequence[tuple]:
        """What must stay trainable, in tuples that begin with name and parameter."""
        return self.entries

    def would_select(self, parameter: nn.Parameter) -> bool:
        """Whether this mask, made again of the model as it is now, would select a parameter."""
        if self._again is None:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return any(e.parameter is parameter for e in self._again(self.model).entries)

    @property
    def count(self) -> int:
        """Number of selected coordinates."""
        return sum(e.count for e in self.entries)

    @property
    def share(self) -> float:
        """Selected coordinates over all trainable ones."""
        return self.count / self.total

    @property
    def sparsity(self) -> float:
        """1 - share, as the sparse-perturbation literature counts."""
        return 1 - self.share

    def __repr__(self) -> str:
        return "; ".join(
            [
                f"Mask {self.kind}: {self.count:,} of {self.total:,} coordinates in "
                f"{len(self.entries)} tensors (share {self.share:.3%}, sparsity "
                f"{self.sparsity:.3%})",
                *self.notes,
            ]
        )

    def begin_epoch(self, epoch: int, sample: Sample) -> None:
        """Called by the trainer before each epoch; fixed masks ignore it.

        Args:
            epoch: number of the epoch, from 0.
            sample: `sample(n)` gives n training examples (inputs, labels) ready for the model.
        """

    def observe(self, grads: Sequence[Tensor]) -> None:
        """Called by the step with the ascent gradient of every entry; fixed masks ignore it.

        Args:
            grads: gradients at the selected coordinates, one tensor per entry.
        """

    def state_dict(self) -> dict:
        """What a checkpoint must hold to continue; empty for fixed masks."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`."""

"""The sparse masks of SSAM: by Fisher score (SSAM-F) and by dynamic sparse training (SSAM-D).

After Mi et al. (2022) as released (specification 2.1, 2.2).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from samlib.errors import ConfigError
from samlib.sam.masks.base import Sample, trainable
from samlib.sam.masks.sparse import SparseMask, keep_count
from samlib.sam.restore import evaluating

_CHUNK = 2**25  # coordinates of per-sample gradients held at once: 128 MiB of float32
_SHARE = 8  # of a GPU's free memory one part in so many


def fisher_scores(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Diagonal of the empirical Fisher: squared per-sample gradients summed over samples.

    Cross-entropy at the true labels, without smoothing, model in evaluation mode: the released
    code scores in training mode and so overwrites the BatchNorm statistics (specification 2.1).

    Args:
        model: the network.
        inputs: (n, channels, height, width), normalised.
        labels: (n,) int64.

    Returns:
        (trainable coordinates,) scores, in the order of the model's parameters.
    """
    parameters = {n: p.detach() for n, p in trainable(model)}
    state = {n: p.detach() for n, p in model.named_parameters() if n not in parameters}
    state |= dict(model.named_buffers())

    def loss(parameters: dict, x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(model, parameters | state, (x.unsqueeze(0),))
        return F.cross_entropy(logits, y.unsqueeze(0))

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))
    total = sum(p.numel() for p in parameters.values())
    chunk = max(1, _at_once(inputs.device) // total)
    with evaluating(model):
        scores = {n: torch.zeros_like(p) for n, p in parameters.items()}
        for x, y in zip(inputs.split(chunk), labels.split(chunk), strict=True):
            for n, g in per_sample(parameters, x, y).items():
                scores[n] += g.square_().sum(0)
    return torch.cat([s.flatten() for s in scores.values()])


def _at_once(device: torch.device) -> int:
    """Coordinates of per-sample gradients held at once: a GPU waits for networks scored alone."""
    if device.type != "cuda":
        return _CHUNK
    free, _ = torch.cuda.mem_get_info(device)
    return max(_CHUNK, free // (4 * _SHARE))


class _Fisher(SparseMask):
    def __init__(self, model: nn.Module, count: int, samples: int, every: int):
        super().__init__(model, torch.arange(count), "fisher", seed=0)
        self._count, self._samples, self._every = count, samples, every
        self._scored = False

    @property
    def relies_on(self) -> Sequence[tuple]:
        """As of every sparse mask; asked at every step, which needs scores."""
        if not self._scored:
            raise ConfigError(
                "mask fisher has no scores yet: call mask.begin_epoch(epoch, sample) before every "
                "epoch, where sample(n) gives n training examples"
            )
        return super().relies_on

    def select(self, flat: Tensor) -> None:
        """Replace the selected coordinates; a checkpoint's were scored, too."""
        super().select(flat)
        self._scored = True

    def begin_epoch(self, epoch: int, sample: Sample) -> None:
        """Score anew every `every` epochs, the first one included."""
        if epoch % self._every == 0:
            scores = fisher_scores(self.model, *sample(self._samples))
            self.select(scores.topk(self._count).indices)


def fisher(model: nn.Module, *, sparsity: float, samples: int = 1024, every: int = 5) -> SparseMask:
    """SSAM-F: the coordinates with the largest empirical Fisher score (Mi et al., 2022).

    The rule is the released one but for the scoring (`fisher_scores`) and the first update, which
    comes before the first step (specification 2.1). The mask selects by score from its first
    `begin_epoch` on, which a loop of your own calls before every epoch; until then it holds the
    first coordinates of the model.

    Args:
        model: the network.
        sparsity: share of coordinates left out, in [0, 1).
        samples: training examples scored per update; the released default is 1024.
        every: epochs between updates; the released default is 5.

    Raises:
        ConfigError: as `Mask`, no model, or a value out of range.
    """
    total = sum(p.numel() for _, p in trainable(model))
    if samples < 1 or every < 1:
        raise ConfigError(f"samples and every must be >= 1, not {samples} and {every}")
    return _Fisher(model, keep_count(total, sparsity), samples, every)


class _Dynamic(SparseMask):
    def __init__(
        self, model: nn.Module, count: int, drop_rate: float, every: int, epochs: int, seed: int
    ):
        super().__init__(model, torch.arange(1), "dynamic", seed)
        self._count, self._drop_rate, self._every, self._epochs = count, drop_rate, every, epochs
        self._epoch, self._due = 0, False
        self.select(torch.randperm(self.total, generator=self.generator)[:count])

    def begin_epoch(self, epoch: int, sample: Sample) -> None:
        """Have the first ascent of every `every`-th epoch drop and grow."""
        self._epoch, self._due = epoch, epoch % self._every == 0

    def observe(self, grads: Sequence[Tensor]) -> None:
        """Drop the live coordinates with the smallest |gradient|, grow as many dead ones."""
        if not self._due:
            return
        self._due = False
        changed = replaced(self._count, self.total, self._drop_rate, self._epoch, self._epochs)
        live = self.flat
        size = torch.cat([g.detach().abs().flatten().cpu() for g in grads])
        kept = live[size.topk(self._count - changed).indices]
        dead = torch.ones(self.total, dtype=torch.bool)
        dead[live] = False  # what was just dropped cannot come back in the same update
        candidates = dead.nonzero().flatten()
        order = torch.randperm(len(candidates), generator=self.generator)
        self.select(torch.cat([kept, candidates[order[:changed]]]))

    def state_dict(self) -> dict:
        """Selected positions, the generator, and whether an update is due."""
        return super().state_dict() | {"epoch": self._epoch, "due": self._due}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self._epoch, self._due = state["epoch"], state["due"]


def replaced(count: int, total: int, drop_rate: float, epoch: int, epochs: int) -> int:
    """Coordinates SSAM-D drops and grows at an epoch (specification 2.2).

    dr = drop_rate (1 + cos(pi epoch / epochs)) / 2; int(count (1 - dr)) stay, and as many grow
    as were dropped, no more than there are dead ones.

    >>> replaced(count=100, total=1000, drop_rate=0.5, epoch=0, epochs=10)
    50
    """
    rate = drop_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
    return min(count - int(count * (1 - rate)), total - count)


def dynamic(
    model: nn.Module,
    *,
    sparsity: float,
    epochs: int,
    drop_rate: float = 0.5,
    every: int = 5,
    seed: int = 0,
) -> SparseMask:
    """SSAM-D: dynamic sparse training of the mask (Mi et al., 2022), as released.

    The first mask is random. At the first ascent of every `every`-th epoch the live coordinates
    with the smallest |gradient| are dropped and as many dead ones grow at random, in force from
    the next ascent on (specification 2.2, `replaced`). A loop of your own calls `begin_epoch`
    before every epoch; without it the mask stays as it is.

    Args:
        model: the network.
        sparsity: share of coordinates left out, in [0, 1).
        epochs: of the run, for the cosine of the drop rate.
        drop_rate: share of live coordinates dropped at epoch 0, in [0, 1].
        every: epochs between updates.
        seed: of the first mask and of what grows.

    Raises:
        ConfigError: as `Mask`, no model, or a value out of range.
    """
    total = sum(p.numel() for _, p in trainable(model))
    if not 0 <= drop_rate <= 1 or every < 1 or epochs < 1:
        raise ConfigError("dynamic needs 0 <= drop_rate <= 1, every >= 1 and epochs >= 1")
    return _Dynamic(model, keep_count(total, sparsity), drop_rate, every, epochs, seed)

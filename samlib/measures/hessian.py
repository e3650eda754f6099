"""Top eigenvalues and trace of the Hessian of the training loss, over the parameters of a mask.

    H = d^2 L / dw^2 on the mask,  L = mean cross-entropy over all examples given, in eval mode

(specification 5). Eigenvalues come from Lanczos iteration (ARPACK through scipy), traces from
random probes, both on products H v, each the derivative of <grad L, v>: two backward passes per
batch, and H itself is never formed. In eval mode batch norm uses its running statistics, so that L
is a mean over examples and the batches' Hessians average exactly, whatever their size.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from samlib.errors import ConfigError, SamlibError, choose
from samlib.measures.loss_at import (
    cross_entropy_at,
    gradients,
    masked_weights,
    require_count,
    require_examples,
)
from samlib.sam.masks.base import Mask
from samlib.sam.restore import evaluating

_VECTORS = 12  # that Lanczos iteration keeps: scipy's 20 take twice the products for one eigenvalue
_WHICH = {"algebraic": "LA", "magnitude": "LM"}


class NotConverged(SamlibError):
    """Lanczos iteration did not reach its tolerance within the products allowed."""


def top_eigenvalues(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    mask: Mask,
    k: int = 1,
    *,
    by: Literal["algebraic", "magnitude"] = "algebraic",
    batch_size: int = 256,
    tolerance: float = 1e-3,
    max_products: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """The k largest eigenvalues of the masked Hessian, in descending order.

    Products are taken in the model's precision and averaged over batches in float64, as the
    Lanczos vectors are. In float32 a tolerance below about 1e-5 may not be reached.

    Args:
        model: a classifier; weights, buffers, `.grad` and modes are left as they are.
        inputs: examples, (n, ...).
        labels: their classes, int64 of shape (n,).
        mask: the parameters of H, whole ones of this model.
        k: how many, fewer than the mask has coordinates.
        by: "algebraic": the most positive ones, as sharpness is usually meant; negative only
            where fewer than k are not. "magnitude": the largest |lambda|, signs kept: in an
            untrained network the largest may be negative.
        batch_size: examples per product; changes memory and speed, not the result.
        tolerance: relative accuracy of the eigenvalues, > 0.
        max_products: Hessian-vector products over all examples after which to give up.
        seed: of the start vector.

    Returns:
        float64 array of shape (k,), descending in the value or in |value|.

    Raises:
        ConfigError: a value out of range, data or mask that do not fit the model, or a Hessian
            that is not finite.
        NotConverged: max_products did not suffice.
    """
    from scipy.sparse import linalg  # slow to import, needed here only: not by every worker

    choose("order of eigenvalues", by, _WHICH)
    for name, value in (("k", k), ("batch_size", batch_size), ("max_products", max_products)):
        require_count(name, value)
    if not (isinstance(tolerance, float) and 0 < tolerance < 1):
        raise ConfigError(f"tolerance must be between 0 and 1, not {tolerance!r}")
    require_examples(inputs, labels)
    weights = masked_weights(model, mask)
    if k >= mask.count:
        raise ConfigError(f"k = {k} is too many: the mask has {mask.count} coordinates")
    done = 0

    def product(v: np.ndarray) -> np.ndarray:
        nonlocal done
        if done == max_products:
            raise NotConverged(_advice(max_products, tolerance))
        done += 1
        Hv = _hessian_vector(model, weights, inputs, labels, v, batch_size)
        if not np.isfinite(Hv).all():
            raise ConfigError("the Hessian is not finite at the model's weights")
        return Hv

    operator = linalg.LinearOperator((mask.count, mask.count), matvec=product, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(mask.count)
    with evaluating(model):
        try:
            found = linalg.eigsh(
                operator,
                k,
                which=_WHICH[by],
                v0=start,
                ncv=min(mask.count, max(2 * k + 1, _VECTORS)),
                tol=tolerance,
                maxiter=max_products,  # restarts, of several products each: `product` gives up
                return_eigenvectors=False,
            )
        except linalg.ArpackError as error:
            # ARPACK calls it a bad start vector when H = 0.
            if not (isinstance(error, linalg.ArpackNoConvergence) or product(start).any()):
                return np.zeros(k)
            raise NotConverged(_advice(done, tolerance)) from error
    order = np.argsort(-found if by == "algebraic" else -np.abs(found))
    return found[order]


def _advice(products: int, tolerance: float) -> str:
    return (
        f"eigenvalues did not reach tolerance {tolerance:g} within {products} products with the "
        "Hessian; allow more (max_products) or a larger tolerance"
    )


def _hessian_vector(
    model: nn.Module,
    weights: dict[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    v: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """H v over the weights, both float64 vectors in their order."""
    there = {name: w.clone().requires_grad_() for name, w in weights.items()}
    leaves = list(there.values())
    directions = _shaped(v, leaves)
    total = torch.zeros(len(v), dtype=torch.float64, device=leaves[0].device)
    # Flash and memory-efficient attention have no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
            grads = gradients(cross_entropy_at(model, there, x, y), leaves, True)
            curved = _derivative(grads, leaves, directions)
            flat = torch.cat([t.reshape(-1) for t in curved]).double()
            total += flat * (len(x) / len(inputs))
    return total.cpu().numpy()


def _shaped(v: np.ndarray, leaves: list[Tensor]) -> list[Tensor]:
    """A float64 vector over some weights as tensors of their shapes."""
    parts = torch.from_numpy(np.ascontiguousarray(v).ravel()).split([w.numel() for w in leaves])
    return [part.to(w).view(w.shape) for part, w in zip(parts, leaves, strict=True)]


def _derivative(
    grads: list[Tensor], leaves: list[Tensor], directions: list[Tensor]
) -> tuple[Tensor, ...]:
    """H v: the derivative of <grad L, v> in the leaves; the graph is kept for the next v."""
    slope = sum((g * d).sum() for g, d in zip(grads, directions, strict=True))
    return torch.autograd.grad(
        slope, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def traces(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    mask: Mask,
    *,
    probes: int = 20,
    batch_size: int = 256,
    seed: int = 0,
) -> np.ndarray:
    """Estimates of the trace of H, split by the mask's tensors.

        tr(H_l) = E[v_l . (H v)_l],  every coordinate of v +1 or -1 with equal chance

    with l the coordinates of one tensor and H_l their block of H (Hutchinson, 1989, "A stochastic
    estimator of the trace of the influence matrix for Laplacian smoothing splines"). All tensors
    share the probes, so that what couples them is noise in each estimate: over fewer tensors it
    is more exact.

    Args:
        model, inputs, labels, mask, batch_size: as in `top_eigenvalues`.
        probes: how many v.
        seed: of the probes.

    Returns:
        float64 array (probes, entries of the mask): the mean over probes estimates tr(H_l), and
        the sum over entries tr(H).

    Raises:
        ConfigError: as `top_eigenvalues`.
    """
    for name, value in (("probes", probes), ("batch_size", batch_size)):
        require_count(name, value)
    require_examples(inputs, labels)
    there = {n: w.clone().requires_grad_() for n, w in masked_weights(model, mask).items()}
    leaves = list(there.values())
    found = np.zeros((probes, len(mask.entries)))
    # Flash and memory-efficient attention have no second derivative.
    with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
            grads = gradients(cross_entropy_at(model, there, x, y), leaves, True)
            draw = np.random.default_rng(seed)  # the same probes for every batch
            for probe in found:
                v = _shaped(draw.choice((-1.0, 1.0), mask.count), leaves)
                Hv = _derivative(grads, leaves, v)
                terms = torch.stack([(a * b).sum() for a, b in zip(v, Hv, strict=True)])
                probe += terms.double().cpu().numpy() * (len(x) / len(inputs))
    if not np.isfinite(found).all():
        raise ConfigError("the Hessian is not finite at the model's weights")
    return found

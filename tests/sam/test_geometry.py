"""Geometries: every variant against the formula written out densely, in float64."""

import math

import numpy as np
import pytest
import torch
from conftest import one_line

from samlib import geometry
from samlib.errors import ConfigError
from samlib.sam.geometry import VARIANTS, by_name

SHAPES = {
    "conv.weight": (4, 3, 3, 3),
    "norm.weight": (4,),
    "norm.bias": (4,),
    "pos_embed": (1, 5, 2),
    "fc.weight": (6, 4),
    "fc.bias": (6,),
}
NAMES = list(SHAPES)
ETAS = (0.0, 0.01, 0.7)


def draw(seed=0):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0.1, 1, shape) for shape in SHAPES.values()]
    grads = [rng.normal(0, 0.5, shape) for shape in SHAPES.values()]
    return weights, grads


def tensors(arrays):
    return [torch.from_numpy(a.copy()) for a in arrays]


def dense(name, weights, grads, rho, eta):
    """T_w and eps as flat float64 vectors, from the table of specification 1.1 and 1.3."""
    T = []
    for tensor, w, g in zip(NAMES, weights, grads, strict=True):
        if name == "l2" or (name.endswith("_orig") and "weight" not in tensor):
            t = np.ones_like(w)
        elif name.startswith("elementwise"):
            t = np.abs(w) + eta
        elif name.startswith("layerwise"):
            t = np.full_like(w, math.sqrt((w**2).sum()) + eta)
        else:
            t = 1 / np.sqrt(1 + eta * g**2)
        T.append(t.ravel())
    T, g = np.concatenate(T), np.concatenate([x.ravel() for x in grads])
    if "linf" in name:
        return T, rho * T * np.sign(g)
    return T, rho * T**2 * g / math.sqrt(((T * g) ** 2).sum())


def step(variant, weights, grads, rho=0.3, norm=None):
    w, g = tensors(weights), tensors(grads)
    eps = variant.eps(rho, variant.T(NAMES, w, g), g, norm)
    assert [e.shape for e in eps] == [x.shape for x in w]
    assert [e.dtype for e in eps] == [x.dtype for x in w]
    return np.concatenate([e.numpy().ravel() for e in eps])


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_its_formula(name, eta):
    weights, grads = draw()
    T, eps = dense(name, weights, grads, 0.3, eta)
    got = step(by_name(name, eta), weights, grads)
    np.testing.assert_allclose(got, eps, rtol=1e-12, atol=0)
    radius = np.abs(got / T).max() if "linf" in name else np.linalg.norm(got / T)
    assert radius == pytest.approx(0.3, rel=1e-12)


OF_THE_PAPER = [
    "l2",
    "elementwise_l2",
    "elementwise_l2_orig",
    "elementwise_linf",
    "elementwise_linf_orig",
    "layerwise_l2",
    "layerwise_l2_orig",
    "fisher",
]


def test_variants_of_the_paper_come_first_and_have_these_defaults():
    assert list(VARIANTS)[: len(OF_THE_PAPER)] == OF_THE_PAPER
    for name in OF_THE_PAPER:
        assert by_name(name) is VARIANTS[name]
        assert VARIANTS[name].eta == (1 if name == "fisher" else 0)


def test_fisher_without_eta_is_sam_and_with_eta_is_not():
    sam, without, with_eta = (
        step(by_name(name, eta), *draw()) for name, eta in (("l2", 0), ("fisher", 0), ("fisher", 1))
    )
    np.testing.assert_allclose(without, sam, rtol=1e-12)
    assert np.abs(with_eta - sam).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", VARIANTS)
def test_zero_gradient_gives_a_zero_step(name, dtype):
    variant = by_name(name)
    w = [t.to(dtype) for t in tensors(draw()[0])]
    g = [torch.zeros_like(t) for t in w]
    eps = variant.eps(0.3, variant.T(NAMES, w, g), g)
    assert all(torch.equal(e, z) for e, z in zip(eps, g, strict=True))


@pytest.mark.parametrize("name", ["elementwise_l2", "elementwise_linf", "layerwise_l2"])
def test_zero_weights_move_only_with_eta_or_in_orig(name):
    weights, grads = draw()
    weights[2][:] = 0  # a freshly initialised beta (specification 1.2, quirk 2)
    starts = np.cumsum([0, *(w.size for w in weights)])
    beta = slice(starts[2], starts[3])
    assert (step(by_name(name), weights, grads)[beta] == 0).all()
    assert (step(by_name(name, 0.01), weights, grads)[beta] != 0).all()
    assert (step(by_name(f"{name}_orig"), weights, grads)[beta] != 0).all()


def test_layerwise_T_is_one_scalar_per_tensor():
    weights, grads = draw()
    T = by_name("layerwise_l2", 0.5).T(NAMES, tensors(weights), tensors(grads))
    assert [t.shape for t in T] == [()] * len(NAMES)
    np.testing.assert_allclose(
        [t.item() for t in T], [np.sqrt((w**2).sum()) + 0.5 for w in weights]
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_a_norm_from_outside_replaces_the_own_one(name):
    weights, grads = draw()
    own = step(by_name(name), weights, grads)
    T, _ = dense(name, weights, grads, 0.3, by_name(name).eta)
    norm = np.linalg.norm(T * np.concatenate([g.ravel() for g in grads]))
    wider = step(by_name(name), weights, grads, norm=torch.tensor(4 * norm))
    np.testing.assert_allclose(wider, own if "linf" in name else own / 4, rtol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_inputs_are_left_alone(name):
    weights, grads = draw()
    w, g = tensors(weights), tensors(grads)
    variant = by_name(name, 0.1)
    variant.eps(0.3, variant.T(NAMES, w, g), g)
    assert all(np.array_equal(a, b) for a, b in zip(w + g, weights + grads, strict=True))


@pytest.mark.parametrize("name", [n for n in VARIANTS if n.endswith("_orig")])
def test_orig_variants_step_as_sam_where_no_name_says_weight(name):
    g = tensors(draw()[1])[2:4]
    w = tensors(draw()[0])[2:4]
    got = by_name(name).eps(0.3, by_name(name).T(["norm.bias", "pos_embed"], w, g), g)
    norm = math.sqrt(sum(x.square().sum() for x in g))
    for e, x in zip(got, g, strict=True):
        torch.testing.assert_close(e, 0.3 * (x.sign() if "linf" in name else x / norm))


@pytest.mark.parametrize("name", ["output_scales", "input_scales"])
def test_channel_scales_are_those_of_whole_weights(name):
    scales, (w, g) = by_name(name), (tensors(draw()[i])[:1] for i in (0, 1))
    with pytest.raises(ConfigError, match="channel scales are those of whole") as caught:
        scales.eps(0.3, [t.flatten() for t in w], [t.flatten() for t in g])
    one_line(caught)
    own = scales.eps(0.3, scales.T(["conv.weight"], w, g), g)
    wider = scales.eps(0.3, w, g, norm=2 * scales.norm(w, g))
    torch.testing.assert_close(wider, [e / 2 for e in own])


@pytest.mark.parametrize("eta", [-1e-9, math.nan, math.inf, -math.inf])
def test_bad_eta(eta):
    for make in (lambda: by_name("fisher", eta), lambda: geometry.ElementwiseL2(eta=eta)):
        with pytest.raises(ConfigError, match="eta must be finite and >= 0") as caught:
            make()
        one_line(caught)


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(ConfigError, match=r"unknown geometry 'asam'; valid: l2, .*fi") as caught:
        by_name("asam")
    one_line(caught)

"""Controls beside the family: who feels the perturbed gradient, and SAM as a penalty."""

import pytest
import torch
from conftest import closure_of, flat, one_line, selected, small_net, some_coordinates
from member_run import BATCHES, choosing, group_norm, same

from samlib import geometry, masks
from samlib.errors import ConfigError
from samlib.sam import source
from samlib.sam.controls import Felt, Penalty
from samlib.sam.descent import Descent
from samlib.sam.perturbation import Perturbation
from samlib.sam.step import sam_step
from samlib.sam.when import Every


@pytest.mark.parametrize("mask", [some_coordinates, choosing])
@pytest.mark.parametrize("by", ["mask", "others"])
def test_who_feels_the_perturbed_gradient_is_one_side_of_the_mask(by, mask):
    found = {}
    for name, rho, descent in (("g", 0.0, None), ("there", 0.3, None), ("u", 0.3, Felt(by))):
        net = small_net(torch.float64, norm=group_norm)
        perturbation = Perturbation(geometry.L2(), rho, mask(net))
        on = selected(perturbation.mask)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        options = {} if descent is None else {"descent": descent}
        sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, **options)
        found[name] = flat(p.grad for p in net.parameters())
    felt = on if by == "mask" else ~on
    same(found["u"], torch.where(felt, found["there"], found["g"]))
    assert not torch.equal(found["there"][felt], found["g"][felt])


def test_the_penalty_is_what_sam_adds_to_the_gradient_to_first_order():
    """(g~ - g) / rho and (u - g) / rho differ by O(rho), on all parameters."""
    found = {}
    for rho in (1e-5, 0.0):
        for descent in (Descent(), Penalty()):
            net = small_net(torch.float64, norm=group_norm)
            perturbation = Perturbation(geometry.L2(), rho, masks.only_norm(net))
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, descent=descent)
            found[rho, descent.name] = flat(p.grad for p in net.parameters())
    g = found[0.0, "Descent"]
    same(found[0.0, "Penalty"], g)
    added = {name: (found[1e-5, name] - g) / 1e-5 for name in ("Descent", "Penalty")}
    same(added["Penalty"], added["Descent"], atol=1e-4 * added["Descent"].abs().max().item())
    assert added["Penalty"].abs().max() > 1e-3


def test_a_penalty_takes_sams_own_step_only():
    net = small_net(torch.float64, norm=group_norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for parts, said in (
        ({"source": source.Last()}, "not Last and When"),
        ({"when": Every(2)}, "not Gradient and Every"),
        ({"radius_over": "all"}, "radius_over 'mask'"),
    ):
        perturbation = Perturbation(geometry.L2(), 0.3, masks.only_norm(net), **parts)
        with pytest.raises(ConfigError, match=said) as caught:
            sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, descent=Penalty())
        one_line(caught)


def test_a_penalty_wants_a_gradient_on_its_mask_as_sam_does():
    net = small_net(torch.float64, norm=group_norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    perturbation = Perturbation(geometry.L2(), 0.3, masks.only_norm(net))
    with pytest.raises(ConfigError, match="no gradient in any parameter of the mask") as caught:
        sam_step(lambda: net.fc.weight.sum(), optimizer, perturbation, descent=Penalty())
    one_line(caught)
    net.norm1.weight.requires_grad_(False)
    with pytest.raises(ConfigError, match="was frozen after its mask was made"):
        sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, descent=Penalty())


def test_a_penalty_of_several_workers_is_on_their_common_gradient():
    found = []
    for average in (None, lambda grads: torch._foreach_mul_(grads, -1.0)):
        net = small_net(torch.float64, norm=group_norm)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        perturbation = Perturbation(geometry.L2(), 0.3, masks.only_norm(net), average=average)
        g = flat(torch.autograd.grad(closure_of(net, *BATCHES[0])(), list(net.parameters())))
        sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, descent=Penalty())
        found.append(flat(p.grad for p in net.parameters()) - g)
    same(found[0], -found[1])
    assert found[0].norm() > 0.01

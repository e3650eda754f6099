"""OBF: the loss it ascends, and its step."""

import pytest
import torch
import torch.nn.functional as F
from conftest import closure_of, flat, one_line, small_net
from member_run import BATCHES, Run, group_norm, same, stepped

from samlib import geometry, masks
from samlib.errors import ConfigError
from samlib.sam import family, source
from samlib.sam.perturbation import Perturbation
from samlib.sam.step import sam_step


def test_obf_with_a_of_one_is_minus_the_cross_entropy_to_the_uniform():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 0])
    forget = source.obf(logits, labels, lam=0.0, probabilities="softmax")  # lam 0: a = 1
    got = torch.autograd.grad(forget, logits)[0]
    uniform = torch.full_like(logits, 0.25)
    expected = torch.autograd.grad(-F.cross_entropy(logits, uniform), logits)[0]
    same(got, expected)


def test_obf_at_the_uniform_has_no_gradient():
    logits = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    forget = source.obf(logits, torch.tensor([0, 1, 2]), lam=0.0, probabilities="softmax")
    same(torch.autograd.grad(forget, logits)[0], torch.zeros(3, 4, dtype=torch.float64))


def test_obf_with_a_of_zero_raises_the_mean_logit_over_the_true_one():
    logits = torch.randn(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    true = logits.gather(1, labels[:, None])[:, 0]
    assert source.obf(logits, labels, gamma=0.0).item() == pytest.approx(
        (logits.mean(1) - true).mean().item()
    )


def test_obf_takes_no_other_probabilities_than_it_names():
    logits, labels = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    with pytest.raises(ConfigError, match="unknown probabilities 'Sigmoid'") as caught:
        source.obf(logits, labels, probabilities="Sigmoid")
    one_line(caught)
    with pytest.raises(ConfigError, match="lam must be a number"):
        source.obf(logits, labels, lam=1.0)


def test_the_members_options_reach_what_it_ascends():
    run = Run("obf", lam=0.1, gamma=0.5, probabilities="softmax")
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    _, ascended = family.losses(run.member, logits, labels)
    expected = source.obf(logits, labels, lam=0.1, gamma=0.5, probabilities="softmax")
    assert torch.equal(ascended, expected)
    assert not torch.equal(ascended, source.obf(logits, labels))


def test_another_loss_that_is_the_same_is_sam():
    net = small_net(torch.float64, norm=group_norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    step = Perturbation(geometry.L2(), 0.3, masks.all_parameters(net), source=source.OtherLoss())
    for t in (0, 1):
        closure = closure_of(net, *BATCHES[t])
        sam_step(lambda c=closure: (loss := c(), loss), optimizer, step)
    assert torch.equal(flat(net.parameters()), stepped(0, 1)[0])

"""The step of compiled models and closures."""

import pytest
import torch
import torch.nn.functional as F
from two_norms import assert_a_step_is_right, batch, loss_of, two_norms

from samlib import masks


def in_place(net):
    net.compile(backend="aot_eager")
    return net


@pytest.mark.parametrize(
    "form", [lambda net: torch.compile(net, backend="aot_eager"), in_place], ids=["wrapped", "own"]
)
@pytest.mark.parametrize("make", [masks.only_norm, masks.all_parameters])
def test_compiled_models_are_silent_and_right(form, make):
    torch.compiler.reset()
    net, x, y = two_norms(), *batch()
    compiled = form(net)
    assert_a_step_is_right(net, make(net), loss=lambda: F.cross_entropy(compiled(x), y))


@pytest.mark.parametrize("make", [masks.only_norm, masks.all_parameters])
def test_a_compiled_closure_is_silent_and_right(make):
    torch.compiler.reset()
    net = two_norms()
    closure = torch.compile(loss_of(net, *batch()), backend="aot_eager")
    assert_a_step_is_right(net, make(net), loss=closure)

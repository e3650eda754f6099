"""What is saved comes back bit for bit, in whatever layout and dtype it is."""

import ast
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from samlib.files import project_root
from samlib.provenance import tf32
from samlib.sam.restore import Saved, evaluating, full_precision, take

LAYOUTS = {
    "contiguous": lambda: torch.rand(3, 4, 5, 2),
    "channels last": lambda: torch.rand(3, 4, 5, 2).to(memory_format=torch.channels_last),
    "permuted": lambda: torch.rand(5, 3, 2, 4).permute(1, 3, 0, 2),
    "with gaps": lambda: torch.rand(3, 9, 5, 2)[:, ::2][:, :4],
    "in the middle of a storage": lambda: torch.rand(2, 4, 5, 2, 3)[1].permute(3, 0, 1, 2),
}


class Calls(TorchDispatchMode):
    """Names of the aten calls made inside the block, with the dtypes of lists they are given."""

    def __init__(self):
        super().__init__()
        self.names, self.dtypes = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._schema.name.removeprefix("aten::"))
        if args and isinstance(args[0], list):
            self.dtypes.append({t.dtype for t in args[0]})
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_coordinates_are_logical_and_come_back(layout):
    tensor = LAYOUTS[layout]()
    index = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(0))[:37]
    before, storage = tensor.clone(), tensor.untyped_storage().tolist()
    expected = before.reshape(-1).clone()
    expected[index] += torch.arange(37.0)
    assert torch.equal(take(tensor, index), before.reshape(-1)[index])
    saved = Saved([tensor], [index])
    saved.add([torch.arange(37.0)])
    assert torch.equal(tensor.reshape(-1), expected)
    saved.restore()
    assert tensor.untyped_storage().tolist() == storage, "nor is anything beside it written"


def test_an_index_serves_tensors_of_different_layouts():
    """As a weight and its gradient may have, or a weight before and after `model.to`."""
    index = torch.tensor([1, 7, 30])
    tensors = [make() for make in LAYOUTS.values()] * 2
    for tensor in tensors:
        assert torch.equal(take(tensor, index), tensor.reshape(-1)[index])


def test_an_expanded_gradient_is_read_at_its_coordinates():
    gradient = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 4, 5, 2)
    assert take(gradient, torch.tensor([0, 41, 119])).tolist() == [0.0, 1.0, 2.0]


def test_places_are_looked_up_once():
    tensor, index = LAYOUTS["channels last"](), torch.arange(7)
    take(tensor, index)
    with Calls() as calls:
        take(tensor, index)
        Saved([tensor], [index]).restore()
    assert "remainder" not in calls.names
    assert "clone" not in calls.names, "nor is the whole tensor copied"


def test_tensors_are_copied_by_dtype():
    """The way a GPU does it in one kernel; statistics and counts come in turns."""
    tensors = []
    for number in range(3):
        tensors += [torch.full((2,), float(number)), torch.tensor(number)]
    before = [t.clone() for t in tensors]
    saved = Saved(tensors)
    for t in tensors:
        t.add_(1)
    with Calls() as calls:
        saved.restore()
    assert calls.names == ["_foreach_copy_"] * 2
    assert calls.dtypes == [{torch.float32}, {torch.int64}]
    assert all(map(torch.equal, before, tensors))


def test_nothing_saved_is_nothing_to_restore():
    Saved([]).restore()


def test_evaluation_is_in_full_precision_and_leaves_the_switches_as_they_were():
    model = nn.Linear(2, 2)
    before = tf32()
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with evaluating(model):
            assert tf32() == {"convolutions": False, "products": False}
            assert not model.training
        assert tf32() == {"convolutions": True, "products": True}
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before["products"]
    with pytest.raises(ZeroDivisionError), full_precision():
        raise ZeroDivisionError
    assert tf32() == before


PRECISIONS = """
import torch
def places():
    b = torch.backends
    found = [getattr(p, "fp32_precision") for p in (b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul)]
    try:
        return [*found, torch.get_float32_matmul_precision()]
    except RuntimeError:
        return [*found, "mixed"]
{switch}
from samlib.sam.restore import full_precision
before = places()
with full_precision():
    inside = places()
print(before == places(), inside)
"""


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="names of PyTorch 2.9")
@pytest.mark.parametrize(
    "switch",
    [
        "",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.set_float32_matmul_precision('medium')",
        "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
        "torch.backends.cudnn.rnn.fp32_precision = 'ieee'",
        "torch.backends.cudnn.allow_tf32 = False",
    ],
)
def test_full_precision_is_full_from_every_state_of_the_switches_and_restores_it(switch):
    """In a process of its own: some of the states cannot be left again by their own names."""
    code = PRECISIONS.replace("{switch}", switch)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(project_root())},
    )
    kept, inside = done.stdout.strip().split(" ", 1)
    assert kept == "True"
    assert ast.literal_eval(inside)[:3] == ["ieee"] * 3

"""The page on other people's training loops: what it shows is run, to the step's own formula.

The parts for Lightning, accelerate and the Hugging Face Trainer want the extra `frames`.
"""

import copy
import importlib.util
import json
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from samlib import Perturbation, geometry, masks, sam_step
from samlib.errors import ConfigError
from samlib.files import project_root

RHO, LR = 0.5, 0.1
PAGE = project_root() / "notebooks" / "frames.ipynb"


def shown(word, tmp_path):
    """The page's block of code that imports a word, as a module."""
    cells = json.loads(PAGE.read_bytes())["cells"]
    text = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.S) if word in b]
    path = tmp_path / "shown.py"
    path.write_text(block)
    spec = importlib.util.spec_from_file_location("shown", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)).double()


def batches(n):
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 8, dtype=torch.float64, generator=draw), torch.arange(8) % 3)
        for _ in range(n)
    ]


def perturbed_gradient(net, x, y):
    def gradient(weights):
        weights = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
        loss = F.cross_entropy(functional_call(net, weights, (x,)), y)
        return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))

    weights, norm = dict(net.named_parameters()), ("1.weight", "1.bias")
    first = gradient(weights)
    length = torch.cat([first[n] for n in norm]).norm()
    away = {n: w + RHO * first[n] / length if n in norm else w for n, w in weights.items()}
    return gradient(away)


def reference(parts, every=1):
    """SGD along the mean of the gradients at w + eps of every so many batches."""
    net, held = network(), []
    for x, y in parts:
        held.append(perturbed_gradient(net, x, y))
        if len(held) == every:
            with torch.no_grad():
                for n, p in net.named_parameters():
                    p -= LR * sum(g[n] for g in held) / every
            held.clear()
    return net


def assert_trained(net, want):
    for p, q in zip(net.parameters(), want.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore")  # others' own
def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")
    net, parts = network(), batches(3)
    model = shown("lightning", tmp_path).Classifier(net)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, **options
    )
    trainer.fit(model, torch.utils.data.DataLoader(parts, batch_size=None))
    assert_trained(net, reference(parts))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("every", [1, 2])
def test_accelerate(every, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    net, parts = network(), batches(4)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=every)
    loader = torch.utils.data.DataLoader(parts, batch_size=None)
    model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=LR))
    shown("accelerator", tmp_path).train(accelerator, model, optimizer, loader)
    assert_trained(net, reference(parts, every))


@pytest.mark.filterwarnings("ignore")
def test_accelerates_optimizer_is_refused_by_sam_step_where_it_accumulates():
    """Its first micro-batch of two leaves nothing to see kept."""
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    net, ((x, y),) = network(), batches(1)
    model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=LR))
    perturbation = Perturbation(geometry.L2(), RHO, masks.only_norm(net))
    loss = lambda: F.cross_entropy(model(x), y)  # noqa: E731
    with accelerator.accumulate(model), pytest.raises(ConfigError, match="use `perturbed`"):
        sam_step(loss, optimizer, perturbation, backward=accelerator.backward)


class Classified(nn.Module):
    """A network as the Trainer takes it: the loss comes first."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, labels):
        return {"loss": F.cross_entropy(self.net(x), labels)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("every", [1, 2])
def test_the_hugging_face_trainer(every, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    net, parts = network(), batches(4)
    model = Classified(net)
    rows = [{"x": a, "labels": b} for x, y in parts for a, b in zip(x, y, strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=every,
        num_train_epochs=1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    trainer = shown("transformers", tmp_path).SamTrainer(
        model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, None)
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
    before = copy.deepcopy(net.state_dict())
    trainer.train()
    assert not torch.equal(before["0.weight"], net.state_dict()["0.weight"])
    assert_trained(net, reference(parts, every))

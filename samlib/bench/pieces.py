"""What a step is made of, each piece alone, and the floor: what of it no step can leave out."""

import torch
from torch import Tensor

from samlib.bench.timing import Step, closure_of, random_run
from samlib.bench.whole_steps import MASKS
from samlib.sam import geometry, masks
from samlib.sam.step import Perturbation, perturbed
from samlib.trainer.config import RunConfig


class _Free(torch.autograd.Function):
    """A loss that costs nothing, its gradient given beforehand."""

    @staticmethod
    def forward(ctx, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx, _) -> tuple:
        return (None, *ctx.gradients)


def pieces(config: RunConfig, device: torch.device) -> dict[str, Step]:
    """What a step is made of, each alone.

    `forward`; `forward and backward`, as the base optimizer needs it; `gradient of <mask>`, a
    forward pass and the backward pass to the mask alone; `perturb <mask>`: eps from a gradient
    that is there, weights moved and put back; `reused by <mask>`, the forward pass up to its first
    stage, where earlier ones are left alone; `optimizer`, the step with gradients that are there.
    """
    run = random_run(config, device, config.batch_size)
    closure, optimizer = closure_of(run), run.optimizer

    def forward_and_backward() -> None:
        optimizer.zero_grad()
        closure().backward()

    def gradient(tensors: list[Tensor]) -> Step:
        return lambda: torch.autograd.grad(closure(), tensors)

    def perturb(mask: masks.Mask, tensors: list[Tensor]) -> Step:
        perturbation = Perturbation(geometry.L2(), 0.1, mask)
        given = [torch.full_like(t, 1e-3) for t in tensors]

        def step() -> None:
            with perturbed(lambda: _Free.apply(given, *tensors), perturbation):
                pass

        return step

    def reused(stages: int) -> Step:
        x = run.inputs(run.splits.train_images)

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                run.model.up_to(x, stages)

        return step

    stepping = random_run(config, device, config.batch_size)
    closure_of(stepping)().backward()
    found: dict[str, Step] = {
        "forward": closure,
        "forward and backward": forward_and_backward,
        "optimizer": lambda: stepping.optimizer.step(),
    }
    for name in MASKS:
        mask = masks.MASKS[name](run.model, config)
        tensors = [entry.parameter for entry in mask.entries]
        found[f"gradient of {name}"] = gradient(tensors)
        found[f"perturb {name}"] = perturb(mask, tensors)
        if mask.untouched:
            found[f"reused by {name}"] = reused(mask.untouched)
    return found


def floor(took: dict[str, list[float]], mask: str | None) -> list[float]:
    """Round by round, what a step cannot leave out: its gradients and the optimizer.

    What the second pass can take over from the first is counted once. None is the base optimizer,
    whose step should come to its floor: pieces add up.
    """
    total = [a + b for a, b in zip(took["forward and backward"], took["optimizer"], strict=True)]
    if mask is None:
        return total
    once = took.get(f"reused by {mask}", [0.0] * len(total))
    first = took[f"gradient of {mask}"]
    return [a + b - c for a, b, c in zip(total, first, once, strict=True)]

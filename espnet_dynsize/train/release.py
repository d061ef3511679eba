"""A loss without its graph, which gives the same gradients."""

from collections.abc import Iterable

import torch


class _Released(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss: torch.Tensor, gradients: list[torch.Tensor], *inputs):
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx, scale: torch.Tensor):
        # `scale` is what the trainer does to the loss: 1 / accum_grad, number of ranks.
        return None, None, *(scale * gradient for gradient in ctx.gradients)


def release(loss: torch.Tensor, inputs: Iterable[torch.Tensor]) -> torch.Tensor:
    """Compute the gradients of `loss` now, and free the memory of its graph.

    Args:
        loss: A scalar.
        inputs: What gets gradients from it: parameters, and tensors in its graph before
            which the graph is left as it is.

    Returns:
        The loss, which hands these gradients to `inputs` in its backward pass.
    """
    inputs = [x for x in inputs if x.requires_grad]
    # Not `backward()`: the parameters' gradients must arrive with the others', in the
    # trainer's own backward pass, where DDP and gradient scaling expect them.
    # Layers that the subnet lacks are not used.
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    used = [(x, g) for x, g in zip(inputs, gradients) if g is not None]
    return _Released.apply(loss.detach(), [g for _, g in used], *(x for x, _ in used))


def scales_gradients() -> bool:
    """Whether gradients are too small for their type unless the trainer scales them."""
    # `release` differentiates a loss that the GradScaler has not scaled yet: float16
    # would lose what is below 6e-8.
    half = torch.get_autocast_dtype("cuda") is torch.float16
    return half and torch.is_autocast_enabled("cuda")

"""Steps of the host that have no useful gradient, and the gradients used in their place.

- Rounding to 8 bits is constant almost everywhere; its gradient is passed straight through.
- Clipping to 0..1 has no gradient where it saturates. A pixel that the VAE draws at 1.001 could
  then never be darkened. So the gradient passes where a descent step moves the value back
  towards the range, and is zero (as it truly is) where the step would push it further out.
"""

import torch


class _ClampInward(torch.autograd.Function):
    """Clamp whose gradient, where it saturates, passes only if descent moves the value back."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, low: float, high: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.low = low
        ctx.high = high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (x,) = ctx.saved_tensors
        outward = ((x < ctx.low) & (grad > 0)) | ((x > ctx.high) & (grad < 0))
        return grad.masked_fill(outward, 0.0), None, None


def clamp_inward(x: torch.Tensor, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """`x.clamp(low, high)` that a minimised loss can still pull back into the range.

    The sign of the incoming gradient decides, so the loss must be one that is descended on.
    """
    return _ClampInward.apply(x, low, high)


def with_gradient_of(value: torch.Tensor, smooth: torch.Tensor) -> torch.Tensor:
    """`value` to the last bit, with the gradient of `smooth`."""
    return value.detach() + (smooth - smooth.detach())


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """A copy without history, which a loss may save for backward in inference mode too."""
    with torch.inference_mode(False):
        return tensor.detach().clone()

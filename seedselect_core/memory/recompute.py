"""Activations that are thrown away and computed again when the backward pass needs them.

Only a few latents a step are kept, so that activation memory does not depend on the number of steps
(Chen et al. 2016, arXiv 1604.06174). Checkpoints are of the non-reentrant kind, because some
samplers read intermediate predictions beside the model's return value, and a reentrant one would
lose that path.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch.autograd.function import once_differentiable

from ..host.calls import GuiderState, require_same
from ..host.session import OrdinaryViews, entered_again, function_modes
from ..host.weights import unviewed
from .blocks import Blocks
from .checkpoints import checkpointed
from .levels import Level
from .saved import Keeper


@dataclass(frozen=True)
class Recomputation:
    """What a prediction needs to be made again as it was made first.

    Attributes:
        state: what the guider remembers between calls.
        views: the ordinary views of inference tensors, the same in both passes.
        keeper: chooses what a recorded pass keeps.
        blocks: the model's, which are recomputed one by one where memory is short.
    """

    state: GuiderState
    views: OrdinaryViews
    keeper: Keeper
    blocks: Blocks


class CheckpointedGuider:
    """A guider whose every prediction is recomputed in the backward pass, unless it is kept.

    Args:
        on_call: gets the number of pictures of every prediction, recomputed ones included.
        exact: whether the prediction at a timestep [B] is differentiated; others are constants.
        level: what of a prediction is kept and what is made again.
        kept: whether the activations of the n-th prediction that is differentiated, counted from
            0, are kept.

    Attributes:
        differentiated: so many predictions were.
    """

    def __init__(
        self,
        guider: comfy.samplers.CFGGuider,
        recomputation: Recomputation,
        on_call: Callable[[int], None],
        exact: Callable[[torch.Tensor], bool],
        level: Level,
        kept: Callable[[int], bool],
    ):
        self.differentiated = 0
        self._guider = guider
        self._recomputation = recomputation
        self._on_call = on_call
        self._exact = exact
        self._level = level
        self._kept = kept

    def __getattr__(self, name: str):
        return getattr(self._guider, name)

    def __call__(self, x, timestep, model_options=None, seed=None):
        options = model_options or {}

        def predict(x, timestep):
            self._on_call(len(x))
            # In both passes, which PyTorch compares.
            with self._recomputation.blocks.apart(self._level.parts, self._recomputation.keeper):
                return self._guider(x, timestep, model_options=options, seed=seed)

        if not torch.is_grad_enabled() or not self._exact(timestep):
            with torch.no_grad():
                return predict(x, timestep)
        self.differentiated += 1
        if self._kept(self.differentiated - 1):
            with self._recomputation.keeper.kept("call"):
                return predict(x, timestep)
        if x.requires_grad and not timestep.requires_grad and _is_pure(self._guider, options):
            again = self._recorded_again()
            return _Recomputed.apply(x, timestep, predict, again, self._level.away)
        return self._checkpointed(predict, x, timestep)

    def _recorded_again(self) -> Callable[[], AbstractContextManager]:
        """Makes the contexts in which a prediction is made for its backward pass."""
        again = self._recomputation
        modes = function_modes()
        state = again.state.snapshot()
        name = f"call {self._level.parts}".rstrip()

        @contextlib.contextmanager
        def recorded():
            with (
                entered_again(modes),
                again.views.where_needed(),
                again.state.restored(state),
                again.keeper.recording(name, self._level.away),
            ):
                yield

        return recorded

    def _checkpointed(self, predict: Callable, x: torch.Tensor, timestep: torch.Tensor):
        recorded_again = self._recorded_again()
        first = None

        def predict_alike(x, timestep):
            nonlocal first
            if first is None:
                prediction = predict(x, timestep)
                first = _copy(prediction.detach(), self._level.away)
                return prediction
            with recorded_again():
                prediction = predict(x, timestep)
            require_same(prediction.detach(), first.to(prediction.device))
            return prediction

        unpacking = self._recomputation.keeper.unpacking
        return checkpointed(predict_alike, x, timestep, forward=unpacking)


class _Recomputed(torch.autograd.Function):
    """A prediction that is recorded in the backward pass only.

    It costs less than a checkpoint, whose first pass is recorded too, so that what leaves it beside
    its result has a gradient as well. Here nothing does.
    """

    @staticmethod
    def forward(ctx, x, timestep, predict, recorded_again, away):
        ctx.save_for_backward(x, timestep)
        ctx.predict = predict
        ctx.recorded_again = recorded_again
        prediction = unviewed(predict(x, timestep))
        ctx.first = _copy(prediction, away)
        return prediction

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, timestep = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            with ctx.recorded_again():
                prediction = ctx.predict(x, timestep)
            require_same(prediction.detach(), ctx.first.to(prediction.device))
            if not prediction.requires_grad:  # something hides it
                return torch.zeros_like(x), None, None, None, None
            return *torch.autograd.grad(prediction, x, gradient), None, None, None, None


def _copy(prediction: torch.Tensor, away: bool) -> torch.Tensor:
    return prediction.to("cpu", copy=True) if away else prediction.clone()


def _is_pure(guider: comfy.samplers.CFGGuider, options: dict) -> bool:
    """Whether a guider's prediction is all that its call gives: nothing in it may remember."""
    own = type(guider).__module__.startswith(("comfy.", "comfy_extras."))
    conds = [cond for conds in guider.conds.values() for cond in conds]
    plain = all(cond.get("control") is None and cond.get("hooks") is None for cond in conds)
    return own and plain and _is_data([options, guider.model_options])


def _is_data(value: Any) -> bool:
    """Whether nested containers hold numbers, names and tensors, and no functions or objects."""
    if isinstance(value, dict):
        return all(map(_is_data, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(_is_data, value))
    return value is None or isinstance(value, bool | int | float | str | torch.Tensor)


def recomputed(
    function: Callable, latent: torch.Tensor, keeper: Keeper, kept: bool = False
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """``function(latent)``, whose activations are thrown away and computed again when needed.

    Tensors made in inference mode that are no weights, as the mean and spread of a latent format,
    may take part.

    Args:
        keeper: knows the weights that ``function`` uses. Some models overwrite their activations.
        kept: keep them all the same.
    """
    if not torch.is_grad_enabled():
        return function(latent)
    views = OrdinaryViews()

    def call(latent):
        with views:
            return function(latent)

    if kept:
        with keeper.kept("pictures"):
            return call(latent)

    return checkpointed(
        call,
        latent,
        early_stop=True,
        forward=keeper.unpacking,
        again=lambda: keeper.recording("pictures"),
    )

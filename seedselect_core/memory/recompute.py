"""Activations that are thrown away and computed again when the backward pass needs them.

Only a few latents a step are kept, so that activation memory does not depend on the number of steps
(Chen et al. 2016, arXiv 1604.06174). Checkpoints are of the non-reentrant kind, because some
samplers read intermediate predictions beside the model's return value, and a reentrant one would
lose that path.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.samplers
import torch

from ..host.calls import GuiderState, require_same
from ..host.layers import protect_overwritten_activations, storages
from ..host.session import OrdinaryViews
from .blocks import Blocks
from .checkpoints import checkpointed


@dataclass(frozen=True)
class Recomputation:
    """What a prediction needs to be made again as it was made first.

    Attributes:
        state: what the guider remembers between calls.
        views: the ordinary views of inference tensors, the same in both passes.
        weights: addresses of memory that nobody writes to.
        blocks: the model's, which are recomputed one by one where memory is short.
    """

    state: GuiderState
    views: OrdinaryViews
    weights: set[int]
    blocks: Blocks


class CheckpointedGuider:
    """A guider whose every prediction is recomputed in the backward pass.

    Args:
        on_call: gets the number of pictures of every prediction, recomputed ones included.
        exact: whether the prediction at a timestep [B] is differentiated; others are constants.
        by_blocks: whether a call is made again block by block.
    """

    def __init__(
        self,
        guider: comfy.samplers.CFGGuider,
        recomputation: Recomputation,
        on_call: Callable[[int], None],
        exact: Callable[[torch.Tensor], bool],
        by_blocks: bool = False,
    ):
        self._guider = guider
        self._recomputation = recomputation
        self._on_call = on_call
        self._exact = exact
        self._by_blocks = by_blocks

    def __getattr__(self, name: str):
        return getattr(self._guider, name)

    def __call__(self, x, timestep, model_options=None, seed=None):
        again = self._recomputation

        def predict(x, timestep):
            self._on_call(len(x))
            # In both passes, which PyTorch compares.
            with again.blocks.apart() if self._by_blocks else contextlib.nullcontext():
                return self._guider(x, timestep, model_options=model_options or {}, seed=seed)

        if not torch.is_grad_enabled() or not self._exact(timestep):
            with torch.no_grad():
                return predict(x, timestep)
        state = again.state.snapshot()
        first = None

        def predict_alike(x, timestep):
            nonlocal first
            if first is None:
                prediction = predict(x, timestep)
                first = prediction.detach().clone()
                return prediction
            # The backward pass runs with the modes of the forward pass switched off.
            with (
                again.views,
                again.state.restored(state),
                protect_overwritten_activations(again.weights),
            ):
                prediction = predict(x, timestep)
            require_same(prediction.detach(), first)
            return prediction

        return checkpointed(predict_alike, x, timestep)


def recomputed(
    function: Callable, latent: torch.Tensor, modules: Sequence[torch.nn.Module]
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """``function(latent)``, whose activations are thrown away and computed again when needed.

    Tensors made in inference mode that are no weights, as the mean and spread of a latent format,
    may take part.

    Args:
        modules: those whose weights it uses. Some overwrite their activations.
    """
    if not torch.is_grad_enabled():
        return function(latent)
    views = OrdinaryViews.current()

    def call(latent):
        with views:
            return function(latent)

    def contexts():
        return contextlib.nullcontext(), protect_overwritten_activations(storages(modules))

    return checkpointed(call, latent, early_stop=True, context_fn=contexts)

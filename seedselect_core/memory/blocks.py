"""Repeated blocks of a model, each recomputed by itself inside the recomputation of a call.

While a call is made again for the backward pass, all its activations are alive at once. With every
block a checkpoint of its own inside that of the call, what is alive are the blocks' inputs and the
activations of one block (Chen et al. 2016, arXiv 1604.06174, nested once). It costs one more
forward pass.

Blocks are found by structure and not by a list of families: the elements of the model's lists of
modules. Where most of an element is made of further such lists (the levels of a UNet are lists of
lists), those are cut, so that a block is neither a whole level nor a single linear layer.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..host.calls import GuiderState
from ..host.layers import protect_overwritten_activations
from ..host.session import OrdinaryViews
from .checkpoints import checkpointed

# An element is cut further where its own blocks hold at least this share of its weights.
SHARE = 0.5
# Options of a transformer under which functions stand that may remember something.
REMEMBERING = ("patches", "patches_replace", "wrappers", "optimized_attention_override")


def repeated_blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Blocks of ``model`` that can be made again one by one, none inside another."""
    found = []
    listed = isinstance(model, torch.nn.ModuleList | torch.nn.Sequential)
    for child in model.children():
        inner = repeated_blocks(child)
        composite = any(True for _ in child.children())
        if listed and composite and _size(inner) < SHARE * _size([child]):
            found.append(child)
        else:
            found += inner
    return found


def _size(modules: list[torch.nn.Module]) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters())


class Blocks:
    """The blocks of a diffusion model, to be cut while one of its calls is recorded.

    Args:
        model: the diffusion model.
        state: what the guider remembers; patches may do so from block to block.
        views: the ordinary views of inference tensors.
        weights: addresses of memory that nobody writes to.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        state: GuiderState,
        views: OrdinaryViews,
        weights: set[int],
    ):
        self._blocks = repeated_blocks(model)
        self._state = state
        self._views = views
        self._weights = weights

    def __len__(self) -> int:
        return len(self._blocks)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Each block that is called is a checkpoint of its own."""
        with contextlib.ExitStack() as stack:
            for block in self._blocks:
                # An instance's own "forward" may be a node's.
                own = vars(block).get("forward")
                block.forward = self._checkpointed(block.forward)
                stack.callback(_put_back, block, own)
            yield

    def _checkpointed(self, forward: Callable) -> Callable:
        def cut(*args, **kwargs):
            leaves, structure = tree_flatten((args, kwargs))
            places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
            if not (torch.is_grad_enabled() and any(leaves[i].requires_grad for i in places)):
                return forward(*args, **kwargs)
            # PyTorch hands the tensors on to the checkpoint around this one only where they are
            # arguments; what a closure holds stays.
            tensors = [self._ordinary(leaves[i]) for i in places]
            rest = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
            state = self._state.snapshot() if _remembers(args, kwargs) else None
            given = [(args, kwargs)]

            def body(*tensors):
                # A block may overwrite its input, which is needed once more.
                if given:
                    own, named = given.pop()
                    own = [_own(value) for value in own]
                    return forward(*own, **{name: _own(value) for name, value in named.items()})
                with self._views, self._restored(state):
                    # Containers as they were; the host has gone on writing to its own.
                    again = list(rest)
                    for place, tensor in zip(places, tensors, strict=True):
                        again[place] = _own(tensor)
                    own, named = tree_unflatten(again, structure)
                    return forward(*own, **named)

            def contexts():
                return contextlib.nullcontext(), protect_overwritten_activations(self._weights)

            return checkpointed(body, *tensors, context_fn=contexts)

        return cut

    def _ordinary(self, tensor: torch.Tensor) -> torch.Tensor:
        """What PyTorch can save: asked by `is_inference`, since versions are those of the view."""
        return self._views.view(tensor) if tensor.is_inference() else tensor

    def _restored(self, state):
        return contextlib.nullcontext() if state is None else self._state.restored(state)


def _own(value):
    """A copy of a tensor of numbers, for code that overwrites what it is given."""
    numbers = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.clone() if numbers else value


def _remembers(args: tuple, kwargs: dict) -> bool:
    """Whether the options that a block is given hold functions that may remember something."""
    options = [value for value in (*args, *kwargs.values()) if isinstance(value, dict)]
    return any(given.get(name) for given in options for name in REMEMBERING)


def _put_back(block: torch.nn.Module, own: Callable | None) -> None:
    if own is None:
        del block.forward
    else:
        block.forward = own

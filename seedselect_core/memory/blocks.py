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
import functools
from collections.abc import Callable, Iterator

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..host.calls import GuiderState
from ..host.session import OrdinaryViews
from .checkpoints import checkpointed
from .saved import Keeper

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
    """The parts of a diffusion model, to be cut while one of its calls is recorded.

    Args:
        model: the diffusion model, or another.
        state: what the guider remembers; patches may do so from block to block. None for a model
            that is given no patches.
        views: the ordinary views of inference tensors.
    """

    def __init__(self, model: torch.nn.Module, state: GuiderState | None, views: OrdinaryViews):
        self._model = model
        self._state = state
        self._views = views
        # By kind of part and place among its inputs: whether it overwrites that input.
        self._overwrites: dict[tuple[type, int], bool] = {}

    @functools.cached_property
    def repeated(self) -> list[torch.nn.Module]:
        """The repeated blocks of the model."""
        return repeated_blocks(self._model)

    @contextlib.contextmanager
    def apart(self, parts: str, keeper: Keeper) -> Iterator[None]:
        """Each part that is called is a checkpoint of its own.

        Args:
            parts: "blocks", "prompts" for each call of the model as a whole, or "" for none.
            keeper: chooses what a part that is made again keeps.
        """
        cut = {"": [], "prompts": [self._model], "blocks": self.repeated if parts else []}[parts]
        with contextlib.ExitStack() as stack:
            for part in cut:
                # An instance's own "forward" may be a node's.
                own = vars(part).get("forward")
                part.forward = self._checkpointed(part, part.forward, keeper)
                stack.callback(put_back, part, own)
            yield

    def _checkpointed(self, part: torch.nn.Module, forward: Callable, keeper: Keeper) -> Callable:
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
                with self._own(part, tensors) as own:
                    if given:
                        # Containers as they are: what the block writes to them is for the host.
                        swap = {
                            id(leaves[i]): tensor for i, tensor in zip(places, own, strict=True)
                        }
                        args, kwargs = given.pop()
                        leaves.clear()
                        args = [swap.get(id(value), value) for value in args]
                        return forward(
                            *args, **{name: swap.get(id(v), v) for name, v in kwargs.items()}
                        )
                    with self._views.where_needed(), self._restored(state):
                        # Containers as they were; the host has gone on writing to its own.
                        again = list(rest)
                        for place, tensor in zip(places, own, strict=True):
                            again[place] = tensor
                        args, kwargs = tree_unflatten(again, structure)
                        return forward(*args, **kwargs)

            return checkpointed(
                body,
                *tensors,
                forward=keeper.unpacking,
                again=lambda: keeper.recording(type(part)),
            )

        return cut

    @contextlib.contextmanager
    def _own(
        self, part: torch.nn.Module, tensors: tuple[torch.Tensor, ...]
    ) -> Iterator[list[torch.Tensor]]:
        """``tensors``, as copies where the part may overwrite what is needed once more."""
        own = list(tensors)
        for place, tensor in enumerate(tensors):
            if tensor.is_floating_point() and self._overwrites.get((type(part), place), True):
                own[place] = tensor.clone()
        versions = [tensor._version for tensor in own]
        yield own
        for place, version in enumerate(versions):
            key = (type(part), place)
            changed = own[place]._version != version
            self._overwrites[key] = self._overwrites.get(key, False) or changed

    def _ordinary(self, tensor: torch.Tensor) -> torch.Tensor:
        """What PyTorch can save: asked by `is_inference`, since versions are those of the view."""
        return self._views.view(tensor) if tensor.is_inference() else tensor

    def _restored(self, state):
        return contextlib.nullcontext() if state is None else self._state.restored(state)


def _remembers(args: tuple, kwargs: dict) -> bool:
    """Whether the options that a block is given hold functions that may remember something."""
    options = [value for value in (*args, *kwargs.values()) if isinstance(value, dict)]
    return any(given.get(name) for given in options for name in REMEMBERING)


def put_back(block: torch.nn.Module, own: Callable | None) -> None:
    """Give ``block`` its ``forward`` again: ``own``, or that of its class for None."""
    if own is None:
        del block.forward
    else:
        block.forward = own

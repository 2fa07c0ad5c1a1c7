"""What the nodes show while they work, and what they rescue when they are stopped."""

import logging

import comfy.utils
import torch
from server import PromptServer

from ..seedselect_core.likeness.vae import host_pictures
from ..seedselect_core.search.loop import Progress
from ..seedselect_core.search.scene import Callbacks
from ..seedselect_core.seeds.rescue import Rescue
from ..seedselect_core.seeds.seed import Seed
from ..seedselect_core.sheets import draw_grid
from ..seedselect_core.text import printable, printable_lines
from .rescue import places, rescued

PREVIEW_SIZE = 512
PREVIEW_PICTURES = 9


class Searching:
    """What nodes that search have in common.

    Attributes:
        settled: doubts that were found to be none since the host started, shared by all such nodes.
            The extension sets it; without one every search checks anew.
    """

    settled: set[str] | None = None


class Display:
    """Progress bar, the best pictures so far as preview, and the losses as text.

    Args:
        settled: doubts that need no check again, see `Callbacks`.
    """

    def __init__(self, node_id: str, settled: set[str] | None = None):
        self.node_id = node_id
        self.settled = set() if settled is None else settled
        self.rescue = Rescue(places())
        self.bar = comfy.utils.ProgressBar(1, node_id)

    def callbacks(self) -> Callbacks:
        """This display, for a search to tell."""
        return Callbacks(self, self.keep, self.rescue.offer, self.text, self.settled)

    def text(self, message: str) -> None:
        PromptServer.instance.send_progress_text(printable_lines(message), self.node_id)

    def keep(self, best: Seed) -> None:
        """Save what an error or Cancel would lose, and say where it is."""
        told = rescued(self.rescue, best)
        logging.info("SeedSelect: %s", printable(told))
        self.text(f"Stopped. {told}")

    def done(self) -> None:
        """What was found is in the host's hands, and needs no file any more."""
        self.rescue.done()

    def pictures(self, vae, drawn: dict, best: Seed) -> torch.Tensor:
        """Decode what ``best`` draws; the host loses the seed too if that does not end well."""
        try:
            pictures = host_pictures(vae, drawn["samples"])
        except BaseException:
            self.callbacks().rescue(lambda: best)
            raise
        self.done()
        return pictures

    def __call__(self, progress: Progress) -> None:
        preview = None
        if progress.new_best:
            best = progress.best
            preview = ("JPEG", draw_grid(best.images[:PREVIEW_PICTURES]), PREVIEW_SIZE)
            now = best.semantic.mean()
            first = best.first_semantic.mean()
            self.text(
                f"iteration {progress.iteration}: semantic loss {now:.4f}, was {first:.4f} "
                f"(mean of {len(best.semantic)} seeds, {progress.finished} done)"
            )
        self.bar.update_absolute(progress.done, progress.planned, preview)

"""What the nodes show while they work, and what they rescue when they are stopped."""

import contextlib
import logging

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io
from PIL import Image, ImageOps
from server import PromptServer

from ..seedselect_core.host.families import advice
from ..seedselect_core.likeness.losses import likeness
from ..seedselect_core.likeness.vae import host_pictures
from ..seedselect_core.search.loop import Best, Drafts, Progress, SeedHistory
from ..seedselect_core.search.scene import Callbacks
from ..seedselect_core.seeds.seed import Seed
from ..seedselect_core.sheets import captioned, draw_curve, draw_grid, stacked
from ..seedselect_core.text import printable, printable_lines
from .graph import record
from .previews import previewed
from .rescue import rescue_for, rescued

PREVIEW_SIZE = 512
PREVIEW_PICTURES = 9
# Pictures stay in the node after a reload of the page; hosts before 0.19 have no way.
STAYING = "has_intermediate_output"
STAYS = {STAYING: True} if STAYING in io.Schema.__dataclass_fields__ else {}
NARROWEST = 256  # of a preview, whose curve would be a smear in the width of a small picture


class Searching:
    """What nodes that search have in common.

    Attributes:
        settled: doubts that were found to be none since the host started, shared by all such nodes.
            The extension sets it; without one every search checks anew.
    """

    settled: set[str] | None = None


class Display:
    """Progress bar, the best pictures so far as preview, and how like they are as text.

    Args:
        hidden: what the host tells of the node and its graph, `graph.HIDDEN`.
        settled: doubts that need no check again, see `Callbacks`.
    """

    def __init__(self, hidden, settled: set[str] | None = None):
        self.hidden = hidden
        self.node_id = hidden.unique_id
        self.settled = set() if settled is None else settled
        self.rescue = rescue_for(hidden)
        self.bar = comfy.utils.ProgressBar(1, self.node_id)
        self.remarks: list[str] = []
        self.drawn: Image.Image | None = None

    def callbacks(self) -> Callbacks:
        """This display, for a search to tell."""
        return Callbacks(self, self.keep, self.rescue.offer, self.text, self.settled)

    def text(self, message: str) -> None:
        """Show ``message`` in the place of the one before, with all remarks below it."""
        text = "\n".join([message, *self.remarks])
        PromptServer.instance.send_progress_text(printable_lines(text), self.node_id)

    def remark(self, sentence: str) -> None:
        """Show what is to be read to the end of the run and after it."""
        self.remarks.append(sentence)

    def advise(self, model, cfg: float) -> None:
        """Remark that a model is not made for so much guidance."""
        sentence = advice(model, cfg)
        if sentence:
            logging.warning("SeedSelect: %s", printable(sentence))
            self.remark(sentence)

    def keep(self, best: Seed) -> None:
        """Save what an error or Cancel would lose, and say where it is."""
        told = rescued(self.rescue, best)
        logging.info("SeedSelect: %s", printable(told))
        self.text(f"Stopped. {told}")
        if self.drawn is not None:
            # Who cancels twice has nothing more to stop.
            with contextlib.suppress(comfy.model_management.InterruptProcessingException):
                preview = self.preview(f"Stopped. {told}", self.drawn, max(self.drawn.size))
                self.bar.update_absolute(self.bar.current, preview=preview)

    def preview(self, text: str, drawn: Image.Image, side: int = PREVIEW_SIZE) -> tuple:
        """A picture of at most ``side`` pixels with a text below it, for the progress bar.

        The page shows the text of a node that lies in a subgraph only to who looks into that, but
        its preview on the subgraph too.
        """
        self.drawn = ImageOps.contain(drawn, (side, side))
        return ("JPEG", captioned(self.drawn, printable_lines(text)), None)

    def done(self, found: Seed) -> None:
        """The run has ended well: keep what it found, and tell the nodes that save its pictures."""
        self.rescue.done(found)
        record(self.hidden, found)

    def output(self, vae, best: Seed, drawn: dict, history: SeedHistory) -> io.NodeOutput:
        """What `outputs` names; the host loses the seed too if that does not end well."""
        try:
            pictures = host_pictures(vae, drawn["samples"])
        except BaseException:
            self.callbacks().rescue(lambda: best)
            raise
        self.done(best)
        self.text(told(best, history))
        before = history.before.to(pictures).clamp(0, 1)
        loss = {"loss": history.means("total")}
        return io.NodeOutput(best, pictures, before, drawn, loss, ui=previewed(pictures))

    def drafted(self, drafts: Drafts | None, before: str = "") -> tuple | None:
        """Tell how far the choice of the start is, and give a preview of it, where it goes on."""
        if drafts is None:
            return None
        said = f"{before}draft {drafts.done} of {drafts.planned}: likeness of the best "
        said += likeness(float(drafts.best.semantic.mean()))
        self.text(said)
        return self.preview(said, enlarged(draw_grid(drafts.best.images[:PREVIEW_PICTURES])))

    def __call__(self, progress: Progress) -> None:
        preview = self.drafted(progress.drafts)
        if progress.new_best:
            done = f", {progress.finished} of {len(progress.best.semantic)} done"
            said = f"iteration {progress.iteration}{done if progress.finished else ''}: "
            said += told(progress.best, progress.history)
            self.text(said)
            preview = self.preview(said, drawn_so_far(progress))
        self.bar.update_absolute(progress.done, progress.planned, preview)


def told(best: Seed | Best, history: SeedHistory) -> str:
    """How like the pictures are, how they were at first, and what references reach: means."""

    def both(now, first) -> str:
        means = (float(torch.as_tensor(losses).mean()) for losses in (now, first))
        return "{}, was {}".format(*map(likeness, means))

    said = f"likeness {both(best.semantic, best.first_semantic)}"
    said += f"; the references among themselves {likeness(history.spread)}"
    if not history.best_opinion:
        return said
    agrees = both(history.best_opinion, history.first_opinion)
    return f"{said}. A second encoder agrees: {agrees}; {likeness(history.opinion_spread)}"


def enlarged(grid: Image.Image) -> Image.Image:
    """At least so large that a curve and a line of text can stand below it."""
    if grid.width >= NARROWEST:
        return grid
    height = round(grid.height * NARROWEST / grid.width)
    return grid.resize((NARROWEST, height), Image.Resampling.NEAREST)


def drawn_so_far(progress: Progress) -> Image.Image:
    """The best pictures, with the course of their likeness below."""
    grid = enlarged(draw_grid(progress.best.images[:PREVIEW_PICTURES]))
    course = [1 - loss for loss in progress.history.means("semantic")]
    return stacked(grid, draw_curve(course, 1 - progress.history.spread, grid.width))

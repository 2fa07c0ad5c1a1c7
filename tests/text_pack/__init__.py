"""A node pack whose encoders are random number generators: the host builds its own in full."""

import torch
from comfy.clip_vision import Output
from comfy_api.latest import ComfyExtension, io


class RandomText(io.ComfyNode):
    """CONDITIONING [1, 8, width] with a pooled output [1, pooled], the same for the same text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RandomText",
            category="testing",
            inputs=[io.String.Input("text"), io.Int.Input("width"), io.Int.Input("pooled")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, text, width, pooled) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(len(text))
        words = torch.randn(1, 8, width, generator=generator)
        pool = torch.randn(1, pooled, generator=generator)
        return io.NodeOutput([[words, {"pooled_output": pool}]])


class RandomVision(io.ComfyNode):
    """What SigLIP at 384 pixels says of pictures: 729 tokens of 1152 channels each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RandomVision",
            category="testing",
            inputs=[io.Image.Input("image")],
            outputs=[io.ClipVisionOutput.Output()],
        )

    @classmethod
    def execute(cls, image) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(len(image))
        output = Output()
        output.last_hidden_state = torch.randn(len(image), 729, 1152, generator=generator)
        return io.NodeOutput(output)


class RandomTextExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [RandomText, RandomVision]


async def comfy_entrypoint() -> RandomTextExtension:
    return RandomTextExtension()

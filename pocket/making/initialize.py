"""The host's layers skip initialisation, since they expect a checkpoint; training needs it."""

import torch
from torch import nn

LAYERS = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.Embedding)


def initialize(model: nn.Module) -> None:
    """Give every layer of ``model`` PyTorch's default initial weights, in place."""
    for module in model.modules():
        for layer in LAYERS:
            if isinstance(module, layer):
                layer.reset_parameters(module)


def initialize_autoencoder(model: nn.Module) -> None:
    """Keep the scale of what passes, start without biases and with idle residual branches.

    With PyTorch's defaults the biases outweigh the picture after a few layers, and the group norms
    at the end leave nothing of its flat colours to learn from.
    """
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                nn.init.zeros_(module.bias)
                if name.endswith((".conv2", ".proj_out")):
                    nn.init.zeros_(module.weight)


def start_as_identity(unet: nn.Module) -> None:
    """Zero what each residual branch of the UNet ends with, as its authors do."""
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".out_layers.3." in name or ".proj_out." in name or name.startswith("out.2."):
                parameter.zero_()

"""Small random models of the host's real classes."""

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import torch


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def randomize(module: torch.nn.Module, seed: int) -> None:
    """Weights of a size that keeps activations near one: the host's operations leave them empty.

    The same numbers in every type, so that a model of float64 is that of float32.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(False)
        parameter.copy_(_weights(name, parameter.shape, generator))


def _weights(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    center = 0.0
    width = 0.1
    if len(shape) > 1:
        width = shape[1:].numel() ** -0.5
    elif "norm" in name and name.endswith(("weight", "scale")):
        center = 1.0
    values = torch.randn(shape, generator=generator, dtype=torch.float32)
    return values.mul_(width).add_(center)


def random_file(family: str, unet_config: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random state dict of a diffusion model, made without the model: see `reduced`."""
    with torch.device("meta"):
        module = _built(family, unet_config, dtype, torch.device("meta")).diffusion_model
    generator = torch.Generator().manual_seed(1)
    return {
        name: _weights(name, tensor.shape, generator).to(dtype)
        for name, tensor in module.state_dict().items()
    }


def as_patcher(base: comfy.model_base.BaseModel) -> comfy.model_patcher.ModelPatcher:
    """MODEL, as the host's loaders wrap it."""
    return comfy.model_patcher.CoreModelPatcher(
        base,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


@torch.inference_mode()
def reduced(
    family: str, unet_config: dict, dtype: torch.dtype = torch.float32
) -> comfy.model_patcher.ModelPatcher:
    """MODEL of one of the host's supported families, small and random.

    Args:
        family: name of a class in `comfy.supported_models`.
        unet_config: what differs from the family's own ``unet_config``: the sizes.
        dtype: of the weights, and of the computation.
    """
    base = _built(family, unet_config, dtype, torch.device("cpu"))
    randomize(base.diffusion_model, 1)
    return as_patcher(base)


def _built(family: str, unet_config: dict, dtype: torch.dtype, device: torch.device):
    config_class = getattr(comfy.supported_models, family)
    config = config_class({**config_class.unet_config, **unet_config, "dtype": dtype})
    config.set_inference_dtype(dtype, None)
    return config.get_model({}, device=device)


@torch.inference_mode()
def detected(
    family: str, unet_config: dict, dtype: torch.dtype = torch.float32
) -> comfy.model_patcher.ModelPatcher:
    """`reduced`, but read from its state dict by the host's own loader and detection.

    Raises:
        ValueError: the host takes the file for another family or for none.
    """
    weights = reduced(family, unet_config).model.diffusion_model.state_dict()
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options={"dtype": dtype})
    found = None if model is None else type(model.model.model_config).__name__
    if found != family:
        raise ValueError(f"The host takes a file of {family} for {found}.")
    return model

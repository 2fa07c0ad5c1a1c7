"""What the pack's samplers use of a module of their own."""

import torch


@torch.no_grad()
def step(x, slope, length):
    return x + slope * length


def half_detached(x, slope, length):
    return 0.5 * x + 0.5 * x.detach() + slope * length


def along_half_the_slope(x, slope, length):
    return x + (0.5 * slope + 0.5 * slope.detach()) * length

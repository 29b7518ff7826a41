"""CS-Flow written a second, literal way: each size and each block by name, sums over images.

Source: Rudolph et al., WACV 2022, and the authors' code, github.com/marco-rudolph/cs-flow at commit 88a13b8.  Nothing
is shared with the package but the names in the flow's state dict.  Float64; three maps [B, C, h, w], the largest first.
"""

import math

import numpy as np
import torch
from PIL import Image


def parameters(channels, hidden, kernels):
    """Of a flow: in each block two networks of ten convolutions with biases, and three gammas."""
    total = 0
    for k in kernels:
        first = 3 * (channels // 2 * hidden * k * k + hidden)
        rest = (3 + 2 + 2) * (hidden * channels * k * k + channels)
        total += 2 * (first + rest + 3)
    return total


def permutations(block, channels):
    """One for each size, drawn in order by numpy's old generator, whose seed is the block's number."""
    generator = np.random.RandomState(block)
    return [generator.permutation(channels) for _ in range(3)]


# The flow


def conv(x, state, name, stride=1):
    weight = state[f"{name}.weight"]
    return torch.nn.functional.conv2d(x, weight, state[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)


def network(state, name, x0, x1, x2):
    h0, h1, h2 = (conv(x, state, f"{name}.inner.{i}") for i, x in enumerate((x0, x1, x2)))
    h0, h1, h2 = (torch.where(h > 0, h, 0.1 * h) for h in (h0, h1, h2))
    r0 = conv(h0, state, f"{name}.outer.0") + conv(twice(h1), state, f"{name}.up.0")
    r1 = conv(h1, state, f"{name}.outer.1") + conv(twice(h2), state, f"{name}.up.1")
    r1 = r1 + conv(h0, state, f"{name}.down.0", stride=2)
    r2 = conv(h2, state, f"{name}.outer.2") + conv(h1, state, f"{name}.down.1", stride=2)
    gamma = state[f"{name}.gamma"]
    return gamma[0] * r0, gamma[1] * r1, gamma[2] * r2


def forward(state, blocks, clamp, y):
    """z and log_det [B]."""
    log_det = torch.zeros(len(y[0]), dtype=torch.float64)
    for block in range(blocks):
        half = y[0].shape[1] // 2
        y = [m[:, order] for m, order in zip(y, permutations(block, 2 * half), strict=True)]
        one, two = [m[:, :half] for m in y], [m[:, half:] for m in y]
        for net, changed, read in (("first", one, two), ("second", two, one)):
            answers = network(state, f"blocks.{block}.{net}", *read)
            for size in range(3):
                s = clamp * 0.636 * torch.atan(answers[size][:, :half] / clamp)
                changed[size] = torch.exp(s) * changed[size] + answers[size][:, half:]
                log_det = log_det + torch.stack([s[image].sum() for image in range(len(s))])
        y = [torch.clip(torch.cat([a, b], 1), -1e6, 1e6) for a, b in zip(one, two, strict=True)]
    return y, log_det


def loss(z, log_det):
    dims = sum(m.shape[1] * m.shape[2] * m.shape[3] for m in z)
    images = [sum((m[i] ** 2).sum() for m in z) / 2 - log_det[i] for i in range(len(log_det))]
    return sum(images) / len(images) / dims


# Resizing


def interpolation(n, size):
    """[size, n]: linear between the centres of pixels, constant beyond the outer ones."""
    matrix = np.zeros((size, n))
    for i in range(size):
        position = min(max((i + 0.5) * n / size - 0.5, 0), n - 1)
        for j in range(n):
            matrix[i, j] = max(0.0, 1 - abs(position - j))
    return torch.from_numpy(matrix)


def upsample(maps, height, width):
    """[..., h, w] -> [..., height, width]"""
    return interpolation(maps.shape[-2], height) @ maps @ interpolation(maps.shape[-1], width).T


def twice(maps):
    return upsample(maps, 2 * maps.shape[-2], 2 * maps.shape[-1])


def smaller(images, times):
    """Images of [0, 1], channel by channel as pictures of floats, resized by Pillow, which weighs all pixels."""
    pictures = [Image.fromarray(channel.float().numpy()) for channel in images.flatten(0, 1)]
    size = (images.shape[-1] // times, images.shape[-2] // times)
    small = [np.asarray(p.resize(size, Image.Resampling.BILINEAR)) for p in pictures]
    return torch.from_numpy(np.stack(small)).unflatten(0, images.shape[:2])


# Scores


def scores(z, height, width, product):
    """Image scores [B] and maps [B, height, width]."""
    of_images, maps = [], []
    for image in range(len(z[0])):
        entries = [value for m in z for value in m[image].flatten().tolist()]
        of_images.append(math.fsum(value * value / 2 for value in entries) / len(entries))
        squares = [sum(channel**2 for channel in m[image]) / m.shape[1] for m in z]  # [h, w] each
        large = [upsample(m, height, width) for m in squares]
        maps.append(large[0] * large[1] * large[2] if product else large[0])
    return np.array(of_images), torch.stack(maps).numpy()


# Training


def train(state, blocks, clamp, batches, clip, lr, betas, eps, weight_decay):
    """Adam with the decay as part of the gradient, one step for each batch of features.  Returns the weights."""
    state = {name: w.double().clone().requires_grad_(w.is_floating_point()) for name, w in state.items()}
    weights = [w for w in state.values() if w.requires_grad]
    m, v = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for step, y in enumerate(batches, start=1):
        gradients = torch.autograd.grad(loss(*forward(state, blocks, clamp, y)), weights)
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        for i, g in enumerate(gradients):
            g = g * min(1, clip / (norm + 1e-6)) + weight_decay * weights[i].detach()
            m[i] = betas[0] * m[i] + (1 - betas[0]) * g
            v[i] = betas[1] * v[i] + (1 - betas[1]) * g**2
            change = m[i] / (1 - betas[0] ** step) / ((v[i] / (1 - betas[1] ** step)).sqrt() + eps)
            weights[i].data -= lr * change
    return {name: w.detach() for name, w in state.items()}

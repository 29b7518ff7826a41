"""Reverse Distillation written a second, literal way: the architecture as tables by hand, the scores in loops.

Source: the authors' code, github.com/hq-deng/RD4AD at commit 6554076.  Nothing is shared with the package.
"""

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

# A row: how the first block resamples, input, inner and output channels, blocks.  In the order of the data: one
# bottleneck stage, then three decoder stages from 16 x 16 to 64 x 64 (for images of 256 x 256).
STAGES = {
    "resnet18": [
        ("down", 768, 512, 512, 2), ("up", 512, 256, 256, 2), ("up", 256, 128, 128, 2), ("up", 128, 64, 64, 2),
    ],
    "resnet34": [
        ("down", 768, 512, 512, 3), ("up", 512, 256, 256, 3), ("up", 256, 128, 128, 4), ("up", 128, 64, 64, 6),
    ],
    "resnet50": [
        ("down", 3072, 512, 2048, 3), ("up", 2048, 256, 1024, 3), ("up", 1024, 128, 512, 4), ("up", 512, 64, 256, 6),
    ],
    "wide_resnet50_2": [
        ("down", 3072, 1024, 2048, 3), ("up", 2048, 512, 1024, 3), ("up", 1024, 256, 512, 4), ("up", 512, 128, 256, 6),
    ],
}  # fmt: skip
FUSION = {  # input and output channels of the 3 x 3 convolutions of stride 2: both of level 1, the one of level 2
    "resnet18": [(64, 128), (128, 256), (128, 256)],
    "resnet34": [(64, 128), (128, 256), (128, 256)],
    "resnet50": [(256, 512), (512, 1024), (512, 1024)],
    "wide_resnet50_2": [(256, 512), (512, 1024), (512, 1024)],
}
# The teacher's layers 1 to 3: input, inner and output channels, blocks.
TEACHER = {
    "resnet18": [(64, 64, 64, 2), (64, 128, 128, 2), (128, 256, 256, 2)],
    "resnet34": [(64, 64, 64, 3), (64, 128, 128, 4), (128, 256, 256, 6)],
    "resnet50": [(64, 64, 256, 3), (256, 128, 512, 4), (512, 256, 1024, 6)],
    "wide_resnet50_2": [(64, 128, 256, 3), (256, 256, 512, 4), (512, 512, 1024, 6)],
}


def conv_parameters(inputs, outputs, kernel):
    """A convolution without bias, the scale and the shift of its batch norm."""
    return inputs * outputs * kernel * kernel + 2 * outputs


def stage_parameters(inputs, inner, outputs, blocks, middle, shortcut, basic):
    """`middle`, `shortcut`: kernel sizes of the first block's resampling convolution and of its shortcut (0: none)."""
    total = conv_parameters(inputs, outputs, shortcut) if shortcut else 0
    for block in range(blocks):
        first, kernel = (inputs, middle) if block == 0 else (outputs, 3)
        if basic:
            total += conv_parameters(first, inner, kernel) + conv_parameters(inner, outputs, 3)
        else:
            total += conv_parameters(first, inner, 1) + conv_parameters(inner, inner, kernel)
            total += conv_parameters(inner, outputs, 1)
    return total


def parameters(name):
    """Exact counts of the teacher up to layer3, the bottleneck without its unused convolution, and the decoder."""
    basic = name in ("resnet18", "resnet34")
    down, *up = STAGES[name]
    teacher = conv_parameters(3, 64, 7)
    for inputs, inner, outputs, blocks in TEACHER[name]:
        teacher += stage_parameters(inputs, inner, outputs, blocks, 3, int(inputs != outputs), basic)
    bottleneck = sum(conv_parameters(i, o, 3) for i, o in FUSION[name]) + stage_parameters(*down[1:], 3, 1, basic)
    return teacher, bottleneck, sum(stage_parameters(*row[1:], 2, 2, basic) for row in up)


class Layers:
    """The layers of the network under test in the order they run, to be taken one by one: (weight, scale, shift, mean,
    variance).  With `training` the batch norms use the batch's own mean and variance."""

    def __init__(self, layers, training):
        self.layers, self.training = list(layers), training

    def take(self, *shape):
        weight, *norm = self.layers.pop(0)
        assert tuple(weight.shape) == shape, f"{tuple(weight.shape)} instead of {shape}, {len(self.layers)} layers left"
        return weight, norm

    def conv(self, x, inputs, outputs, kernel, stride=1):
        weight, norm = self.take(outputs, inputs, kernel, kernel)
        return self.norm(torch.nn.functional.conv2d(x, weight, stride=stride, padding=kernel // 2), *norm)

    def up(self, x, inputs, outputs):
        """A transposed convolution whose patches do not overlap: each pixel becomes a square of 2 x 2."""
        weight, norm = self.take(inputs, outputs, 2, 2)
        b, _, h, w = x.shape
        return self.norm(torch.einsum("bchw,coyx->bohywx", x, weight).reshape(b, outputs, 2 * h, 2 * w), *norm)

    def norm(self, x, scale, shift, mean, variance):
        if self.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        factor = scale / (variance + 1e-5).sqrt()
        return (x - mean[:, None, None]) * factor[:, None, None] + shift[:, None, None]

    def stage(self, x, resample, inputs, inner, outputs, blocks, basic):
        for block in range(blocks):
            shortcut, step = x, resample if block == 0 else "same"
            if basic:
                x = self.resample(x, step, inputs, inner).relu()
                x = self.conv(x, inner, outputs, 3)
            else:
                x = self.conv(x, inputs, inner, 1).relu()
                x = self.resample(x, step, inner, inner).relu()
                x = self.conv(x, inner, outputs, 1)
            if step == "down":
                shortcut = self.conv(shortcut, inputs, outputs, 1, stride=2)
            elif step == "up":
                shortcut = self.up(shortcut, inputs, outputs)
            x, inputs = (x + shortcut).relu(), outputs
        return x

    def resample(self, x, step, inputs, outputs):
        return self.up(x, inputs, outputs) if step == "up" else self.conv(x, inputs, outputs, 3, 1 + (step == "down"))


def student(name, layers, f1, f2, f3):
    """The teacher's features, fine to coarse -> the decoder's, fine to coarse."""
    basic = name in ("resnet18", "resnet34")
    (a, b), (c, d), (e, f) = FUSION[name]
    level1 = layers.conv(layers.conv(f1, a, b, 3, stride=2).relu(), c, d, 3, stride=2).relu()
    level2 = layers.conv(f2, e, f, 3, stride=2).relu()
    code = layers.stage(torch.cat([level1, level2, f3], 1), *STAGES[name][0], basic)
    coarse = layers.stage(code, *STAGES[name][1], basic)
    middle = layers.stage(coarse, *STAGES[name][2], basic)
    fine = layers.stage(middle, *STAGES[name][3], basic)
    return [fine, middle, coarse]


def cosine_distance(a, b):
    """Of two vectors of any shape."""
    a, b = a.ravel().tolist(), b.ravel().tolist()
    product = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return 1 - product / (math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b)))


def distances(e, d):
    """[C, H, W] twice -> [H, W]."""
    _, h, w = e.shape
    return np.array([[cosine_distance(e[:, y, x], d[:, y, x]) for x in range(w)] for y in range(h)])


def loss(f_e, f_d, flatten):
    """Features of each level, [B, C, H, W]."""
    total = 0.0
    for e, d in zip(f_e, f_d, strict=True):
        pairs = list(zip(e, d, strict=True))
        total += np.mean([cosine_distance(x, y) if flatten else distances(x, y).mean() for x, y in pairs])
    return float(total)


def upsample(values, height, width):
    """Bilinear, the corner pixels' centres staying where they are."""
    h, w = values.shape
    result = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            v, u = y * (h - 1) / (height - 1), x * (w - 1) / (width - 1)
            top, left = min(int(v), h - 2), min(int(u), w - 2)
            p, q = v - top, u - left
            upper = (1 - q) * values[top, left] + q * values[top, left + 1]
            lower = (1 - q) * values[top + 1, left] + q * values[top + 1, left + 1]
            result[y, x] = (1 - p) * upper + p * lower
    return result


def scores(f_e, f_d, height, width, sigma):
    """Image scores [B] and smoothed maps [B, height, width]."""
    maps = []
    for image in range(len(f_e[0])):
        total = np.zeros((height, width))
        for e, d in zip(f_e, f_d, strict=True):
            total += upsample(distances(e[image], d[image]), height, width)
        maps.append(gaussian_filter(total, sigma=sigma))
    return np.array([m.max() for m in maps]), np.array(maps)

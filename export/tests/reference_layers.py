"""Layers in plain NumPy, pictures as [rows, columns, channels]: what the references of the published models share."""

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[float])


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x):
    return (0.5 * x * (1 + _erf(x / math.sqrt(2)))).astype(x.dtype)


def swish(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(x, scale, bias, eps):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * scale + bias


def rms_norm(x, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def group_norm(x, scale, bias, groups, eps):
    rows, cols, channels = x.shape
    parts = x.reshape(rows * cols, groups, channels // groups)
    mean = parts.mean((0, 2), keepdims=True)
    variance = ((parts - mean) ** 2).mean((0, 2), keepdims=True)
    return ((parts - mean) / np.sqrt(variance + eps)).reshape(x.shape) * scale + bias


def convolve(x, kernel, bias=None, stride=1, pad=None):
    """A convolution with a kernel [rows, columns, in, out]; ``pad`` (before, after) keeps the size by default."""
    height, width, _, out = kernel.shape
    before, after = ((height - 1) // 2, height // 2) if pad is None else pad
    x = np.pad(x, ((before, after), (before, after), (0, 0)))
    rows, cols = ((size - kernel_size) // stride + 1 for size, kernel_size in zip(x.shape, (height, width)))
    result = np.zeros((rows, cols, out), x.dtype)
    for i in range(height):
        for j in range(width):
            taps = x[i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (cols - 1) + 1 : stride]
            result += taps @ kernel[i, j]
    return result if bias is None else result + bias


def double(x):
    """Nearest neighbour."""
    return x.repeat(2, axis=0).repeat(2, axis=1)


def halve(x):
    """The mean of each 2x2 square."""
    return (x[0::2, 0::2] + x[1::2, 0::2] + x[0::2, 1::2] + x[1::2, 1::2]) / 4

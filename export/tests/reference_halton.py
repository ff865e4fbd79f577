"""Halton-MaskGIT v2 and LlamaGen's VQ-16 once more, in plain NumPy from the published PyTorch code, to compare with.

Reads a checkpoint's own arrays, by their published names, and shares nothing with ``maskgit_export.published``.
"""

import math

import numpy as np
from reference_layers import convolve, double, group_norm, rms_norm, softmax, swish


class HaltonReference:
    """One picture at a time.

    ``transformer`` and ``tokenizer`` map published names to arrays as the checkpoints have them.
    """

    def __init__(self, transformer, tokenizer, heads, groups=32, dtype=np.float64):
        self.t, self.v = (
            {name: np.asarray(array, dtype) for name, array in part.items()} for part in (transformer, tokenizer)
        )
        self.heads, self.groups = heads, groups
        self.codes = len(self.v["quantize.embedding.weight"])
        self.layers = 1 + max(int(name.split(".")[2]) for name in self.t if name.startswith("transformer.layers."))

    def logits(self, tokens, label):
        """Tokens [N], ``codes`` where masked, to logits [N, codes]; the last label is "no class"."""
        y = self.t["cls_emb.weight"][label]
        # The register stands after the picture.
        x = np.concatenate([self.t["tok_emb.weight"][tokens] + self.t["pos_emb.weight"], self.t["reg_tokens.weight"]])
        for layer in range(self.layers):
            x = self._layer(x, y, f"transformer.layers.{layer}")
        x = x[: len(tokens)]
        shift, scale = np.split(self._linear(swish(y), "last_norm.mlp.1"), 2)
        x = rms_norm(x, 1e-5) * self.t["last_norm.norm_final.weight"] + self.t["last_norm.norm_final.bias"]
        return self._linear(x * (1 + scale) + shift, "head")[:, : self.codes]

    def decode(self, tokens):
        """Tokens [N] to a picture [3, H, W] in 0..1; the network's own range is -1..1."""
        codebook = _unit(self.v["quantize.embedding.weight"])
        grid = math.isqrt(len(tokens))
        x = self._conv(codebook[tokens].reshape(grid, grid, -1), "post_quant_conv")
        x = self._middle(self._conv(x, "decoder.conv_in"), "decoder")
        for level in range(self._levels("decoder")):
            x = self._level(x, f"decoder.conv_blocks.{level}")
            if f"decoder.conv_blocks.{level}.upsample.conv.weight" in self.v:
                x = self._conv(double(x), f"decoder.conv_blocks.{level}.upsample.conv")
        x = self._conv(swish(self._group(x, "decoder.norm_out")), "decoder.conv_out")
        return np.clip((x + 1) / 2, 0, 1).transpose(2, 0, 1)

    def encode(self, image):
        """A picture [3, H, W] in 0..1 to tokens [N]."""
        vectors, codebook = _unit(self.vectors(image)), _unit(self.v["quantize.embedding.weight"])
        return np.array([((codebook - vector) ** 2).sum(1).argmin() for vector in vectors])

    def vectors(self, image):
        """A picture [3, H, W] in 0..1 to what is normalised and looked up in the codebook, [N, width]."""
        x = self._conv(
            np.asarray(image, self.v["quant_conv.weight"].dtype).transpose(1, 2, 0) * 2 - 1, "encoder.conv_in"
        )
        for level in range(self._levels("encoder")):
            x = self._level(x, f"encoder.conv_blocks.{level}")
            if f"encoder.conv_blocks.{level}.downsample.conv.weight" in self.v:
                # Padded at the right and below only.
                x = self._conv(x, f"encoder.conv_blocks.{level}.downsample.conv", stride=2, pad=(0, 1))
        x = self._conv(swish(self._group(self._middle(x, "encoder"), "encoder.norm_out")), "encoder.conv_out")
        return self._conv(x, "quant_conv").reshape(-1, self.v["quant_conv.bias"].size)

    def _layer(self, x, y, name):
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(self._linear(swish(y), f"{name}.mlp.1"), 6)
        h = rms_norm(x, 1e-5) * self.t[f"{name}.ln1.weight"] * (1 + scale1) + shift1
        # Normalised over all heads at once, then taken apart.
        q, k = (rms_norm(self._linear(h, f"{name}.attn.{part}"), 1e-5) for part in ("wq", "wk"))
        q, k, v = (
            part.reshape(len(x), self.heads, -1).transpose(1, 0, 2)
            for part in (q, k, self._linear(h, f"{name}.attn.wv"))
        )
        attended = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])) @ v
        x = x + gate1 * self._linear(attended.transpose(1, 0, 2).reshape(len(x), -1), f"{name}.attn.wo")
        h = rms_norm(x, 1e-5) * self.t[f"{name}.ln2.weight"] * (1 + scale2) + shift2
        h = swish(self._linear(h, f"{name}.ff.w1")) * self._linear(h, f"{name}.ff.w3")
        return x + gate2 * self._linear(h, f"{name}.ff.w2")

    def _linear(self, x, name):
        out = x @ self.t[f"{name}.weight"].T
        return out + self.t[f"{name}.bias"] if f"{name}.bias" in self.t else out

    def _levels(self, part):
        return 1 + max(int(name.split(".")[2]) for name in self.v if name.startswith(f"{part}.conv_blocks."))

    def _level(self, x, name):
        block = 0
        while f"{name}.res.{block}.conv1.weight" in self.v:
            x = self._block(x, f"{name}.res.{block}")
            if f"{name}.attn.{block}.q.weight" in self.v:
                x = self._attention(x, f"{name}.attn.{block}")
            block += 1
        return x

    def _middle(self, x, part):
        return self._block(self._attention(self._block(x, f"{part}.mid.0"), f"{part}.mid.1"), f"{part}.mid.2")

    def _block(self, x, name):
        h = self._conv(swish(self._group(x, f"{name}.norm1")), f"{name}.conv1")
        h = self._conv(swish(self._group(h, f"{name}.norm2")), f"{name}.conv2")
        return h + (self._conv(x, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in self.v else x)

    def _attention(self, x, name):
        h = self._group(x, f"{name}.norm")
        q, k, v = (self._conv(h, f"{name}.{part}").reshape(-1, x.shape[-1]) for part in "qkv")
        attended = softmax(q @ k.T / math.sqrt(x.shape[-1])) @ v
        return x + self._conv(attended.reshape(x.shape), f"{name}.proj_out")

    def _conv(self, x, name, stride=1, pad=None):
        return convolve(x, self.v[f"{name}.weight"].transpose(2, 3, 1, 0), self.v[f"{name}.bias"], stride, pad)

    def _group(self, x, name):
        return group_norm(x, self.v[f"{name}.weight"], self.v[f"{name}.bias"], self.groups, 1e-6)


def _unit(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True))

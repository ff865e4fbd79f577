"""Google's MaskGIT once more, in plain NumPy from the published Flax code, to compare with.

Reads a checkpoint's own arrays, by their Flax names, and shares nothing with ``maskgit_export.published``.
"""

import math

import numpy as np
from reference_layers import convolve, double, gelu_erf, gelu_tanh, group_norm, halve, layer_norm, softmax, swish


class GoogleReference:
    """One picture at a time. ``transformer`` and ``tokenizer`` map Flax names to arrays, as checkpoints have them."""

    def __init__(self, transformer, tokenizer, gelu="tanh", groups=32, dtype=np.float64):
        self.t, self.v = (
            {name: np.asarray(array, dtype) for name, array in part.items()} for part in (transformer, tokenizer)
        )
        self.gelu, self.groups = {"tanh": gelu_tanh, "erf": gelu_erf}[gelu], groups
        self.codes = len(self.v["quantizer/codebook"])
        self.vocabulary = len(self.t["Embed_0/word_embeddings/embedding"])
        self.layers = 1 + max(
            int(name.split("/")[0].split("_")[1]) for name in self.t if name.startswith("TransformerLayer_")
        )
        self.blocks = {
            part: 1
            + max(int(name.split("/")[1].split("_")[1]) for name in self.v if name.startswith(f"{part}/ResBlock_"))
            for part in ("encoder", "decoder")
        }

    def logits(self, tokens, label):
        """Tokens [N], the last id of the vocabulary where masked, to logits [N, codes]."""
        embedding = self.t["Embed_0/word_embeddings/embedding"]
        # The class counts after the codes and stands before the picture.
        sequence = np.concatenate([[self.codes + label], np.where(tokens >= self.codes, self.vocabulary - 1, tokens)])
        x = self._norm(embedding[sequence] + self.t["Embed_0/position_embeddings/embedding"], "Embed_0/embeddings_ln")
        for layer in range(self.layers):
            x = self._layer(x, f"TransformerLayer_{layer}")
        x = self._norm(self.gelu(self._dense(x, "MlmLayer_0/mlm_dense")), "MlmLayer_0/mlm_ln")
        logits = x @ embedding.T + self.t["MlmLayer_0/mlm_bias/bias"]
        return logits[1:, : self.codes]

    def decode(self, tokens):
        """Tokens [N] to a picture [3, H, W] in 0..1."""
        codebook = self.v["quantizer/codebook"]
        grid = math.isqrt(len(tokens))
        x = self._conv(codebook[tokens].reshape(grid, grid, -1), "decoder/Conv_0")
        convolution = 1
        # The middle, then the levels from coarse to fine, two blocks each; all levels but the finest end with a
        # doubling.
        for block in range(self.blocks["decoder"]):
            x = self._block(x, f"decoder/ResBlock_{block}")
            if block % 2 == 1 and 2 < block < self.blocks["decoder"] - 1:
                x = self._conv(double(x), f"decoder/Conv_{convolution}")
                convolution += 1
        x = self._conv(swish(self._group(x, "decoder/GroupNorm_0")), f"decoder/Conv_{convolution}")
        return np.clip(x, 0, 1).transpose(2, 0, 1)

    def encode(self, image):
        """A picture [3, H, W] in 0..1 to tokens [N]."""
        codebook = self.v["quantizer/codebook"]
        return np.array([((codebook - vector) ** 2).sum(1).argmin() for vector in self.vectors(image)])

    def vectors(self, image):
        """A picture [3, H, W] in 0..1 to what is looked up in the codebook, [N, width]."""
        x = self._conv(np.asarray(image, self.v["quantizer/codebook"].dtype).transpose(1, 2, 0), "encoder/Conv_0")
        for block in range(self.blocks["encoder"]):
            x = self._block(x, f"encoder/ResBlock_{block}")
            # Levels from fine to coarse, then the middle; between levels the picture is halved.
            if block % 2 == 1 and block < self.blocks["encoder"] - 4:
                x = halve(x)
        x = self._conv(swish(self._group(x, "encoder/GroupNorm_0")), "encoder/Conv_1")
        return x.reshape(-1, x.shape[-1])

    def _layer(self, x, name):
        attention = f"{name}/Attention_0/self_attention"
        q, k, v = (
            np.einsum("nd,dhw->hnw", x, self.t[f"{attention}/{part}/kernel"])
            + self.t[f"{attention}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        weights = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
        out = np.einsum("hnw,hwd->nd", weights @ v, self.t[f"{attention}/out/kernel"]) + self.t[f"{attention}/out/bias"]
        x = self._norm(out + x, f"{name}/Attention_0/attention_output_ln")
        hidden = self.gelu(self._dense(x, f"{name}/Mlp_0/intermediate_output"))
        return self._norm(self._dense(hidden, f"{name}/Mlp_0/layer_output") + x, f"{name}/Mlp_0/layer_output_ln")

    def _dense(self, x, name):
        return x @ self.t[f"{name}/kernel"] + self.t[f"{name}/bias"]

    def _norm(self, x, name):
        return layer_norm(x, self.t[f"{name}/scale"], self.t[f"{name}/bias"], 1e-12)

    def _block(self, x, name):
        residual = x
        x = self._conv(swish(self._group(x, f"{name}/GroupNorm_0")), f"{name}/Conv_0")
        x = self._conv(swish(self._group(x, f"{name}/GroupNorm_1")), f"{name}/Conv_1")
        if f"{name}/Conv_2/kernel" in self.v:
            # The published code gives the shortcut the variable that by now holds the processed x.
            residual = self._conv(x, f"{name}/Conv_2")
        return x + residual

    def _conv(self, x, name):
        return convolve(x, self.v[f"{name}/kernel"], self.v.get(f"{name}/bias"))

    def _group(self, x, name):
        return group_norm(x, self.v[f"{name}/scale"], self.v[f"{name}/bias"], self.groups, 1e-6)


def flax_names(transformer, tokenizer, heads):
    """The arrays of hmorimitsu/maskgit-torch's checkpoints under their Flax names: its two notebooks, backwards."""
    t, v = {}, {}
    dim = transformer["tok_emb.weight"].shape[1]
    heads_of = {"kernel": lambda w: w.T.reshape(dim, heads, -1), "bias": lambda b: b.reshape(heads, -1)}
    for name, array in transformer.items():
        word = name.split(".")
        leaf = "kernel" if word[-1].endswith("weight") else "bias"
        norm_leaf = {"kernel": "scale", "bias": "bias"}[leaf]
        if name in ("tok_emb.weight", "pos_emb"):
            t[f"Embed_0/{'word' if word[0] == 'tok_emb' else 'position'}_embeddings/embedding"] = array
        elif word[0] == "emb_ln":
            t[f"Embed_0/embeddings_ln/{norm_leaf}"] = array
        elif name == "bias":
            t["MlmLayer_0/mlm_bias/bias"] = array
        elif name.startswith("Token_Prediction.2"):
            t[f"MlmLayer_0/mlm_ln/{norm_leaf}"] = array
        elif name.startswith("Token_Prediction.0"):
            t[f"MlmLayer_0/mlm_dense/{leaf}"] = array.T
        else:
            layer, part = f"TransformerLayer_{word[1]}", word[2]
            if part == "MultiHeadAttention" and word[3].startswith("in_proj"):
                for name, third in zip(("query", "key", "value"), np.split(array, 3)):
                    t[f"{layer}/Attention_0/self_attention/{name}/{leaf}"] = heads_of[leaf](third)
            elif part == "MultiHeadAttention":
                t[f"{layer}/Attention_0/self_attention/out/{leaf}"] = (
                    array.T.reshape(heads, -1, dim) if leaf == "kernel" else array
                )
            elif part == "MLP":
                t[f"{layer}/Mlp_0/{'intermediate_output' if word[3] == '0' else 'layer_output'}/{leaf}"] = array.T
            else:
                norm = "Attention_0/attention_output_ln" if part == "AttentionLN" else "Mlp_0/layer_output_ln"
                t[f"{layer}/{norm}/{norm_leaf}"] = array
    last = max(int(name.split(".")[2]) for name in tokenizer if name.startswith("decoder.res_blocks"))
    for name, array in tokenizer.items():
        word = name.split(".")
        leaf, value = (
            ("kernel", array.transpose(2, 3, 1, 0))
            if array.ndim == 4
            else ("scale" if "norm" in name and word[-1] == "weight" else word[-1], array)
        )
        if name == "quantizer.codebook.weight":
            v["quantizer/codebook"] = array
        elif word[1] == "norm_out":
            v[f"{word[0]}/GroupNorm_0/{leaf}"] = value
        elif word[1] in ("conv_in", "conv_out"):
            number = 0 if word[1] == "conv_in" else 1 if word[0] == "encoder" else last
            v[f"{word[0]}/Conv_{number}/{leaf}"] = value
        elif word[3] == "3":
            v[f"{word[0]}/Conv_{word[2]}/{leaf}"] = value
        else:
            inner = {"conv_res": "Conv_2"}.get(word[4], word[4].replace("norm", "GroupNorm_").replace("conv", "Conv_"))
            v[f"{word[0]}/ResBlock_{2 * int(word[2]) + int(word[3])}/{inner}/{leaf}"] = value
    return t, v

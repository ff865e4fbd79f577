"""Converted models compute what the NumPy references do; and each quirk of the published models, got wrong, is noticed.

Both sides compute in float64, so that even an epsilon shows.
"""

import pytest
import torch
import torch.nn.functional as F
from published_checkpoints import (
    KINDS,
    computed,
    converted,
    differing,
    expected,
    inputs,
    publish_small,
    reference,
    write,
)

from maskgit_export.published import google, halton, llamagen

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Kind -> (paths, inputs, what the reference computes)."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        publish_small(patch)
        for kind in KINDS:
            paths = write(kind, tmp_path_factory.mktemp(kind))
            batch = inputs(converted(kind, *paths).metadata)
            made[kind] = paths, batch, expected(reference(kind, *paths), batch)
    return made


@pytest.fixture
def compare(cases, monkeypatch):
    """The outputs in which a converted model differs from the reference."""
    publish_small(monkeypatch)

    def of(kind, mutate=None):
        paths, batch, wanted = cases[kind]
        model = converted(kind, *paths).double()
        if mutate:
            mutate(monkeypatch, model)
        return differing(computed(model, batch), wanted, TOLERANCE)

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_converted_models_equal_the_reference(kind, compare, cases):
    assert compare(kind) == set()
    wanted = cases[kind][2]
    assert wanted["logits"].std() > 0.05 and wanted["image"].std() > 0.02 and len(set(wanted["tokens"].flat)) > 4, (
        "outputs that hardly differ would hide mistakes"
    )


def eps_of(kind, value, names):
    """Another epsilon in the norms whose names end so."""

    def mutate(_, model):
        found = [module for name, module in model.named_modules() if isinstance(module, kind) and name.endswith(names)]
        assert found
        for module in found:
            module.eps = value

    return mutate


def method(owner, name, replacement):
    """Another method; ``replacement(original)`` makes it."""
    return lambda patch, _: patch.setattr(owner, name, replacement(getattr(owner, name)))


def shortcut_before_the_second_convolution(_):
    def forward(self, x):
        h = self.conv0(F.silu(self.norm0(x)))
        out = self.conv1(F.silu(self.norm1(h)))
        return out + (x if self.conv2 is None else self.conv2(h))

    return forward


def shortcut_of_the_input(_):
    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(self.conv0(F.silu(self.norm0(x))))))
        # The kernel takes as many channels as come out: of the input, these are the first, or they are repeated.
        out = h.shape[1]
        return h + (x if self.conv2 is None else self.conv2(torch.cat([x, x], 1)[:, :out]))

    return forward


def pre_norm_attention(_):
    def forward(self, x):
        n, dim = x.shape[1:]
        h = self.output_ln(x)
        q, k, v = (
            f(h).reshape(-1, n, self.heads, dim // self.heads).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, n, dim))

    return forward


def pre_norm_mlp(_):
    return lambda self, x: (
        x + self.layer_output(google.gelu(self.intermediate_output(self.layer_output_ln(x)), self.config))
    )


def logits_of_other_rows(positions):
    def made(_):
        def logits(self, tokens, label):
            ids = torch.cat([label.unsqueeze(1) + self.config.codes, tokens], dim=1)
            return self.transformer(ids)[:, positions, : self.config.codes]

        return logits

    return made


def mask_of_another_row(original):
    return lambda self, tokens, label: original(
        self, torch.where(tokens == self.metadata.mask_id, self.metadata.mask_id - 1, tokens), label
    )


def labels_after(offset):
    return lambda original: lambda self, tokens, label: original(self, tokens, label + offset)


def without_bias(_, model):
    model.transformer.mlm_bias.data.zero_()


def other_gelu(_, model):
    model.transformer.config.gelu = {"tanh": "erf", "erf": "tanh"}[model.config.gelu]


def most_similar_code(_):
    def encode(self, image):
        return (self.encoder(image).flatten(2).transpose(1, 2) @ self.codebook.t()).argmax(-1)

    return encode


def not_clipped(original):
    def decode(self, tokens):
        with pytest.MonkeyPatch.context() as patch:
            # Other clamps name their bound.
            patch.setattr(
                torch.Tensor,
                "clamp",
                lambda x, *bounds, plain=torch.Tensor.clamp, **named: plain(x, **named) if named else x,
            )
            return original(self, tokens)

    return decode


def swapped(first, second):
    """Two modules of every layer exchanged."""

    def mutate(_, model):
        for layer in model.transformer.layers:
            a, b = getattr(layer.attention, first), getattr(layer.attention, second)
            setattr(layer.attention, first, b)
            setattr(layer.attention, second, a)

    return mutate


LAYER, GROUP = torch.nn.LayerNorm, torch.nn.GroupNorm
GOOGLE_QUIRKS = {
    "the shortcut reads the processed x": (
        method(google.ResBlock, "forward", shortcut_before_the_second_convolution),
        {"image", "vectors"},
    ),
    "the shortcut does not read the input": (
        method(google.ResBlock, "forward", shortcut_of_the_input),
        {"image", "vectors"},
    ),
    "post-norm of attention": (method(google.Attention, "forward", pre_norm_attention), {"logits"}),
    "post-norm of the MLP": (method(google.Mlp, "forward", pre_norm_mlp), {"logits"}),
    "epsilon of embeddings_ln": (eps_of(LAYER, 1e-5, "embeddings_ln"), {"logits"}),
    "epsilon of attention_output_ln": (eps_of(LAYER, 1e-5, "attention.output_ln"), {"logits"}),
    "epsilon of layer_output_ln": (eps_of(LAYER, 1e-5, "layer_output_ln"), {"logits"}),
    "epsilon of mlm_ln": (eps_of(LAYER, 1e-6, "mlm_ln"), {"logits"}),
    "epsilon of GroupNorm": (eps_of(GROUP, 1e-5, ("norm0", "norm1")), {"image", "vectors"}),
    "epsilon of the last GroupNorm": (eps_of(GROUP, 1e-5, ".norm"), {"image", "vectors"}),
    "average pooling": (lambda patch, _: patch.setattr(google.F, "avg_pool2d", F.max_pool2d), {"vectors"}),
    "average pooling, not every second pixel": (
        lambda patch, _: patch.setattr(google.F, "avg_pool2d", lambda x, _: x[..., ::2, ::2]),
        {"vectors"},
    ),
    "row of the mask id": (method(google.GoogleMaskGit, "logits", mask_of_another_row), {"logits"}),
    "rows of the classes": (method(google.GoogleMaskGit, "logits", labels_after(-1)), {"logits"}),
    "the class position is dropped": (
        method(google.GoogleMaskGit, "logits", logits_of_other_rows(slice(None, -1))),
        {"logits"},
    ),
    "the form of GELU": (other_gelu, {"logits"}),
    "the output bias": (without_bias, {"logits"}),
    "query and key": (swapped("query", "value"), {"logits"}),
    "the nearest code, not the most similar": (method(google.GoogleMaskGit, "encode", most_similar_code), {"tokens"}),
    "nearest-neighbour doubling": (
        lambda patch, _: patch.setattr(
            google.F,
            "interpolate",
            lambda x, scale_factor, mode, plain=F.interpolate: plain(x, scale_factor=scale_factor, mode="bilinear"),
        ),
        {"image"},
    ),
    "pixels are clipped": (method(google.GoogleMaskGit, "decode", not_clipped), {"image"}),
    "swish": (lambda patch, _: patch.setattr(google.F, "silu", F.relu), {"image", "vectors"}),
}


@pytest.mark.parametrize("kind", ["google-flax", "google-torch"])
@pytest.mark.parametrize("quirk", GOOGLE_QUIRKS)
def test_googles_quirks(kind, quirk, compare):
    mutate, outputs = GOOGLE_QUIRKS[quirk]
    assert outputs <= compare(kind, mutate)


def register_first(_):
    def features(self, tokens, label):
        condition = self.cls_emb(label)
        x = self.tok_emb(tokens) + self.pos_emb.weight
        registers = self.reg_tokens.weight.unsqueeze(0).expand(x.shape[0], -1, -1)
        # The order of a sequence means nothing to attention, so only what is dropped shows.
        return self.last_norm(
            self.transformer(torch.cat([registers, x], dim=1), condition)[:, : self.config.grid**2], condition
        )

    return features


def no_register(_):
    def features(self, tokens, label):
        condition = self.cls_emb(label)
        return self.last_norm(self.transformer(self.tok_emb(tokens) + self.pos_emb.weight, condition), condition)

    return features


def attention_with(norm):
    """Attention whose queries and keys, [B, N, heads, width], are normalised so."""

    def made(_):
        def forward(self, x):
            n = x.shape[1]
            q, k, v = (f(x).reshape(-1, n, self.heads, self.width) for f in (self.wq, self.wk, self.wv))
            q, k, v = (part.transpose(1, 2) for part in (norm(q), norm(k), v))
            return self.wo(
                F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, n, self.heads * self.width)
            )

        return forward

    return made


def other_rms(eps):
    return lambda patch, _: patch.setattr(
        halton, "rms", lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    )


def gate_of_the_other(_):
    return lambda self, x: self.w2(self.w1(x) * F.silu(self.w3(x)))


def shift_and_scale_exchanged(_):
    def forward(self, x, condition):
        scale1, shift1, gate1, scale2, shift2, gate2 = self.mlp(condition).unsqueeze(1).chunk(6, dim=2)
        x = x + gate1 * self.attn(self.ln1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.ff(self.ln2(x) * (1 + scale2) + shift2)

    return forward


def post_norm_block(_):
    def forward(self, x, condition):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.mlp(condition).unsqueeze(1).chunk(6, dim=2)
        x = self.ln1(x + gate1 * self.attn(x)) * (1 + scale1) + shift1
        return self.ln2(x + gate2 * self.ff(x)) * (1 + scale2) + shift2

    return forward


def padded_at_both_sides(_):
    return lambda self, x: self.conv(F.pad(x, (1, 0, 1, 0)))


HALTON_QUIRKS = {
    "the register is last": (method(halton.Transformer, "features", register_first), {"logits"}),
    "there is a register": (method(halton.Transformer, "features", no_register), {"logits"}),
    "queries and keys are normalised": (method(halton.Attention, "forward", attention_with(lambda x: x)), {"logits"}),
    "over all heads at once": (method(halton.Attention, "forward", attention_with(halton.rms)), {"logits"}),
    "epsilon of RMS norms": (other_rms(1e-6), {"logits"}),
    "RMS norm, not layer norm": (
        lambda patch, _: patch.setattr(halton, "rms", lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-5)),
        {"logits"},
    ),
    "which half SwiGLU gates": (method(halton.FeedForward, "forward", gate_of_the_other), {"logits"}),
    "the order of adaLN's parts": (method(halton.Block, "forward", shift_and_scale_exchanged), {"logits"}),
    "pre-norm": (method(halton.Block, "forward", post_norm_block), {"logits"}),
    "row of the mask id": (method(halton.HaltonMaskGit, "logits", mask_of_another_row), {"logits"}),
    "unit codes": (lambda patch, _: patch.setattr(llamagen, "unit", lambda x: x), {"image", "tokens"}),
    "pixels of -1..1 in the decoder": (
        method(
            halton.HaltonMaskGit,
            "decode",
            lambda _: lambda self, tokens: self.vq.decode(tokens, self.config.grid).clamp(0, 1),
        ),
        {"image"},
    ),
    "pixels are clipped": (method(halton.HaltonMaskGit, "decode", not_clipped), {"image"}),
    "pixels of -1..1 in the encoder": (
        method(halton.HaltonMaskGit, "encode", lambda _: lambda self, image: self.vq.encode(image)),
        {"tokens"},
    ),
    "padding of the halving": (method(llamagen.Downsample, "forward", padded_at_both_sides), {"vectors"}),
    "attention at the lowest resolution": (
        method(llamagen.AttnBlock, "forward", lambda _: lambda self, x: x),
        {"image", "vectors"},
    ),
    "epsilon of GroupNorm": (eps_of(GROUP, 1e-5, ("norm", "norm1", "norm2", "norm_out")), {"image", "vectors"}),
}


@pytest.mark.parametrize("quirk", HALTON_QUIRKS)
def test_haltons_quirks(quirk, compare):
    mutate, outputs = HALTON_QUIRKS[quirk]
    assert outputs <= compare("halton-torch", mutate)

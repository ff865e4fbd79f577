"""The published architectures: parameter counts and names, and a second implementation in NumPy."""

import math

import numpy as np
import pytest
import torch
from conftest import GOOGLE, HALTON

from maskgit_export.published import google, halton, llamagen
from maskgit_export.synth import SHAPES, make_google, make_halton


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts():
    with torch.device("meta"):
        # Layers, embeddings and head, counted by hand from the shapes.
        d, ffn = 768, 3072
        layer = 4 * (d * d + d) + d * ffn + ffn + ffn * d + d + 4 * d
        assert (
            count(google.Transformer(google.Config()))
            == 24 * layer + (2025 + 257) * d + 2 * d + d * d + d + 2 * d + 2025
        )
        assert google.Transformer(google.Config(grid=32)).position_embeddings.weight.shape == (1025, 768)
        # 480M is what Halton-MaskGIT's authors state for L; the others are pinned as computed.
        sizes = {
            name: count(halton.Transformer(halton.Config(dim=dim, depth=depth, heads=heads)))
            for name, (dim, depth, heads) in halton.SIZES.items()
        }
        assert [round(sizes[name] / 1e6) for name in "tsbl"] == [23, 70, 142, 480]
        assert round(count(llamagen.Vq(llamagen.Config())) / 1e6) == 72


def test_hidden_widths_of_halton():
    hidden = {dim: halton.Config(dim=dim).hidden for dim, _, _ in halton.SIZES.values()}
    assert hidden == {384: 1024, 512: 1536, 768: 2048, 1024: 2816}


def test_names_of_halton_and_llamagen():
    with torch.device("meta"):
        names = dict(halton.Transformer(halton.Config()).named_parameters(remove_duplicate=False))
        vq = dict(llamagen.Vq(llamagen.Config()).named_parameters())
    blocks = [
        f"transformer.layers.11.{name}"
        for name in (
            "mlp.1.weight",
            "mlp.1.bias",
            "ln1.weight",
            "attn.wq.weight",
            "attn.wo.weight",
            "ln2.weight",
            "ff.w1.weight",
            "ff.w2.weight",
            "ff.w3.weight",
        )
    ]
    others = [
        "tok_emb.weight",
        "pos_emb.weight",
        "cls_emb.weight",
        "reg_tokens.weight",
        "last_norm.norm_final.weight",
        "last_norm.norm_final.bias",
        "last_norm.mlp.1.weight",
        "head.weight",
        "head.bias",
    ]
    assert set(blocks + others) <= set(names)
    assert sum(name.startswith("transformer.layers.11.") for name in names) == 11
    assert names["head.weight"].shape == (16385, 768) and names["cls_emb.weight"].shape == (1001, 768)
    wanted = [
        "encoder.conv_blocks.0.downsample.conv.weight",
        "encoder.conv_blocks.4.attn.1.q.weight",
        "encoder.conv_blocks.2.res.0.nin_shortcut.weight",
        "decoder.conv_blocks.0.attn.2.proj_out.bias",
        "decoder.conv_blocks.3.upsample.conv.weight",
        "decoder.mid.1.k.weight",
        "quantize.embedding.weight",
        "quant_conv.weight",
        "post_quant_conv.bias",
    ]
    assert set(wanted) <= set(vq)
    assert (
        "decoder.conv_blocks.4.upsample.conv.weight" not in vq
        and "encoder.conv_blocks.4.downsample.conv.weight" not in vq
    )


def test_the_published_decoder_of_google():
    with torch.device("meta"):
        decoder, encoder = google.Decoder(google.Config()), google.Encoder(google.Config())
    assert len(decoder.blocks) == len(encoder.blocks) == 12 and len(decoder.upsamples) == 4
    # 1x1 shortcuts stand where the width changes, and read the block's *output* width.
    assert {
        index: tuple(block.conv2.weight.shape) for index, block in enumerate(decoder.blocks) if block.conv2 is not None
    } == {4: (256, 256, 1, 1), 8: (128, 128, 1, 1)}
    assert {index for index, block in enumerate(encoder.blocks) if block.conv2 is not None} == {4, 8}
    assert all(block.conv0.bias is None and block.norm0.eps == 1e-6 for block in decoder.blocks)


def layer_norm(x, norm):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-12) * value(norm.weight) + value(
        norm.bias
    )


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def value(parameter):
    return parameter.detach().double().numpy()


def dense(x, linear):
    return x @ value(linear.weight).T + value(linear.bias)


def perturb(model, seed):
    """Moves norms and biases off 1 and 0, where mistakes do not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def test_googles_transformer_against_numpy():
    model = perturb(make_google(GOOGLE, "google", 0), 1)
    net, tokens, label = model.transformer, np.arange(16) % 32, 2
    tokens[3:9] = model.metadata.mask_id
    assert model.metadata.mask_id == GOOGLE.codes + GOOGLE.classes == net.word_embeddings.num_embeddings - 1
    ids = np.concatenate([[GOOGLE.codes + label], tokens])
    x = layer_norm(value(net.word_embeddings.weight)[ids] + value(net.position_embeddings.weight), net.embeddings_ln)
    for layer in net.layers:
        attention, width = layer.attention, GOOGLE.dim // GOOGLE.heads
        q, k, v = dense(x, attention.query), dense(x, attention.key), dense(x, attention.value)
        heads = []
        for head in range(GOOGLE.heads):
            part = slice(head * width, (head + 1) * width)
            heads.append(softmax(q[:, part] @ k[:, part].T / math.sqrt(width)) @ v[:, part])
        x = layer_norm(x + dense(np.concatenate(heads, 1), attention.out), attention.output_ln)
        x = layer_norm(
            x + dense(gelu_tanh(dense(x, layer.mlp.intermediate_output)), layer.mlp.layer_output),
            layer.mlp.layer_output_ln,
        )
    x = layer_norm(gelu_tanh(dense(x, net.mlm_dense)), net.mlm_ln)
    expected = (x @ value(net.word_embeddings.weight).T + value(net.mlm_bias))[1:, : GOOGLE.codes]
    with torch.no_grad():
        found = model.logits(torch.from_numpy(tokens)[None], torch.tensor([label]))[0].numpy()
        whole = net(torch.from_numpy(ids)[None])[0, 1:, : GOOGLE.codes].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def conv(x, layer):
    weight = value(layer.weight)
    _, _, rows, cols = weight.shape
    padded = np.pad(x, ((0, 0), (rows // 2,) * 2, (cols // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, cols), axis=(1, 2))
    out = np.einsum("chwij,ocij->ohw", windows, weight)
    return out if layer.bias is None else out + value(layer.bias)[:, None, None]


def group_norm(x, norm):
    flat = x.reshape(norm.num_groups, -1)
    flat = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-6)
    return flat.reshape(x.shape) * value(norm.weight)[:, None, None] + value(norm.bias)[:, None, None]


def swish(x):
    return x / (1 + np.exp(-x))


def numpy_block(x, block, quirk=True):
    h = conv(swish(group_norm(conv(swish(group_norm(x, block.norm0)), block.conv0), block.norm1)), block.conv1)
    if block.conv2 is None:
        return h + x
    return h + conv(h if quirk else x, block.conv2)


def test_googles_vqgan_against_numpy():
    model = perturb(make_google(GOOGLE, "google", 0), 2)
    tokens = np.arange(16) * 7 % 32
    decoder = model.decoder
    x = conv(value(model.codebook)[tokens].T.reshape(6, 4, 4), decoder.conv_in)
    # Two blocks in the middle; two at 4x4; doubled; two at 8x8 of half the width, the first with the shortcut.
    for block in decoder.blocks[:4]:
        x = numpy_block(x, block)
    x = conv(x.repeat(2, axis=1).repeat(2, axis=2), decoder.upsamples[0])
    assert decoder.blocks[4].conv2 is not None
    for block in decoder.blocks[4:]:
        x = numpy_block(x, block)
    x = np.clip(conv(swish(group_norm(x, decoder.norm)), decoder.conv_out), 0, 1)
    with torch.no_grad():
        image = model.decode(torch.from_numpy(tokens)[None])
    np.testing.assert_allclose(image[0].numpy(), x, atol=1e-4)

    encoder = model.encoder
    y = conv(x, encoder.conv_in)
    for block in encoder.blocks[:2]:
        y = numpy_block(y, block)
    y = y.reshape(8, 4, 2, 4, 2).mean((2, 4))
    assert encoder.blocks[2].conv2 is not None
    for block in encoder.blocks[2:]:
        y = numpy_block(y, block)
    vectors = conv(swish(group_norm(y, encoder.norm)), encoder.conv_out).reshape(6, 16).T
    nearest = ((vectors[:, None] - value(model.codebook)[None]) ** 2).sum(2).argmin(1)
    with torch.no_grad():
        found = model.encode(image)[0].numpy()
    assert len(np.unique(nearest)) > 1
    np.testing.assert_array_equal(found, nearest)


def test_the_shortcut_reads_the_processed_x():
    torch.manual_seed(0)
    block, x = google.ResBlock(16, 8, 4), torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        found = block(x)[0].numpy()
    np.testing.assert_allclose(found, numpy_block(value(x)[0], block), atol=1e-5)
    # A shortcut from the block's input would need 16 input channels: the kernel does not even fit.
    with pytest.raises(ValueError):
        numpy_block(value(x)[0], block, quirk=False)


def test_haltons_transformer_against_numpy():
    model = perturb(make_halton(HALTON, "halton", 0), 3)
    net, tokens, label = model.network, np.arange(16) % 32, HALTON.classes
    tokens[3:9] = model.metadata.mask_id

    def rms(x):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    def plain(x, linear):
        return x @ value(linear.weight).T

    condition = value(net.cls_emb.weight)[label]
    x = np.concatenate([value(net.tok_emb.weight)[tokens] + value(net.pos_emb.weight), value(net.reg_tokens.weight)])
    width = HALTON.dim // HALTON.heads
    for layer in net.transformer.layers:
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(dense(swish(condition), layer.mlp[1]), 6)
        h = rms(x) * value(layer.ln1.weight) * (1 + scale1) + shift1
        q, k, v = rms(plain(h, layer.attn.wq)), rms(plain(h, layer.attn.wk)), plain(h, layer.attn.wv)
        assert q.shape == (17, 24)
        heads = [
            softmax(q[:, p] @ k[:, p].T / math.sqrt(width)) @ v[:, p]
            for p in (slice(i * width, (i + 1) * width) for i in range(HALTON.heads))
        ]
        x = x + gate1 * plain(np.concatenate(heads, 1), layer.attn.wo)
        h = rms(x) * value(layer.ln2.weight) * (1 + scale2) + shift2
        x = x + gate2 * plain(swish(plain(h, layer.ff.w1)) * plain(h, layer.ff.w3), layer.ff.w2)
    shift, scale = np.split(dense(swish(condition), net.last_norm.mlp[1]), 2)
    x = (rms(x) * value(net.last_norm.norm_final.weight) + value(net.last_norm.norm_final.bias)) * (1 + scale) + shift
    expected = dense(x[:16], net.head)
    assert expected.shape == (16, 33)
    with torch.no_grad():
        found = model.logits(torch.from_numpy(tokens)[None], torch.tensor([label]))[0].numpy()
    np.testing.assert_allclose(found, expected[:, :32], atol=1e-4)


def test_shapes_and_seeds():
    assert {"maskgit-imagenet256", "halton-b-384"} <= set(SHAPES)
    weights = [make_google(GOOGLE, "google", seed).transformer.mlm_dense.weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])

"""Small checkpoints in the published layouts, and how the converted models and the NumPy references compare."""

import numpy as np
import torch
from conftest import GOOGLE, HALTON
from reference_google import GoogleReference, flax_names
from reference_halton import HaltonReference

from maskgit_export import checkpoint, convert
from maskgit_export.published import google, halton
from maskgit_export.synth import make_google, make_halton, perturb, write_checkpoints

#: Name -> (model, format of the checkpoint).
KINDS = {
    "google-flax": ("google-maskgit", "flax"),
    "google-torch": ("google-maskgit", "torch"),
    "google-safetensors": ("google-maskgit", "safetensors"),
    "halton-torch": ("halton-maskgit", "torch"),
    "halton-safetensors": ("halton-maskgit", "safetensors"),
}


def publish_small(patch):
    """Has ``convert`` take the tests' shapes for the published ones."""
    patch.setattr(google, "PUBLISHED", {256: GOOGLE, 512: google.Config(**{**GOOGLE.__dict__, "grid": 8})})
    patch.setattr(halton, "PUBLISHED", {"b-384": HALTON, "b-256": halton.Config(**{**HALTON.__dict__, "grid": 2})})


def write(kind, folder, seed=3):
    """Writes the two checkpoints of a kind; returns their paths, the transformer's first."""
    model, format = KINDS[kind]
    made = make_google(GOOGLE, "google", seed) if model == "google-maskgit" else make_halton(HALTON, "halton", seed)
    perturb(made, seed, 0.3)
    if model == "halton-maskgit":
        # So much contrast that some pixels are clipped.
        with torch.no_grad():
            made.vq.decoder.conv_out.weight.mul_(3)
    return write_checkpoints(made, format, folder)


def stored(path):
    """The tensors of a published file by their names in it, without the container."""
    return {
        name.removeprefix("params/")
        .removeprefix("state_dict.")
        .removeprefix("model_state_dict.")
        .removeprefix("model."): tensor
        for name, tensor in checkpoint.read(path).tensors.items()
    }


def converted(kind, transformer, tokenizer):
    """The model that ``convert`` makes of the files."""
    return (convert.google_maskgit if KINDS[kind][0] == "google-maskgit" else convert.halton_maskgit)(
        transformer, tokenizer
    )


def reference(kind, transformer, tokenizer, dtype=np.float64, groups=4, heads=4):
    """The NumPy reference of the files."""
    model, format = KINDS[kind]
    arrays = [
        {name: tensor.float().numpy() for name, tensor in stored(path).items()} for path in (transformer, tokenizer)
    ]
    if model == "halton-maskgit":
        arrays[1].pop("quantize.codebook_used", None)
        # Safetensors has one copy of what is tied.
        arrays[0].setdefault("tok_emb.weight", arrays[0].get("head.weight"))
        return HaltonReference(*arrays, heads=heads, groups=groups, dtype=dtype)
    if format == "flax":
        return GoogleReference(*arrays, gelu="tanh", groups=groups, dtype=dtype)
    return GoogleReference(*flax_names(*arrays, heads), gelu="erf", groups=groups, dtype=dtype)


def inputs(metadata, rows=3, seed=0):
    """Tokens, some or all of them masked; labels, the last the null label; tokens without masks; pictures."""
    choice = np.random.default_rng(seed)
    codes = choice.integers(0, metadata.codes, (rows, metadata.tokens))
    tokens = codes.copy()
    for row in range(rows):
        tokens[row, choice.permutation(metadata.tokens)[: metadata.tokens * (row + 1) // rows]] = metadata.mask_id
    labels = choice.integers(0, len(metadata.labels), rows)
    if metadata.null_label is not None:
        labels[-1] = metadata.null_label
    return tokens, labels, codes, choice.random((rows, 3, metadata.image_height, metadata.image_width))


def expected(found, batch):
    """What the reference computes for a batch of :func:`inputs`."""
    tokens, labels, codes, images = batch
    return {
        "logits": np.stack([found.logits(row, label) for row, label in zip(tokens, labels)]),
        "image": np.stack([found.decode(row) for row in codes]),
        "vectors": np.stack([found.vectors(image) for image in images]),
        "tokens": np.stack([found.encode(image) for image in images]),
    }


@torch.no_grad()
def computed(model, batch):
    """What a converted model computes, in the precision of its weights."""
    tokens, labels, codes, images = (torch.from_numpy(part) for part in batch)
    images = images.to(next(model.parameters()).dtype)
    vectors = (
        model.vq.quant_conv(model.vq.encoder(images * 2 - 1))
        if isinstance(model, halton.HaltonMaskGit)
        else model.encoder(images)
    )
    return {
        "logits": model.logits(tokens, labels).numpy(),
        "image": model.decode(codes).numpy(),
        "vectors": vectors.flatten(2).transpose(1, 2).numpy(),
        "tokens": model.encode(images).numpy(),
    }


def differing(found, wanted, tolerance):
    """The outputs that are not the same; tokens must be equal."""
    return {
        name
        for name, value in wanted.items()
        if not np.abs(found[name] - value).max() <= (0 if name == "tokens" else tolerance)
    }

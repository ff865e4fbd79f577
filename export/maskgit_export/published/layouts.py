"""How published checkpoints name and lay out the parameters of our modules, both ways.

A layout is a list of entries. Each takes one tensor of the checkpoint apart into parameters (``load``) and puts it
together again (``store``); the shape that a checkpoint must have is that of ``store`` of our parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import checkpoint
from ..checkpoint import CheckpointError, File
from ..selection import Checkpoint, Choice, describe, has, select
from . import google

Parameters = dict[str, Tensor]
NO_CHOICE = Choice()


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint: its name there, our parameters, and the way between them."""

    theirs: str
    ours: tuple[str, ...]
    load: Callable[[Tensor], list[Tensor]] = lambda tensor: [tensor]
    store: Callable[[list[Tensor]], Tensor] = lambda tensors: tensors[0]


@dataclass(frozen=True)
class Layout:
    """A published layout: what it is, a name that only it has, its entries for a module, and names to pass over."""

    title: str
    format: str
    part: str
    marker: str
    entries: Callable[[nn.Module], list[Entry]]
    #: The attribute of the model that the parameters' names are relative to; empty for the model itself.
    attribute: str = ""
    ignored: frozenset[str] = frozenset()

    def module(self, model: nn.Module) -> nn.Module:
        """The part of a model that this layout holds."""
        return getattr(model, self.attribute) if self.attribute else model


def parameters(module: nn.Module) -> Parameters:
    """The parameters by name, without those that are another one's."""
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def save(layout: Layout, model: nn.Module) -> Parameters:
    """The part's weights as a checkpoint of this layout has them."""
    module = layout.module(model)
    ours = parameters(module)
    return {
        entry.theirs: entry.store([ours[name] for name in entry.ours]).contiguous() for entry in layout.entries(module)
    }


def load(layout: Layout, model: nn.Module, found: Checkpoint, taken_for: str) -> None:
    """Puts a checkpoint's weights into its part of a model, which may be on the ``meta`` device.

    Tensors of whole numbers and single numbers that the model does not have, such as ``position_ids``, are passed over
    with a note. Raises :class:`CheckpointError` that lists every tensor that is missing, is too many, has another shape
    or type or is not finite.
    """
    module = layout.module(model)
    ours, theirs = parameters(module), found.tensors
    entries = layout.entries(module)
    expected = {
        entry.theirs: tuple(entry.store([ours[name].to("meta") for name in entry.ours]).shape) for entry in entries
    }
    others = sorted(set(theirs) - set(expected) - layout.ignored)
    passed_over = [name for name in others if not theirs[name].is_floating_point() or not theirs[name].ndim]
    faults = {
        "it lacks": _missing(entries, theirs),
        "it should not have": [name for name in others if name not in passed_over],
        **_unfit(expected, theirs),
    }
    if any(faults.values()):
        told = "; ".join(
            f"{what} {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
            for what, names in faults.items()
            if names
        )
        raise CheckpointError(f"{found.path}: taken for {taken_for}, but {told}")
    if passed_over:
        found.notes.append(f"passed over: {', '.join(passed_over[:8])}{', ...' if len(passed_over) > 8 else ''}")
    state: Parameters = {}
    for entry in entries:
        if entry.theirs not in theirs:
            continue
        for name, tensor in zip(entry.ours, entry.load(theirs[entry.theirs])):
            tensor = tensor.contiguous()
            if name in state and not torch.equal(state[name], tensor):
                raise CheckpointError(
                    f"{found.path}: taken for {taken_for}, but {entry.theirs} differs from the tensor it is tied to"
                )
            state[name] = tensor
    module.load_state_dict(state, strict=False, assign=True)


def _missing(entries: list[Entry], theirs: Parameters) -> list[str]:
    """The names that a checkpoint lacks."""
    # Of a tied parameter, which a state_dict has under both names, safetensors keeps one copy.
    present = {entry.ours for entry in entries if entry.theirs in theirs}
    return sorted(entry.theirs for entry in entries if entry.ours not in present)


def _unfit(expected: dict[str, tuple[int, ...]], theirs: Parameters) -> dict[str, list[str]]:
    """The tensors that cannot be the expected ones, by what is wrong with them."""
    there = {name: theirs[name] for name in expected if name in theirs}
    faults = {
        "of numbers that are not floating point": [
            f"{name} {str(tensor.dtype).removeprefix('torch.')}"
            for name, tensor in there.items()
            if not tensor.is_floating_point()
        ],
        "of another shape": [
            f"{name} {tuple(tensor.shape)} instead of {expected[name]}"
            for name, tensor in there.items()
            if tuple(tensor.shape) != expected[name]
        ],
    }
    if not any(faults.values()):
        faults["with NaN or infinity"] = [name for name, tensor in there.items() if not tensor.isfinite().all()]
    return faults


def read(path: str | Path, title: str, part: str, choice: Choice = NO_CHOICE) -> tuple[File, Checkpoint, Layout]:
    """Reads a file, and the weights of a published model's part in it.

    Raises :class:`CheckpointError` that tells what else the file is, or what it has and what was looked for.
    """
    file = checkpoint.read(path)
    layouts = [layout for layout in LAYOUTS if layout.format == file.format]
    for layout in layouts:
        if (layout.title, layout.part) == (title, part) and (
            found := select(file, layout.marker, f"the {part} of {title}", choice)
        ):
            return file, found, layout
    for layout in layouts:
        if has(file, layout.marker):
            raise CheckpointError(
                f"{path}: this is the {layout.part} of {layout.title}; --{part} asks for the {part} of {title}"
            )
    known = "; ".join(f"{layout.title} {layout.part} ({layout.marker})" for layout in layouts)
    raise CheckpointError(
        f"{path}: no published model that this program knows. {describe(file)}. Looked for {known}, at the end of any "
        "name. For weights of another program, save the state_dict of the published model; for a model of your own, "
        "write a class as docs/models.md tells under 'A model of your own': maskgit-export bundle MODULE:FUNCTION"
    )


def _plain(theirs: str, ours: str) -> Entry:
    return Entry(theirs, (ours,))


def _affine(theirs: str, ours: str, bias: bool = True) -> Iterator[Entry]:
    """Weight and bias of a PyTorch module of the same shape."""
    for name in ("weight", "bias") if bias else ("weight",):
        yield _plain(f"{theirs}.{name}", f"{ours}.{name}")


# Google, Flax: dense kernels [in, out], convolutions [rows, cols, in, out], norms `scale` and `bias`.


def _flax_norm(theirs: str, ours: str) -> Iterator[Entry]:
    yield _plain(f"{theirs}/scale", f"{ours}.weight")
    yield _plain(f"{theirs}/bias", f"{ours}.bias")


def _flax_dense(theirs: str, ours: str) -> Iterator[Entry]:
    yield Entry(f"{theirs}/kernel", (f"{ours}.weight",), lambda t: [t.t()], lambda p: p[0].t())
    yield _plain(f"{theirs}/bias", f"{ours}.bias")


def _flax_conv(theirs: str, ours: str, bias: bool) -> Iterator[Entry]:
    yield Entry(
        f"{theirs}/kernel", (f"{ours}.weight",), lambda t: [t.permute(3, 2, 0, 1)], lambda p: p[0].permute(2, 3, 1, 0)
    )
    if bias:
        yield _plain(f"{theirs}/bias", f"{ours}.bias")


def _google_transformer_flax(net: google.Transformer) -> list[Entry]:
    config = net.config
    dim, heads, width = config.dim, config.heads, config.dim // config.heads
    entries = [
        _plain("Embed_0/word_embeddings/embedding", "word_embeddings.weight"),
        _plain("Embed_0/position_embeddings/embedding", "position_embeddings.weight"),
        *_flax_norm("Embed_0/embeddings_ln", "embeddings_ln"),
        *_flax_dense("MlmLayer_0/mlm_dense", "mlm_dense"),
        *_flax_norm("MlmLayer_0/mlm_ln", "mlm_ln"),
        _plain("MlmLayer_0/mlm_bias/bias", "mlm_bias"),
    ]
    for layer in range(config.depth):
        theirs, ours = f"TransformerLayer_{layer}", f"layers.{layer}"
        attention = f"{theirs}/Attention_0/self_attention"
        for name in ("query", "key", "value"):
            # [in, heads, width]: outputs count head by head.
            entries.append(
                Entry(
                    f"{attention}/{name}/kernel",
                    (f"{ours}.attention.{name}.weight",),
                    lambda t: [t.reshape(dim, dim).t()],
                    lambda p: p[0].t().reshape(dim, heads, width),
                )
            )
            entries.append(
                Entry(
                    f"{attention}/{name}/bias",
                    (f"{ours}.attention.{name}.bias",),
                    lambda t: [t.reshape(dim)],
                    lambda p: p[0].reshape(heads, width),
                )
            )
        entries.append(
            Entry(
                f"{attention}/out/kernel",
                (f"{ours}.attention.out.weight",),
                lambda t: [t.reshape(dim, dim).t()],
                lambda p: p[0].t().reshape(heads, width, dim),
            )
        )
        entries.append(_plain(f"{attention}/out/bias", f"{ours}.attention.out.bias"))
        entries.extend(_flax_norm(f"{theirs}/Attention_0/attention_output_ln", f"{ours}.attention.output_ln"))
        for name in ("intermediate_output", "layer_output"):
            entries.extend(_flax_dense(f"{theirs}/Mlp_0/{name}", f"{ours}.mlp.{name}"))
        entries.extend(_flax_norm(f"{theirs}/Mlp_0/layer_output_ln", f"{ours}.mlp.layer_output_ln"))
    return entries


def _google_tokenizer_flax(vqgan: google.GoogleMaskGit) -> list[Entry]:
    entries = [_plain("quantizer/codebook", "codebook")]
    for part in ("encoder", "decoder"):
        network = getattr(vqgan, part)
        entries.extend(_flax_conv(f"{part}/Conv_0", f"{part}.conv_in", bias=part == "decoder"))
        upsamples = len(network.upsamples) if part == "decoder" else 0
        for index in range(upsamples):
            entries.extend(_flax_conv(f"{part}/Conv_{index + 1}", f"{part}.upsamples.{index}", bias=True))
        entries.extend(_flax_conv(f"{part}/Conv_{upsamples + 1}", f"{part}.conv_out", bias=True))
        entries.extend(_flax_norm(f"{part}/GroupNorm_0", f"{part}.norm"))
        for index, block in enumerate(network.blocks):
            theirs, ours = f"{part}/ResBlock_{index}", f"{part}.blocks.{index}"
            for number in (0, 1):
                entries.extend(_flax_norm(f"{theirs}/GroupNorm_{number}", f"{ours}.norm{number}"))
            for number in (0, 1) if block.conv2 is None else (0, 1, 2):
                entries.extend(_flax_conv(f"{theirs}/Conv_{number}", f"{ours}.conv{number}", bias=False))
    return entries


# Google, converted to PyTorch by hmorimitsu/maskgit-torch.


def _google_transformer_torch(net: google.Transformer) -> list[Entry]:
    entries = [
        _plain("tok_emb.weight", "word_embeddings.weight"),
        _plain("pos_emb", "position_embeddings.weight"),
        _plain("bias", "mlm_bias"),
    ]
    for theirs, ours in (
        ("emb_ln", "embeddings_ln"),
        ("Token_Prediction.0", "mlm_dense"),
        ("Token_Prediction.2", "mlm_ln"),
    ):
        entries.extend(_affine(theirs, ours))
    for layer in range(net.config.depth):
        theirs, ours = f"blocks.{layer}", f"layers.{layer}"
        for name in ("weight", "bias"):
            # Queries, keys and values on top of each other, as nn.MultiheadAttention has them.
            parts = tuple(f"{ours}.attention.{part}.{name}" for part in ("query", "key", "value"))
            entries.append(
                Entry(
                    f"{theirs}.MultiHeadAttention.in_proj_{name}",
                    parts,
                    lambda t: list(t.chunk(3)),
                    lambda p: torch.cat(p),
                )
            )
        for there, here in (
            ("MultiHeadAttention.out_proj", "attention.out"),
            ("AttentionLN", "attention.output_ln"),
            ("MLP.0", "mlp.intermediate_output"),
            ("MLP.2", "mlp.layer_output"),
            ("MlpLN", "mlp.layer_output_ln"),
        ):
            entries.extend(_affine(f"{theirs}.{there}", f"{ours}.{here}"))
    return entries


def _google_tokenizer_torch(vqgan: google.GoogleMaskGit) -> list[Entry]:
    entries = [_plain("quantizer.codebook.weight", "codebook")]
    for part in ("encoder", "decoder"):
        network = getattr(vqgan, part)
        entries.extend(_affine(f"{part}.conv_in", f"{part}.conv_in", bias=part == "decoder"))
        for name, ours in (("norm_out", "norm"), ("conv_out", "conv_out")):
            entries.extend(_affine(f"{part}.{name}", f"{part}.{ours}"))
        for index, block in enumerate(network.blocks):
            stage, place = divmod(index, network.per_level)
            theirs, ours = f"{part}.res_blocks.{stage}.{place}", f"{part}.blocks.{index}"
            for number in (0, 1):
                entries.extend(_affine(f"{theirs}.norm{number}", f"{ours}.norm{number}"))
                entries.extend(_affine(f"{theirs}.conv{number}", f"{ours}.conv{number}", bias=False))
            if block.conv2 is not None:
                entries.extend(_affine(f"{theirs}.conv_res", f"{ours}.conv2", bias=False))
    for index in range(len(vqgan.decoder.upsamples)):
        # After the blocks of a level comes the doubling, which has no weights, then the convolution.
        entries.extend(
            _affine(f"decoder.res_blocks.{index + 1}.{vqgan.decoder.per_level + 1}", f"decoder.upsamples.{index}")
        )
    return entries


# Halton-MaskGIT and LlamaGen: our modules have their names.


def _same_names(module: nn.Module) -> list[Entry]:
    return [_plain(name, name) for name in parameters(module)]


def _halton_transformer(net: nn.Module) -> list[Entry]:
    return [*_same_names(net), _plain("head.weight", "tok_emb.weight")]


GOOGLE, HALTON, LLAMAGEN = "Google MaskGIT", "Halton-MaskGIT v2", "LlamaGen VQ-16"
LAYOUTS = [
    Layout(GOOGLE, "flax", "transformer", "Embed_0/word_embeddings/embedding", _google_transformer_flax, "transformer"),
    Layout(GOOGLE, "flax", "tokenizer", "quantizer/codebook", _google_tokenizer_flax),
    Layout(
        GOOGLE,
        "torch",
        "transformer",
        "blocks.0.MultiHeadAttention.in_proj_weight",
        _google_transformer_torch,
        "transformer",
    ),
    Layout(GOOGLE, "torch", "tokenizer", "quantizer.codebook.weight", _google_tokenizer_torch),
    Layout(HALTON, "torch", "transformer", "transformer.layers.0.attn.wq.weight", _halton_transformer, "network"),
    # A count of how often codes were used in training, not a weight.
    Layout(
        LLAMAGEN,
        "torch",
        "tokenizer",
        "quantize.embedding.weight",
        _same_names,
        "vq",
        frozenset({"quantize.codebook_used"}),
    ),
]


def find(title: str, format: str, part: str) -> Layout:
    """The layout of a published model's part."""
    return next(layout for layout in LAYOUTS if (layout.title, layout.format, layout.part) == (title, format, part))

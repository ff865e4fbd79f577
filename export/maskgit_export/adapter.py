"""The three functions every exported model has, whatever its own shape.

To export a model of your own, subclass :class:`Model`: say what it is in ``metadata`` and write ``logits``, ``decode``
and ``encode`` in terms of your networks. Class tokens, label offsets, register tokens, mask rows and pixel ranges stay
inside these methods; the runtime never learns of them. ``maskgit-export bundle my_module:make -o mine`` then writes the
bundle, where ``make()`` returns the model::

    class Mine(Model):
        def __init__(self):
            super().__init__(Metadata(name="mine", licence="MIT", source="...", image_height=64, ...))
            self.transformer, self.vqgan = ..., ...

        def logits(self, tokens, label):
            sequence = torch.cat([label.unsqueeze(1) + 1024, tokens], dim=1)
            return self.transformer(sequence)[:, 1:, :1024]

The methods are traced by ``torch.onnx.export`` with a symbolic batch size: no Python branch may depend on values, and
shapes other than the batch are constants. Use ``-1`` for the batch in ``reshape``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from torch import Tensor, nn

from .bundle import Metadata, Sampling
from .mvtm import MaskedTransformer, without_labels
from .tokenizer import Tokenizer
from .weights import load_mvtm, load_tokenizer

__all__ = ["Avatars", "Metadata", "Model", "Sampling", "load"]


class Model(nn.Module):
    """A class-conditional MaskGIT model as the runtime sees it.

    Assign your networks as attributes after ``super().__init__``.
    """

    def __init__(self, metadata: Metadata):
        super().__init__()
        metadata.check()
        #: What the manifest says: grid, image size, codes, mask_id, labels, null_label, sampling, name, licence,
        #: source.
        self.metadata = metadata

    def logits(self, tokens: Tensor, label: Tensor) -> Tensor:
        """Tokens int64 ``[B, N]`` (``mask_id`` where masked) and label int64 ``[B]`` to logits float32 ``[B, N,
        codes]``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define logits(tokens, label)")

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens int64 ``[B, N]``, none masked, to image float32 ``[B, 3, H, W]`` in 0..1, clipped."""
        raise NotImplementedError(f"{type(self).__name__} must define decode(tokens)")

    def encode(self, image: Tensor) -> Tensor:
        """Image float32 ``[B, 3, H, W]`` in 0..1 to tokens int64 ``[B, N]``.

        A model without it is exported without an encoder.
        """
        raise NotImplementedError(f"{type(self).__name__} must define encode(image)")

    @property
    def has_encoder(self) -> bool:
        """Whether the class defines ``encode``."""
        return type(self).encode is not Model.encode


class Avatars(Model):
    """What ``train-tokenizer`` and ``train-mvtm`` trained."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        transformer: MaskedTransformer,
        name: str,
        licence: str,
        source: str,
        sampling: Sampling | None = None,
    ):
        shape, mvtm = tokenizer.config, transformer.config
        if (shape.grid, shape.codes) != (mvtm.grid, mvtm.codes):
            raise SystemExit(
                f"the tokenizer has {shape.grid}x{shape.grid} tokens of {shape.codes} codes, the transformer "
                f"{mvtm.grid}x{mvtm.grid} of {mvtm.codes}: they were not trained together"
            )
        super().__init__(
            Metadata(
                name=name,
                licence=licence,
                source=source,
                image_height=shape.size,
                image_width=shape.size,
                grid_rows=shape.grid,
                grid_cols=shape.grid,
                codes=shape.codes,
                mask_id=mvtm.mask_id,
                labels=list(mvtm.labels),
                null_label=mvtm.null_label,
                sampling=sampling or Sampling(),
            )
        )
        self.tokenizer, self.transformer = tokenizer.eval(), transformer.eval()

    @classmethod
    def load(
        cls,
        tokenizer: str | Path,
        mvtm: str | Path,
        name: str,
        licence: str,
        source: str,
        sampling: Sampling | None = None,
        without: list[str] | None = None,
    ) -> Avatars:
        """Reads the files that the two trainers wrote, and leaves out the classes ``without``."""
        return cls(
            load_tokenizer(tokenizer), without_labels(load_mvtm(mvtm), without or []), name, licence, source, sampling
        )

    def logits(self, tokens: Tensor, label: Tensor) -> Tensor:
        return self.transformer(tokens, label)

    def decode(self, tokens: Tensor) -> Tensor:
        return self.tokenizer.decode(tokens)

    def encode(self, image: Tensor) -> Tensor:
        return self.tokenizer.encode(image)


def load(reference: str) -> Model:
    """The model that ``MODULE:FUNCTION`` returns; the module is looked for in the current folder too.

    Runs that module's code.
    """
    module_name, _, function = reference.partition(":")
    if not function:
        raise SystemExit(
            f"{reference}: write it as MODULE:FUNCTION, where the function returns a maskgit_export.adapter.Model"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        model = getattr(importlib.import_module(module_name), function)()
    except (ImportError, AttributeError) as error:
        raise SystemExit(f"{reference}: {error}") from error
    if not isinstance(model, Model):
        raise SystemExit(f"{reference}: returned a {type(model).__name__}, not a maskgit_export.adapter.Model")
    return model.eval()

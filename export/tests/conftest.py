"""What several tests share: one thread, and tiny models exported once."""

import functools

import numpy as np
import pytest
import torch
from PIL import Image

from maskgit_export.adapter import Avatars, Sampling
from maskgit_export.export import write_bundle
from maskgit_export.mvtm import MaskedTransformer, MvtmConfig
from maskgit_export.published import google, halton, llamagen
from maskgit_export.synth import make_google, make_halton
from maskgit_export.tokenizer import Tokenizer, TokenizerConfig

torch.set_num_threads(1)

GOOGLE = google.Config(
    grid=4,
    codes=32,
    classes=5,
    dim=24,
    depth=2,
    heads=4,
    ffn=40,
    filters=8,
    multipliers=(1, 2),
    blocks=2,
    code_dim=6,
    groups=4,
)
# 26 is not a multiple of 4 heads, as in the published size S.
HALTON = halton.Config(
    grid=4,
    codes=32,
    classes=5,
    dim=26,
    depth=2,
    heads=4,
    tokenizer=llamagen.Config(codes=32, channels=8, multipliers=(1, 2), blocks=1, latent=8, groups=4),
)


def tiny_avatars():
    """What the two trainers make, at a small size, with random weights everywhere (zeros hide mistakes)."""
    torch.manual_seed(5)
    tokenizer = Tokenizer(TokenizerConfig(size=16, factor=4, codes=32, code_dim=4, width=8, blocks=1))
    transformer = MaskedTransformer(
        MvtmConfig(grid=4, codes=32, labels=["cat", "dog"], width=8, dim=16, depth=2, heads=2, blocks=1)
    )
    with torch.no_grad():
        for parameter in [*tokenizer.parameters(), *transformer.parameters()]:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Avatars(tokenizer, transformer, "tiny", "CC0-1.0", "a test", Sampling(steps=4, guidance=1.0))


MODELS = {
    "avatars": tiny_avatars,
    "google": lambda: make_google(GOOGLE, "google", 3),
    "halton": lambda: make_halton(HALTON, "halton", 3),
}


@pytest.fixture(scope="session", autouse=True)
def one_registry():
    """PyTorch's exporter reads the source of its five hundred translations anew for every graph; in the tests, once.

    They are the same each time, and reading them is half of the time that an export of so small a graph takes.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory):
    """``bundle_of(kind)``: a model of the kind and the folder of its bundle. Tests that change it copy it first."""

    @functools.cache
    def made(kind):
        model, folder = MODELS[kind](), tmp_path_factory.mktemp(kind)
        write_bundle(model, folder)
        return model, folder

    return made


@pytest.fixture(scope="session", params=MODELS)
def exported(request, bundle_of):
    """``(model, folder of its bundle)`` for each kind of model."""
    return bundle_of(request.param)


@pytest.fixture(scope="session")
def avatars(bundle_of):
    """``(model, folder of its bundle)`` of the kind that the trainers make."""
    return bundle_of("avatars")


@pytest.fixture
def pictures(tmp_path):
    """Two classes of flat colours with noise, as folders of PNG files of several sizes."""
    choice = np.random.default_rng(0)
    for name, colour in (("blue", (20, 40, 220)), ("red", (220, 40, 20))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(20):
            pixels = np.clip(np.array(colour) + choice.integers(-15, 16, (24, 20 + index, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{index:02}.png")
    return tmp_path / "pictures"

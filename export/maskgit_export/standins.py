"""Stand-ins for the harmless classes that training programs put into PyTorch files beside the weights: options, paths,
dates, NumPy scalars.

A pickle names its classes. ``torch.load(weights_only=True)`` refuses a name that it was not told to allow; here the
names below are allowed, and each stands for an empty class of ours. So nothing of the libraries that the names belong
to is imported or run, and what the file says about such an object is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict


class Forgotten:
    """An object of a file that says nothing about the weights."""

    def __init__(self, *args: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


class Mapping:
    """A class derived from ``dict``: read as a dictionary, which may hold weights."""

    def __new__(cls, *args: object) -> OrderedDict:
        return OrderedDict()


class Sequence:
    """A class derived from ``list``, or a queue: read as a list."""

    def __new__(cls, *args: object) -> list:
        return []


FORGOTTEN = [
    "argparse.Namespace",
    "types.SimpleNamespace",
    "typing.Any",
    "uuid.UUID",
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "frozenset", "int", "list", "range", "slice", "str")),
    *("builtins.tuple", "numpy.dtype", "numpy.ndarray"),
    *(
        f"numpy.{module}.multiarray.{name}"
        for module in ("core", "_core")  # before NumPy 2, and since
        for name in ("scalar", "_reconstruct")
    ),
    *(f"omegaconf.{name}" for name in ("base.ContainerMetadata", "base.Metadata")),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *(f"omegaconf.nodes.{name}Node" for name in ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "Path")),
    "omegaconf.nodes.StringNode",
    *(
        f"{package}.callbacks.{name}"
        for package in ("pytorch_lightning", "lightning.pytorch")
        for name in ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
    ),
]
MAPPINGS = [
    "collections.defaultdict",
    "easydict.EasyDict",
    "ml_collections.config_dict.config_dict.ConfigDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "yacs.config.CfgNode",
]
SEQUENCES = ["collections.deque"]

#: For ``torch.serialization.safe_globals``: what stands for a name, and the name.
ALLOWED = [
    *((Forgotten, name) for name in FORGOTTEN),
    *((Mapping, name) for name in MAPPINGS),
    *((Sequence, name) for name in SEQUENCES),
]

"""The bundle folder: ``bundle.json`` and three ONNX graphs. The format is described in docs/bundle.md.

Writing, reading and checking need only the standard library, so a bundle can be put together without PyTorch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .files import write_text

FORMAT_VERSION = 1
MANIFEST = "bundle.json"
#: Graph name -> whether a bundle must have it.
GRAPHS = {"transformer": True, "decoder": True, "encoder": False}
SCHEDULES = ("linear", "square", "cubic", "sqrt", "cosine", "log", "exp", "arccos")
SAMPLERS = ("confidence", "confidence-remask", "predictor-corrector", "halton", "halton-redraw")
#: Fields of ``sampling`` that a manifest leaves out where they have their default. ``top_k`` may be absent too.
OPTIONAL_SETTINGS = ("final_temperature", "corrector_share", "corrector_first")
PRECISIONS = ("fp32", "fp16", "int8")
LIMITS = {
    "manifest bytes": 1 << 20,
    "labels": 65536,
    "grid": 128,
    "image": 4096,
    "codes": 1 << 20,
    "logits": 1 << 28,
    "id": 1 << 21,
    "steps": 4096,
    "scale": 1_000_000,
}
#: Bytes of UTF-8, least and most.
TEXTS = {"name": (1, 128), "licence": (1, 256), "source": (0, 4096)}
LABEL_TEXT = (1, 256)
LABEL_ID_TEXT = (1, 64)
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class BundleError(Exception):
    """A bundle that breaks the format; the message says what, where, and what was expected."""


@dataclass
class Sampling:
    """The settings a model's author recommends.

    ``choice_temperature`` scales the Gumbel noise of the confidence, ``temperature`` divides the logits; where there is
    a ``final_temperature``, it changes linearly to that over the steps. ``guidance`` w stands for logits = cond + w
    (cond - uncond), which ``guidance_ramp`` raises over the T steps: w (s + 1) / T in step s. The last two are for
    the sampler ``predictor-corrector``. docs/sampler.md says exactly what each does.
    """

    steps: int = 12
    schedule: str = "cosine"
    sampler: str = "confidence"
    choice_temperature: float = 4.5
    temperature: float = 1.0
    final_temperature: float | None = None
    top_k: int | None = None
    guidance: float = 0.0
    guidance_ramp: bool = False
    corrector_share: float = 0.6
    corrector_first: float = 0.5

    def to_json(self) -> dict:
        """As the manifest has it: without those optional fields that have their default, as older runtimes read it."""
        optional = {field.name: field.default for field in dataclasses.fields(self) if field.name in OPTIONAL_SETTINGS}
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in optional or value != optional[name]
        }


@dataclass
class Metadata:
    """Everything the manifest says about a model, apart from its graph files.

    Tokens are in raster order on a grid of ``grid_rows`` x ``grid_cols``; ``mask_id`` stands for a masked one; a label
    is an index into ``labels``, or ``null_label`` for "any class" where the model was trained with one. ``label_ids``
    are second names of the labels, one each, by which a class can be asked for too: ImageNet's synsets (``n02099601``).
    """

    name: str
    licence: str
    source: str
    image_height: int
    image_width: int
    grid_rows: int
    grid_cols: int
    codes: int
    mask_id: int
    labels: list[str]
    null_label: int | None = None
    label_ids: list[str] | None = None
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def tokens(self) -> int:
        """Tokens of one image, N."""
        return self.grid_rows * self.grid_cols

    def check(self) -> None:
        """Raises :class:`BundleError` for the first value outside its range."""
        for name, limits in TEXTS.items():
            _require(
                _text(getattr(self, name), limits),
                f"{name} must be a text of {limits[0]} to {limits[1]} bytes without control characters",
            )
        for name, limit in (
            ("image_height", "image"),
            ("image_width", "image"),
            ("grid_rows", "grid"),
            ("grid_cols", "grid"),
            ("codes", "codes"),
        ):
            value = getattr(self, name)
            _require(
                _whole(value) and 1 <= value <= LIMITS[limit],
                f"{name} is {value!r}; it must be a whole number from 1 to {LIMITS[limit]}",
            )
        _require(
            self.image_height % self.grid_rows == 0 and self.image_width % self.grid_cols == 0,
            f"an image of {self.image_height}x{self.image_width} pixels does not divide into "
            f"{self.grid_rows}x{self.grid_cols} tokens",
        )
        _require(
            self.tokens * self.codes <= LIMITS["logits"],
            f"{self.tokens} tokens of {self.codes} codes make more than {LIMITS['logits']} logits",
        )
        _require(
            _whole(self.mask_id) and self.codes <= self.mask_id < LIMITS["id"],
            f"mask_id is {self.mask_id!r}; it must not be one of the {self.codes} codes: from {self.codes} to "
            f"{LIMITS['id'] - 1}",
        )
        _require(
            isinstance(self.labels, list) and 1 <= len(self.labels) <= LIMITS["labels"],
            f"labels must be a list of 1 to {LIMITS['labels']} names",
        )
        _require(
            all(_text(label, LABEL_TEXT) for label in self.labels),
            f"every label must be a text of {LABEL_TEXT[0]} to {LABEL_TEXT[1]} bytes without control characters",
        )
        _require(not (doubled := _doubled(self.labels)), f"labels must differ; given twice: {doubled[:3]}")
        self._check_label_ids()
        _require(
            self.null_label is None or (_whole(self.null_label) and len(self.labels) <= self.null_label < LIMITS["id"]),
            f"null_label is {self.null_label!r}; it must be null, or from {len(self.labels)} (after the labels) to "
            f"{LIMITS['id'] - 1}",
        )
        self._check_sampling()

    def _check_label_ids(self) -> None:
        ids = self.label_ids
        if ids is None:
            return
        _require(
            isinstance(ids, list) and len(ids) == len(self.labels),
            f"label_ids must be null, or a list of {len(self.labels)} texts, one for each label",
        )
        _require(
            all(_text(name, LABEL_ID_TEXT) for name in ids),
            f"every one of label_ids must be a text of {LABEL_ID_TEXT[0]} to {LABEL_ID_TEXT[1]} bytes without control "
            "characters",
        )
        _require(not (doubled := _doubled(ids)), f"label_ids must differ; given twice: {doubled[:3]}")

    def _check_sampling(self) -> None:
        s = self.sampling
        _require(
            _whole(s.steps) and 1 <= s.steps <= LIMITS["steps"],
            f"sampling.steps is {s.steps!r}; it must be from 1 to {LIMITS['steps']}",
        )
        _require(
            _is_schedule(s.schedule), f"sampling.schedule is {s.schedule!r}; known: {', '.join(SCHEDULES)}, power:X"
        )
        _require(s.sampler in SAMPLERS, f"sampling.sampler is {s.sampler!r}; known: {', '.join(SAMPLERS)}")
        for name in ("choice_temperature", "temperature", "final_temperature", "guidance"):
            value = getattr(s, name)
            if name == "final_temperature" and value is None:
                continue
            _require(
                _number(value) and 0 <= value <= LIMITS["scale"],
                f"sampling.{name} is {value!r}; it must be a number from 0 to {LIMITS['scale']}",
            )
        _require(
            _number(s.corrector_share) and 0 <= s.corrector_share < 1,
            f"sampling.corrector_share is {s.corrector_share!r}; it must be a number from 0 to below 1",
        )
        _require(
            _number(s.corrector_first) and 0 < s.corrector_first <= 1,
            f"sampling.corrector_first is {s.corrector_first!r}; it must be a number above 0 and at most 1",
        )
        _require(
            s.top_k is None or (_whole(s.top_k) and 1 <= s.top_k <= self.codes),
            f"sampling.top_k is {s.top_k!r}; it must be null, or from 1 to {self.codes}",
        )
        _require(isinstance(s.guidance_ramp, bool), "sampling.guidance_ramp must be true or false")
        _require(
            s.guidance == 0 or self.null_label is not None,
            f"sampling.guidance is {s.guidance} but the model has no null_label to guide away from",
        )


def graph_signature(metadata: Metadata, graph: str) -> tuple[list[tuple], list[tuple]]:
    """Inputs and outputs of a graph as ``(name, "int64" | "float32", shape after the batch dimension)``."""
    tokens = ("tokens", "int64", [metadata.tokens])
    image = ("image", "float32", [3, metadata.image_height, metadata.image_width])
    return {
        "transformer": ([tokens, ("label", "int64", [])], [("logits", "float32", [metadata.tokens, metadata.codes])]),
        "decoder": ([tokens], [image]),
        "encoder": ([image], [tokens]),
    }[graph]


def manifest_of(metadata: Metadata, folder: Path, precision: str = "fp32") -> dict:
    """The manifest of the graphs ``<graph>.onnx`` that lie in ``folder``."""
    metadata.check()
    _require(precision in PRECISIONS, f"precision is {precision!r}; known: {', '.join(PRECISIONS)}")
    graphs = {}
    for graph, needed in GRAPHS.items():
        file = folder / f"{graph}.onnx"
        if file.exists():
            graphs[graph] = {"file": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)}
        elif needed:
            raise BundleError(f"{file}: missing; a bundle needs this graph")
    return {
        "format_version": FORMAT_VERSION,
        "name": metadata.name,
        "licence": metadata.licence,
        "source": metadata.source,
        "image": {"height": metadata.image_height, "width": metadata.image_width},
        "grid": {"rows": metadata.grid_rows, "cols": metadata.grid_cols},
        "codes": metadata.codes,
        "mask_id": metadata.mask_id,
        "labels": metadata.labels,
        **({} if metadata.label_ids is None else {"label_ids": metadata.label_ids}),
        "null_label": metadata.null_label,
        "precision": precision,
        "sampling": metadata.sampling.to_json(),
        "graphs": graphs,
    }


def write_manifest(metadata: Metadata, folder: str | Path, precision: str = "fp32") -> Path:
    """Hashes the graphs in ``folder`` and writes ``bundle.json`` beside them, whole or not at all."""
    folder = Path(folder)
    target = folder / MANIFEST
    text = json.dumps(manifest_of(metadata, folder, precision), indent=2, ensure_ascii=False) + "\n"
    _require(
        len(text.encode()) <= LIMITS["manifest bytes"],
        f"{target}: {len(text.encode())} bytes; at most {LIMITS['manifest bytes']} are allowed, use shorter labels",
    )
    write_text(target, text)
    return target


def read_manifest(folder: str | Path) -> tuple[Metadata, dict]:
    """Reads and checks ``bundle.json``: the metadata, and the entries of the graphs. Files are not opened."""
    path = Path(folder) / MANIFEST
    try:
        size = path.stat().st_size
        _require(
            size <= LIMITS["manifest bytes"], f"{path}: {size} bytes; at most {LIMITS['manifest bytes']} are allowed"
        )
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such file; give the folder of a bundle") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{path}: not JSON: {error}") from error
    try:
        return _parse(raw)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def validate(folder: str | Path) -> tuple[Metadata, dict]:
    """Checks a whole bundle: manifest, sizes, hashes, and each graph's inputs and outputs.

    Returns what :func:`read_manifest` does.
    """
    folder = Path(folder)
    metadata, graphs = read_manifest(folder)
    for graph, entry in graphs.items():
        file = folder / entry["file"]
        _require(file.is_file(), f"{file}: missing, though {MANIFEST} lists it as the {graph}")
        size = file.stat().st_size
        _require(size == entry["bytes"], f"{file}: {size} bytes; {MANIFEST} says {entry['bytes']}")
        digest = sha256(file)
        _require(
            digest == entry["sha256"],
            f"{file}: its SHA-256 is {digest}; {MANIFEST} says {entry['sha256']}: the file was changed or damaged, "
            "export it again",
        )
        _check_signature(file, graph, metadata)
    return metadata, graphs


def sha256(path: Path) -> str:
    """SHA-256 of a file, in lower-case hexadecimal."""
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(file.read()).hexdigest()
        )


def _parse(raw: object) -> tuple[Metadata, dict]:
    top = _fields(
        raw,
        "the manifest",
        {
            "format_version",
            "name",
            "licence",
            "source",
            "image",
            "grid",
            "codes",
            "mask_id",
            "labels",
            "label_ids",
            "null_label",
            "precision",
            "sampling",
            "graphs",
        },
        optional={"label_ids", "null_label"},
    )
    _require(
        top["format_version"] == FORMAT_VERSION,
        f"format_version is {top['format_version']!r}; this program knows {FORMAT_VERSION}",
    )
    _require(top["precision"] in PRECISIONS, f"precision is {top['precision']!r}; known: {', '.join(PRECISIONS)}")
    image = _fields(top["image"], "image", {"height", "width"})
    grid = _fields(top["grid"], "grid", {"rows", "cols"})
    sampling = _fields(
        top["sampling"],
        "sampling",
        {f.name for f in dataclasses.fields(Sampling)},
        optional={"top_k", *OPTIONAL_SETTINGS},
    )
    metadata = Metadata(
        name=top["name"],
        licence=top["licence"],
        source=top["source"],
        image_height=image["height"],
        image_width=image["width"],
        grid_rows=grid["rows"],
        grid_cols=grid["cols"],
        codes=top["codes"],
        mask_id=top["mask_id"],
        labels=top["labels"],
        null_label=top.get("null_label"),
        label_ids=top.get("label_ids"),
        sampling=Sampling(**sampling),
    )
    metadata.check()
    graphs = _fields(
        top["graphs"], "graphs", set(GRAPHS), optional={graph for graph, needed in GRAPHS.items() if not needed}
    )
    graphs = {
        graph: _fields(entry, f"graphs.{graph}", {"file", "bytes", "sha256"})
        for graph, entry in graphs.items()
        if entry is not None
    }
    for graph, needed in GRAPHS.items():
        _require(graph in graphs or not needed, f"graphs.{graph} is null; a bundle needs it")
    _require(len({str(entry["file"]) for entry in graphs.values()}) == len(graphs), "two graphs have the same file")
    for graph, entry in graphs.items():
        name, digest = entry["file"], entry["sha256"]
        plain = isinstance(name, str) and FILE_NAME.fullmatch(name) is not None
        _require(
            plain,
            f"graphs.{graph}.file is {name!r}; it must be a plain file name inside the bundle: letters, digits, '.', "
            "'_', '-'",
        )
        _require(
            isinstance(digest, str) and len(digest) == 64 and all(c in "0123456789abcdef" for c in digest),
            f"graphs.{graph}.sha256 must be 64 lower-case hexadecimal digits",
        )
        _require(
            _whole(entry["bytes"]) and 1 <= entry["bytes"] <= 4 << 30,
            f"graphs.{graph}.bytes is {entry['bytes']!r}; it must be from 1 to {4 << 30}",
        )
    return metadata, graphs


def _check_signature(file: Path, graph: str, metadata: Metadata) -> None:
    import onnx

    from .onnx_file import read_without_weights

    try:
        model = read_without_weights(file)
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: not an ONNX file: {error}") from error
    types = {onnx.TensorProto.INT64: "int64", onnx.TensorProto.FLOAT: "float32"}
    for kind, expected, found in zip(
        ("inputs", "outputs"), graph_signature(metadata, graph), (model.graph.input, model.graph.output)
    ):
        names = [port.name for port in found]
        _require(
            names == [name for name, _, _ in expected],
            f"{file}: its {kind} are {names}; expected {[name for name, _, _ in expected]}",
        )
        for (name, dtype, shape), port in zip(expected, found):
            tensor = port.type.tensor_type
            dims = [dim.dim_value for dim in tensor.shape.dim]
            _require(
                types.get(tensor.elem_type) == dtype,
                f"{file}: {name} has element type {tensor.elem_type}; expected {dtype}",
            )
            # 0 is a symbolic dimension; only the first, the batch, may be one.
            _require(
                len(dims) == len(shape) + 1 and dims[1:] == shape,
                f"{file}: {name} has shape {dims}; expected [batch, {', '.join(map(str, shape))}]",
            )


def _fields(raw: object, where: str, names: set[str], optional: set[str] = frozenset()) -> dict:
    _require(isinstance(raw, dict), f"{where} must be an object")
    unknown, missing = sorted(set(raw) - names), sorted(names - optional - set(raw))
    _require(not unknown, f"{where} has fields this program does not know: {', '.join(unknown)}")
    _require(not missing, f"{where} lacks {', '.join(missing)}")
    return raw


def _is_schedule(value: object) -> bool:
    if isinstance(value, str) and value.startswith("power:"):
        try:
            exponent = float(value[6:])
        except ValueError:
            return False
        return math.isfinite(exponent) and exponent > 0
    return value in SCHEDULES


def _text(value: object, limits: tuple[int, int]) -> bool:
    if not isinstance(value, str) or any(unicodedata.category(c) == "Cc" for c in value):
        return False
    return limits[0] <= len(value.encode("utf-8", "surrogatepass")) <= limits[1]


def _doubled(names: list[str]) -> list[str]:
    """The names that are there more than once."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BundleError(message)

"""Finds the weights of a model among all that a checkpoint holds: below containers and prefixes of any name, beside
averaged weights (EMA), optimizers and counters.

A model is recognised by one tensor that only it has, its marker. What stands before the marker's name, ``state_dict.``
or ``ema_model.module.`` for example, is the place of the weights.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from .checkpoint import CheckpointError, File

#: Words in the keys of weights that are averages of those of many steps.
AVERAGED = re.compile(r"(^|[_-])(ema|swa|average|averaged|avg|shadow)($|[_-])")
#: Keys of an optimizer, which may keep a tensor for each of the model's under the same name, and of other state.
STATE = re.compile(
    r"(^|_)(opt|optim|optimizers?|mu|nu|momentum|exp_avg|schedulers?|scaler|loss|criterion|discriminator|disc|lpips"
    r"|rng)($|_)"
)


@dataclass(frozen=True)
class Choice:
    """Which weights to take from a file: the averaged ones, those under ``key``; ``option`` is what gives the key."""

    ema: bool = False
    key: str | None = None
    option: str = "--key"


@dataclass
class Checkpoint:
    """The weights of a model: ``format`` is ``flax`` or ``torch``; ``tensors`` are float32, except for whole numbers.

    ``notes`` is what the user should know about them.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor]
    averaged: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """What stands before the names, and whether these have lost their dots, as in PyTorch Lightning's averages."""

    prefix: str
    dotless: bool = False

    @property
    def key(self) -> str:
        return self.prefix.rstrip("./")

    @property
    def averaged(self) -> bool:
        return any(AVERAGED.search(part.lower()) for part in _parts(self.prefix))

    @property
    def state(self) -> bool:
        return any(STATE.search(part.lower()) for part in _parts(self.prefix))


def select(file: File, marker: str, what: str, choice: Choice) -> Checkpoint | None:
    """The weights that have the marker; None where there are none. ``what`` names the model in errors.

    Raises :class:`CheckpointError` where the choice fits nothing, or several sets of weights.
    """
    every = places = _places(file, marker)
    if choice.key is not None:
        places = _under(file, every, choice, what)
    usable = [place for place in places if not place.state or choice.key is not None]
    averaged = [place for place in usable if place.averaged]
    others = [place for place in usable if not place.averaged]
    wanted = (averaged if choice.ema else others) or averaged or others
    if not wanted:
        return None
    if len(wanted) > 1:
        listed = " or ".join(f"{choice.option} {place.key or '.'}" for place in wanted)
        raise CheckpointError(f"{file.path}: has {len(wanted)} sets of weights of {what}; choose one with {listed}")
    found = _take(file, wanted[0], every)
    if choice.ema and not averaged:
        found.notes.append("has no averaged weights (EMA); its only weights are taken")
    elif averaged and others and not found.averaged:
        found.notes.append(
            f"has averaged weights (EMA) too, under {averaged[0].key}; those of the last step are taken. Averaged ones "
            "usually draw better images: --ema takes them"
        )
    elif found.averaged and choice.key is None:
        beside = "" if others else "; it has no others"
        found.notes.append(f"averaged weights (EMA), under {wanted[0].key}, are taken{beside}")
    if nameless := [place for place in file.lists if any(AVERAGED.search(part.lower()) for part in _parts(place))]:
        found.notes.append(
            f"has averaged weights (EMA) under {nameless[0]} as a list without names, which cannot be used: save them "
            "by name, with the training program: ema.copy_to(model.parameters()), then model.state_dict()"
        )
    return found


def has(file: File, marker: str) -> bool:
    """Whether the file has the marker anywhere, but in an optimizer's state."""
    return any(not place.state for place in _places(file, marker))


def describe(file: File) -> str:
    """What a file holds, for the error about one that is no known model: keys, counts, prefixes, first names."""
    names = sorted(file.tensors)
    keys = Counter(_parts(name)[0] for name in names)
    listed = ", ".join(f"{key} ({count})" for key, count in keys.items()) if len(keys) <= 8 else f"{len(keys)} keys"
    tops = {_parts(place)[0] for place in (*file.others, *file.lists)} - set(keys)
    beside = f"; beside them {', '.join(sorted(tops)[:8])}{', ...' if len(tops) > 8 else ''}" if tops else ""
    if not names:
        unnamed = f" and {sum(file.lists.values())} without names" if file.lists else ""
        return f"It has no tensors with names{unnamed}{beside}"
    common = _common(names)
    below = Counter(_parts(name[len(common) :])[0] for name in names)
    prefixes = ""
    if common:
        shown = ", ".join(f"{key} ({count})" for key, count in list(below.items())[:8])
        prefixes = f"; all begin with '{common}', then {shown}{', ...' if len(below) > 8 else ''}"
    return (
        f"It has {len(names)} tensors: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}; under the keys "
        f"{listed}{prefixes}{beside}"
    )


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[./]", name) if part] or [""]


def _common(names: list[str]) -> str:
    """What several names have before them, up to a separator."""
    if len(names) < 2:
        return ""
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return first[: max(first.rfind(separator, 0, length) for separator in "./") + 1]


def _places(file: File, marker: str) -> list[_Place]:
    """Where the file has the marker, alone or behind a separator."""
    places = []
    dotless = marker.replace(".", "") if file.format == "torch" else None
    for name in file.tensors:
        for end in (marker, dotless):
            prefix = name[: -len(end)] if end and name.endswith(end) else None
            if prefix == "" or (prefix and prefix.endswith(file.separator)):
                places.append(_Place(prefix, end == dotless and end != marker))
                break
    return sorted(places, key=lambda place: place.prefix)


def _under(file: File, places: list[_Place], choice: Choice, what: str) -> list[_Place]:
    """The places under the key of the choice: the one that is it exactly, else all below."""
    key = re.sub(r"[./]", file.separator, choice.key).strip(file.separator)
    start = f"{key}{file.separator}" if key else ""
    if not any(name.startswith(start) for name in file.tensors):
        raise CheckpointError(f"{file.path}: {choice.option} {choice.key}: no tensors there. {describe(file)}")
    exact = [place for place in places if place.prefix == start]
    if below := exact or [place for place in places if place.prefix.startswith(start)]:
        return below
    elsewhere = f"; it has them under {' and '.join(place.key or '.' for place in places)}" if places else ""
    raise CheckpointError(
        f"{file.path}: {choice.option} {choice.key}: no weights of {what} there{elsewhere}. {describe(file)}"
    )


def _take(file: File, place: _Place, every: list[_Place]) -> Checkpoint:
    """The weights of one place, without those of other places and of state below it."""
    inner = tuple(other.prefix for other in every if len(other.prefix) > len(place.prefix))
    tensors, beside = {}, Counter()
    for name, tensor in file.tensors.items():
        rest = name[len(place.prefix) :]
        first = _parts(rest)[0] if name.startswith(place.prefix) else ""
        mine = name.startswith(place.prefix) and not (inner and name.startswith(inner))
        if not mine or (first != rest and (STATE.search(first.lower()) or AVERAGED.search(first.lower()))):
            beside[_parts(name)[0] if not name.startswith(place.prefix) else f"{place.prefix}{first}"] += 1
            continue
        tensors[rest] = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
    if place.dotless:
        names = [name[len(other.prefix) :] for other in every if not other.dotless for name in file.tensors]
        dotted = {name.replace(".", ""): name for name in names}
        tensors = {dotted.get(name, name): tensor for name, tensor in tensors.items()}
    found = Checkpoint(file.path, file.format, tensors, place.averaged)
    if place.key not in ("", "params"):
        found.notes.append(f"the weights are those under {place.key}")
    if beside:
        listed = ", ".join(f"{key} ({count} tensors)" for key, count in list(beside.items())[:8])
        found.notes.append(f"passed over: {listed}{', ...' if len(beside) > 8 else ''}")
    return found

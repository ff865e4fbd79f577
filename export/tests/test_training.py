"""The trainers, on data small enough for a test: what they promise, not how good the result is."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskgit_export import dataset, train_classifier, train_mvtm, train_tokenizer, training
from maskgit_export.classifier import StyleClassifier, load_classifier
from maskgit_export.cli import main
from maskgit_export.muon import Muon, orthogonalize
from maskgit_export.mvtm import MaskedTransformer, MvtmConfig
from maskgit_export.tokenizer import Quantizer, Tokenizer, TokenizerConfig
from maskgit_export.tokenizer import grown as grown_tokenizer
from maskgit_export.training import Clock, Progress, Run, join_group, learning_rate
from maskgit_export.weights import load_mvtm, load_tokenizer


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_orthogonalize_keeps_directions_and_evens_out_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalize(matrix)
    singular = torch.linalg.svdvals(result)
    assert singular.min() > 0.3 and singular.max() < 1.3
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.t() @ result @ vh.t()
    assert torch.allclose(inner, torch.diag(inner.diag()), atol=1e-4)
    half = orthogonalize(matrix, dtype=torch.bfloat16)
    assert half.dtype == torch.float32 and 0 < (half - result).abs().max() < 0.05


def test_muon_descends_on_a_convolution():
    torch.manual_seed(0)
    convolution, image = torch.nn.Conv2d(3, 4, 3), torch.randn(8, 3, 9, 9)
    target = torch.nn.Conv2d(3, 4, 3)(image).detach()
    optimizer = Muon([convolution.weight], lr=0.02)
    losses = []
    for _ in range(60):
        loss = (convolution(image) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_quantizer_picks_the_nearest_code_and_restarts_dead_ones():
    torch.manual_seed(0)
    quantizer = Quantizer(8, 4).train()
    vectors = torch.randn(2, 4, 3, 3)
    unit = torch.nn.functional.normalize(vectors, dim=1).permute(0, 2, 3, 1).reshape(2, 9, 4)
    brute = torch.cdist(unit, quantizer.codebook.expand(2, -1, -1)).argmin(-1)
    assert torch.equal(quantizer.tokens(vectors), brute)
    quantizer.usage[:] = 10.0
    quantizer.usage[3] = 0.0
    quantizer(vectors)
    assert quantizer.usage[3] > 1.0
    # A restarted code is one of the vectors just seen.
    assert (unit.reshape(-1, 4) @ quantizer.codebook[3]).max() > 0.999


def test_a_token_depends_on_its_neighbourhood_only():
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(size=32, codes=64, width=16)).eval()
    image = torch.rand(1, 3, 32, 32)
    other = image.clone()
    other[..., :16, :] = 0
    assert torch.equal(tokenizer.encode(image)[0, 7 * 8 :], tokenizer.encode(other)[0, 7 * 8 :])


def test_learning_rate_warms_up_and_decays():
    rates = [learning_rate(step, 1000, 1.0, 100) for step in range(1000)]
    assert rates[0] == 0.01 and max(rates) == pytest.approx(1.0, abs=1e-3) and rates[-1] < 0.03
    rising, falling = itertools.pairwise(rates[:100]), itertools.pairwise(rates[100:])
    assert all(a <= b for a, b in rising) and all(a >= b for a, b in falling)


def test_folder_of_pictures_is_cropped_split_and_labelled(pictures):
    data = dataset.load(pictures, 16)
    assert (
        data.classes == ["blue", "red"] and data.train.images.shape == (36, 16, 16, 3) and len(data.heldout.labels) == 4
    )
    means = data.train.images.astype(float).mean((1, 2))
    assert ((means[:, 0] > means[:, 2]) == (data.train.labels == 1)).all()
    dataset.save(data, pictures.parent / "prepared")
    again = dataset.load(pictures.parent / "prepared")
    assert np.array_equal(again.train.images, data.train.images) and np.array_equal(
        again.heldout.labels, data.heldout.labels
    )


def test_bad_folders_are_refused_in_words(tmp_path, pictures):
    with pytest.raises(SystemExit, match="no such folder"):
        dataset.load(tmp_path / "nothing")
    (pictures / "red" / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(SystemExit, match=r"bad.png"):
        dataset.load(pictures)


def test_train_both_interrupt_and_go_on(pictures, tmp_path, capsys):
    """The five commands of the README up to the weights; a second call goes on where the first stopped."""
    prepared, tokenizer, mvtm = tmp_path / "data", tmp_path / "t.pt", tmp_path / "m.pt"
    dataset.save(dataset.load(pictures, 16), prepared)
    common = ["--threads", "1", "--device", "cpu"]
    assert (
        main(
            [
                "train-tokenizer",
                "--data",
                str(prepared),
                *"--codes 16 --width 16 --images 1600 --adversarial-from 0.5 -o".split(),
                str(tokenizer),
                *common,
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["codes_used"] >= 2 and report["heldout_l1"] < 0.3
    before = load_tokenizer(tokenizer)
    assert (
        main(["train-classifier", "--data", str(prepared), "--images", "64", "-o", str(tmp_path / "classifier.pt")])
        == 0
    )
    assert (
        main(
            [
                "train-tokenizer",
                "--data",
                str(prepared),
                "--start",
                str(tokenizer),
                "--decoder-only",
                "--images",
                "32",
                "-o",
                str(tmp_path / "t2.pt"),
                "--perceptual",
                str(tmp_path / "classifier.pt"),
                *common,
            ]
        )
        == 0
    )
    capsys.readouterr()
    after = load_tokenizer(tmp_path / "t2.pt")
    assert all(torch.equal(a, b) for a, b in zip(before.encoder.parameters(), after.encoder.parameters()))
    assert torch.equal(before.quantizer.codebook, after.quantizer.codebook)
    assert not torch.equal(before.decoder.out.weight, after.decoder.out.weight)

    train = [
        "train-mvtm",
        "--data",
        str(prepared),
        "--tokenizer",
        str(tokenizer),
        *"--width 16 --dim 24 --depth 1 --heads 2 --batch 8 -o".split(),
        str(mvtm),
        *common,
    ]
    assert main([*train, "--images", "80"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main([*train, "--images", "160"]) == 0
    captured = capsys.readouterr()
    second = json.loads(captured.out)
    assert "going on from step 10" in captured.err
    assert (first["images"], second["images"]) == (80, 160) and second["heldout_loss"] < first["heldout_loss"]
    assert load_mvtm(mvtm).config.labels == ["blue", "red"]
    with pytest.raises(SystemExit, match="another run"):
        main([*train, "--images", "240", "--depth", "2"])


@pytest.mark.parametrize("command", ["train-tokenizer", "train-mvtm"])
def test_ctrl_c_ends_a_step_and_writes_a_checkpoint(command, pictures, tmp_path, capsys, monkeypatch):
    """Interrupted in the middle of the third step, and by the same command to the end."""
    output, trainer = tmp_path / "out.pt", train_tokenizer if command == "train-tokenizer" else train_mvtm
    train = [command, "--data", str(pictures), "-o", str(output), *"--batch 4 --threads 1 --device cpu".split()]
    if command == "train-tokenizer":
        train += "--size 16 --codes 16 --width 16".split()
    else:
        start = [*"--size 16 --codes 16 --width 16 --images 16 -o".split(), str(tmp_path / "t.pt")]
        assert main(["train-tokenizer", "--data", str(pictures), *start]) == 0
        train += ["--tokenizer", str(tmp_path / "t.pt"), *"--width 8 --dim 8 --depth 1 --heads 2".split()]
    capsys.readouterr()
    learn, steps = trainer._Trainer._learn, []

    def interrupted(self, loss):
        steps.append(self.clock.step)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        learn(self, loss)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as context:
        context.setattr(trainer._Trainer, "_learn", interrupted)
        assert main([*train, "--images", "40"]) == 1
    captured = capsys.readouterr()
    assert steps == [0, 1, 2] and "interrupted after step 3/10" in captured.err and "cancelled" in captured.err
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(f"{output}.checkpoint", weights_only=True)["step"] == 3
    assert main([*train, "--images", "40"]) == 0
    captured = capsys.readouterr()
    assert "going on from step 3" in captured.err and json.loads(captured.out)["images"] == 40


def test_the_classifier_goes_on_from_ctrl_c_to_the_same_weights(pictures, tmp_path, capsys, monkeypatch):
    def command(output, *more):
        given = "--size 32 --batch 4 --images 40 --threads 1 -o".split()
        return main(["train-classifier", "--data", str(pictures), *given, str(tmp_path / output), *more])

    assert command("whole.pt") == 0
    learn, steps = train_classifier._Trainer._learn, []

    def interrupted(self, loss):
        steps.append(self.clock.step)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        learn(self, loss)

    with monkeypatch.context() as context:
        context.setattr(train_classifier._Trainer, "_learn", interrupted)
        assert command("out.pt") == 1
    told = capsys.readouterr().err
    assert steps == [0, 1, 2] and "interrupted after step 3/10; the same command goes on" in told
    assert not (tmp_path / "out.pt").exists() and (tmp_path / "out.pt.checkpoint").exists()
    with pytest.raises(SystemExit, match=r"another run \(seed 1 is not 2\)"):
        command("out.pt", "--seed", "2")
    assert command("out.pt") == 0
    captured = capsys.readouterr()
    assert "going on from step 3" in captured.err and json.loads(captured.out)["images_seen"] == 40
    whole, resumed = (load_classifier(tmp_path / name).state_dict() for name in ("whole.pt", "out.pt"))
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())
    # The next run starts anew.
    assert not (tmp_path / "out.pt.checkpoint").exists()


def test_a_second_ctrl_c_is_not_put_off():
    with pytest.raises(KeyboardInterrupt), training.interruptible(Run("cpu")) as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        signal.raise_signal(signal.SIGINT)


def test_the_time_that_is_left_is_that_of_the_budget(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])

    def said(clock, steps):
        progress = Progress(clock, batch=8, quiet=False, every=0.0)
        for _ in range(steps):
            with clock.counting():
                now[0] += 3
            progress.step(loss=1.0)
        return capsys.readouterr().err.splitlines()[-1]

    # A hundred steps of three seconds, of which twenty are done; or two minutes, whatever the steps.
    assert said(Clock(100), 20).startswith("step 20/100  2.7 images/s  4.0 min left")
    clock = Clock(100, minutes=2.0)
    assert said(clock, 20).startswith("step 20  2.7 images/s  1.0 min left") and clock.fraction == 0.5
    # What earlier runs spent counts too.
    later = Clock(100, minutes=2.0)
    later.step, later.spent = 30, 90.0
    assert said(later, 5).startswith("step 35  2.7 images/s  0.2 min left")
    assert said(later, 6).startswith("step 41  2.7 images/s  0.0 min left") and later.fraction > 1


def test_small_pictures_are_counted_and_named_once(pictures, capsys, monkeypatch):
    dataset.load(pictures, 32)
    assert capsys.readouterr().err == ""
    dataset.load(pictures, 44)
    told = capsys.readouterr().err
    # Those of a class are 24 pixels high and 20 to 39 wide.
    assert "4 of 40 pictures have less than half of 44 pixels on a side, down to 20" in told and told.count("\n") == 1
    monkeypatch.setenv("RANK", "1")
    dataset.load(pictures, 44)
    assert capsys.readouterr().err == ""


def test_the_threads_of_a_command_do_not_spin():
    code = "import sys; from maskgit_export import cli; import os; assert 'torch' not in sys.modules; "
    code += "print(os.environ['OMP_WAIT_POLICY'], os.environ['KMP_BLOCKTIME'])"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    }
    for given, expected in (({}, "passive 0\n"), ({"OMP_WAIT_POLICY": "active"}, "active 0\n")):
        done = subprocess.run([sys.executable, "-c", code], env=environment | given, check=True, capture_output=True)
        assert done.stdout.decode() == expected


def test_a_folder_of_pictures_has_the_size_of_the_tokenizer(pictures, tmp_path, capsys):
    tokenizer = str(tmp_path / "t.pt")
    common = ["--data", str(pictures), *"--threads 1 --device cpu --images 8".split()]
    assert main(["train-tokenizer", *common, *"--size 32 --codes 16 --width 16 -o".split(), tokenizer]) == 0
    shape = "--width 8 --dim 8 --depth 1 --heads 2".split()
    assert main(["train-mvtm", *common, "--tokenizer", tokenizer, *shape, "-o", str(tmp_path / "m.pt")]) == 0
    assert load_mvtm(tmp_path / "m.pt").config.grid == 8
    assert main(["tokens", "--data", str(pictures), "--tokenizer", tokenizer, "-o", str(tmp_path / "t.npz")]) == 0


def test_the_tokenizer_goes_on_and_refuses_the_state_of_another(pictures, tmp_path, capsys):
    prepared, output = tmp_path / "data", tmp_path / "t.pt"
    dataset.save(dataset.load(pictures, 16), prepared)
    train = [
        "train-tokenizer",
        "--data",
        str(prepared),
        *"--codes 16 --width 16 --threads 1 --device cpu --adversarial-from 0.2 -o".split(),
        str(output),
    ]
    assert main([*train, "--images", "160"]) == 0
    first = json.loads(capsys.readouterr().out)
    before = load_tokenizer(output)
    assert main([*train, "--images", "160"]) == 0
    captured = capsys.readouterr()
    assert "going on from step 10" in captured.err and json.loads(captured.out)["heldout_l1"] == first["heldout_l1"], (
        "done already"
    )
    assert main([*train, "--images", "800"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert (first["images"], second["images"]) == (160, 800) and second["heldout_l1"] < first["heldout_l1"]
    assert not torch.equal(before.decoder.out.weight, load_tokenizer(output).decoder.out.weight)
    with pytest.raises(SystemExit, match="another run"):
        main([*train, "--images", "960", "--width", "24"])


def test_drafted_tokens_are_drawn_by_the_network_up_to_half_of_a_picture():
    """This network says 7 everywhere, and a token is 3 at first."""

    class Seven(MaskedTransformer):
        def forward(self, inputs, label, wanted=None):
            assert (
                torch.equal(inputs == self.config.mask_id, wanted)
                and (inputs[~wanted] == 3).all()
                and torch.equal(label, labels)
            )
            return torch.nn.functional.one_hot(torch.full((int(wanted.sum()),), 7), 16) * 100.0

    torch.manual_seed(0)
    labels = torch.arange(2000) % 2
    drawn = train_tokenizer.drafted(
        Seven(MvtmConfig(grid=16, codes=16, labels=["a", "b"], width=8, dim=8, depth=1, heads=2)),
        torch.full((2000, 256), 3),
        labels,
    )
    assert set(drawn.unique().tolist()) == {3, 7}
    share = (drawn == 7).float().mean(1)
    assert (
        share.max() < train_tokenizer.DRAFTED + 0.12
        and abs(share.mean() - train_tokenizer.DRAFTED / 2) < 0.01
        and share.std() > 0.1
    )


def test_the_discriminator_judges_pictures_of_drafts(pictures, tmp_path, monkeypatch, capsys):
    prepared = tmp_path / "data"
    dataset.save(dataset.load(pictures, 16), prepared)
    t1, m1, t2, t3 = (str(tmp_path / name) for name in ("t1.pt", "m1.pt", "t2.pt", "t3.pt"))
    common = ["--data", str(prepared), "--threads", "1", "--device", "cpu"]
    shape = ["--width", "8", "--dim", "8", "--depth", "1", "--heads", "2"]
    assert main(["train-tokenizer", "--codes", "16", "--width", "16", "--images", "1600", "-o", t1, *common]) == 0
    assert main(["train-mvtm", "--tokenizer", t1, *shape, "--batch", "8", "--images", "8", "-o", m1, *common]) == 0
    judged, forward = [], train_tokenizer.Discriminator.forward
    monkeypatch.setattr(
        train_tokenizer.Discriminator,
        "forward",
        lambda critic, image: (judged.append(image), forward(critic, image))[1],
    )
    train = ["train-tokenizer", "--start", t1, "--batch", "8", "--images", "80", "--adversarial-from", "0.5", *common]
    assert main([*train, "--decoder-only", "-o", t2]) == 0
    plain = [len(image) for image in judged]
    judged.clear()
    given, draw = [], train_tokenizer.drafted
    monkeypatch.setattr(
        train_tokenizer,
        "drafted",
        lambda network, tokens, labels: (given.append((tokens, labels)), draw(network, tokens, labels))[1],
    )
    assert main([*train, "--decoder-only", "--drafts", m1, "-o", t3]) == 0
    # Each of the last five steps asks for the verdict on what is drawn, then learns from real pictures and from those.
    assert plain == [8] * 15 and [len(image) for image in judged] == [12, 8, 12] * 5
    assert judged[0].requires_grad and not torch.equal(judged[0][8:], judged[0][:8:2])
    # A blue picture has other tokens than a red one, so each token goes with one label.
    pairs = torch.cat([tokens * 2 + labels[:, None] for tokens, labels in given]).flatten()
    assert (
        torch.bincount(pairs, minlength=32).reshape(16, 2).amax(1).sum() / len(pairs) > 0.95
        and len(torch.cat([labels for _, labels in given]).unique()) == 2
    )
    before, after, other = load_tokenizer(t1), load_tokenizer(t3), load_tokenizer(t2)
    assert torch.equal(before.quantizer.codebook, after.quantizer.codebook)
    assert all(torch.equal(a, b) for a, b in zip(before.encoder.parameters(), after.encoder.parameters()))
    assert not torch.equal(after.decoder.out.weight, other.decoder.out.weight), (
        "the same pictures; the drafts make the difference"
    )
    wide, more = str(tmp_path / "wide.pt"), str(tmp_path / "more.pt")
    assert main(["train-tokenizer", "--codes", "24", "--width", "16", "--images", "16", "-o", wide, *common]) == 0
    assert main(["train-mvtm", "--tokenizer", wide, *shape, "--batch", "8", "--images", "8", "-o", more, *common]) == 0
    for options, message in (
        (["--drafts", m1], "only with --decoder-only"),
        (["--drafts", m1, "--decoder-only", "--crop", "8"], "without --crop"),
        (["--drafts", more, "--decoder-only"], "its codes are 24, here they are 16"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*train, *options, "-o", str(tmp_path / "t4.pt")])
    (pictures / "red").rename(pictures / "rot")
    with pytest.raises(SystemExit, match=r"its classes are .*'red'.*'rot'"):
        main(
            [
                "train-tokenizer",
                "--data",
                str(pictures),
                "--size",
                "16",
                "--start",
                t1,
                "--adversarial-from",
                "0",
                "--decoder-only",
                "--drafts",
                m1,
                "-o",
                str(tmp_path / "t4.pt"),
                "--threads",
                "1",
            ]
        )


def test_the_decoder_learns_from_known_tokens_what_it_learns_from_pictures(pictures, tmp_path, monkeypatch):
    """--tokens is what the encoder finds; --square-weight and --without change what is learned."""
    prepared = tmp_path / "data"
    dataset.save(dataset.load(pictures, 16), prepared)
    t1, t2, tokens = (str(tmp_path / name) for name in ("t1.pt", "t2.pt", "tokens.npz"))
    common = ["--data", str(prepared), "--threads", "1", "--device", "cpu"]
    assert main(["train-tokenizer", "--codes", "16", "--width", "16", "--images", "1600", "-o", t1, *common]) == 0
    assert (
        main(["train-tokenizer", "--codes", "16", "--width", "16", "--images", "16", "--seed", "1", "-o", t2, *common])
        == 0
    )
    assert main(["tokens", "--data", str(prepared), "--tokenizer", t1, "-o", tokens]) == 0
    train = ["train-tokenizer", "--start", t1, "--blocks", "3", "--batch", "8", "--images", "64", *common]
    found, find = [], train_tokenizer.token_file.tokens_of
    monkeypatch.setattr(
        train_tokenizer.token_file, "tokens_of", lambda *given: (found.append(len(given[1])), find(*given))[1]
    )
    weights = {}
    for name, options in {
        "pictures": [],
        "tokens": ["--tokens", tokens],
        "square": ["--tokens", tokens, "--square-weight", "30"],
        "red": ["--tokens", tokens, "--without", "blue"],
    }.items():
        found.clear()
        assert main([*train, "--decoder-only", *options, "-o", str(tmp_path / f"{name}.pt")]) == 0
        assert found == ([] if options else [8] * 8), "the encoder"
        weights[name] = load_tokenizer(tmp_path / f"{name}.pt").decoder.state_dict()
    assert len(weights["tokens"]) > len(load_tokenizer(t1).decoder.state_dict())
    assert all(torch.equal(value, weights["tokens"][name]) for name, value in weights["pictures"].items())
    assert not any(
        torch.equal(weights[other]["out.weight"], weights["tokens"]["out.weight"]) for other in ("square", "red")
    )
    # All that it learned from was red: what it draws of blue is worse.
    data = dataset.load(prepared)
    errors = {}
    for name in ("tokens", "red"):
        tokenizer = load_tokenizer(tmp_path / f"{name}.pt")
        errors[name] = [
            train_tokenizer.evaluate(tokenizer, data.train.images[data.train.labels == label], torch.device("cpu"))[
                "heldout_l1"
            ]
            for label in (0, 1)
        ]
    assert errors["red"][0] > errors["tokens"][0] and errors["red"][1] < errors["tokens"][1], errors
    (tmp_path / "fewer").mkdir()
    assert (
        main(
            [
                "tokens",
                "--data",
                str(prepared),
                "--tokenizer",
                t1,
                "--per-class",
                "2",
                "-o",
                str(tmp_path / "fewer" / "tokens.npz"),
            ]
        )
        == 0
    )
    for options, message in (
        (["--tokens", tokens], "only with --decoder-only"),
        (["--tokens", tokens, "--decoder-only", "--crop", "8"], "without --crop"),
        (["--tokens", tokens, "--decoder-only", "--start", t2], "not of the encoder and codebook of .*t2.pt"),
        (["--tokens", str(tmp_path / "fewer" / "tokens.npz"), "--decoder-only"], "not of the images of"),
        (["--without", "green"], "no such class; the data has blue, red"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*train, *options, "-o", str(tmp_path / "t4.pt")])


def test_training_starts_from_a_smaller_model(pictures, tmp_path, capsys):
    """Both trainers' --start: pictures of twice the size, more codes, one more class and layer."""
    small, large = tmp_path / "small", tmp_path / "large"
    dataset.save(dataset.load(pictures, 16), small)
    (pictures / "third").mkdir()
    for index in range(20):
        Image.fromarray(np.full((32, 32, 3), 10 * index, np.uint8)).save(pictures / "third" / f"{index}.png")
    dataset.save(dataset.load(pictures, 32), large)
    common = ["--threads", "1", "--device", "cpu"]
    t1, t2, m1, m2 = (str(tmp_path / name) for name in ("t1.pt", "t2.pt", "m1.pt", "m2.pt"))
    shape = ["--width", "16", "--dim", "24", "--heads", "2", "--batch", "8"]
    assert (
        main(["train-tokenizer", "--data", str(small), *"--codes 16 --width 16 --images 800 -o".split(), t1, *common])
        == 0
    )
    assert (
        main(
            [
                "train-tokenizer",
                "--data",
                str(large),
                "--start",
                t1,
                *"--codes 24 --encoder-blocks 2 --crop 24 --refine 8 --images 32 -o".split(),
                t2,
                *common,
            ]
        )
        == 0
    )
    assert load_tokenizer(t2).config == TokenizerConfig(
        size=32, factor=8, codes=24, width=16, patch=4, refine=8, encoder_blocks=2
    )
    for bad, message in ((["--crop", "20"], "multiple of the factor, 8"), (["--codes", "12"], "only codes and blocks")):
        with pytest.raises(SystemExit, match=message):
            main(["train-tokenizer", "--data", str(large), "--start", t2, *bad, "-o", str(tmp_path / "t3.pt"), *common])
    assert (
        main(
            [
                "train-mvtm",
                "--data",
                str(small),
                "--tokenizer",
                t1,
                *shape,
                *"--depth 1 --images 400 -o".split(),
                m1,
                *common,
            ]
        )
        == 0
    )
    capsys.readouterr()
    train = ["train-mvtm", "--data", str(large), "--tokenizer", t2, *shape, "--depth", "2", "--images", "8", *common]
    with pytest.raises(SystemExit, match="at least 1"):
        main([*train, "--per-class", "0", "-o", m2])
    assert main([*train, "--per-class", "12", "--start", m1, t1, "-o", m2]) == 0
    assert len(torch.load(m2 + ".checkpoint", weights_only=True)["train"]) == 36
    before, after = load_mvtm(m1), load_mvtm(m2)
    assert after.config.labels == ["blue", "red", "third"] and after.config.depth == 2
    # One step, at the start of the warm-up, does not go far.
    assert torch.allclose(before.fold.weight, after.fold.weight, atol=1e-3) and not torch.equal(
        before.fold.weight, after.fold.weight
    )
    with pytest.raises(SystemExit, match="16 codes"):
        main([*train, "--start", m1, t2, "-o", str(tmp_path / "m3.pt")])
    with pytest.raises(SystemExit, match="only codes, labels and depth"):
        main([*train, "--width", "24", "--start", m1, t1, "-o", str(tmp_path / "m3.pt")])
    t4 = str(tmp_path / "t4.pt")
    assert (
        main(["train-tokenizer", "--data", str(large), *"--codes 16 --width 16 --images 16 -o".split(), t4, *common])
        == 0
    )
    with pytest.raises(SystemExit, match=r"a grid of 8x8 tokens, .*t2.pt of 4x4"):
        main([*train, "--start", m1, t4, "-o", str(tmp_path / "m3.pt")])


def test_several_processes_need_a_number_of_images():
    process = Run("cpu")
    process.check_budget(3.0)
    process.world = 2
    process.check_budget(None)
    with pytest.raises(SystemExit, match="--images"):
        process.check_budget(3.0)


def test_perceptual_distance_is_that_of_unit_features():
    torch.manual_seed(0)
    classifier = StyleClassifier(["a"], width=4).eval()
    perceptual = train_tokenizer.Perceptual(classifier)
    a, b = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert perceptual(a, a) == 0
    expected, x, y = 0.0, a * 2 - 1, b * 2 - 1
    for index, layer in enumerate(classifier.features):
        x, y = layer(x), layer(y)
        if index % 3 == 2:
            unit = [v / v.norm(dim=1, keepdim=True) for v in (x, y)]
            # 2 - 2 cos is the square of the distance of unit vectors.
            expected += float((2 - 2 * (unit[0] * unit[1]).sum(1)).mean())
    assert float(perceptual(a, b)) == pytest.approx(expected, rel=1e-4)
    image = a.clone().requires_grad_()
    perceptual(image, b).backward()
    assert image.grad.abs().sum() > 0 and all(p.grad is None for p in classifier.parameters())


@pytest.mark.parametrize("refine", [0, 8])
def test_a_grown_tokenizer_gives_the_same_tokens_and_pictures_at_twice_the_size(refine):
    torch.manual_seed(0)
    small = Tokenizer(TokenizerConfig(size=32, codes=64, width=16)).eval()
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    config = TokenizerConfig(size=64, factor=8, patch=4, codes=96, width=16, blocks=4, encoder_blocks=3, refine=refine)
    large = grown_tokenizer(small, config)
    assert large.config.grid == small.config.grid
    large.eval()
    image = torch.rand(2, 3, 64, 64)
    tokens = small.encode(torch.nn.functional.avg_pool2d(image, 2))
    # A new code may be nearer than any of the old ones.
    large.quantizer.codebook[64:] = 0
    assert torch.equal(large.encode(image), tokens)
    assert torch.allclose(
        large.decode(tokens), torch.nn.functional.interpolate(small.decode(tokens), scale_factor=2), atol=1e-5
    )
    large.train()(image)
    # The new codes have found something to stand for.
    assert (large.quantizer.usage[64:] > 0).all()
    with pytest.raises(ValueError, match="only codes and blocks"):
        grown_tokenizer(small, TokenizerConfig(size=32, codes=63, width=16))


def _muon_of_one_process(rank: int, world: int, rendezvous: str, folder: str) -> None:
    join_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    torch.save(_after_two_steps(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
    # A thread of the group that is left may abort the process when it ends.
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in names if "gloo" in name], names


def _after_two_steps() -> list[torch.Tensor]:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in ((6, 4), (4, 3, 3, 3), (5, 5), (2, 9))]
    optimizer = Muon(parameters, lr=0.1)
    for _ in range(2):
        for p in parameters:
            p.grad = torch.randn_like(p)
        optimizer.step()
    return [p.detach() for p in parameters]


def test_processes_share_the_work_of_muon(tmp_path):
    torch.multiprocessing.start_processes(
        _muon_of_one_process, (2, str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2, start_method="spawn"
    )
    alone = _after_two_steps()
    for rank in (0, 1):
        assert all(
            torch.allclose(a, b, atol=1e-6) for a, b in zip(torch.load(tmp_path / f"{rank}.pt"), alone, strict=True)
        )


def test_contrast_distance_weighs_faint_features_and_stains_more_than_strong_lines():
    image = torch.full((3, 1, 3, 32, 32), 0.5)
    image[1, ..., 8:24, 16] = 0.45
    image[2, ..., 8:24, 16:18] = 0.0
    # The same change of the picture: where it is flat, over the faint line, over the strong one.
    changed = [one.clone() for one in image]
    for one in changed:
        one[..., 8:24, 16] += 0.05
    flat, faint, strong = (float(train_tokenizer.contrast_distance(a, b)) for a, b in zip(changed, image))
    assert flat > faint > 2 * strong > 0
    assert train_tokenizer.contrast_distance(image[1], image[1]) == 0
    # On the first level: what differs from the mean of the 5x5 around, over the mean of how much the image does, and
    # the floor.
    a, b = (torch.rand(1, 3, 9, 9, dtype=torch.float64) for _ in range(2))
    residual = {}
    for name, x in (("a", a), ("b", b)):
        padded = torch.nn.functional.pad(x, (2, 2, 2, 2), value=torch.nan).unfold(2, 5, 1).unfold(3, 5, 1)
        residual[name] = x - padded.nanmean((-2, -1))
    spread = (
        torch.nn.functional.pad(residual["b"].abs(), (2, 2, 2, 2), value=torch.nan)
        .unfold(2, 5, 1)
        .unfold(3, 5, 1)
        .nanmean((-2, -1))
    )
    expected = ((residual["a"] - residual["b"]).abs() / (spread + 0.05)).mean()
    assert torch.allclose(train_tokenizer.contrast_distance(a, b, levels=1), expected)


def test_what_the_clip_hides_is_no_error():
    image = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.5, 0.5])
    drawn = torch.tensor([1.2, 0.9, -0.2, 0.1, 1.2, -0.2], requires_grad=True)
    seen = train_tokenizer.clipped_with(drawn, image)
    assert torch.equal(seen, torch.tensor([1.0, 0.9, 0.0, 0.1, 1.2, -0.2]))
    (seen - image).abs().sum().backward()
    assert torch.equal(drawn.grad, torch.tensor([0.0, -1, 0, 1, 1, -1]))


def test_the_first_images_of_every_class_are_chosen():
    split = dataset.Split(np.arange(7 * 12, dtype=np.uint8).reshape(7, 2, 2, 3), np.array([1, 0, 1, 1, 0, 0, 2]))
    chosen = dataset.first(split, 2)
    assert chosen.labels.tolist() == [1, 0, 1, 0, 2]
    assert np.array_equal(chosen.images, split.images[[0, 1, 2, 4, 6]])
    assert dataset.first(split, 9) is split

"""The trainers, on data small enough for a test: what they promise, not how good the result is."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from maskgit_export import dataset, token_file, train_mvtm, train_tokenizer
from maskgit_export.classifier import StyleClassifier
from maskgit_export.cli import main
from maskgit_export.muon import Muon, orthogonalize
from maskgit_export.mvtm import MaskedTransformer, MvtmConfig, grown, load_mvtm
from maskgit_export.tokenizer import Quantizer, Tokenizer, TokenizerConfig, load_tokenizer
from maskgit_export.tokenizer import grown as grown_tokenizer
from maskgit_export.training import Run, learning_rate, to_tensor


@pytest.fixture
def pictures(tmp_path):
    """Two classes of flat colours with noise, as folders of PNG files of several sizes."""
    choice = np.random.default_rng(0)
    for name, colour in (("blue", (20, 40, 220)), ("red", (220, 40, 20))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(20):
            pixels = np.clip(np.array(colour) + choice.integers(-15, 16, (24, 20 + index, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{index:02}.png")
    return tmp_path / "pictures"


@pytest.fixture
def steps(monkeypatch):
    """What the transformer is given in each step of a training, as it goes: inputs, labels, and which tokens are wanted."""
    given, forward = [], MaskedTransformer.forward

    def record(network, inputs, label, wanted=None):
        if wanted is not None:
            given.append((inputs.clone(), label.clone(), wanted.clone()))
        return forward(network, inputs, label, wanted)

    monkeypatch.setattr(MaskedTransformer, "forward", record)
    return given


#: A transformer that is trained in no time, on tokens that a test makes up.
SMALL = ["--tokenizer", "none", "--width", "8", "--dim", "8", "--depth", "1", "--heads", "2", "--threads", "1", "--device", "cpu"]


def test_masks_are_ceil_of_the_cosine_and_uniform_over_positions():
    tokens = torch.arange(64).repeat(4000, 1)
    inputs, masked = train_mvtm.mask_tokens(tokens, 99, torch.Generator().manual_seed(0))
    assert torch.equal(inputs == 99, masked) and torch.equal(inputs[~masked], tokens[~masked])
    count = masked.sum(1)
    r = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(count, torch.tensor(np.ceil(np.cos(np.pi / 2 * r.numpy()) * 64).astype(np.int64)).squeeze(1).clamp(1, 64))
    # E[cos(pi r / 2)] = 2 / pi, for every position alike.
    assert torch.allclose(masked.float().mean(0), torch.tensor(2 / np.pi + 0.5 / 64, dtype=torch.float32), atol=0.04)


def test_drafts_replace_visible_tokens_by_what_was_drawn_for_them():
    torch.manual_seed(0)
    tokens = torch.randint(0, 50, (300, 64))
    masked = torch.rand(tokens.shape) < 0.5
    # Position p of an image surely becomes 50 + p % 7.
    wanted = (50 + torch.arange(64) % 7).expand_as(tokens)
    logits = torch.full((int(masked.sum()), 57), -1e4)
    logits[torch.arange(len(logits)), wanted[masked]] = 0.0
    drafts = train_mvtm.Drafts.of(torch.arange(300), tokens, masked, logits)
    assert torch.equal(drafts.tokens, torch.where(masked, wanted, tokens))

    more = torch.cat([tokens, tokens])
    inputs, hidden = train_mvtm.mask_tokens(more, 99)
    replaced = drafts.replace(inputs, hidden, 0.4)
    changed = replaced != inputs
    assert not changed[300:].any() and not changed[hidden].any() and torch.equal(replaced[:300][changed[:300]], wanted[changed[:300]])
    # Of the visible tokens that were drawn, a part uniform in 0..0.4 of each image: some images are nearly whole, in others up to 0.4 are replaced.
    open_ = ~hidden[:300] & masked
    part = (changed[:300].sum(1) / open_.sum(1))[open_.sum(1) >= 15]
    assert 0.15 < part.mean() < 0.25 and part.max() > 0.35 and part.min() < 0.05
    assert torch.equal(drafts.replace(inputs, hidden, 0.0), inputs)


def test_images_are_drawn_by_the_power_of_the_running_loss_of_their_class():
    torch.manual_seed(0)
    labels = torch.tensor([0] * 100 + [1] * 100 + [2] * 300)

    def drawn(losses):
        return torch.bincount(labels[losses.draw(labels, 50_000)], minlength=3) / 50_000

    # At first all images are alike, also where classes have more of them than others.
    losses = train_mvtm.ClassLosses(3, 4, 16, 2.0)
    assert torch.allclose(drawn(losses), torch.tensor([0.2, 0.2, 0.6]), atol=0.01)
    # Means of 1 and 3 in the first two, while the third is never seen and stays at the loss of a guess, ln 16.
    shown, loss = torch.tensor([0, 0, 1, 1]).repeat(50), torch.tensor([0.5, 1.5, 2.0, 4.0]).repeat(50)
    for _ in range(300):
        losses.add(shown, loss)
    weights = torch.tensor([1.0, 9.0, 3 * np.log(16) ** 2])
    assert torch.allclose(drawn(losses), (weights / weights.sum()).float(), atol=0.01)
    # 3 to the 1000th is more than a float holds, and no error: by far the greatest.
    losses.power = 1000.0
    assert drawn(losses).tolist() == [0, 1, 0]
    # Half of what a mean knows is new after ln 2 / 0.02 = 35 steps.
    for _ in range(35):
        losses.add(torch.tensor([0]).repeat(100), torch.full((100,), 3.0))
    assert (losses.total / losses.count).tolist() == pytest.approx([2.0, 3.0, np.log(16)], abs=0.03)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_orthogonalize_keeps_directions_and_evens_out_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalize(matrix)
    singular = torch.linalg.svdvals(result)
    assert 0.3 < singular.min() and singular.max() < 1.3
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
    assert torch.equal(tokenizer.encode(image)[0, 7 * 8:], tokenizer.encode(other)[0, 7 * 8:])


def test_learning_rate_warms_up_and_decays():
    rates = [learning_rate(step, 1000, 1.0, 100) for step in range(1000)]
    assert rates[0] == 0.01 and max(rates) == pytest.approx(1.0, abs=1e-3) and rates[-1] < 0.03
    assert all(a <= b for a, b in zip(rates[:100], rates[1:100])) and all(a >= b for a, b in zip(rates[100:], rates[101:]))


def test_folder_of_pictures_is_cropped_split_and_labelled(pictures):
    data = dataset.load(pictures, 16)
    assert data.classes == ["blue", "red"] and data.train.images.shape == (36, 16, 16, 3) and len(data.heldout.labels) == 4
    means = data.train.images.astype(float).mean((1, 2))
    assert ((means[:, 0] > means[:, 2]) == (data.train.labels == 1)).all()
    dataset.save(data, pictures.parent / "prepared")
    again = dataset.load(pictures.parent / "prepared")
    assert np.array_equal(again.train.images, data.train.images) and np.array_equal(again.heldout.labels, data.heldout.labels)


def test_bad_folders_are_refused_in_words(tmp_path, pictures):
    with pytest.raises(SystemExit, match="no such folder"):
        dataset.load(tmp_path / "nothing")
    (pictures / "red" / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(SystemExit, match="bad.png"):
        dataset.load(pictures)


def test_train_both_interrupt_and_go_on(pictures, tmp_path, capsys):
    """The five commands of the README up to the weights; a second call goes on where the first stopped."""
    prepared, tokenizer, mvtm = tmp_path / "data", tmp_path / "t.pt", tmp_path / "m.pt"
    dataset.save(dataset.load(pictures, 16), prepared)
    common = ["--threads", "1", "--device", "cpu"]
    assert main(["train-tokenizer", "--data", str(prepared), "--codes", "16", "--width", "16", "--images", "1600", "--adversarial-from", "0.5", "-o", str(tokenizer), *common]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["codes_used"] >= 2 and report["heldout_l1"] < 0.3
    before = load_tokenizer(tokenizer)
    assert main(["train-classifier", "--data", str(prepared), "--images", "64", "-o", str(tmp_path / "classifier.pt")]) == 0
    assert main(["train-tokenizer", "--data", str(prepared), "--start", str(tokenizer), "--decoder-only", "--images", "32", "-o", str(tmp_path / "t2.pt"),
                 "--perceptual", str(tmp_path / "classifier.pt"), *common]) == 0
    capsys.readouterr()
    after = load_tokenizer(tmp_path / "t2.pt")
    assert all(torch.equal(a, b) for a, b in zip(before.encoder.parameters(), after.encoder.parameters()))
    assert torch.equal(before.quantizer.codebook, after.quantizer.codebook)
    assert not torch.equal(before.decoder.out.weight, after.decoder.out.weight)

    train = ["train-mvtm", "--data", str(prepared), "--tokenizer", str(tokenizer), "--width", "16", "--dim", "24", "--depth", "1", "--heads", "2", "--batch", "8", "-o", str(mvtm), *common]
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


def test_the_tokenizer_goes_on_and_refuses_the_state_of_another(pictures, tmp_path, capsys):
    prepared, output = tmp_path / "data", tmp_path / "t.pt"
    dataset.save(dataset.load(pictures, 16), prepared)
    train = ["train-tokenizer", "--data", str(prepared), "--codes", "16", "--width", "16", "--threads", "1", "--device", "cpu", "--adversarial-from", "0.2", "-o", str(output)]
    assert main([*train, "--images", "160"]) == 0
    first = json.loads(capsys.readouterr().out)
    before = load_tokenizer(output)
    assert main([*train, "--images", "160"]) == 0
    captured = capsys.readouterr()
    assert "going on from step 10" in captured.err and json.loads(captured.out)["heldout_l1"] == first["heldout_l1"], "done already"
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
            assert torch.equal(inputs == self.config.mask_id, wanted) and (inputs[~wanted] == 3).all() and torch.equal(label, labels)
            return torch.nn.functional.one_hot(torch.full((int(wanted.sum()),), 7), 16) * 100.0

    torch.manual_seed(0)
    labels = torch.arange(2000) % 2
    drawn = train_tokenizer.drafted(Seven(MvtmConfig(grid=16, codes=16, labels=["a", "b"], width=8, dim=8, depth=1, heads=2)), torch.full((2000, 256), 3), labels)
    assert set(drawn.unique().tolist()) == {3, 7}
    share = (drawn == 7).float().mean(1)
    assert share.max() < train_tokenizer.DRAFTED + 0.12 and abs(share.mean() - train_tokenizer.DRAFTED / 2) < 0.01 and share.std() > 0.1


def test_the_discriminator_judges_pictures_of_drafts(pictures, tmp_path, monkeypatch, capsys):
    prepared = tmp_path / "data"
    dataset.save(dataset.load(pictures, 16), prepared)
    t1, m1, t2, t3 = (str(tmp_path / name) for name in ("t1.pt", "m1.pt", "t2.pt", "t3.pt"))
    common = ["--data", str(prepared), "--threads", "1", "--device", "cpu"]
    shape = ["--width", "8", "--dim", "8", "--depth", "1", "--heads", "2"]
    assert main(["train-tokenizer", "--codes", "16", "--width", "16", "--images", "1600", "-o", t1, *common]) == 0
    assert main(["train-mvtm", "--tokenizer", t1, *shape, "--batch", "8", "--images", "8", "-o", m1, *common]) == 0
    judged, forward = [], train_tokenizer.Discriminator.forward
    monkeypatch.setattr(train_tokenizer.Discriminator, "forward", lambda critic, image: (judged.append(image), forward(critic, image))[1])
    train = ["train-tokenizer", "--start", t1, "--batch", "8", "--images", "80", "--adversarial-from", "0.5", *common]
    assert main([*train, "--decoder-only", "-o", t2]) == 0
    plain = [len(image) for image in judged]
    judged.clear()
    given, draw = [], train_tokenizer.drafted
    monkeypatch.setattr(train_tokenizer, "drafted", lambda network, tokens, labels: (given.append((tokens, labels)), draw(network, tokens, labels))[1])
    assert main([*train, "--decoder-only", "--drafts", m1, "-o", t3]) == 0
    # Each of the last five steps asks for the verdict on what is drawn, then learns from real pictures and from those.
    assert plain == [8] * 15 and [len(image) for image in judged] == [12, 8, 12] * 5
    assert judged[0].requires_grad and not torch.equal(judged[0][8:], judged[0][:8:2])
    # A blue picture has other tokens than a red one, so each token goes with one label.
    pairs = torch.cat([tokens * 2 + labels[:, None] for tokens, labels in given]).flatten()
    assert torch.bincount(pairs, minlength=32).reshape(16, 2).amax(1).sum() / len(pairs) > 0.95 and len(torch.cat([labels for _, labels in given]).unique()) == 2
    before, after, other = load_tokenizer(t1), load_tokenizer(t3), load_tokenizer(t2)
    assert torch.equal(before.quantizer.codebook, after.quantizer.codebook)
    assert all(torch.equal(a, b) for a, b in zip(before.encoder.parameters(), after.encoder.parameters()))
    assert not torch.equal(after.decoder.out.weight, other.decoder.out.weight), "the same pictures; the drafts make the difference"
    wide, more = str(tmp_path / "wide.pt"), str(tmp_path / "more.pt")
    assert main(["train-tokenizer", "--codes", "24", "--width", "16", "--images", "16", "-o", wide, *common]) == 0
    assert main(["train-mvtm", "--tokenizer", wide, *shape, "--batch", "8", "--images", "8", "-o", more, *common]) == 0
    for options, message in ((["--drafts", m1], "only with --decoder-only"), (["--drafts", m1, "--decoder-only", "--crop", "8"], "without --crop"),
                             (["--drafts", more, "--decoder-only"], "its codes are 24, here they are 16")):
        with pytest.raises(SystemExit, match=message):
            main([*train, *options, "-o", str(tmp_path / "t4.pt")])
    (pictures / "red").rename(pictures / "rot")
    with pytest.raises(SystemExit, match="its classes are .*'red'.*'rot'"):
        main(["train-tokenizer", "--data", str(pictures), "--size", "16", "--start", t1, "--adversarial-from", "0", "--decoder-only", "--drafts", m1, "-o", str(tmp_path / "t4.pt"), "--threads", "1"])


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
    assert main(["train-tokenizer", "--data", str(small), "--codes", "16", "--width", "16", "--images", "800", "-o", t1, *common]) == 0
    assert main(["train-tokenizer", "--data", str(large), "--start", t1, "--codes", "24", "--encoder-blocks", "2", "--crop", "24", "--refine", "8", "--images", "32", "-o", t2, *common]) == 0
    assert load_tokenizer(t2).config == TokenizerConfig(size=32, factor=8, codes=24, width=16, patch=4, refine=8, encoder_blocks=2)
    for bad, message in ((["--crop", "20"], "multiple of the factor, 8"), (["--codes", "12"], "only codes and blocks")):
        with pytest.raises(SystemExit, match=message):
            main(["train-tokenizer", "--data", str(large), "--start", t2, *bad, "-o", str(tmp_path / "t3.pt"), *common])
    assert main(["train-mvtm", "--data", str(small), "--tokenizer", t1, *shape, "--depth", "1", "--images", "400", "-o", m1, *common]) == 0
    capsys.readouterr()
    train = ["train-mvtm", "--data", str(large), "--tokenizer", t2, *shape, "--depth", "2", "--images", "8", *common]
    with pytest.raises(SystemExit, match="at least 1"):
        main([*train, "--per-class", "0", "-o", m2])
    assert main([*train, "--per-class", "12", "--start", m1, t1, "-o", m2]) == 0
    assert len(torch.load(m2 + ".checkpoint", weights_only=True)["train"]) == 36
    before, after = load_mvtm(m1), load_mvtm(m2)
    assert after.config.labels == ["blue", "red", "third"] and after.config.depth == 2
    # One step, at the start of the warm-up, does not go far.
    assert torch.allclose(before.fold.weight, after.fold.weight, atol=1e-3) and not torch.equal(before.fold.weight, after.fold.weight)
    with pytest.raises(SystemExit, match="16 codes"):
        main([*train, "--start", m1, t2, "-o", str(tmp_path / "m3.pt")])
    with pytest.raises(SystemExit, match="only codes, labels and depth"):
        main([*train, "--width", "24", "--start", m1, t1, "-o", str(tmp_path / "m3.pt")])
    t4 = str(tmp_path / "t4.pt")
    assert main(["train-tokenizer", "--data", str(large), "--codes", "16", "--width", "16", "--images", "16", "-o", t4, *common]) == 0
    with pytest.raises(SystemExit, match="a grid of 8x8 tokens, .*t2.pt of 4x4"):
        main([*train, "--start", m1, t4, "-o", str(tmp_path / "m3.pt")])


def test_half_of_a_step_corrects_the_drafts_of_the_step_before(pictures, tmp_path, monkeypatch, steps):
    """All tokens of an image are the same one of 16 here, and an untrained network draws others."""
    tokens = (torch.arange(40, dtype=torch.int16) % 16).reshape(40, 1).repeat(1, 16)
    monkeypatch.setattr(train_mvtm, "tokens_of", lambda args, data, process: (tokens[:len(data.train.images)], tokens[:len(data.heldout.images)], 4, 16))
    common = ["--data", str(pictures), *SMALL, "-o", str(tmp_path / "m.pt")]
    assert main(["train-mvtm", "--batch", "8", "--images", "80", "--drafts", "1", *common]) == 0
    assert len(steps) == 10
    replaced = []
    for (before, _, _), (inputs, _, wanted) in zip(steps, steps[1:]):
        visible = inputs != 16
        assert wanted[:4].all() and torch.equal(wanted[4:], ~visible[4:])
        # The true token of an image is the one of its visible tokens that were visible in the step before too.
        for old, new, seen in zip(before[4:], inputs[:4], visible[:4]):
            if len(true := old[(old != 16) & seen].unique()) == 1:
                assert torch.equal(new[(old != 16) & seen], old[(old != 16) & seen])
                replaced.append((new[seen] != true).float().mean())
        for new, seen in zip(inputs[4:], visible[4:]):
            assert len(new[seen].unique()) <= 1
    assert len(replaced) > 5 and 0.05 < torch.stack(replaced).mean() < 0.6
    for options, message in ((["--drafts", "1.5"], "part from 0 to 1"), (["--drafts", "0.5", "--batch", "1"], "at least 2")):
        with pytest.raises(SystemExit, match=message):
            main(["train-mvtm", *options, *common])


def test_training_by_loss_turns_to_the_class_that_is_hard(pictures, tmp_path, monkeypatch, steps):
    """One class has one token everywhere, which is soon learned; the other has any."""
    def tokens_of(args, data, process):
        torch.manual_seed(0)
        return *(torch.where(torch.from_numpy(split.labels)[:, None] == 0, 0, torch.randint(16, (len(split.labels), 16))).short() for split in (data.train, data.heldout)), 4, 16

    monkeypatch.setattr(train_mvtm, "tokens_of", tokens_of)
    common = ["--data", str(pictures), *SMALL, "--batch", "16", "--images", "2560", "--lr", "0.01", "--label-drop", "0", "--label-smoothing", "0"]
    for name, options in (("alike", []), ("by-loss", ["--by-loss", "2"]), ("with-drafts", ["--by-loss", "2", "--drafts", "0.5"])):
        steps.clear()
        assert main(["train-mvtm", *options, *common, "-o", str(tmp_path / f"{name}.pt")]) == 0
        hard = torch.cat([label for _, label, _ in steps[80:]]).float().mean()
        assert 0.4 < hard < 0.6 if name == "alike" else hard > 0.75, (name, hard)
    for power in ("-1", "nan", "inf"):
        with pytest.raises(SystemExit, match="power of at least 0"):
            main(["train-mvtm", *common, "--by-loss", power, "-o", str(tmp_path / "m.pt")])


def test_tokens_in_a_file_train_the_same_as_the_pictures(pictures, tmp_path, capsys):
    prepared, t1, other, file = tmp_path / "data", str(tmp_path / "t1.pt"), str(tmp_path / "t2.pt"), str(tmp_path / "some" / "tokens.npz")
    dataset.save(dataset.load(pictures, 16), prepared)
    common = ["--threads", "1", "--device", "cpu"]
    for seed, tokenizer in (("0", t1), ("1", other)):
        assert main(["train-tokenizer", "--data", str(prepared), "--codes", "16", "--width", "16", "--images", "800", "--seed", seed, "-o", tokenizer, *common]) == 0
    assert main(["tokens", "--data", str(prepared), "--tokenizer", t1, "--device", "cpu", "-o", file]) == 0
    capsys.readouterr()
    shape = ["--width", "8", "--dim", "8", "--depth", "1", "--heads", "2", "--batch", "8", "--images", "64", *common]
    reports = []
    for name, options in (("a", ["--data", str(prepared), "--tokenizer", t1]), ("b", ["--data", file])):
        for more, limit in (("", []), ("-few", ["--per-class", "5"])):
            assert main(["train-mvtm", *options, *limit, *shape, "-o", str(tmp_path / f"{name}{more}.pt")]) == 0
            reports.append(json.loads(capsys.readouterr().out)["heldout_loss"])
    assert reports[:2] == reports[2:] and reports[0] != reports[1]
    ours, theirs = (torch.load(tmp_path / f"{name}.pt", weights_only=True)["weights"] for name in "ab")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    # A model of the same tokens can be trained on, also with another decoder.
    t3 = str(tmp_path / "t3.pt")
    assert main(["train-tokenizer", "--data", str(prepared), "--start", t1, "--decoder-only", "--images", "32", "-o", t3, *common]) == 0
    assert main(["train-mvtm", "--data", file, "--start", str(tmp_path / "a.pt"), t3, *shape, "--images", "8", "-o", str(tmp_path / "c.pt")]) == 0
    assert torch.allclose(load_mvtm(tmp_path / "c.pt").fold.weight, load_mvtm(tmp_path / "a.pt").fold.weight, atol=1e-3)
    with pytest.raises(SystemExit, match="give a folder of pictures"):
        main(["tokens", "--data", file, "--tokenizer", t1, "-o", file])
    train = ["train-mvtm", *shape, "-o", str(tmp_path / "d.pt")]
    for options, message in ((["--data", file, "--start", str(tmp_path / "a.pt"), other], "are not of .*t2.pt"), (["--data", str(prepared)], "pictures need --tokenizer"),
                             (["--data", t1], "not a file that `tokens` wrote"), (["--data", str(tmp_path / "none")], "no such folder")):
        with pytest.raises(SystemExit, match=message):
            main([*train, *options])


@pytest.mark.parametrize("broken, message", [
    ({"train": np.full((2, 16), 16, np.uint16)}, "expected uint16"),
    ({"train": np.zeros((3, 16), np.uint16)}, "for 2 labels"),
    ({"heldout": np.zeros((2, 9), np.uint16)}, "expected uint16"),
    ({"train": np.zeros((2, 16), np.float32)}, "expected uint16"),
    ({"train": np.zeros((0, 16), np.uint16), "train_labels": np.zeros(0, np.int64)}, "expected uint16"),
    ({"heldout_labels": np.array([0, 2])}, "label outside 0..1"),
    ({"train_labels": np.array([-1, 0])}, "label outside 0..1"),
    ({"classes": np.array([print, "b"], object)}, "not a file that `tokens` wrote"),
    ({"codes": np.array([1, 2])}, "not a file that `tokens` wrote"),
    ({"grid": None}, "not a file that `tokens` wrote"),
])
def test_a_bad_file_of_tokens_is_refused(tmp_path, broken, message):
    good = {"grid": np.array(4), "codes": np.array(16), "classes": np.array(["a", "b"]), "encoder": np.array("0"), "train_labels": np.array([0, 1]), "heldout_labels": np.array([0, 1]),
            "train": np.zeros((2, 16), np.uint16), "heldout": np.zeros((2, 16), np.uint16)}
    np.savez_compressed(tmp_path / "good.npz", **good)
    assert token_file.read(tmp_path / "good.npz").classes == ["a", "b"]
    np.savez_compressed(tmp_path / "bad.npz", **{name: value for name, value in (good | broken).items() if value is not None})
    with pytest.raises(SystemExit, match=message):
        token_file.read(tmp_path / "bad.npz")


def test_several_processes_need_a_number_of_images():
    process = Run("cpu")
    process.check_budget(3.0)
    process.world = 2
    process.check_budget(None)
    with pytest.raises(SystemExit, match="--images"):
        process.check_budget(3.0)


def test_processes_share_the_work_of_finding_tokens(monkeypatch):
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(size=16, factor=4, codes=32, width=8)).eval()
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    process = Run("cpu")
    alone = train_mvtm.tokenize(tokenizer, images, process, batch=2)
    with torch.no_grad(), process.autocast():
        vectors = tokenizer.encoder(to_tensor(images))
    assert torch.equal(alone.long(), tokenizer.quantizer.tokens(vectors.float())) and alone.dtype == torch.int16
    process.world, found_by_all, parts = 2, torch.zeros(7, 16, dtype=torch.int32), []

    def all_reduce(found):
        parts.append((found != 0).any(1))
        found_by_all.add_(found)
        found.copy_(found_by_all)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    for process.rank in (0, 1):
        together = train_mvtm.tokenize(tokenizer, images, process, batch=2)
    assert torch.equal(together, alone)
    assert parts[0][:3].all() and not parts[0][3:].any() and parts[1][3:].all() and not parts[1][:3].any()


def test_network_sees_the_label_and_every_token():
    torch.manual_seed(0)
    network = MaskedTransformer(MvtmConfig(grid=4, codes=7, labels=["a", "b"], width=8, dim=16, depth=2, heads=2)).eval()
    # Branches start at zero; give them weights so that what is far away can be seen.
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens, label = torch.full((1, 16), 7), torch.tensor([0])
    with torch.no_grad():
        plain = network(tokens, label)
        assert plain.shape == (1, 16, 7)
        assert not torch.allclose(plain, network(tokens, torch.tensor([2])))
        tokens[0, 0] = 3
        changed = (network(tokens, label) - plain).abs().amax(-1)[0]
    assert (changed > 1e-6).all()


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
    assert torch.allclose(large.decode(tokens), torch.nn.functional.interpolate(small.decode(tokens), scale_factor=2), atol=1e-5)
    large.train()(image)
    # The new codes have found something to stand for.
    assert (large.quantizer.usage[64:] > 0).all()
    with pytest.raises(ValueError, match="only codes and blocks"):
        grown_tokenizer(small, TokenizerConfig(size=32, codes=63, width=16))


def test_a_grown_transformer_predicts_what_it_did():
    torch.manual_seed(0)
    old = MvtmConfig(grid=4, codes=6, labels=["a", "b"], width=8, dim=16, depth=2, heads=2)
    small = MaskedTransformer(old).eval()
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    nearest = torch.tensor([0, 1, 2, 3, 4, 5, 1, 1, 4])
    new = MvtmConfig(grid=4, codes=9, labels=["c", "b"], width=8, dim=16, depth=3, heads=2)
    large = grown(small, new, torch.nn.functional.one_hot(nearest, 6).float() * 3).eval()
    tokens = torch.randint(0, 10, (5, 16))
    before = torch.cat([nearest, torch.tensor([6])])[tokens]
    for name, label, old_label in (("b", 1, 1), ("the null label", 2, 2), ("a class of its own", 0, 2)):
        found = large(tokens, torch.full((5,), label)).softmax(-1)
        merged = torch.zeros(5, 16, 6).index_add_(2, nearest, found)
        expected = small(before, torch.full((5,), old_label)).softmax(-1)
        assert torch.allclose(merged, expected, atol=1e-6), name
        assert torch.allclose(found[..., 1], found[..., 7]), "codes that share one share its probability"
    with pytest.raises(ValueError, match="only codes, labels and depth"):
        grown(small, MvtmConfig(grid=4, codes=6, labels=["a"], width=8, dim=32, depth=2, heads=2), torch.eye(6))


def test_a_transformer_of_twice_the_width_predicts_what_it_did_and_its_copies_learn_to_differ():
    torch.manual_seed(0)
    old = MvtmConfig(grid=4, codes=6, labels=["a", "b"], width=8, dim=16, depth=2, heads=2)
    small = MaskedTransformer(old)
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    large = grown(small, replace(old, dim=32, heads=4, depth=3), torch.eye(6))
    tokens, label = torch.randint(0, 7, (5, 16)), torch.tensor([0, 1, 2, 0, 1])
    assert torch.allclose(large(tokens, label), small(tokens, label), atol=1e-5)
    large(tokens, label).square().sum().backward()
    for name, parameter in large.layers[0].named_parameters():
        # Keys have a bias that no prediction depends on.
        grads = parameter.grad.unflatten(0, (3, 32))[2] if name.startswith("qkv") else parameter.grad
        first, second = grads.chunk(2)
        assert not torch.allclose(first, second, rtol=1e-3, atol=0), name


def _muon_of_one_process(rank: int, world: int, rendezvous: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    torch.save(_after_two_steps(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


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
    torch.multiprocessing.start_processes(_muon_of_one_process, (2, str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2, start_method="spawn")
    alone = _after_two_steps()
    for rank in (0, 1):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(torch.load(tmp_path / f"{rank}.pt"), alone, strict=True))


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
    # On the first level: what differs from the mean of the 5x5 around, over the mean of how much the image does, and the floor.
    a, b = (torch.rand(1, 3, 9, 9, dtype=torch.float64) for _ in range(2))
    residual = {}
    for name, x in (("a", a), ("b", b)):
        padded = torch.nn.functional.pad(x, (2, 2, 2, 2), value=torch.nan).unfold(2, 5, 1).unfold(3, 5, 1)
        residual[name] = x - padded.nanmean((-2, -1))
    spread = torch.nn.functional.pad(residual["b"].abs(), (2, 2, 2, 2), value=torch.nan).unfold(2, 5, 1).unfold(3, 5, 1).nanmean((-2, -1))
    expected = ((residual["a"] - residual["b"]).abs() / (spread + 0.05)).mean()
    assert torch.allclose(train_tokenizer.contrast_distance(a, b, levels=1), expected)


def test_what_the_clip_hides_is_no_error():
    image = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.5, 0.5])
    drawn = torch.tensor([1.2, 0.9, -0.2, 0.1, 1.2, -0.2], requires_grad=True)
    seen = train_tokenizer.clipped_with(drawn, image)
    assert torch.equal(seen, torch.tensor([1.0, 0.9, 0.0, 0.1, 1.2, -0.2]))
    (seen - image).abs().sum().backward()
    assert torch.equal(drawn.grad, torch.tensor([0.0, -1, 0, 1, 1, -1]))


def test_a_grown_transformer_shares_the_probability_of_a_code_as_the_places_say():
    torch.manual_seed(0)
    small = MaskedTransformer(MvtmConfig(grid=4, codes=3, labels=["a"], width=8, dim=16, depth=1, heads=2)).eval()
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    # Code 0 is old code 0; codes 1 and 2 share old code 1, three to one; code 3 was never seen, and old code 2 stood nowhere.
    large = grown(small, MvtmConfig(grid=4, codes=4, labels=["a"], width=8, dim=16, depth=1, heads=2), torch.tensor([[5.0, 0, 0], [0, 3, 0], [0, 1, 0], [0, 0, 0]])).eval()
    masked, label = torch.full((1, 16), 4), torch.tensor([0])
    before, after = small(torch.full((1, 16), 3), label), large(masked, label)
    assert torch.isfinite(after).all()
    assert torch.allclose((after[..., 1] - after[..., 2]).exp(), torch.tensor(3.0), atol=1e-4)
    assert torch.allclose(after[..., 0] - torch.logsumexp(after[..., 1:3], -1), before[..., 0] - before[..., 1], atol=1e-4)
    known = masked.clone()
    known[0, 3], unknown = 3, masked.clone()
    unknown[0, 3] = 1
    assert not torch.allclose(large(known, label), large(unknown, label))


def test_codes_that_stand_in_the_same_places_are_counted():
    torch.manual_seed(0)
    old = Tokenizer(TokenizerConfig(size=16, factor=4, codes=32, width=8)).eval()
    new = grown_tokenizer(old, TokenizerConfig(size=32, factor=8, patch=4, codes=32, width=8)).eval()
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    count = train_mvtm.together(new, old, images, batch=3)
    # The same tokens at twice the size.
    assert count.sum() == 7 * 16 and torch.equal(count, count.diag().diag())
    assert torch.equal(train_mvtm.together(old, old, images), torch.eye(32))
    order = torch.randperm(32)
    new.quantizer.codebook.copy_(old.quantizer.codebook[order])
    assert torch.equal(train_mvtm.together(new, old, images), count[order])


def test_the_first_images_of_every_class_are_chosen():
    split = dataset.Split(np.arange(7 * 12, dtype=np.uint8).reshape(7, 2, 2, 3), np.array([1, 0, 1, 1, 0, 0, 2]))
    chosen = dataset.first(split, 2)
    assert chosen.labels.tolist() == [1, 0, 1, 0, 2]
    assert np.array_equal(chosen.images, split.images[[0, 1, 2, 4, 6]])
    assert dataset.first(split, 9) is split


def test_only_wanted_logits_are_computed():
    torch.manual_seed(0)
    network = MaskedTransformer(MvtmConfig(grid=4, codes=7, labels=["a"], width=8, dim=16, depth=1, heads=2)).eval()
    tokens, label = torch.randint(0, 8, (3, 16)), torch.tensor([0, 1, 0])
    wanted = torch.rand(3, 16) < 0.5
    assert torch.allclose(network(tokens, label, wanted), network(tokens, label)[wanted], atol=1e-6)

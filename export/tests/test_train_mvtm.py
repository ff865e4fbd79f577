"""The transformer: what its trainer gives it, where its tokens come from, and how it grows."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskgit_export import dataset, token_file, train_mvtm
from maskgit_export.cli import main
from maskgit_export.mvtm import MaskedTransformer, MvtmConfig, grown
from maskgit_export.tokenizer import Tokenizer, TokenizerConfig
from maskgit_export.tokenizer import grown as grown_tokenizer
from maskgit_export.training import Run, to_tensor
from maskgit_export.weights import load_mvtm


@pytest.fixture
def steps(monkeypatch):
    """What the transformer is given in each step of a training, as it goes: inputs, labels, and which tokens are
    wanted.
    """
    given, forward = [], MaskedTransformer.forward

    def record(network, inputs, label, wanted=None):
        if wanted is not None:
            given.append((inputs.clone(), label.clone(), wanted.clone()))
        return forward(network, inputs, label, wanted)

    monkeypatch.setattr(MaskedTransformer, "forward", record)
    return given


#: A transformer that is trained in no time, on tokens that a test makes up.
SMALL = "--tokenizer none --width 8 --dim 8 --depth 1 --heads 2 --threads 1 --device cpu".split()


def test_masks_are_ceil_of_the_cosine_and_uniform_over_positions():
    tokens = torch.arange(64).repeat(4000, 1)
    inputs, masked = train_mvtm.mask_tokens(tokens, 99, torch.Generator().manual_seed(0))
    assert torch.equal(inputs == 99, masked) and torch.equal(inputs[~masked], tokens[~masked])
    count = masked.sum(1)
    r = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        count, torch.tensor(np.ceil(np.cos(np.pi / 2 * r.numpy()) * 64).astype(np.int64)).squeeze(1).clamp(1, 64)
    )
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
    assert (
        not changed[300:].any()
        and not changed[hidden].any()
        and torch.equal(replaced[:300][changed[:300]], wanted[changed[:300]])
    )
    # Of the visible tokens that were drawn, a part uniform in 0..0.4 of each image: some images are nearly whole, in
    # others up to 0.4 are replaced.
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
    losses = train_mvtm.ClassLosses(torch.ones(3), 4, 16, 2.0)
    assert torch.allclose(drawn(losses), torch.tensor([0.2, 0.2, 0.6]), atol=0.01)
    # Means of 1 and 3 in the first two, while the third is never seen and stays at the loss of a guess, ln 16.
    shown, loss = torch.tensor([0, 0, 1, 1]).repeat(50), torch.tensor([0.5, 1.5, 2.0, 4.0]).repeat(50)
    for _ in range(300):
        losses.add(shown, loss)
    weights = torch.tensor([1.0, 9.0, 3 * np.log(16) ** 2])
    assert torch.allclose(drawn(losses), (weights / weights.sum()).float(), atol=0.01)
    losses.weights = torch.tensor([6.0, 1.0, 0.5])
    weights *= losses.weights
    assert torch.allclose(drawn(losses), (weights / weights.sum()).float(), atol=0.01)
    # 3 to the 1000th is more than a float holds, and no error: by far the greatest.
    losses.power = 1000.0
    assert drawn(losses).tolist() == [0, 1, 0]
    # Half of what a mean knows is new after ln 2 / 0.02 = 35 steps.
    for _ in range(35):
        losses.add(torch.tensor([0]).repeat(100), torch.full((100,), 3.0))
    assert (losses.total / losses.count).tolist() == pytest.approx([2.0, 3.0, np.log(16)], abs=0.03)


def test_half_of_a_step_corrects_the_drafts_of_the_step_before(pictures, tmp_path, monkeypatch, steps):
    """All tokens of an image are the same one of 16 here, and an untrained network draws others."""
    tokens = (torch.arange(40, dtype=torch.int16) % 16).reshape(40, 1).repeat(1, 16)
    monkeypatch.setattr(
        train_mvtm,
        "tokens_of",
        lambda args, data, process: (tokens[: len(data.train.images)], tokens[: len(data.heldout.images)], 4, 16),
    )
    common = ["--data", str(pictures), *SMALL, "-o", str(tmp_path / "m.pt")]
    assert main(["train-mvtm", "--batch", "8", "--images", "80", "--drafts", "1", *common]) == 0
    assert len(steps) == 10
    replaced = []
    for (before, _, _), (inputs, _, wanted) in itertools.pairwise(steps):
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
    for options, message in (
        (["--drafts", "1.5"], "part from 0 to 1"),
        (["--drafts", "0.5", "--batch", "1"], "at least 2"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["train-mvtm", *options, *common])


def test_training_by_loss_turns_to_the_class_that_is_hard(pictures, tmp_path, monkeypatch, steps):
    """One class has one token everywhere, which is soon learned; the other has any."""

    def tokens_of(args, data, process):
        torch.manual_seed(0)
        return (
            *(
                torch.where(
                    torch.from_numpy(split.labels)[:, None] == 0, 0, torch.randint(16, (len(split.labels), 16))
                ).short()
                for split in (data.train, data.heldout)
            ),
            4,
            16,
        )

    monkeypatch.setattr(train_mvtm, "tokens_of", tokens_of)
    common = [
        "--data",
        str(pictures),
        *SMALL,
        *"--batch 16 --images 2560 --lr 0.01 --label-drop 0 --label-smoothing 0".split(),
    ]
    for name, options in (
        ("alike", []),
        ("by-loss", ["--by-loss", "2"]),
        ("with-drafts", ["--by-loss", "2", "--drafts", "0.5"]),
    ):
        steps.clear()
        assert main(["train-mvtm", *options, *common, "-o", str(tmp_path / f"{name}.pt")]) == 0
        hard = torch.cat([label for _, label, _ in steps[80:]]).float().mean()
        assert 0.4 < hard < 0.6 if name == "alike" else hard > 0.75, (name, hard)
    for power in ("-1", "nan", "inf"):
        with pytest.raises(SystemExit, match="power of at least 0"):
            main(["train-mvtm", *common, "--by-loss", power, "-o", str(tmp_path / "m.pt")])


def test_training_draws_a_class_as_often_as_its_weight_says(pictures, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(
        train_mvtm,
        "tokens_of",
        lambda args, data, process: (
            *(torch.zeros(len(split.labels), 16, dtype=torch.int16) for split in (data.train, data.heldout)),
            4,
            16,
        ),
    )
    common = [
        "train-mvtm",
        "--data",
        str(pictures),
        *SMALL,
        *"--batch 32 --images 640 --label-drop 0 -o".split(),
        str(tmp_path / "m.pt"),
    ]
    first, last = dataset.load(pictures).classes
    assert main([*common, "--class-weights", f"{last}=4"]) == 0
    # 640 draws with 4 of 5: a standard deviation of 0.016.
    assert 0.74 < torch.cat([label for _, label, _ in steps]).float().mean() < 0.86
    for given, message in (
        (last, "give CLASS=WEIGHT"),
        ("none=2", f"of the classes {first}, {last}"),
        (f"{last}=0", "above 0"),
        (f"{last}=many", "above 0"),
        (f"{last}=inf", "above 0"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*common, "--class-weights", given])


def test_training_without_a_class_is_training_on_the_others(tmp_path, steps):
    generator, labels = np.random.default_rng(0), np.arange(30) % 3
    made = {
        f"{split}{end}": value
        for split in ("train", "heldout")
        for end, value in (("", generator.integers(0, 16, (30, 16)).astype(np.uint16)), ("_labels", labels))
    } | {"grid": 4, "codes": 16, "encoder": "0"}
    np.savez_compressed(tmp_path / "three.npz", classes=["a", "b", "c"], **made)
    made |= {name: value[labels != 1] for name, value in made.items() if name.startswith(("train", "heldout"))}
    made |= {name: made[name] // 2 for name in ("train_labels", "heldout_labels")}
    np.savez_compressed(tmp_path / "two.npz", classes=["a", "c"], **made)
    common = ["train-mvtm", *SMALL[2:], "--batch", "8", "--drafts", "0.5", "--by-loss", "2"]
    for images in ("80", "160"):
        assert (
            main(
                [
                    *common,
                    "--images",
                    images,
                    "--data",
                    str(tmp_path / "three.npz"),
                    "--without",
                    "b",
                    "-o",
                    str(tmp_path / "ours.pt"),
                ]
            )
            == 0
        )
        assert (
            main([*common, "--images", images, "--data", str(tmp_path / "two.npz"), "-o", str(tmp_path / "theirs.pt")])
            == 0
        )
        half = len(steps) // 2
        assert half and all(
            torch.equal(*pair)
            for ours, theirs in zip(steps[:half], steps[half:], strict=True)
            for pair in zip(ours, theirs)
        )
        steps.clear()
    ours, theirs = (load_mvtm(tmp_path / f"{name}.pt") for name in ("ours", "theirs"))
    assert ours.config == theirs.config and ours.config.labels == ["a", "c"]
    assert all(
        torch.equal(*pair) for pair in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    for names, message in (
        (["b", "d"], "--without d: no such class; the data has a, b, c"),
        (["a", "b", "c"], "leave at least one"),
        ([], "labels"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*common, "--data", str(tmp_path / "three.npz"), "--without", *names, "-o", str(tmp_path / "ours.pt")])


def test_more_pictures_of_a_class_take_the_place_of_its_own(tmp_path, monkeypatch):
    common = {
        "heldout": np.full((2, 16), 15, np.uint16),
        "heldout_labels": np.array([0, 1]),
        "grid": 4,
        "codes": 16,
        "encoder": "0",
    }

    def tokens(values):
        return np.repeat(np.array(values, np.uint16)[:, None], 16, 1)

    files = {
        "data": {"classes": ["a", "b", "c"], "train": tokens([1, 2, 3, 4]), "train_labels": np.array([0, 1, 2, 1])},
        "more": {"classes": ["c", "b"], "train": tokens([5, 6, 7]), "train_labels": np.array([1, 0, 0])},
    }
    files |= {"unknown": files["more"] | {"classes": ["c", "d"]}, "foreign": files["more"] | {"encoder": "1"}}
    for name, values in files.items():
        np.savez_compressed(tmp_path / f"{name}.npz", **common | values)
    seen, keep = [], train_mvtm.tokens_of
    monkeypatch.setattr(
        train_mvtm, "tokens_of", lambda args, data, process: (seen.append(data), keep(args, data, process))[1]
    )
    train = [
        "train-mvtm",
        *SMALL[2:],
        *"--batch 8 --images 8 --data".split(),
        str(tmp_path / "data.npz"),
        "-o",
        str(tmp_path / "m.pt"),
        "--more",
    ]
    assert main([*train, str(tmp_path / "more.npz")]) == 0
    # With the labels of other pictures the tokens of the checkpoint would be of wrong classes.
    np.savez_compressed(
        tmp_path / "fewer.npz", **common | files["more"] | {"train": tokens([5, 6]), "train_labels": np.array([1, 0])}
    )
    with pytest.raises(SystemExit, match=r"the state of another run .pictures 4 is not 3"):
        main([*train, str(tmp_path / "fewer.npz")])
    assert (
        seen[0].classes == ["a", "b", "c"]
        and seen[0].train.images[:, 0].tolist() == [1, 5, 6, 7]
        and seen[0].train.labels.tolist() == [0, 1, 2, 2]
    )
    assert (seen[0].heldout.images == 15).all()
    for name, message in (
        ("unknown", "has classes that --data has not: d"),
        ("foreign", "of another tokenizer"),
        ("none", "not a file that `tokens` wrote"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*train, str(tmp_path / f"{name}.npz")])
    with pytest.raises(SystemExit, match="give a file of tokens as --data"):
        token_file.with_more(dataset.Dataset(seen[0].train, seen[0].heldout, ["a"]), tmp_path / "more.npz")


def test_tokens_in_a_file_train_the_same_as_the_pictures(pictures, tmp_path, capsys):
    prepared, t1, other, file = (
        tmp_path / "data",
        str(tmp_path / "t1.pt"),
        str(tmp_path / "t2.pt"),
        str(tmp_path / "some" / "tokens.npz"),
    )
    dataset.save(dataset.load(pictures, 16), prepared)
    common = ["--threads", "1", "--device", "cpu"]
    for seed, tokenizer in (("0", t1), ("1", other)):
        assert (
            main(
                [
                    "train-tokenizer",
                    "--data",
                    str(prepared),
                    *"--codes 16 --width 16 --images 800 --seed".split(),
                    seed,
                    "-o",
                    tokenizer,
                    *common,
                ]
            )
            == 0
        )
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
    assert (
        main(
            [
                "train-tokenizer",
                "--data",
                str(prepared),
                "--start",
                t1,
                "--decoder-only",
                "--images",
                "32",
                "-o",
                t3,
                *common,
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "train-mvtm",
                "--data",
                file,
                "--start",
                str(tmp_path / "a.pt"),
                t3,
                *shape,
                "--images",
                "8",
                "-o",
                str(tmp_path / "c.pt"),
            ]
        )
        == 0
    )
    assert torch.allclose(load_mvtm(tmp_path / "c.pt").fold.weight, load_mvtm(tmp_path / "a.pt").fold.weight, atol=1e-3)
    with pytest.raises(SystemExit, match="give a folder of pictures"):
        main(["tokens", "--data", file, "--tokenizer", t1, "-o", file])
    train = ["train-mvtm", *shape, "-o", str(tmp_path / "d.pt")]
    for options, message in (
        (["--data", file, "--start", str(tmp_path / "a.pt"), other], "are not of .*t2.pt"),
        (["--data", str(prepared)], "pictures need --tokenizer"),
        (["--data", t1], "not a file that `tokens` wrote"),
        (["--data", str(tmp_path / "none")], "no such folder"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*train, *options])


@pytest.mark.parametrize(
    "broken, message",
    [
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
    ],
)
def test_a_bad_file_of_tokens_is_refused(tmp_path, broken, message):
    good = {
        "grid": np.array(4),
        "codes": np.array(16),
        "classes": np.array(["a", "b"]),
        "encoder": np.array("0"),
        "train_labels": np.array([0, 1]),
        "heldout_labels": np.array([0, 1]),
        "train": np.zeros((2, 16), np.uint16),
        "heldout": np.zeros((2, 16), np.uint16),
    }
    np.savez_compressed(tmp_path / "good.npz", **good)
    assert token_file.read(tmp_path / "good.npz").classes == ["a", "b"]
    np.savez_compressed(
        tmp_path / "bad.npz", **{name: value for name, value in (good | broken).items() if value is not None}
    )
    with pytest.raises(SystemExit, match=message):
        token_file.read(tmp_path / "bad.npz")


def test_processes_share_the_work_of_finding_tokens(monkeypatch):
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(size=16, factor=4, codes=32, width=8)).eval()
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    process = Run("cpu")
    alone = token_file.tokenize(tokenizer, images, process, batch=2)
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
        together = token_file.tokenize(tokenizer, images, process, batch=2)
    assert torch.equal(together, alone)
    assert parts[0][:3].all() and not parts[0][3:].any() and parts[1][3:].all() and not parts[1][:3].any()


def test_network_sees_the_label_and_every_token():
    torch.manual_seed(0)
    network = MaskedTransformer(
        MvtmConfig(grid=4, codes=7, labels=["a", "b"], width=8, dim=16, depth=2, heads=2)
    ).eval()
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


def test_a_grown_transformer_shares_the_probability_of_a_code_as_the_places_say():
    torch.manual_seed(0)
    small = MaskedTransformer(MvtmConfig(grid=4, codes=3, labels=["a"], width=8, dim=16, depth=1, heads=2)).eval()
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    # Code 0 is old code 0; codes 1 and 2 share old code 1, three to one; code 3 was never seen, and old code 2 stood
    # nowhere.
    large = grown(
        small,
        MvtmConfig(grid=4, codes=4, labels=["a"], width=8, dim=16, depth=1, heads=2),
        torch.tensor([[5.0, 0, 0], [0, 3, 0], [0, 1, 0], [0, 0, 0]]),
    ).eval()
    masked, label = torch.full((1, 16), 4), torch.tensor([0])
    before, after = small(torch.full((1, 16), 3), label), large(masked, label)
    assert torch.isfinite(after).all()
    assert torch.allclose((after[..., 1] - after[..., 2]).exp(), torch.tensor(3.0), atol=1e-4)
    assert torch.allclose(
        after[..., 0] - torch.logsumexp(after[..., 1:3], -1), before[..., 0] - before[..., 1], atol=1e-4
    )
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


def test_only_wanted_logits_are_computed():
    torch.manual_seed(0)
    network = MaskedTransformer(MvtmConfig(grid=4, codes=7, labels=["a"], width=8, dim=16, depth=1, heads=2)).eval()
    tokens, label = torch.randint(0, 8, (3, 16)), torch.tensor([0, 1, 0])
    wanted = torch.rand(3, 16) < 0.5
    assert torch.allclose(network(tokens, label, wanted), network(tokens, label)[wanted], atol=1e-6)

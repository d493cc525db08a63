import logging
import os
import shutil
import signal
from collections import Counter
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from vlp.config import validate
from vlp.data.batches import Batches
from vlp.data.loader import LoaderConfig, default_workers, make_loader, num_batches, select
from vlp.data.reader import open_shards
from vlp.data.statements import code, identity
from vlp.data.tokens import Tokenizer
from vlp.data.transforms import Augment, Preprocess
from vlp.data.writer import ShardWriter
from vlp.errors import BackendError, ConfigError, DataError
from vlp.objectives.positives import PositivesConfig, find_positives
from vlp.records import Certainty
from vlp.reports import sentence_from_label
from vlp.tensors import ABSENT, PRESENT

WORDS = ["[PAD]", "[UNK]", "There", "is", "no", "pneumothorax", "pleural", "effusion", "Small", "left", "No", "."]


@pytest.fixture
def tokenizer() -> Tokenizer:
    backend = Backend(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(backend, pad_token="[PAD]", max_tokens=12)


@pytest.fixture
def load(reader, tokenizer):
    def load(*, train=True, split="train", epoch=0, start=0, rank=0, world=1, consumed=0, fit="letterbox",
             **settings):  # fmt: skip
        config = LoaderConfig(**({"batch_studies": 4, "workers": 0} | settings))
        return make_loader(
            reader,
            split=split,
            config=config,
            preprocess=Preprocess(size=32, fit=fit),
            tokenizer=tokenizer,
            train=train,
            epoch=epoch,
            start=start,
            rank=rank,
            world=world,
            consumed=consumed,
        )

    return load


def _same(first, second) -> bool:
    """Field by field, down to the tensors."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if is_dataclass(first):
        return all(_same(getattr(first, field.name), getattr(second, field.name)) for field in fields(first))
    return first == second


def _positives(batch):
    parts = {name: getattr(batch, name) for name in ("said", "sentence", "flipped", "owner", "study", "known",
                                                     "known_study")}  # fmt: skip
    return find_positives(PositivesConfig(), **parts).positives


def _texts(batch, tokenizer):
    """(text, its study's key, flipped) of every text; words the tokenizer does not know read alike."""
    words = {index: word for word, index in tokenizer._backend.get_vocab().items()}
    rows = [" ".join(words[token] for token in row if token) for row in batch.tokens.ids.tolist()]
    owners = [batch.keys[owner] for owner in batch.owner.tolist()]
    return list(zip([rows[row] for row in batch.sentence.tolist()], owners, batch.flipped.tolist(), strict=True))


def test_a_batch_is_what_its_studies_say(load, reader):
    batches = list(load(augment=None))
    assert [batch.position for batch in batches] == [0, 1, 2]
    for batch in batches:
        assert batch.images.shape == (len(batch.keys), 1, 32, 32)
        assert batch.images.dtype == torch.uint8
        assert batch.study.tolist() == list(range(len(batch.keys)))
        for number, key in enumerate(batch.keys):
            expected, _, padding = Preprocess(size=32).apply(reader.image(key, 0))
            assert np.array_equal(batch.images[number, 0].numpy(), expected)
            assert padding.any()  # these images are no squares
            assert np.array_equal(batch.padding[number].numpy(), padding)
            texts = batch.tokens.ids[batch.sentence[batch.owner == number]]
            assert texts.tolist() == [[2, 3, 4, 5, 11], [2, 3, 6, 7, 11]]
        assert batch.tokens.ids.shape[0] == 2  # every study says the same: each sentence is there once
        assert (_positives(batch) == 1).all()
        assert not batch.flipped.any()


def test_studies_without_a_sentence_or_a_frontal_image_are_counted_out(reader, load):
    config = LoaderConfig()
    selection = select(reader, split="train", config=config, train=True)
    assert (len(selection.indices), selection.without_sentences, selection.without_image) == (9, 1, 1)
    assert len(select(reader, split="train", config=config, train=False).indices) == 10
    everything = LoaderConfig(images_per_study="all")
    assert select(reader, split="train", config=everything, train=True).without_image == 0
    seen = Counter(key for batch in load() for key in batch.keys)
    assert set(seen.values()) == {1}
    assert len(seen) == 9
    assert num_batches(reader, split="train", config=LoaderConfig(batch_studies=4)) == len(load()) == 3


def test_any_number_of_workers_gives_the_same_batches(load):
    alone = list(load(epoch=2, sentences_per_study=1))
    for workers, cache_bytes in ((1, 0), (2, 10**6)):
        others = load(epoch=2, sentences_per_study=1, workers=workers, cache_bytes=cache_bytes)
        assert all(_same(*pair) for pair in zip(alone, others, strict=True))


def test_starting_later_gives_the_rest(load):
    whole = list(load(epoch=1))
    for start in range(4):
        rest = load(epoch=1, start=start)
        assert len(rest) == 3 - start
        assert all(_same(*pair) for pair in zip(whole[start:], rest, strict=True))
    assert list(load(epoch=1, start=99)) == []


def test_ranks_share_an_epoch_and_another_world_goes_on_with_it(load):
    def keys(loader):
        return [key for batch in loader for key in batch.keys]

    whole = keys(load(epoch=4))
    assert sorted(keys(load(epoch=4, rank=0, world=2)) + keys(load(epoch=4, rank=1, world=2))) == sorted(whole)
    assert keys(load(epoch=4, consumed=5)) == whole[5:]


def test_epochs_differ_and_seeds_differ(load):
    first = [batch.keys for batch in load(epoch=0)]
    assert first != [batch.keys for batch in load(epoch=1)]
    assert first != [batch.keys for batch in load(seed=1)]
    assert first == [batch.keys for batch in load()]


def test_augmentation_belongs_to_epoch_and_study_not_to_the_place_in_the_batch(load):
    def images(**settings):
        loader = load(augment=Augment(probability=1.0), **settings)
        return {key: image for batch in loader for key, image in zip(batch.keys, batch.images, strict=True)}

    first, regrouped, later = images(), images(batch_studies=3), images(epoch=1)
    assert all(torch.equal(first[key], regrouped[key]) for key in first)
    assert not any(torch.equal(first[key], later[key]) for key in first)


def test_padding_follows_the_augmented_image(load):
    pose = Augment(probability=1.0, brightness=0.0, contrast=0.0, noise=0.0)
    plain = {key: mask for batch in load(augment=None) for key, mask in zip(batch.keys, batch.padding, strict=True)}
    for batch in load(augment=pose):
        images = batch.images[:, 0].float()
        assert images[batch.padding].mean() < 25  # black, but for pixels along the edge that are a mixture
        assert images[~batch.padding].mean() > 80
        assert not any(torch.equal(mask, plain[key]) for key, mask in zip(batch.keys, batch.padding, strict=True))


def test_without_padding_there_is_no_mask(load):
    assert all(batch.padding is None for batch in load(augment=None, fit="stretch"))
    assert all(batch.padding is None for batch in load(augment=None, fit="crop"))


def test_evaluation_is_plain_and_in_order(load, reader):
    batches = list(load(train=False, augment=Augment(probability=1.0), epoch=7))
    keys = [key for batch in batches for key in batch.keys]
    assert keys == [key for key in reader.keys("train") if reader.sample(key).frontal]
    assert np.array_equal(batches[0].images[0, 0].numpy(), Preprocess(size=32).apply(reader.image(keys[0], 0))[0])


def test_all_images_and_some_of_them(load, reader):
    views = [image for batch in load(images_per_study="all") for image in batch.study.tolist()]
    assert len(views) == sum(reader.num_images(key) for key in reader.keys("train")) - 1  # the mute study has one
    assert all(batch.num_images == len(batch.keys) for batch in load(images_per_study=1))
    chosen = [
        tuple(batch.images[index].float().mean().item() for index in range(batch.num_images))
        for epoch in range(6)
        for batch in load(images_per_study=1, augment=None, epoch=epoch, batch_studies=1)
        if len(reader.sample(batch.keys[0]).views) == 2
    ]
    assert len(set(chosen)) == 4  # two studies, two views each, both drawn in six epochs


def test_one_sentence_of_several_is_chosen_anew(load):
    drawn = Counter(
        tuple(batch.tokens.ids[row].tolist())
        for epoch in range(4)
        for batch in load(sentences_per_study=1, epoch=epoch)
        for row in batch.sentence
    )
    assert len(drawn) == 2
    assert min(drawn.values()) >= 8  # of 36
    first = list(load(sentences_per_study=1, train=False))
    assert {tuple(row) for batch in first for row in batch.tokens.ids.tolist()} == {(2, 3, 4, 5, 11)}


def test_both_are_two_texts_of_one_study(load):
    batch = next(iter(load(texts="both")))
    assert torch.bincount(batch.owner).tolist() == [4] * len(batch.keys)
    assert batch.tokens.ids.shape[0] == 4


def test_a_whole_report_is_the_one_text_of_its_study(load):
    for batch in load(texts="report"):
        assert batch.owner.tolist() == list(range(len(batch.keys)))
        assert batch.tokens.ids.tolist() == [[10, 5, 11, 8, 9, 7, 11]]  # every study says the same
    assert next(iter(load(texts="report", train=False, split="test"))).sentence.shape == (0,)


TEMPLATES = ["There is no pneumothorax.", "There is pleural effusion."]
WRITTEN = ["No pneumothorax.", "Small left effusion."]
REPORT = "No pneumothorax. Small left effusion."


@pytest.mark.parametrize(
    ("texts", "said", "known"),
    [
        ("template", TEMPLATES, TEMPLATES),
        ("written", WRITTEN, TEMPLATES + WRITTEN),
        ("both", TEMPLATES + WRITTEN, TEMPLATES + WRITTEN),
        ("report", [REPORT], [*TEMPLATES, REPORT]),
    ],
)
def test_what_texts_say_and_what_studies_know(load, texts, said, known):
    facts = {
        text: (code(finding), certainty)
        for text, finding, certainty in zip(
            TEMPLATES + WRITTEN, ["pneumothorax", "pleural effusion"] * 2, [ABSENT, PRESENT] * 2, strict=True
        )
    } | {REPORT: (0, 0)}
    for batch in load(texts=texts):
        for part, expected in ((batch.said, said), (batch.known, known * len(batch.keys))):
            rows = zip(part.identity.tolist(), part.finding.tolist(), part.certainty.tolist(), strict=True)
            assert Counter(rows) == Counter((identity(text), *facts[text]) for text in expected)
            assert not part.location.any()
        assert torch.bincount(batch.known_study).tolist() == [len(known)] * len(batch.keys)


def test_sentences_that_were_not_chosen_are_known(load):
    hidden = 0
    for batch in load(sentences_per_study=1, epoch=1):
        assert torch.bincount(batch.owner).tolist() == [1] * len(batch.keys)
        assert torch.bincount(batch.known_study).tolist() == [2] * len(batch.keys)
        assert (_positives(batch) == 1).all()  # every study knows both, whichever of them it says
        hidden += len(set(batch.sentence.tolist())) == 2
    assert hidden


def test_flips_stand_beside_the_true_texts(load, tokenizer):
    no, yes = "There is no pneumothorax .", "There is pleural effusion ."
    against, instead = "There is pneumothorax .", "There is no pleural effusion ."
    for batch in load(flips={"per_study": 2}):
        assert Counter(_texts(batch, tokenizer)) == Counter(
            (text, key, text in {against, instead}) for key in batch.keys for text in (no, yes, against, instead)
        )
        assert batch.tokens.ids.shape[0] == batch.said.identity.shape[0] == 4
        assert set(batch.said.certainty.tolist()) == {PRESENT, ABSENT}
        assert torch.equal(batch.known_study.bincount(), torch.tensor([2] * len(batch.keys)))
        positives = _positives(batch)
        assert (positives[batch.flipped] == 0).all()
        assert (positives[~batch.flipped] == 1).all()


def test_flips_are_drawn_anew_and_change_nothing_else(load, tokenizer):
    drawn = Counter()
    for epoch in range(4):
        plain, flipped = load(epoch=epoch), load(epoch=epoch, flips={"per_study": 1})
        for batch, other in zip(plain, flipped, strict=True):
            assert torch.equal(batch.images, other.images)
            assert torch.bincount(other.owner[other.flipped]).tolist() == [1] * len(batch.keys)
            assert Counter(_texts(batch, tokenizer)) == Counter(
                text for text in _texts(other, tokenizer) if not text[2]
            )
            drawn.update(text for text, _, turned in _texts(other, tokenizer) if turned)
    assert set(drawn) == {"There is pneumothorax .", "There is no pleural effusion ."}
    assert min(drawn.values()) >= 8  # of 36


def test_flips_are_the_same_from_any_process_and_after_a_restart(load):
    settings = {"flips": {"per_study": 1}, "texts": "both", "sentences_per_study": 1, "epoch": 3}
    alone = list(load(**settings))
    assert all(_same(*pair) for pair in zip(alone, load(workers=2, **settings), strict=True))
    assert all(_same(*pair) for pair in zip(alone[1:], load(start=1, **settings), strict=True))
    assert not all(_same(*pair) for pair in zip(alone, load(**settings | {"epoch": 4}), strict=True))


def test_flips_are_for_training_and_templates_whatever_the_texts(load, tokenizer):
    assert not any(batch.flipped.any() for batch in load(train=False, flips={}))
    for texts in ("written", "report"):
        turned = {
            text for batch in load(texts=texts, flips={}) for text, _, turned in _texts(batch, tokenizer) if turned
        }
        assert turned == {"There is pneumothorax .", "There is no pleural effusion ."}


def test_a_flip_and_anothers_true_sentence_are_one_row(make_study, tokenizer, tmp_path):
    with ShardWriter(tmp_path / "s", samples_per_shard=4, image_format="png", recipe={"made": "here"}) as writer:
        for number, certainty in enumerate((Certainty.PRESENT, Certainty.ABSENT)):
            loaded, said = make_study(number, labels=False), sentence_from_label("edema", certainty)
            writer.write(replace(loaded, study=replace(loaded.study, report=None, sentences=(said,))))
    config = LoaderConfig(workers=0, flips={"per_study": 1})
    batch = next(iter(make_loader(open_shards(tmp_path / "s"), split="train", config=config,
                                  preprocess=Preprocess(size=16), tokenizer=tokenizer, train=True)))  # fmt: skip
    assert batch.tokens.ids.shape[0] == 2
    assert batch.sentence.tolist() == [0, 1, 1, 0]
    assert batch.flipped.tolist() == [False, True, False, True]
    assert _positives(batch).tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]


def test_reports_are_cut_at_the_limit_and_counted(load, reader, tokenizer, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vlp"), "propagate", True)
    caplog.set_level(logging.INFO, logger="vlp")
    load(texts="report")
    assert "split train: 0 of 9 reports are longer than 12 tokens and are cut there" in caplog.messages
    short = Tokenizer(Backend.from_str(tokenizer._backend.to_str()), pad_token="[PAD]", max_tokens=5)
    monkeypatch.setattr("vlp.data.loader._REPORTS_COUNTED", 4)
    config = LoaderConfig(texts="report", workers=0)
    settings = {"split": "train", "config": config, "preprocess": Preprocess(size=16), "tokenizer": short}
    loader = make_loader(reader, train=True, **settings)
    assert "split train: 4 of 4 reports looked at (of 9) are longer than 5 tokens and are cut there" in caplog.messages
    assert next(iter(loader)).tokens.ids.tolist() == [[10, 5, 11, 8, 9]]
    told = len(caplog.messages)
    make_loader(reader, train=True, epoch=1, **settings)
    assert len(caplog.messages) == told


def test_a_report_has_no_sentences_to_choose_from():
    with pytest.raises(ConfigError, match="leave sentences_per_study out"):
        validate(LoaderConfig, {"texts": "report", "sentences_per_study": 1}, where="test")


def test_starting_an_epoch_leaves_the_global_generator_alone(load):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    next(iter(load()))
    next(iter(load(workers=1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_useless_splits_are_refused(load, reader):
    with pytest.raises(DataError, match="split test has no study to use"):
        load(split="test")
    assert len(load(split="test", train=False)) == 1
    with pytest.raises(DataError, match="fewer studies than there are processes"):
        load(split="val", world=3)
    with pytest.raises(DataError, match="split test has no study to use"):
        num_batches(reader, split="test", config=LoaderConfig())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_plain_error_from_any_process(shards, tokenizer, tmp_path, workers):
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    reader = open_shards(folder)
    offset, size = reader.sample(reader.keys("val")[0]).members["png"]
    content = bytearray((folder / "val-000000.tar").read_bytes())
    content[offset : offset + size] = bytes(size)
    (folder / "val-000000.tar").write_bytes(content)
    loader = make_loader(
        reader,
        split="val",
        config=LoaderConfig(workers=workers),
        preprocess=Preprocess(size=16),
        tokenizer=tokenizer,
        train=True,
    )
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("processors", "processes", "on_gpu", "workers"),
    [(2, 1, True, 1), (16, 1, True, 15), (128, 8, True, 15), (256, 4, True, 16), (1, 1, True, 1), (4, 8, True, 1),
     (2, 1, False, 1), (16, 1, False, 2), (64, 2, False, 4)],
)  # fmt: skip
def test_workers_get_what_training_leaves(processors, processes, on_gpu, workers):
    assert default_workers(processors=processors, processes=processes, on_gpu=on_gpu) == workers


def test_workers_of_a_configuration_are_a_number_or_found_out(load):
    assert validate(LoaderConfig, {"workers": "auto"}, where="test") == LoaderConfig()
    with pytest.raises(ConfigError, match="workers"):
        validate(LoaderConfig, {"workers": -1}, where="test")
    assert load(workers="auto").num_workers == default_workers(on_gpu=torch.cuda.is_available())
    assert load(workers=3).pin_memory is torch.cuda.is_available()


def test_a_worker_that_the_kernel_kills_is_one_plain_error(load, monkeypatch):
    monkeypatch.setattr(Batches, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(BackendError, match=r"worker of the loader .* loader\.workers"):
        list(load(workers=1))

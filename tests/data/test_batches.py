"""Batches against the plainest way to make them: whole studies, one after the other, everything drawn eagerly."""

import logging
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from vlp.config import validate
from vlp.data.batches import LoaderConfig
from vlp.data.feature_store import FeatureHeader, FeatureStore, FeatureWriter
from vlp.data.flips import flips
from vlp.data.joint import JointReader, layout_of
from vlp.data.loader import make_loader, num_batches, select
from vlp.data.order import Epoch
from vlp.data.reader import open_shards
from vlp.data.texts import Packing, known_texts, sampled_texts
from vlp.data.tokens import Tokenizer
from vlp.data.transforms import Augment, Preprocess, find_padding
from vlp.data.writer import ShardWriter
from vlp.errors import ConfigError, DataError
from vlp.tensors import Batch, ImageFeatures, stack_padding

PREPROCESS = Preprocess(size=24)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    backend = Backend(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "There": 2, "no": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(backend, pad_token="[PAD]", max_tokens=12)


@pytest.fixture
def jpegs(tmp_path, make_study):
    """12 studies of JPEGs large enough to be decoded smaller, every third with a lateral view as well."""
    with ShardWriter(tmp_path / "jpegs", samples_per_shard=5) as writer:
        for number in range(12):
            views = ("lateral", "AP") if number % 3 == 0 else ("PA",)
            writer.write(make_study(number, views=views, size=(120, 104)))
    return tmp_path / "jpegs"


def load(reader, tokenizer, *, train=True, epoch=0, features=None, endless=False, **settings):
    config = LoaderConfig(**({"batch_studies": 4, "workers": 0} | settings))
    return make_loader(reader, split="train", config=config, preprocess=PREPROCESS, tokenizer=tokenizer, train=train,
                       epoch=epoch, features=features, endless=endless)  # fmt: skip


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if is_dataclass(first):
        return all(same(getattr(first, field.name), getattr(second, field.name)) for field in fields(first))
    return first == second


def naive(reader, tokenizer, config: LoaderConfig, *, train: bool, epoch: int) -> list[Batch]:
    """The batches of an epoch as the documentation describes them, without a short cut."""
    keys = reader.keys("train")
    usable = [number for number, key in enumerate(keys) if reader.sample(key).sentences]
    plan = Epoch(layout=layout_of(reader, [keys[number] for number in usable]), batch=config.batch_studies,
                 seed=config.seed, epoch=epoch, shuffle=train)  # fmt: skip
    return [
        _naive_batch(reader, tokenizer, config, [(usable[study], keys[usable[study]]) for study in studies],
                     position=position, train=train, epoch=epoch)
        for position, studies in enumerate(plan.steps())
    ]  # fmt: skip


def _naive_batch(reader, tokenizer, config, studies, *, position, train, epoch) -> Batch:
    images, paddings, owners, packing = [], [], [], Packing()
    for number, (index, key) in enumerate(studies):
        rng = np.random.default_rng([config.seed, epoch, index])

        def choose(things, count, rng=rng):
            if count is None or len(things) <= count:
                return things
            return [things[at] for at in sorted(rng.choice(len(things), size=count, replace=False))]

        views = reader.sample(key).frontal[:1] if config.images_per_study == "frontal" else range(
            len(reader.sample(key).views))  # fmt: skip
        for view in choose(views, config.images_per_study if isinstance(config.images_per_study, int) else None):
            stored = reader.image(key, view).shape
            small = reader.image(key, view, at_least=PREPROCESS.size_of(stored))
            seen, placement, _ = PREPROCESS.apply(small, stored=stored)
            moved = None
            if train and config.augment:
                seen, moved = config.augment.change(seen, rng)
            images.append(seen)
            paddings.append(find_padding(placement, moved))
            owners.append(number)
        study = reader.study(key)
        texts = sampled_texts(study, choose(study.sentences, config.sentences_per_study), config.texts)
        flipped = {}
        if config.flips and train:
            flipped = dict(choose(tuple(flips(study, config=config.flips).items()), config.flips.per_study))
        packing.add(number, texts, flips=flipped, known=known_texts(study, config.texts))
    return Batch(images=torch.from_numpy(np.stack(images)[:, None]), padding=stack_padding(paddings),
                 study=torch.tensor(owners), **packing.tensors(tokenizer), keys=tuple(key for _, key in studies),
                 position=position)  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"augment": None, "sentences_per_study": 1},
        {"texts": "written", "images_per_study": "all", "sentences_per_study": 1},
        {"texts": "both", "flips": {"per_study": 1}, "images_per_study": 1},
        {"texts": "report", "augment": None},
        {"flips": {}, "sentences_per_study": 1, "cache_bytes": 4000, "seed": 9},
    ],
)
def test_batches_are_those_of_the_plain_way(jpegs, tokenizer, settings):
    reader = open_shards(jpegs)
    config = validate(LoaderConfig, settings | {"batch_studies": 4}, where="test")
    expected = naive(reader, tokenizer, config, train=True, epoch=3)
    settings = {name: getattr(config, name) for name in settings}
    for workers in (0, 2):
        found = list(load(reader, tokenizer, epoch=3, **settings | {"workers": workers}))
        assert len(found) == len(expected) == 3
        assert all(same(*pair) for pair in zip(found, expected, strict=True))


def test_without_training_too(jpegs, tokenizer):
    reader = open_shards(jpegs)
    expected = naive(reader, tokenizer, LoaderConfig(batch_studies=4), train=False, epoch=0)
    assert all(same(*pair) for pair in zip(load(reader, tokenizer, train=False), expected, strict=True))


def test_large_images_are_decoded_smaller_and_placed_all_the_same(jpegs, tokenizer, monkeypatch):
    reader, decoded = open_shards(jpegs), []
    real = cv2.resize
    monkeypatch.setattr(cv2, "resize", lambda pixels, *rest, **more: decoded.append(pixels.shape) or real(
        pixels, *rest, **more))  # fmt: skip
    batch = next(iter(load(reader, tokenizer, augment=None)))
    assert set(decoded) == {(30, 26)}  # a quarter of 120 x 104, for 24 x 21
    assert (~batch.padding).sum(dim=(1, 2)).tolist() == [24 * 21] * 4


def test_an_endless_loader_goes_through_epoch_after_epoch(jpegs, tokenizer):
    reader = open_shards(jpegs)
    expected = [batch for epoch in range(2, 5) for batch in load(reader, tokenizer, epoch=epoch)]
    for workers in (0, 2):
        endless = iter(load(reader, tokenizer, epoch=2, endless=True, workers=workers))
        assert all(same(next(endless), batch) for batch in expected)
        endless.close()


def _damage(folder, key, suffix) -> None:
    reader = open_shards(folder)
    offset, size = reader.sample(key).members[suffix]
    path = folder / reader.shard_of(key).name
    content = bytearray(path.read_bytes())
    content[offset + size // 2 : offset + size // 2 + 40] = b"x" * 40
    path.write_bytes(content)


@pytest.fixture
def damaged(jpegs, tmp_path):
    """A copy in which an image, a lateral image and a study's JSON are damaged, and the keys of their studies."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in jpegs.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    keys = open_shards(folder).keys("train")
    for key, suffix in ((keys[1], "jpg"), (keys[3], "view1.jpg"), (keys[4], "json")):
        _damage(folder, key, suffix)
    return folder, {keys[1], keys[3], keys[4]}


def test_a_study_that_cannot_be_read_is_replaced_and_named(damaged, jpegs, tokenizer, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vlp"), "propagate", True)
    folder, bad = damaged
    settings = {"images_per_study": "all", "corrupt_budget": 3, "epoch": 1}
    found = list(load(open_shards(folder), tokenizer, **settings))
    assert Counter(key for batch in found for key in batch.replaced) == Counter(bad)
    assert len({message for message in caplog.messages if "cannot be read; another one" in message}) == 3
    whole = list(load(open_shards(jpegs), tokenizer, **settings))
    for batch, wanted in zip(found, whole, strict=True):
        assert len(batch.keys) == len(wanted.keys)
        assert batch.study.unique().tolist() == list(range(len(batch.keys)))
        assert not set(batch.keys) & bad
        assert [key for key in wanted.keys if key not in bad] == [
            key for key, before in zip(batch.keys, wanted.keys, strict=True) if before not in bad
        ]
    again = load(open_shards(folder), tokenizer, workers=2, **settings)
    assert all(same(*pair) for pair in zip(found, again, strict=True))
    stand_ins = {key for batch, wanted in zip(found, whole, strict=True) for key, before in
                 zip(batch.keys, wanted.keys, strict=True) if before in bad}  # fmt: skip
    assert stand_ins <= set(open_shards(folder).keys("train")) - bad


def test_nothing_is_replaced_where_that_is_not_allowed(damaged, tokenizer):
    folder, _ = damaged
    with pytest.raises(DataError, match="cannot be decoded: it is damaged"):
        list(load(open_shards(folder), tokenizer, images_per_study="all"))
    with pytest.raises(DataError, match=r"damaged|not a sample"):
        list(load(open_shards(folder), tokenizer, train=False, corrupt_budget=10))


def test_a_shard_that_is_gone_is_more_than_the_budget(damaged, tokenizer):
    folder, _ = damaged
    reader = open_shards(folder)
    for shard in reader.manifest.shards:
        (folder / shard.name).write_bytes((folder / shard.name).read_bytes()[:700])
    with pytest.raises(DataError, match="truncated"):
        list(load(reader, tokenizer, corrupt_budget=2))
    with pytest.raises(DataError, match="truncated"):  # nobody is left to stand in
        list(load(reader, tokenizer, corrupt_budget=1000))


def test_an_archive_that_counts_twice_shows_each_study_in_two_ways(jpegs, shards, tokenizer):
    reader = JointReader([open_shards(jpegs), open_shards(shards)], [2.0, 1.0])
    assert num_batches(reader, split="train", config=LoaderConfig(batch_studies=4)) == -(-(24 + 9) // 4)
    seen = {}
    for batch in load(reader, tokenizer, augment=Augment(probability=1.0)):
        for key, image in zip(batch.keys, batch.images, strict=True):
            seen.setdefault(key, []).append(image)
    counts = {name: Counter(len(seen[key]) for key in seen if key.startswith(name)) for name in ("jpegs/", "shards/")}
    assert counts == {"jpegs/": {2: 12}, "shards/": {1: 9}}
    assert not any(torch.equal(*images) for images in seen.values() if len(images) == 2)


def test_windows_read_shards_one_after_the_other(jpegs, tokenizer):
    reader = open_shards(jpegs)
    visited = [
        reader.shard_of(key).name
        for batch in load(reader, tokenizer, shuffle_window=1, batch_studies=1)
        for key in batch.keys
    ]
    assert sorted(visited) == sorted(reader.shard_of(key).name for key in reader.keys("train"))
    assert sum(here != there for here, there in pairwise(visited)) == 2


def test_features_stand_in_for_images(jpegs, tokenizer, tmp_path):
    reader = open_shards(jpegs)
    studies = tuple((key, tuple(range(reader.num_images(key)))) for key in reader.keys("train"))
    header = FeatureHeader(made_from={}, dtype="float32", width=8, grid=(2, 2), images_per_part=5, studies=studies)
    places = header.places()
    writer = FeatureWriter(tmp_path / "features", header)
    writer.begin()
    for part in range(0, -(-len(places) // 5)):
        numbers = torch.arange(5 * part, min(5 * part + 5, len(places)), dtype=torch.float32)[:, None]
        pooled, patches = numbers.repeat(1, 8), numbers[:, None].repeat(1, 4, 8)
        writer.write(part, [ImageFeatures(pooled=pooled[row][None], patches=patches[row][None], grid=(2, 2))
                            for row in range(len(numbers))])  # fmt: skip
    store = FeatureStore(tmp_path / "features")
    with pytest.raises(ConfigError, match=r"loader\.augment"):
        load(reader, tokenizer, features=store)
    settings = {"images_per_study": "all", "augment": None, "sentences_per_study": 1}
    plain = load(reader, tokenizer, **settings)
    for workers in (0, 1):
        for batch, wanted in zip(load(reader, tokenizer, features=store, workers=workers, **settings), plain,
                                 strict=True):  # fmt: skip
            assert batch.images.shape == (wanted.num_images, 1, 0, 0)
            assert batch.images.dtype == torch.uint8
            assert batch.features.patches.shape == (wanted.num_images, 4, 8)
            owners = [places[int(number)][0] for number in batch.features.pooled[:, 0]]
            assert owners == [batch.keys[study] for study in batch.study.tolist()]
            assert same(replace(batch, images=wanted.images, padding=wanted.padding, features=None), wanted)


def test_studies_are_selected_once_for_all_epochs(jpegs, monkeypatch):
    reader = open_shards(jpegs)
    first = select(reader, split="train", config=LoaderConfig(), train=True)
    monkeypatch.setattr(type(reader), "sample", None)
    assert select(reader, split="train", config=LoaderConfig(seed=3), train=True) is first
    assert first.keys == tuple(reader.keys("train"))

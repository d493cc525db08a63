import os
import pickle
import shutil
from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from vlp.config import validate
from vlp.data import open_shards, overlap
from vlp.data.files import RemoteConfig
from vlp.data.joint import ArchiveShare, JointReader, describe_difference, digests, layout_of, open_archives
from vlp.data.loader import LoaderConfig, make_loader
from vlp.data.manifest import shards_digest
from vlp.data.order import Epoch
from vlp.data.tokens import Tokenizer
from vlp.data.transforms import Preprocess
from vlp.data.writer import ShardWriter
from vlp.errors import ConfigError, DataError


@pytest.fixture
def other(tmp_path, make_study):
    """Three train studies (one of them without a sentence) and two val studies, as JPEG, in tars of two."""
    folder = tmp_path / "north"
    with ShardWriter(folder, samples_per_shard=2, image_format="jpg") as writer:
        for number in range(3):
            writer.write(make_study(number, report=number != 1, labels=number != 1))
        for number in (20, 40):
            writer.write(make_study(number, split="val"))
    return folder


@pytest.fixture
def joint(shards, other):
    return open_archives([ArchiveShare(shards=str(shards)), ArchiveShare(shards=str(other), weight=2.0)])


def test_every_archive_is_read_as_it_is_alone(joint, shards, other):
    one, two = open_shards(shards), open_shards(other)
    assert len(joint) == len(one) + len(two)
    for split in ("train", "val", "test", None):
        alone = [(reader, key) for reader in (one, two) for key in reader.keys(split)]
        assert joint.keys(split) == tuple(f"{reader.folder.name}/{key}" for reader, key in alone)
        for key, (reader, inner) in zip(joint.keys(split), alone, strict=True):
            assert joint.study(key) == reader.study(inner)
            assert joint.sample(key) == reader.sample(inner)
            assert joint.sample_json(key) == reader.sample_json(inner)
            assert joint.text(key) == reader.text(inner)
            assert joint.shard_of(key) == reader.shard_of(inner)
            assert joint.num_images(key) == reader.num_images(inner)
            assert joint.image_format(key) == reader.manifest.image_format
            for index in range(joint.num_images(key)):
                assert joint.encoded(key, index) == reader.encoded(inner, index)
                assert np.array_equal(joint.image(key, index), reader.image(inner, index))
            assert joint.member(key, "txt") == reader.member(inner, "txt")
        assert list(joint.studies(split)) == [reader.study(key) for reader, key in alone]


def test_a_smaller_image_can_be_asked_for(joint, other):
    key = joint.keys("val")[-1]
    assert joint.image(key, at_least=(4, 4)).shape == open_shards(other).image(key.split("/")[1], at_least=(4, 4)).shape
    assert joint.image(key, at_least=(4, 4)).size < joint.image(key).size


def test_it_travels_and_is_closed(joint):
    key = joint.keys()[-1]
    before = joint.image(key)
    copy = pickle.loads(pickle.dumps(joint))
    assert np.array_equal(copy.image(key), before)
    assert copy.keys() == joint.keys()
    assert copy.weights == joint.weights == (1.0, 2.0)
    joint.close()
    assert np.array_equal(joint.image(key), before)


def test_an_epoch_sees_every_archive_by_its_weight(joint, shards):
    usable = [key for key in joint.keys("train") if joint.sample(key).sentences]
    layout = layout_of(joint, usable)
    assert layout.weights == (1.0, 2.0)
    assert layout.shards == ((4, 4, 2), (1, 1))
    plan = Epoch(layout=layout, batch=4)
    seen = Counter(usable[index].split("/")[0] for step in plan.steps() for index in step)
    assert seen == {"shards": 10, "north": 4}
    reader = open_shards(shards)
    assert layout_of(reader, reader.keys("train")).shards == ((4, 4, 3),)
    assert layout_of(reader, ()).shards == ((),)
    assert layout_of(joint, joint.keys("test")).shards == ((1,), ())
    with pytest.raises(AssertionError):
        layout_of(joint, [usable[0], usable[5], usable[1]])


def test_its_figures_are_those_of_all(joint, shards, other):
    one, two = open_shards(shards).manifest, open_shards(other).manifest
    manifest = joint.manifest
    assert manifest.splits["train"].studies == 14
    assert manifest.splits["val"].patients == 3  # one of them is in both
    assert manifest.patients("val") == one.patients("val") | two.patients("val")
    assert manifest.licenses == {"CC0": len(joint)}
    assert manifest.sentences_origin == dict(Counter(one.sentences_origin) + Counter(two.sentences_origin))
    assert manifest.synthetic
    assert manifest.num_studies == len(joint)
    assert manifest.recipe == {}
    assert manifest.adds_up()
    assert overlap.sources(joint, "train") == ("made here",)


def test_an_archive_alone_may_have_a_weight_too(other):
    joint = open_archives([ArchiveShare(shards=str(other), weight=0.5)])
    assert joint.keys("val")[0].startswith("north/")
    assert layout_of(joint, joint.keys()).weights == (0.5,)
    assert not isinstance(open_archives(other), JointReader)
    assert open_archives(str(other)).keys() == open_shards(other).keys()


def test_names_must_differ_and_something_must_be_named(shards, other):
    with pytest.raises(ConfigError, match="two archives are called north"):
        open_archives([ArchiveShare(shards=str(folder)) for folder in (shards, other, other)])
    with pytest.raises(ConfigError, match="no archive is named"):
        open_archives([])
    with pytest.raises(ConfigError, match="greater than 0"):
        validate(ArchiveShare, {"shards": "a", "weight": 0.0}, where="here")


@pytest.mark.parametrize("key", ["south/abc", "north/abc", "abc", ""])
def test_there_is_no_such_study(joint, key):
    with pytest.raises(DataError, match="no study with the key"):
        joint.study(key)


def test_archives_are_the_same_if_their_manifests_are(joint, shards, other):
    found = digests(joint)
    assert found == {"shards": shards_digest(shards), "north": shards_digest(other)}
    assert digests(open_shards(other)) == {"north": shards_digest(other)}
    assert describe_difference(found, dict(found)) == ""


def test_differences_are_named():
    before = {"a": "1" * 64, "b": "2" * 64}
    assert describe_difference({"a": "1" * 64}, {"moved": "1" * 64}) == ""
    assert (
        describe_difference({"a": "1" * 64}, {"a": "3" * 64}) == "a was sha256 111111111111 and is sha256 333333333333"
    )
    assert describe_difference(before, {"a": "1" * 64, "c": "2" * 64}) == "b is missing; c is new"
    assert "b was sha256 222222222222 and is sha256 4444" in describe_difference(before, before | {"b": "4" * 64})
    swapped = {"b": "2" * 64, "a": "1" * 64}
    assert describe_difference(before, swapped) == "the order was a, b and is b, a"


def _epoch(reader, *, workers):
    """Batches of one training epoch, four studies each."""
    return make_loader(
        reader,
        split="train",
        config=LoaderConfig(batch_studies=4, workers=workers, prefetch=1, augment=None, shuffle_window=1),
        preprocess=Preprocess(size=32),
        tokenizer=Tokenizer(
            Backend(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]")), pad_token="[PAD]", max_tokens=12
        ),
        train=True,
    )


def test_batches_are_the_same_from_wherever_archives_are_read(shards, other, tmp_path):
    remote = RemoteConfig(cache_folder=tmp_path / "cache")
    shares = [{"shards": str(shards)}, {"shards": str(other), "weight": 2.0}]
    urls = [share | {"shards": f"file://{share['shards']}"} for share in shares]
    here, there = (open_archives([ArchiveShare(**share) for share in each], remote=remote) for each in (shares, urls))
    seen = Counter()
    for one, two in zip(_epoch(here, workers=0), _epoch(there, workers=2), strict=True):
        assert one.keys == two.keys
        assert bool((one.images == two.images).all())
        assert {key.split("/")[0] for key in one.keys} == {"shards", "north"}
        seen.update(one.keys)
    assert Counter(seen.values()) == {1: 9, 2: 2}


@pytest.mark.parametrize("fault", ["truncated", "gone"])
def test_shards_that_fail_in_the_middle_of_an_epoch_end_it_plainly(shards, tmp_path, fault):
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    remote = RemoteConfig(cache_bytes=0, attempts=1)
    reader = open_archives(
        [ArchiveShare(shards=str(folder) if fault == "truncated" else f"file://{folder}")], remote=remote
    )
    message = "truncated" if fault == "truncated" else "cannot be read after 1 attempts"
    batches = iter(_epoch(reader, workers=0))
    next(batches)
    for path in folder.glob("train-*.tar"):
        if fault == "gone":
            path.unlink()
        else:
            os.truncate(path, 1000)
    with pytest.raises(DataError, match=rf"train-00000\d\.tar: {message}"):
        list(batches)

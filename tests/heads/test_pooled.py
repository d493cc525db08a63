from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluate.conftest import draw
from vlp.data import ShardReader, open_shards
from vlp.data.writer import ShardWriter
from vlp.errors import DataError
from vlp.heads.pooled import ensure_pooled
from vlp.inference.classify import weigh
from vlp.inference.engine import Engine
from vlp.prompts.descriptors import load_descriptors

FINDINGS = ("mass", "pleural effusion")


def options(**changes: Any) -> dict[str, Any]:
    return {"representation": "tower", "findings": FINDINGS, "descriptors": load_descriptors(), "prompts": "finding",
            "batch": 5} | changes  # fmt: skip


def test_vectors_and_scores_are_the_engine_s_own(engine: Engine, reader: ShardReader, tmp_path: Path) -> None:
    keys = reader.keys("test")
    images = [engine.see(reader, key) for key in keys]
    looked = engine.looked(images)
    tower = ensure_pooled(tmp_path, engine, reader, "test", **options())
    joint = ensure_pooled(tmp_path, engine, reader, "test", **options(representation="joint"))
    assert tower.keys == keys
    assert np.allclose(tower.vectors, looked.tower.numpy(), atol=1e-5)
    assert np.allclose(joint.vectors, engine.embed(images), atol=1e-5)
    expected = weigh(engine, looked.features, FINDINGS, descriptors=load_descriptors(), prompts="finding").scores
    assert np.allclose(tower.scores, expected, atol=1e-5)


def test_they_are_computed_once_and_again_where_the_file_is_torn(
    engine: Engine, reader: ShardReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ensure_pooled(tmp_path, engine, reader, "val", **options())
    (file,) = tmp_path.glob("vectors-val-*.npz")
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "looked", lambda *_: pytest.fail("computed again"))
        after = ensure_pooled(tmp_path, engine, reader, "val", **options())
    assert np.array_equal(before.vectors, after.vectors)
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(ensure_pooled(tmp_path, engine, reader, "val", **options()).vectors, before.vectors)


def test_another_question_is_another_file(engine: Engine, reader: ShardReader, tmp_path: Path) -> None:
    for changes in ({}, {"findings": FINDINGS[:1]}, {"prompts": "both"}, {"representation": "joint"}):
        ensure_pooled(tmp_path, engine, reader, "val", **options(**changes))
    assert len(list(tmp_path.glob("vectors-val-*.npz"))) == 4


def test_laterals_alone_are_left_out(engine: Engine, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, views in (("some", ("PA", "lateral")), ("none", ("lateral", "lateral"))):
        with ShardWriter(tmp_path / name, image_format="png") as writer:
            for number, view in enumerate(views):
                writer.write(draw(number, "test", rng=rng, view=view))
    some, none = open_shards(tmp_path / "some"), open_shards(tmp_path / "none")
    assert len(ensure_pooled(tmp_path, engine, some, "test", **options()).keys) == 1
    with pytest.raises(DataError, match="no frontal image in the split 'test'"):
        ensure_pooled(tmp_path, engine, none, "test", **options())

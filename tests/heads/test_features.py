from pathlib import Path

import pytest
import torch

from vlp.data import ShardReader
from vlp.data.cache import cache_of
from vlp.errors import ConfigError
from vlp.heads.encoder import Encoder
from vlp.heads.features import ensure_features
from vlp.inference.engine import Engine


def test_what_is_kept_is_what_the_encoder_says(engine: Engine, reader: ShardReader, tmp_path: Path) -> None:
    encoder = Encoder(engine)
    cache = cache_of(reader, engine.model.config.preprocess, limit_bytes=10**7)
    places = [(key, 0) for key in reader.keys("train")[:5]]
    store = ensure_features(tmp_path / "features", engine, encoder, reader, places, cache=cache)
    for key, index in places:
        expected = encoder.see([engine.see(reader, key, index)]).tower
        found = store.get(key, index).float()
        assert torch.allclose(found.patches, expected.patches, atol=2e-3)
        assert found.grid == engine.model.grid


def test_they_are_computed_once(
    engine: Engine, reader: ShardReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(engine)
    cache = cache_of(reader, engine.model.config.preprocess, limit_bytes=10**7)
    places = [(key, 0) for key in reader.keys("train")[:3]]
    folder = tmp_path / "features"
    before = ensure_features(folder, engine, encoder, reader, places, cache=cache).get(*places[1])
    monkeypatch.setattr(Encoder, "see", lambda *_: pytest.fail("computed again"))
    after = ensure_features(folder, engine, encoder, reader, places, cache=cache).get(*places[1])
    assert torch.equal(before.patches, after.patches)
    with pytest.raises(ConfigError, match="holds other features"):
        ensure_features(folder, engine, encoder, reader, places[:2], cache=cache)

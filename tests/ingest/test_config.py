from pathlib import Path

import pytest

from vlp.config import dump, load, validate
from vlp.data.remote import Remote
from vlp.data.storage import Folder
from vlp.errors import ConfigError, PrivacyError
from vlp.ingest.config import IngestConfig


def _config(**settings) -> IngestConfig:
    values = {"source": {"kind": "phantom", "patients": 2}, "output": "shards"}
    return validate(IngestConfig, values | settings, where="here")


def test_files_are_checked_and_come_back(tmp_path):
    config = _config(output="s3://bucket/shards", fault_budgets={"missing_image": 0.05}, part="3/16")
    (tmp_path / "c.yaml").write_text(dump(config))
    assert load(IngestConfig, tmp_path / "c.yaml") == config
    with pytest.raises(ConfigError, match="pathh"):
        validate(IngestConfig, {"source": {"kind": "folder", "pathh": "x"}, "output": "y"}, where="here")
    with pytest.raises(ConfigError, match="source"):
        validate(IngestConfig, {"source": {"kind": "nothing"}, "output": "y"}, where="here")
    with pytest.raises(ConfigError, match="annotations"):
        _config(annotations=[{"kind": "nothing"}])


def test_the_shipped_recipe_loads():
    config = load(IngestConfig, Path(__file__).parents[2] / "configs" / "ingest" / "shared_sample.yaml")
    assert config.source.kind == "folder"
    assert config.output == Path("runs/shared_sample/shards")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"part": "3/2"}, "there is no part 3 of 2"),
        ({"part": "3"}, "part"),
        ({"part": "1/2", "merge": 2}, "exclude each other"),
        ({"merge": 0}, "merge"),
    ],
)
def test_parts_that_cannot_be(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        _config(**settings)


def test_the_recipe_is_what_decides_the_content():
    recipe = _config().recipe()
    elsewhere = {"output": "there", "workers": 3, "error_budget": 0.5, "fault_budgets": {"x": 0.1}, "merge": 4}
    assert _config(**elsewhere, staging="tmp", privacy={"phi_budget": 0.5}).recipe() == recipe
    for setting in ({"max_side_px": 64}, {"splits": {"salt": "other"}}, {"privacy": {"on_phi": "refuse"}}):
        assert _config(**setting).recipe() != recipe
    keyed = _config(privacy={"pseudonyms": "keyed", "key_env": "VLP_SOME_KEY"}).recipe()
    assert "VLP_SOME_KEY" not in str(keyed)
    assert keyed["privacy"]["pseudonyms"] == "keyed"


def test_the_fingerprint_knows_the_key_without_showing_it(monkeypatch):
    config = _config(privacy={"pseudonyms": "keyed", "key_env": "VLP_SOME_KEY"})
    with pytest.raises(PrivacyError):
        config.fingerprint()
    monkeypatch.setenv("VLP_SOME_KEY", "0123456789abcdef" * 4)
    first = config.fingerprint()
    assert first == config.fingerprint() != _config().fingerprint()
    assert "0123456789abcdef" not in first
    monkeypatch.setenv("VLP_SOME_KEY", "fedcba9876543210" * 4)
    assert config.fingerprint() != first


def test_where_shards_go():
    assert isinstance(_config().target(), Folder)
    assert _config().target("elsewhere").name == "elsewhere"
    assert _config(part="3/16").target_for_part().name == "shards.parts/0003-of-0016"
    assert _config().target_for_part().name == "shards"
    remote = _config(output="memory://bucket/shards", part="1/2").target_for_part()
    assert isinstance(remote, Remote)
    assert remote.name == "memory://bucket/shards.parts/0001-of-0002"


def test_one_process_per_core_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(5)))
    assert _config().num_workers() == 5
    assert _config(workers=0).num_workers() == 0

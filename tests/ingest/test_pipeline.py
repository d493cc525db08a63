import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp.config import dump, load, validate
from vlp.data import open_shards
from vlp.data.validate import check
from vlp.errors import ConfigError, DataError
from vlp.ingest.pipeline import IngestConfig, ingest


def _archive(folder: Path, count: int = 6, *, text: str | None = None, labels: dict | None = None) -> Path:
    folder.mkdir()
    rows = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(
            {
                "file": f"{number}.png",
                "study_id": f"s{number}",
                "patient_id": f"p{number % 4}",
                "view": "PA",
                "labels": {"Edema": 1, "Mass": 0} if labels is None else labels,
                "text": text,
            }
        )
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def _config(archive: Path, **settings) -> IngestConfig:
    values = {
        "source": {"kind": "folder", "path": str(archive)},
        "output": str(archive.parent / "shards"),
        "image_format": "png",
        "workers": 0,
    }
    return validate(IngestConfig, values | settings, where="here")


def _hashes(folder: Path) -> dict[str, str]:
    return {shard.name: shard.sha256 for shard in open_shards(folder).manifest.shards}


def test_an_archive_becomes_valid_shards(tmp_path):
    config = _config(_archive(tmp_path / "a"))
    manifest = ingest(config)
    assert check(config.output) == []
    assert manifest.num_studies == 6
    assert manifest.sentences_origin == {"labels": 12}
    assert manifest.recipe == config.recipe()
    studies = list(open_shards(config.output).studies())
    assert {study.id for study in studies} == {f"s{number}" for number in range(6)}
    assert all(
        study.sentences[0].text == "There is edema." for study in studies if study.sentences[0].finding == "edema"
    )


def test_any_number_of_workers_gives_the_same_bytes(tmp_path):
    archive = _archive(tmp_path / "a", text="No effusion. There is a mass.")
    for workers in (0, 2):
        ingest(_config(archive, workers=workers), output=tmp_path / f"w{workers}")
    assert _hashes(tmp_path / "w0") == _hashes(tmp_path / "w2")


def test_the_same_recipe_returns_at_once_another_does_not(tmp_path, monkeypatch):
    from vlp.ingest.folder import FolderSource

    archive = _archive(tmp_path / "a")
    first = ingest(_config(archive))
    loads: list[str] = []
    real = FolderSource.load
    monkeypatch.setattr(FolderSource, "load", lambda self, unit: loads.append(unit) or real(self, unit))
    assert ingest(_config(archive, workers=1)) == first
    assert loads == []
    assert ingest(_config(archive), again=True) == first
    assert len(loads) == 4  # persons
    assert ingest(_config(archive, max_side_px=16)) != first
    assert len(loads) == 8
    (archive / "manifest.jsonl").open("a").write("\n")  # the archive has changed
    ingest(_config(archive, max_side_px=16))
    assert len(loads) == 12


def test_damaged_shards_are_made_again(tmp_path):
    config = _config(_archive(tmp_path / "a"))
    ingest(config)
    before = _hashes(config.output)
    (config.output / next(iter(before))).write_bytes(b"")
    ingest(config)
    assert _hashes(config.output) == before


def test_one_missing_image_stops_a_small_archive_and_nothing_is_left(tmp_path):
    config = _config(_archive(tmp_path / "a"))
    (tmp_path / "a" / "3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6 studies cannot be used \(1 unreadable_image\).*line 4") as caught:
        ingest(config)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("workers", [0, 2])
def test_within_the_budget_faults_are_counted(tmp_path, workers, caplog):
    archive = _archive(tmp_path / "a")
    (archive / "3.png").write_bytes((archive / "3.png").read_bytes()[:200])
    config = _config(archive, error_budget=0.2, workers=workers)
    with caplog.at_level("WARNING", logger="vlp.ingest.pipeline"):
        manifest = ingest(config)
    assert manifest.faults == {"unreadable_image": 1}
    assert manifest.num_studies == 5
    assert "1 studies left out" in caplog.text
    assert "truncated" in caplog.text
    with pytest.raises(DataError, match="error_budget"):  # finished shards do not excuse a stricter budget
        ingest(_config(archive, error_budget=0.0))


def test_mute_studies_are_counted_and_only_mute_ones_refused(tmp_path):
    archive = _archive(tmp_path / "a", labels={})
    with pytest.raises(DataError, match="none of the 6 studies has a sentence"):
        ingest(_config(archive))
    rows = [json.loads(line) for line in (archive / "manifest.jsonl").read_text().splitlines()]
    rows[0]["labels"] = {"Mass": 1}
    (archive / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = ingest(_config(archive))
    assert sum(counts.without_sentences for counts in manifest.splits.values()) == 5


def test_an_empty_archive_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.jsonl").write_text("")
    with pytest.raises(DataError, match="no image to use"):
        ingest(_config(tmp_path / "a"))


def test_a_foreign_output_is_refused_before_any_work(tmp_path):
    archive = _archive(tmp_path / "a")
    with pytest.raises(DataError, match="no folder of shards"):
        ingest(_config(archive, output=str(archive)))
    assert (archive / "0.png").exists()


def test_the_phantom_can_be_sharded(tmp_path):
    values = {"source": {"kind": "phantom", "patients": 2, "size_px": 64}, "output": str(tmp_path / "s"), "workers": 0}
    config = validate(IngestConfig, values, where="here")
    manifest = ingest(config)
    assert manifest.synthetic
    assert manifest.labels_origin == {"source": manifest.num_studies}
    assert set(manifest.sentences_origin) == {"report"}
    assert check(config.output) == []


def test_configurations_are_checked_and_come_back(tmp_path):
    config = _config(_archive(tmp_path / "a"))
    (tmp_path / "c.yaml").write_text(dump(config))
    assert load(IngestConfig, tmp_path / "c.yaml") == config
    with pytest.raises(ConfigError, match="pathh"):
        validate(IngestConfig, {"source": {"kind": "folder", "pathh": "x"}, "output": "y"}, where="here")
    with pytest.raises(ConfigError, match="source"):
        validate(IngestConfig, {"source": {"kind": "nothing"}, "output": "y"}, where="here")


def test_the_shipped_recipe_loads():
    config = load(IngestConfig, Path(__file__).parents[2] / "configs" / "ingest" / "shared_sample.yaml")
    assert config.source.kind == "folder"
    assert config.output == Path("runs/shared_sample/shards")

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp.config import validate
from vlp.data import open_shards
from vlp.data.validate import check
from vlp.errors import DataError, PrivacyError
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


def _samples(folder: Path) -> dict[str, tuple[bytes, ...]]:
    """Every study's files, in the manifest's order."""
    reader = open_shards(folder)
    keys = reader.keys()
    return {key: tuple(reader.member(key, suffix) for suffix in reader.sample(key).members) for key in keys}


@pytest.mark.parametrize("count", [1, 3, 7])
def test_any_number_of_parts_gives_the_same_studies(tmp_path, count):
    archive = _archive(tmp_path / "a", 14, text="No effusion. There is a mass.")
    (archive / "3.png").write_bytes((archive / "3.png").read_bytes()[:200])
    settings = {"samples_per_shard": 3, "error_budget": 0.1}
    whole = ingest(_config(archive, **settings), output=tmp_path / "whole")
    for number in reversed(range(1, count + 1)):  # the order in which jobs end is nobody's business
        part = ingest(_config(archive, **settings, part=f"{number}/{count}"))
        assert part.part == f"{number}/{count}"
    merged = ingest(_config(archive, **settings, merge=count))
    assert list(_samples(tmp_path / "shards").items()) == list(_samples(tmp_path / "whole").items())
    assert merged.model_copy(update={"shards": whole.shards}) == whole
    assert (tmp_path / "shards" / "quarantine.jsonl").read_bytes() == (
        tmp_path / "whole" / "quarantine.jsonl"
    ).read_bytes()
    assert check(tmp_path / "shards") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "shards", "whole"]
    assert ingest(_config(archive, **settings, merge=count)) == merged  # nothing to do, though the parts are gone


def test_parts_are_judged_together(tmp_path):
    archive = _archive(tmp_path / "a", 8)
    (archive / "3.png").write_bytes(b"")
    for number in (1, 2):
        ingest(_config(archive, part=f"{number}/2"))
    with pytest.raises(DataError, match=r"1 of 8 studies cannot be used \(1 unreadable_image\).*line 4"):
        ingest(_config(archive, merge=2))
    assert ingest(_config(archive, merge=2, error_budget=0.2)).faults == {"unreadable_image": 1}


def test_parts_of_another_state_of_the_archive_are_not_merged(tmp_path):
    archive = _archive(tmp_path / "a")
    for number in (1, 2):
        ingest(_config(archive, part=f"{number}/2"))
    with pytest.raises(
        DataError, match=r"part 1/2 was made of something else \(recipe\.max_side_px: null there, 16 now"
    ):
        ingest(_config(archive, merge=2, max_side_px=16))
    (archive / "manifest.jsonl").open("a").write("\n")
    with pytest.raises(DataError, match=r"part 1/2 was made of something else \(source_fingerprint"):
        ingest(_config(archive, merge=2))


def test_an_output_behind_a_url(tmp_path):
    archive = _archive(tmp_path / "a", 8)
    local = ingest(_config(archive))
    url = f"file://{tmp_path}/bucket/shards"
    config = _config(archive, output=url, staging=str(tmp_path / "staging"), samples_per_shard=3)
    assert config.output == url
    there = ingest(config)
    assert there.num_studies == local.num_studies
    assert check(tmp_path / "bucket" / "shards") == []
    assert ingest(config) == there  # it is found there
    for number in (1, 2):
        ingest(config.model_copy(update={"part": f"{number}/2"}))
    ingest(config.model_copy(update={"merge": 2}), again=True)
    assert _samples(tmp_path / "bucket" / "shards") == _samples(tmp_path / "shards")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "bucket", "shards"]
    assert [path.name for path in (tmp_path / "bucket").iterdir()] == ["shards"]


def test_every_study_is_written_refused_or_left_out(tmp_path, monkeypatch):
    from vlp.ingest.folder import FolderSource
    from vlp.ingest.source import StudyFault

    archive = _archive(tmp_path / "a", 12)
    (archive / "3.png").write_bytes(b"")
    real = FolderSource.load

    def load(self, unit):
        for loaded in real(self, unit):
            laterals = not isinstance(loaded, StudyFault) and loaded.study.id in ("s4", "s5")
            yield StudyFault(code="excluded_lateral", message="a lateral") if laterals else loaded

    monkeypatch.setattr(FolderSource, "load", load)
    monkeypatch.setattr(FolderSource, "left_out", lambda self: {"other_source": 5}, raising=False)
    manifest = ingest(_config(archive, error_budget=0.0, fault_budgets={"unreadable_image": 0.2}))
    assert (manifest.read, manifest.num_studies) == (17, 9)
    assert manifest.faults == {"unreadable_image": 1}
    assert manifest.left_out == {"excluded_lateral": 2, "other_source": 5}
    (line,) = map(json.loads, (tmp_path / "shards" / "quarantine.jsonl").read_text().splitlines())
    assert line["code"] == "unreadable_image"
    assert "line 4" in line["message"]
    assert "p3" not in line["unit"]


def test_pseudonyms_reach_everything_and_no_name_is_left(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("VLP_TEST_KEY", "0123456789abcdef" * 4)
    archive = _archive(tmp_path / "a", 8, text="Dr. Canary Birdsong saw no effusion. There is a mass.")
    (archive / "5.png").write_bytes(b"")
    rows = [json.loads(line) for line in (archive / "manifest.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"study_id": f"canary-{row['study_id']}", "patient_id": f"canary-{row['patient_id']}"}
    (archive / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    privacy = {"pseudonyms": "keyed", "key_env": "VLP_TEST_KEY", "phi_budget": 1.0}
    with caplog.at_level("INFO"):
        manifest = ingest(_config(archive, privacy=privacy, error_budget=0.2))
    assert manifest.privacy["identifying_studies"] == 7
    assert "VLP_TEST_KEY" not in json.dumps(manifest.recipe)
    everything = b"".join(path.read_bytes() for path in (tmp_path / "shards").iterdir()) + caplog.text.encode()
    assert b"canary" not in everything.lower()
    ingest(_config(archive, error_budget=0.2, privacy={"phi_budget": 1.0}), output=tmp_path / "open")
    assert b"canary-s" in b"".join(path.read_bytes() for path in (tmp_path / "open").iterdir())


def test_more_identifying_text_than_declared_stops_the_build(tmp_path):
    archive = _archive(tmp_path / "a", text="Dr. Canary Birdsong saw no effusion. MRN: 12345678.")
    with pytest.raises(PrivacyError, match=r"6 of 6 studies hold something identifying.*phi_budget 0\.05"):
        ingest(_config(archive, samples_per_shard=1))  # shards were closed, and are not kept aside
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    for number in (1, 2):
        ingest(_config(archive, part=f"{number}/2"))
    with pytest.raises(PrivacyError, match="6 of 6 studies"):
        ingest(_config(archive, merge=2))


def test_another_key_makes_other_shards(tmp_path, monkeypatch):
    archive = _archive(tmp_path / "a")
    config = _config(archive, privacy={"pseudonyms": "keyed", "key_env": "VLP_TEST_KEY"})
    monkeypatch.setenv("VLP_TEST_KEY", "0123456789abcdef" * 4)
    first = ingest(config)
    assert ingest(config) == first
    monkeypatch.setenv("VLP_TEST_KEY", "fedcba9876543210" * 4)
    assert ingest(config).source_fingerprint != first.source_fingerprint


def test_memory_does_not_grow_with_the_archive(tmp_path):
    """2,000 studies of 100 kB: a tenth of the archive and the whole need the same, but for the manifest."""
    archive = _archive(tmp_path / "a", 1)
    pixels = np.random.default_rng(0).integers(0, 256, (320, 320), dtype=np.uint8)
    Image.fromarray(pixels).save(archive / "0.png", compress_level=0)
    row = json.loads((archive / "manifest.jsonl").read_text())
    peaks = {}
    for count in (200, 2000):
        rows = [row | {"id": f"i{n}", "study_id": f"s{n}", "patient_id": f"p{n}"} for n in range(count)]
        (archive / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
        config = _config(archive, samples_per_shard=50, jpeg_quality=50, image_format="jpg")
        tracemalloc.start()
        manifest = ingest(config)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert manifest.num_studies == count
    stored = sum(shard.bytes for shard in manifest.shards)
    assert stored > 60_000_000
    per_study = (peaks[2000] - peaks[200]) / 1800
    assert per_study < 6_000, "more than a study's line in the manifest and its ids"
    assert peaks[200] < 12_000_000


def test_what_a_kill_after_the_last_rename_leaves_is_cleared_up(tmp_path):
    config = _config(_archive(tmp_path / "a"))
    first = ingest(config)
    (tmp_path / ".shards.journal.jsonl").write_text("half a li")
    (tmp_path / ".shards.old").mkdir()
    assert ingest(config) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "shards"]


def test_looking_at_finished_shards_keeps_another_recipes_unfinished_build(tmp_path, monkeypatch):
    from vlp.ingest.folder import FolderSource

    archive = _archive(tmp_path / "a", 12)
    first = ingest(_config(archive))
    other = _config(archive, max_side_px=16, samples_per_shard=2)
    real, loads = FolderSource.load, []

    def load(self, unit):
        loads.append(unit)
        if len(loads) == 4:
            raise KeyboardInterrupt
        return real(self, unit)

    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "load", load)
        with pytest.raises(KeyboardInterrupt):
            ingest(other)
    assert ingest(_config(archive)) == first
    assert list((tmp_path / ".shards.partial").glob("*.tar"))
    assert ingest(other) != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "shards"]

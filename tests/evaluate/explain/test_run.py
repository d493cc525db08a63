import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluate.explain.conftest import SidedModel, engine_of
from tests.inference.calibrated import made_calibration
from tests.inference.conftest import save_tiny
from vlp.data import ShardReader
from vlp.errors import CheckpointError, DataError
from vlp.evaluate.explain import deletion, randomisation
from vlp.evaluate.explain.run import Explained, Options, explain, explain_model, write
from vlp.inference.engine import load
from vlp.prompts.descriptors import load_descriptors

OPTIONS = Options(studies=6, resamples=100, device="cpu")
TESTS = (
    "additivity", "descriptor ablation", "contradiction", "statement", "region edit", "weight randomisation",
    "repeatability", "deletion", "insertion", "laterality swap", "prompt contrast", "none should light",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("run") / "checkpoints" / "final", "similarity_attention")


@pytest.fixture(scope="module")
def explained(checkpoint: Path, sided_shards: Path) -> Explained:
    return explain(checkpoint, sided_shards, options=OPTIONS)


def test_every_test_has_its_rows(explained: Explained) -> None:
    assert tuple(dict.fromkeys(row.test for row in explained.rows)) == TESTS
    assert all(row.method for row in explained.rows)
    exact = {row.test: row.outcome for row in explained.rows if row.test in ("additivity", "statement", "region edit")}
    assert set(exact.values()) == {"passed"}
    assert explained.facts["studies"] == 6
    assert explained.facts["findings"] == ["mass", "pleural effusion"]
    assert explained.facts["synthetic"] is True


def test_everything_is_written_whole(explained: Explained, tmp_path: Path) -> None:
    paths = write(explained, tmp_path / "deep" / "folder")
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == [
        "deletion.png", "explain.json", "randomisation.png",
    ]  # fmt: skip
    content = json.loads(paths[0].read_text())
    assert content["note"].startswith("Research use")
    assert len(content["rows"]) == len(explained.rows)
    curve = content["curves"]["mean_similarity"]["deletion, mean"]["map"]
    assert explained.curves is not None
    np.testing.assert_allclose(curve, explained.curves.values["deletion", "mean", "map"].mean(axis=0))
    assert len(content["randomisation"]["mean_likeness"]["SSIM"]) == len(content["randomisation"]["levels"])


def test_a_folder_that_cannot_be_made_is_told(explained: Explained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the results there"):
        write(explained, tmp_path / "file" / "folder")


def test_a_calibration_beside_the_checkpoint_is_used_and_another_models_is_not(
    checkpoint: Path, sided_shards: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (deletion, randomisation):
        monkeypatch.setattr(module, "measure", lambda *_, **__: ([], None))
    folder = checkpoint.parents[1] / "calibration"
    folder.mkdir()
    file = folder / "calibration.json"
    fitting = made_calibration(load(checkpoint, device="cpu"))
    file.write_text(fitting.to_json())
    try:
        assert explain(checkpoint, sided_shards, options=OPTIONS).facts["calibration"] == fitting.digest
        file.write_text(fitting.to_json().replace(fitting.model_fingerprint, "f" * 64))
        assert explain(checkpoint, sided_shards, options=OPTIONS).facts["calibration"] is None
        assert "left aside" in caplog.text
        with pytest.raises(CheckpointError, match="another model"):
            explain(checkpoint, sided_shards, options=Options(studies=4, calibration=file, device="cpu"))
    finally:
        os.remove(file)
        folder.rmdir()


def test_another_checkpoint_is_compared(checkpoint: Path, reader: ShardReader) -> None:
    torch.manual_seed(9)
    engine = load(checkpoint, device="cpu")
    options = Options(studies=4, resamples=100)
    found = explain_model(engine, reader, options=options, descriptors=load_descriptors(), other=engine)
    rows = [row for row in found.rows if row.test == "repeatability"]
    assert [row.value for row in rows] == [pytest.approx(1.0, abs=1e-5)] * 2


def test_no_labels_no_test(reader: ShardReader) -> None:
    with pytest.raises(DataError, match="split 'train'"):
        explain_model(engine_of(SidedModel()), reader, options=Options(split="train"), descriptors=load_descriptors())

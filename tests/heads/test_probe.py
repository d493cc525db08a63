from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from vlp.config import validate
from vlp.errors import ConfigError, DataError
from vlp.evaluate.results import Result, read_results
from vlp.heads.probe import ProbeConfig, Table, fit_probes, run_probe, score_probes
from vlp.metrics.policy import LEFT_OUT

FINDINGS = ("mass", "edema")


def as_config(**changes: Any) -> ProbeConfig:
    values = {"kind": "probe", "output": "x", "encoder": "y", "shards": "z", "resamples": 100, "strengths": [0.01, 1.0]}
    return validate(ProbeConfig, values | changes, where="test")


def table(seed: int, studies: int, *, split: str) -> Table:
    """Vectors whose first two coordinates tell the two findings, with noise; every seventh label is missing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size=(studies, 2))
    vectors = rng.normal(size=(studies, 6)) * np.array([1.0, 1.0, 9.0, 1.0, 1.0, 1.0])
    vectors[:, :2] += 1.2 * labels
    labels[rng.random(labels.shape) < 1 / 7] = LEFT_OUT
    return Table(vectors=vectors, labels=labels, patients=tuple(f"{split}-{n // 2}" for n in range(studies)))


@pytest.fixture(scope="module")
def tables() -> dict[Any, Table]:
    return {split: table(seed, 160, split=split) for seed, split in enumerate(("train", "val", "test"))}


def by_name(results: list[Result]) -> dict[tuple[str, str], Result]:
    return {(row.metric, row.finding): row for row in results}


def test_the_probe_of_all_labels_is_scikit_learns_with_the_strength_that_serves_best(
    tables: dict[Any, Table],
) -> None:
    config = as_config(shares=[1.0])
    zero_shot = np.random.default_rng(9).normal(size=(160, 2))
    found = by_name(score_probes(tables, zero_shot, FINDINGS, config))
    areas = []
    for column, name in enumerate(FINDINGS):
        (x, y), (vx, vy), (tx, ty) = (
            (part.vectors[part.labels[:, column] >= 0], part.labels[part.labels[:, column] >= 0, column])
            for part in (tables["train"], tables["val"], tables["test"])
        )
        mean, spread = x.mean(axis=0), x.std(axis=0)
        models = [LogisticRegression(C=c, max_iter=5000).fit((x - mean) / spread, y) for c in (0.01, 1.0)]
        best = max(models, key=lambda model: roc_auc_score(vy, model.decision_function((vx - mean) / spread)))
        area = roc_auc_score(ty, best.decision_function((tx - mean) / spread))
        zero = roc_auc_score(ty, zero_shot[tables["test"].labels[:, column] >= 0, column])
        assert found["auroc_probe_100_percent", name].value == pytest.approx(area, abs=2e-3)
        assert found["auroc_zero_shot", name].value == pytest.approx(zero, abs=1e-6)
        assert found["auroc_gain_100_percent", name].value == pytest.approx(area - zero, abs=2e-3)
        areas.append(area)
    macro = found["auroc_probe_100_percent", "macro"]
    assert macro.value == pytest.approx(np.mean(areas), abs=2e-3)
    assert macro.low is not None
    assert macro.low < macro.value < macro.high  # type: ignore[operator]


def test_a_share_is_drawn_several_times_and_its_figure_is_the_mean(tables: dict[Any, Table]) -> None:
    config = as_config(shares=[0.1, 1.0], draws=3)
    fitted = fit_probes(tables, FINDINGS, config)
    assert {share: len(draws) for share, draws in fitted.items()} == {0.1: 3, 1.0: 1}
    assert not np.allclose(fitted[0.1][0], fitted[0.1][1])
    found = by_name(score_probes(tables, np.zeros((160, 2)), FINDINGS, config))
    rows = tables["test"].known(0)
    areas = [roc_auc_score(tables["test"].labels[rows, 0], scores[rows, 0]) for scores in fitted[0.1]]
    row = found["auroc_probe_10_percent", "mass"]
    assert row.value == pytest.approx(np.mean(areas), abs=1e-6)
    assert "mean of 3 draws" in row.method
    assert found["auroc_probe_100_percent", "macro"].value > found["auroc_probe_10_percent", "macro"].value  # type: ignore[operator]


def test_more_labels_of_one_kind_alone_teach_nothing_and_count_as_chance(tables: dict[Any, Table]) -> None:
    train = tables["train"]
    only = Table(vectors=train.vectors, labels=np.where(train.labels == 0, 0, LEFT_OUT), patients=train.patients)
    found = by_name(score_probes({**tables, "train": only}, np.zeros((160, 2)), FINDINGS, as_config(shares=[1.0])))
    assert found["auroc_probe_100_percent", "mass"].value == 0.5


def test_it_runs_on_shards_and_says_what_it_found(checkpoint: Path, shards: Path, tmp_path: Path) -> None:
    config = as_config(
        output=str(tmp_path / "probe"), encoder=str(checkpoint), shards=str(shards), shares=[0.5], draws=2,
        device="cpu", prompts="finding",
    )  # fmt: skip
    results = run_probe(config)
    assert {row.finding for row in results} == {"macro", "cardiomegaly", "mass", "pleural effusion"}
    assert {row.metric for row in results} == {"auroc_zero_shot", "auroc_probe_50_percent", "auroc_gain_50_percent"}
    # Blocks of another grey are plain to see even for an untrained tower.
    assert by_name(results)["auroc_probe_50_percent", "macro"].value > 0.7  # type: ignore[operator]
    assert read_results(tmp_path / "probe") == results
    assert run_probe(config) == results


def test_what_cannot_be_probed_is_one_line(checkpoint: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="studies of their own"):
        as_config(split="val")
    values = {"output": str(tmp_path / "p"), "encoder": str(checkpoint), "shards": str(shards), "device": "cpu"}
    with pytest.raises(DataError, match="no finding is labelled present and absent"):
        run_probe(as_config(findings=["hernia"], **values))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        run_probe(as_config(**values | {"output": str(tmp_path / "file" / "p")}))

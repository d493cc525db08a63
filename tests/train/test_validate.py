from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from vlp.config import validate as as_valid
from vlp.data import open_shards
from vlp.data.reader import ShardReader
from vlp.data.transforms import Preprocess
from vlp.metrics.policy import LEFT_OUT
from vlp.model.model import build
from vlp.records import Certainty
from vlp.train.config import TrainConfig
from vlp.train.validate import ZeroShotCheck, ZeroShotConfig, prepare

FINDINGS = ("cardiomegaly", "pleural effusion", "pneumothorax")


class Oracle(torch.nn.Module):
    """Knows every answer by the image's brightness: "There is X." fits bright images, "There is no X." dark ones."""

    def tokenizer(self, texts: list[str]) -> Any:
        self.texts = texts
        return self

    def to(self, device: Any) -> Any:  # type: ignore[override]
        return self

    def encode_texts(self, tokens: Any) -> torch.Tensor:
        return torch.tensor([-1.0 if " no " in text else 1.0 for text in self.texts])

    def encode_images(self, images: torch.Tensor, *, padding: torch.Tensor | None = None) -> torch.Tensor:
        return images.float().mean(dim=(1, 2, 3))

    def score(self, texts: torch.Tensor, images: torch.Tensor) -> Any:
        return SimpleNamespace(similarity=texts[:, None] * images[None, :])


def prepared(shards: Path, **settings: Any) -> ZeroShotCheck:
    check = prepare(open_shards(shards), ZeroShotConfig(**settings), preprocess=Preprocess(size=32))
    assert check is not None
    return check


def test_truth_and_images_come_from_the_validation_split(shards: Path) -> None:
    check = prepared(shards, min_positives=1)
    studies = list(open_shards(shards).studies("val"))
    assert check.images.shape == (len(studies), 1, 32, 32)
    assert tuple(check.truth) == FINDINGS
    for finding in FINDINGS:
        expected = [study.labels[finding] is Certainty.PRESENT for study in studies]
        assert check.truth[finding].tolist() == expected


def test_an_oracle_of_one_finding_scores_one_on_it(shards: Path) -> None:
    check = prepared(shards, min_positives=1)
    aurocs = check.run(Oracle(), device=torch.device("cpu"))  # type: ignore[arg-type]
    assert aurocs["pleural effusion"] == 1.0  # brightens the image in this archive
    brightness = check.images.float().mean(dim=(1, 2, 3))
    assert aurocs["cardiomegaly"] == pytest.approx(roc_auc_score(check.truth["cardiomegaly"], brightness))


def test_left_out_studies_do_not_count(shards: Path) -> None:
    check = prepared(shards, min_positives=1)
    truth = check.truth["pleural effusion"].copy()
    wrong = truth.copy()
    wrong[:2] = 1 - wrong[:2]
    wrong_check = replace(check, truth={"pleural effusion": wrong})
    assert wrong_check.run(Oracle(), device=torch.device("cpu"))["pleural effusion"] < 1.0  # type: ignore[arg-type]
    wrong[:2] = LEFT_OUT
    assert wrong_check.run(Oracle(), device=torch.device("cpu"))["pleural effusion"] == 1.0  # type: ignore[arg-type]


def test_fewer_studies_are_spread_over_the_split(shards: Path) -> None:
    few, all_of_them = prepared(shards, studies=3, min_positives=1), prepared(shards, min_positives=1)
    assert [int(np.flatnonzero((all_of_them.images == image).all(dim=(1, 2, 3)))[0]) for image in few.images] == [
        0,
        5,
        11,
    ]


def test_too_few_positives_mean_no_check(shards: Path) -> None:
    assert prepare(open_shards(shards), ZeroShotConfig(min_positives=100), preprocess=Preprocess(size=32)) is None


def test_padding_is_told_to_the_model_in_pieces_that_fit(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlp.train.validate._IMAGES_AT_ONCE", 5)
    wide = prepare(
        open_shards(shards), ZeroShotConfig(min_positives=1), preprocess=Preprocess(size=(16, 32))
    )  # square images on a wide canvas: bars left and right
    assert wide is not None
    assert wide.padding is not None
    bars = torch.ones(16, 32, dtype=torch.bool)
    bars[:, 8:24] = False
    assert (wide.padding == bars).all()
    seen: list[torch.Tensor] = []

    class Watching(Oracle):
        def encode_images(self, images: torch.Tensor, *, padding: torch.Tensor | None = None) -> torch.Tensor:
            assert padding is not None
            assert len(padding) == len(images)
            seen.append(padding)
            return super().encode_images(images)

    wide.run(Watching(), device=torch.device("cpu"))  # type: ignore[arg-type]
    assert torch.equal(torch.cat(seen), wide.padding)
    assert prepared(shards, min_positives=1).padding is None


def test_a_check_leaves_model_and_random_numbers_alone(shards: Path, values: dict[str, Any]) -> None:
    model = build(as_valid(TrainConfig, values, where="test").model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    aurocs = prepared(shards, min_positives=1).run(model, device=torch.device("cpu"))
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(aurocs) == set(FINDINGS)
    assert all(0.0 <= value <= 1.0 for value in aurocs.values())


def test_a_check_that_fails_is_told_and_the_run_goes_on(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Oracle):
        def score(self, texts: torch.Tensor, images: torch.Tensor) -> Any:
            raise RuntimeError("out of luck\nand more")

    check, cpu = prepared(shards, min_positives=1), torch.device("cpu")
    model: Any = Broken()
    model.train()
    assert check.attempt(model, device=cpu) is None
    assert model.training
    assert "the zero-shot check fails (RuntimeError: out of luck); training goes on" in caplog.text
    whole: Any = Oracle()
    assert check.attempt(whole, device=cpu) == check.run(whole, device=cpu)


def test_studies_without_a_readable_image_are_left_out_and_counted(
    shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keys = open_shards(shards).keys("val")
    encoded = ShardReader.encoded
    monkeypatch.setattr(
        ShardReader, "encoded", lambda self, key, index=0: b"" if key == keys[1] else encoded(self, key, index)
    )
    check = prepared(shards, min_positives=1)
    assert len(check.images) == len(keys) - 1
    assert all(len(truth) == len(keys) - 1 for truth in check.truth.values())
    assert f"1 of {len(keys)} studies are left out" in caplog.text

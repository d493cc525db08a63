"""Shards of small drawn studies, and a model that reads them almost perfectly: findings are blocks of a known grey."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vlp.data import ShardReader, open_shards
from vlp.data.transforms import Preprocess
from vlp.data.writer import ShardWriter
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.predictions import Provenance
from vlp.evaluate.questions import Questions, resolve_findings
from vlp.evaluate.run import evaluate_model
from vlp.inference.calibration import Calibration, Figures
from vlp.inference.engine import Engine
from vlp.prompts.descriptors import load_descriptors
from vlp.records import Certainty, ImageFile, LoadedStudy, Mask, Person, Region, Report, Study
from vlp.tensors import ImageFeatures, Scores, TextFeatures, Tokens

GREYS = {"pleural effusion": 220, "mass": 160, "cardiomegaly": 100}
SIDE, PATCH = 64, 8


class GreyModel(nn.Module):
    """Patches are recognised by their grey, texts by the finding they name and whether they deny it."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(preprocess=Preprocess(size=SIDE))
        self.tokenizer = _Bytes()

    def image_features(self, images: torch.Tensor, *, padding: torch.Tensor | None = None) -> ImageFeatures:
        cells = images[:, 0].float().unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).mean(dim=(3, 4)).flatten(1)
        levels = torch.tensor([20.0, *GREYS.values()])
        nearest = (cells[..., None] - levels).abs().argmin(dim=-1)
        patches = nn.functional.one_hot(nearest, len(levels)).float()
        return ImageFeatures(
            pooled=nn.functional.normalize(patches.sum(dim=1), dim=-1), patches=patches, grid=(SIDE // PATCH,) * 2
        )

    def project(self, features: ImageFeatures) -> ImageFeatures:
        return features

    def encode_texts(self, tokens: Tokens) -> TextFeatures:
        rows = []
        for ids, mask in zip(tokens.ids, tokens.mask, strict=True):
            text = bytes(ids[mask].tolist()).decode()
            named = [float(name in text) for name in GREYS]
            sign = -1.0 if "no " in text else 1.0
            rows.append([0.1, *(sign * value for value in named)])
        return TextFeatures(pooled=nn.functional.normalize(torch.tensor(rows), dim=-1))

    def embed_images(self, images: ImageFeatures) -> torch.Tensor:
        return images.pooled

    def maps(self, text: TextFeatures, images: ImageFeatures) -> torch.Tensor:
        flat = torch.einsum("td,ipd->tip", text.pooled, images.patches)
        return flat.unflatten(2, images.grid)

    def score(self, text: TextFeatures, images: ImageFeatures) -> Scores:
        best = self.maps(text, images).flatten(2)
        similarity = torch.where(text.pooled.sum(dim=1)[:, None] < 0, best.amin(dim=2), best.amax(dim=2))
        return Scores(similarity=similarity, logits=similarity / 0.2)


class _Bytes:
    max_tokens = 400

    def count(self, text: str) -> int:
        return len(text.encode())

    def __call__(self, texts: list[str]) -> Tokens:
        content = [text.encode() for text in texts]
        ids = torch.zeros((len(texts), max(len(one) for one in content)), dtype=torch.long)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, one in enumerate(content):
            ids[row, : len(one)] = torch.tensor(list(one), dtype=torch.long)
            mask[row, : len(one)] = True
        return Tokens(ids=ids, mask=mask)


def draw(number: int, split: str, *, rng: np.random.Generator, view: str = "PA") -> LoadedStudy:
    """A study with each finding at an even chance, drawn where its region says; two studies per person."""
    pixels = np.full((SIDE, SIDE), 20, dtype=np.uint8)
    labels: dict[str, Certainty] = {}
    regions = []
    for row, (finding, grey) in enumerate(GREYS.items()):
        certainty = (Certainty.PRESENT, Certainty.ABSENT, Certainty.UNCERTAIN)[int(rng.choice(3, p=[0.45, 0.45, 0.1]))]
        labels[finding] = certainty
        if certainty is not Certainty.PRESENT:
            continue
        top, left = row * 2 * PATCH, int(rng.integers(0, 6)) * PATCH
        pixels[top : top + 2 * PATCH, left : left + 2 * PATCH] = grey
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        mask[top : top + 2 * PATCH, left : left + 2 * PATCH] = True
        box = (float(left), float(top), float(left + 2 * PATCH), float(top + 2 * PATCH))
        regions.append(Region(finding=finding, image=f"image-{number}", geometry=box if row else Mask.encode(mask)))
    image = ImageFile(id=f"image-{number}", path=None, view=view, rows=SIDE, columns=SIDE)
    study = Study(
        id=f"study-{number}",
        person=Person(id=f"{split}-person-{number // 2}"),
        images=(image,),
        report=Report(text='FINDINGS: <b>hostile</b> & quoted "words".'),
        labels=labels,
        regions=tuple(regions),
        source="drawn",
        split=split,  # type: ignore[arg-type]
        synthetic=True,
    )
    return LoadedStudy(study=study, pixels=(pixels,))


def with_lungs(loaded: LoadedStudy) -> LoadedStudy:
    """The study with the region of its background: what the model answers "There are lungs." with."""
    mask = Mask.encode(loaded.pixels[0] == 20)
    region = Region(finding="lungs", image=loaded.study.images[0].id, geometry=mask)
    return replace(loaded, study=replace(loaded.study, regions=(*loaded.study.regions, region)))


def write_shards(folder: Path, *, tests: int = 30, validations: int = 12, laterals: int = 2) -> ShardReader:
    """Shards with the given numbers of studies; `laterals` of the test studies have no frontal view."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder, image_format="png") as writer:
        for number in range(tests):
            writer.write(draw(number, "test", rng=rng, view="lateral" if number < laterals else "PA"))
        for number in range(100, 100 + validations):
            writer.write(draw(number, "val", rng=rng))
    return open_shards(folder)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "shards"
    write_shards(folder)
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with training studies and lungs, for what the smaller ones have no studies for."""
    folder = tmp_path_factory.mktemp("whole") / "shards"
    rng = np.random.default_rng(1)
    with ShardWriter(folder, image_format="png") as writer:
        for split, numbers in (("train", range(200, 212)), ("val", range(100, 112)), ("test", range(24))):
            for number in numbers:
                writer.write(with_lungs(draw(number, split, rng=rng)))
    return folder


@pytest.fixture(scope="session")
def engine() -> Engine:
    made = Engine(GreyModel())  # type: ignore[arg-type]
    made.fingerprint = "5a" * 32  # it comes from no checkpoint
    return made


@pytest.fixture(scope="session")
def settings(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateConfig:
    values: dict[str, Any] = {"resamples": 200, "batch_images": 8, "examples": 2, "ks": (1, 5)}
    output = tmp_path_factory.mktemp("evaluated")
    return EvaluateConfig(checkpoint=Path("grey"), shards=shards, output=output, **values)


def _calibration(engine: Engine, shards: Path, **changes: Any) -> Calibration:
    """A calibration of two findings that leaves scores as they are: p is the score, sets as at thresholds .3 and .7."""
    one = {
        "map": {"kind": "temperature", "temperature": 1.0},
        "studies": 12,
        "positives": 5,
        "conformal": {"alpha": 0.1, "q0": 0.7, "q1": 0.7},
        "figures": dict.fromkeys(Figures.model_fields),
    }
    values = {
        "vlp_version": "0",
        "model_fingerprint": engine.fingerprint,
        "prompts_digest": load_descriptors().digest,
        "preprocess_digest": "0",
        "pooled_by": {"kind": "geometric_mean"},
        "fitted_on": {
            "archive": "drawn",
            "shards_sha256": open_shards(shards).digest(),
            "split": "val",
            "studies": 12,
            "patients": 6,
        },
        "findings": {"mass": one, "cardiomegaly": one},
        "maps": {"mass": {"threshold": 0.4, "texts": ("There is a mass.",), "dice": 0.9, "images": 5}},
    }
    return Calibration.model_validate(values | changes)


@pytest.fixture(scope="session")
def calibration_of(engine: Engine) -> Callable[..., Calibration]:
    """From shards, and changes, to a calibration."""
    return partial(_calibration, engine)


@pytest.fixture
def questions() -> Questions:
    provenance = Provenance(dataset_version="1", checkpoint_hash="2", prompt_set_hash="3", preprocess_hash="4")
    return Questions(findings=tuple(sorted(GREYS)), descriptors=load_descriptors(), provenance=provenance)


@pytest.fixture(scope="session")
def evaluated(engine: Engine, shards: Path, settings: EvaluateConfig) -> Path:
    """The output folder of one whole evaluation."""

    reader, descriptors = open_shards(shards), load_descriptors()
    findings = resolve_findings(reader, settings, descriptors)
    evaluate_model(engine, reader, settings, findings=findings, descriptors=descriptors)
    return settings.output


@pytest.fixture(scope="session")
def trusted(
    engine: Engine, whole: Path, calibration_of: Callable[..., Calibration], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output folder of an evaluation that was asked for everything."""
    folder = tmp_path_factory.mktemp("trusted")
    (folder / "calibration.json").write_text(calibration_of(whole).to_json())
    reader, descriptors = open_shards(whole), load_descriptors()
    settings = EvaluateConfig(
        checkpoint=Path("grey"),
        shards=whole,
        output=folder / "out",
        tasks=("classification", "grounding", "retrieval", "negation", "anatomy"),
        voters=("train",),
        compared_prompts=("finding", "radzero"),
        calibration=folder,
        prior=True,
        paraphrases=True,
        resamples=100,
        examples=1,
    )
    findings = resolve_findings(reader, settings, descriptors)
    evaluate_model(engine, reader, settings, findings=findings, descriptors=descriptors)
    return settings.output

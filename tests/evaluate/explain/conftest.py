"""Drawn studies whose findings lie on one side, as their sentences say; and models that know sides, or do not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.evaluate.conftest import GREYS, PATCH, SIDE, GreyModel
from tests.inference.conftest import tiny_config
from vlp.data import ShardReader, open_shards
from vlp.data.writer import ShardWriter
from vlp.evaluate.explain.sample import Sample, look
from vlp.inference.engine import Engine
from vlp.model import build
from vlp.prompts.descriptors import load_descriptors
from vlp.records import Certainty, ImageFile, LoadedStudy, Person, Report, Sentence, Study
from vlp.reports.findings import sentence_text
from vlp.tensors import ImageFeatures, TextFeatures, Tokens

FINDINGS = ("mass", "pleural effusion")
STUDIES = 24


class SidedModel(GreyModel):
    """A `GreyModel` that tells the patient's left (the right of the image) from the right, if a text names a side."""

    def image_features(self, images: torch.Tensor, *, padding: torch.Tensor | None = None) -> ImageFeatures:
        plain = super().image_features(images, padding=padding)
        rows, columns = plain.grid
        left = (torch.arange(columns) >= columns // 2).repeat(rows)[None, :, None].float()
        patches = torch.cat((plain.patches, plain.patches * left, plain.patches * (1 - left)), dim=-1)
        patches = functional.normalize(patches, dim=-1)
        return ImageFeatures(pooled=functional.normalize(patches.sum(dim=1), dim=-1), patches=patches, grid=plain.grid)

    def encode_texts(self, tokens: Tokens) -> TextFeatures:
        plain = super().encode_texts(tokens).pooled
        rows = []
        for vector, ids, mask in zip(plain, tokens.ids, tokens.mask, strict=True):
            words = bytes(ids[mask].tolist()).decode().split()
            rows.append(torch.cat((vector, *(vector * float(side in words) for side in ("left", "right")))))
        return TextFeatures(pooled=functional.normalize(torch.stack(rows), dim=-1))


class MirroredModel(SidedModel):
    """Takes left for right."""

    def image_features(self, images: torch.Tensor, *, padding: torch.Tensor | None = None) -> ImageFeatures:
        return super().image_features(images.flip(3), padding=padding)


def draw(number: int, *, rng: np.random.Generator, view: str = "PA") -> LoadedStudy:
    """A study with each finding at an even chance, as a block on the side its sentence names; two per person."""
    pixels = np.full((SIDE, SIDE), 20, dtype=np.uint8)
    labels, text, sentences = {}, "FINDINGS: ", []
    for row, finding in enumerate(FINDINGS):
        present, left = bool(rng.integers(2)), bool(rng.integers(2))
        labels[finding] = certainty = Certainty.PRESENT if present else Certainty.ABSENT
        location = ("left" if left else "right") if present else None
        words = sentence_text(finding, certainty, location=location)
        sentences.append(
            Sentence(
                start=len(text), end=len(text) + len(words), section="findings", finding=finding, certainty=certainty,
                text=words, location=location,
            )
        )  # fmt: skip
        text += words + " "
        if present:
            top, column = 3 * row * PATCH, int(rng.integers(0, 3)) * PATCH + (SIDE // 2 if left else 0)
            pixels[top : top + 2 * PATCH, column : column + 2 * PATCH] = GREYS[finding]
    study = Study(
        id=f"study-{number}",
        person=Person(id=f"person-{number // 2}"),
        images=(ImageFile(id=f"image-{number}", path=None, view=view, rows=SIDE, columns=SIDE),),  # type: ignore[arg-type]
        report=Report(text=text),
        sentences=tuple(sentences),
        labels=labels,
        source="drawn",
        split="test",
        synthetic=True,
    )
    return LoadedStudy(study=study, pixels=(pixels,))


@pytest.fixture(scope="session")
def sided_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sided") / "shards"
    rng = np.random.default_rng(3)
    with ShardWriter(folder, image_format="png") as writer:
        for number in range(STUDIES):
            writer.write(draw(number, rng=rng))
        writer.write(draw(STUDIES, rng=rng, view="lateral"))
    return folder


@pytest.fixture(scope="session")
def reader(sided_shards: Path) -> ShardReader:
    return open_shards(sided_shards)


def engine_of(model: torch.nn.Module) -> Engine:
    made = Engine(model)  # type: ignore[arg-type]
    made.fingerprint = "5a" * 32  # it comes from no checkpoint
    return made


def sample_of(model: torch.nn.Module, reader: ShardReader, *, studies: int = STUDIES) -> Sample:
    return look(engine_of(model), reader, split="test", studies=studies, descriptors=load_descriptors())


@pytest.fixture(scope="session")
def sided(reader: ShardReader) -> Sample:
    """What a model makes of the studies that reads them perfectly."""
    return sample_of(SidedModel(), reader)


@pytest.fixture(scope="session")
def untrained(reader: ShardReader) -> Sample:
    """What a real model of random weights makes of some of the studies."""
    torch.manual_seed(0)
    return sample_of(build(tiny_config("similarity_attention")), reader, studies=8)

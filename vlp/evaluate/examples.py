"""Example studies for the report, chosen by a rule before anyone looked at the model's answers."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlp.data import ShardReader
from vlp.evaluate import pictures
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.grounding import focal_findings, true_mask
from vlp.evaluate.predict import Rows
from vlp.evaluate.predictions import OK
from vlp.evaluate.questions import Questions
from vlp.evaluate.report import EXAMPLES
from vlp.evaluate.results import write_text
from vlp.evaluate.retrieval import Gallery
from vlp.inference.classify import weigh
from vlp.log import progress
from vlp.metrics import segmentation
from vlp.metrics.segmentation import pointing_hit
from vlp.records import Certainty, Region

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

CASES = 3
"""Retrieved cases shown per example."""
WITH_REGIONS = (
    "For each focal finding in alphabetical order, the first study in key order that has a true region of it on the "
    "image that is scored. Keys are hashes, so their order means nothing; no study was chosen for the model's answer."
)
WITHOUT_REGIONS = (
    "For each finding in alphabetical order, the first study in key order that is labelled positive. Keys are hashes, "
    "so their order means nothing; no study was chosen for the model's answer."
)


def choose(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], config: EvaluateConfig
) -> tuple[list[tuple[str, str]], str]:
    """[(finding, key of its example)], at most `config.examples` of them, and the rule in words."""
    tested = [row for row in rows.get("grounding", ()) if row["split"] == config.split and row["status"] == OK]
    if tested:
        focal, rule = set(focal_findings(tested, config)), WITH_REGIONS
        candidates = [(row["finding"], row["study_id"]) for row in tested if row["finding"] in focal]
    else:
        rule = WITHOUT_REGIONS
        candidates = [
            (row["finding"], row["study_id"])
            for row in rows.get("classification", ())
            if row["status"] == OK and row["label"] == Certainty.PRESENT
        ]
    first: dict[str, str] = {}
    for finding, key in sorted(candidates):
        first.setdefault(finding, key)
    return list(first.items())[: config.examples], rule


def write(engine: "Engine", reader: ShardReader, config: EvaluateConfig, *, questions: Questions, rows: Rows) -> str:
    """Writes pictures and facts of the chosen studies to `<output>/examples`, replacing what was there.

    Returns:
        The rule by which they were chosen.
    """
    chosen, rule = choose(rows, config)
    gallery = Gallery(rows.get("retrieval", []))
    folder, partial = config.output / EXAMPLES, config.output / f".{EXAMPLES}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for number, (finding, key) in enumerate(progress(chosen, description="drawing examples", unit="studies")):
        stem = f"{number:02d}-{finding.replace(' ', '-').replace('/', '-')}"
        facts = {"number": number, "finding": finding, "study": key}
        facts |= _answer(engine, reader, config, questions, finding, key, partial / stem)
        facts |= {"cases": _cases(reader, gallery, key, partial / stem)}
        write_text(partial / f"{stem}.json", json.dumps(facts, indent=1, ensure_ascii=False))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return rule


def _answer(
    engine: "Engine",
    reader: ShardReader,
    config: EvaluateConfig,
    questions: Questions,
    finding: str,
    key: str,
    stem: Path,
) -> dict[str, Any]:
    study = reader.study(key)
    index = _index(reader, key, study.regions, finding)
    pixels = reader.image(key, index)
    rows, columns = pixels.shape
    truth = true_mask(study.regions, finding=finding, image=study.images[index].id, rows=rows, columns=columns)
    features, placements = engine.features([engine.see(reader, key, index)])
    values = placements[0].map_to_original(questions.maps(engine, features, finding)[0])
    asked, descriptors = questions.findings, questions.descriptors
    evidence = weigh(engine, features, asked, descriptors=descriptors, prompts=config.prompts).diagnoses()[0]
    picture = pictures.radiograph(pixels)
    pictures.write_png(pictures.outlined(picture, truth), stem.with_name(f"{stem.name}-image.png"))
    veiled = pictures.outlined(pictures.overlaid(picture, values, segmentation.peak(values)), truth)
    pictures.write_png(veiled, stem.with_name(f"{stem.name}-map.png"))
    return {
        "view": study.images[index].view,
        "image": f"{stem.name}-image.png",
        "map": f"{stem.name}-map.png",
        "map_range": [float(np.nanmin(values)), float(np.nanmax(values))],
        "text": " | ".join(questions.texts(finding)),
        "hit": None if truth is None else pointing_hit(values, truth),
        "scores": [
            {"finding": one.finding, "score": one.score, "label": study.labels.get(one.finding)}
            for one in evidence.ranked()
        ],
        "evidence": [
            asdict(descriptor) for one in evidence.findings if one.finding == finding for descriptor in one.descriptors
        ],
        "report": study.report.text if study.report else None,
        "made_from_labels": study.report is None,
    }


def _index(reader: ShardReader, key: str, regions: Sequence[Region], finding: str) -> int:
    """Which image is shown: the first frontal one, else the first that has a region of the finding, else the first."""
    frontal = reader.sample(key).frontal
    if frontal:
        return frontal[0]
    holding = {region.image for region in regions if region.finding == finding}
    images = reader.study(key).images
    return next((index for index, image in enumerate(images) if image.id in holding), 0)


def _cases(reader: ShardReader, gallery: Gallery, key: str, stem: Path) -> list[dict[str, Any]]:
    query = next((row for row in gallery.queries if row["study_id"] == key), None)
    if query is None:
        return []
    neighbours = gallery.search(query)
    cases = []
    for number, (case, score) in enumerate(zip(neighbours.cases[:CASES], neighbours.scores[:CASES], strict=True)):
        study = reader.study(case["study_id"])
        name = f"{stem.name}-case{number}.png"
        picture = pictures.radiograph(reader.image(case["study_id"], 0), side_px=pictures.THUMBNAIL_PX)
        pictures.write_png(picture, stem.with_name(name))
        cases.append(
            {
                "study": case["study_id"],
                "image": name,
                "similarity": float(score),
                "findings": list(case["findings"]),
                "shared": sorted(set(case["findings"]) & set(query["findings"])),
                "report": study.report.text if study.report else reader.text(case["study_id"]),
                "made_from_labels": study.report is None,
            }
        )
    return cases

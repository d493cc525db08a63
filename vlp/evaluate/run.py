"""`vlp evaluate`: predictions first, as files; then everything else from the files alone."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlp import __version__, config
from vlp.data import ShardReader, open_shards, overlap
from vlp.errors import DataError
from vlp.evaluate import artefacts, examples, predictions, prior
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.grounding import focal_findings
from vlp.evaluate.predict import Rows, predict
from vlp.evaluate.predictions import PARAPHRASES, PRIOR, Provenance
from vlp.evaluate.questions import Questions, prompts_of, resolve_anatomy, resolve_findings
from vlp.evaluate.report import CONFIG_FILE, META_FILE, report
from vlp.evaluate.results import Result, write_text
from vlp.log import get_logger
from vlp.prompts.descriptors import DescriptorSet, load_descriptors
from vlp.prompts.protocols import PROTOCOLS

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

_LOGGER = get_logger("vlp.evaluate")


def evaluate(settings: EvaluateConfig) -> list[Result]:
    """Predicts, scores and reports; everything goes to `settings.output`.

    Returns:
        The rows of `results.json`.

    Raises:
        DataError: for shards that cannot be read, a split without studies, splits that share patients, a calibration
            that was fitted on the studies that are scored, or an output folder that cannot be made.
        CheckpointError: for a checkpoint that cannot be loaded, or a calibration of another.
    """
    reader = open_shards(settings.shards)
    check_splits(reader, settings)
    descriptors = load_descriptors()
    findings = resolve_findings(reader, settings, descriptors)
    if not findings:
        raise DataError(f"{settings.shards}: no finding of the vocabulary is labelled present in {settings.split}")
    from vlp.inference import engine as inference

    model = inference.load(settings.checkpoint, device=settings.device, batch_images=settings.batch_images)
    return evaluate_model(model, reader, settings, findings=findings, descriptors=descriptors)


def evaluate_model(
    model: "Engine",
    reader: ShardReader,
    settings: EvaluateConfig,
    *,
    findings: tuple[str, ...],
    descriptors: DescriptorSet,
) -> list[Result]:
    """As `evaluate`, for an engine and shards that are open already."""
    started = time.monotonic()
    settings = settings.model_copy(update={"tasks": settings.all_tasks})
    _warn_of_overlap(model, reader, settings)
    questions = _questions(model, reader, settings, findings, descriptors)
    _make_folder(settings.output)
    rows = predict(model, reader, settings, questions=questions)
    answered = {name: found for name, found in rows.items() if _has_rows(name, found, settings)}
    tasks = tuple(task for task in settings.tasks if task in answered)
    if not tasks:
        raise DataError(f"{settings.shards}: nothing in {settings.split} can be scored for {', '.join(settings.tasks)}")
    for name, found in answered.items():
        predictions.write(found, settings.output, name)
    resolved = settings.model_copy(
        update={
            "tasks": tasks,
            "findings": findings,
            "focal": _focal(rows, settings, descriptors),
            "large": _named(settings.large, descriptors),
            "anatomy": questions.anatomy,
            "prior": PRIOR in answered,
            "paraphrases": PARAPHRASES in answered,
            "map_thresholds": settings.map_thresholds or artefacts.map_thresholds(questions.calibration, questions),
        }
    )
    rule = examples.write(model, reader, resolved, questions=questions, rows=rows)
    meta = _facts(model, reader, resolved, rows, questions) | {"examples_rule": rule}
    meta["run"] = {"predict_s": round(time.monotonic() - started, 1), "finished": time.strftime("%Y-%m-%d %H:%M")}
    write_text(settings.output / CONFIG_FILE, config.dump(resolved))
    write_text(settings.output / META_FILE, json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    return report(settings.output)


def _questions(
    model: "Engine",
    reader: ShardReader,
    settings: EvaluateConfig,
    findings: tuple[str, ...],
    descriptors: DescriptorSet,
) -> Questions:
    """Everything that is asked, with what it takes to ask it; refused before the model looks at a single image."""
    anatomy = resolve_anatomy(reader, settings, findings)
    names = (*(findings if "grounding" in settings.tasks else ()), *anatomy)
    return Questions(
        findings=findings,
        descriptors=descriptors,
        provenance=_provenance(model, reader, findings, descriptors),
        sides=settings.grounding_prompts == "sides",
        anatomy=anatomy,
        calibration=artefacts.load_calibration(model, reader, settings, descriptors),
        gate=artefacts.load_gate(model, settings),
        priors=prior.mean_masks(reader, names) if settings.prior and names else {},
    )


def _make_folder(folder: Path) -> None:
    """Before the model runs, so that a folder that cannot be written costs nobody an evaluation."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot make the folder of the results: {error.strerror}") from None


def _warn_of_overlap(model: "Engine", reader: ShardReader, settings: EvaluateConfig) -> None:
    """Says what is known of public sets that share persons or images with those the model was trained on."""
    trained_on = model.card.get("shards_sha256")  # archive -> digest; one digest alone in older checkpoints
    same = reader.digest() in (trained_on.values() if isinstance(trained_on, dict) else [trained_on])
    tested = overlap.sources(reader, settings.split)
    for found in overlap.warnings(model.card.get("sources", ()), tested, same_shards=same):
        _LOGGER.warning("%s", found.message)


def check_splits(reader: ShardReader, settings: EvaluateConfig) -> None:
    """Refuses splits that cannot give an honest figure.

    Raises:
        DataError: if the scored split is empty or shares a patient with another split.
    """
    tested = reader.manifest.patients(settings.split)
    if not tested:
        raise DataError(f"{settings.shards}: no study in the split {settings.split!r}")
    for split in ("train", "val", "test"):
        shared = tested & reader.manifest.patients(split) if split != settings.split else frozenset()
        if shared:
            raise DataError(
                f"{settings.shards}: {len(shared)} patients are in both {settings.split} and {split}; split by patient"
            )


def _has_rows(name: str, found: list[dict[str, Any]], settings: EvaluateConfig) -> bool:
    present = any(row["split"] == settings.split for row in found)
    if not present:
        why = "no study was calibrated for" if name == "calibration" else "no labels or regions of the findings"
        _LOGGER.warning("%s: nothing to score in %s (%s)", name, settings.split, why)
    return present


def _focal(rows: Rows, settings: EvaluateConfig, descriptors: DescriptorSet) -> tuple[str, ...]:
    named = _named(settings.focal, descriptors)
    return focal_findings(rows.get("grounding", []), settings) if named == "auto" else named


def _named(names: tuple[str, ...] | Literal["auto"], descriptors: DescriptorSet) -> tuple[str, ...] | Literal["auto"]:
    """Configured findings by their one name each, sorted."""
    return "auto" if names == "auto" else tuple(sorted({descriptors.resolve(name) for name in names}))


def _provenance(
    model: "Engine", reader: ShardReader, findings: tuple[str, ...], descriptors: DescriptorSet
) -> Provenance:
    return Provenance(
        dataset_version=predictions.fingerprint(sorted(shard.sha256 for shard in reader.manifest.shards)),
        checkpoint_hash=model.fingerprint[:16],
        prompt_set_hash=predictions.fingerprint(prompts_of(descriptors, findings)),
        preprocess_hash=predictions.fingerprint(model.model.config.preprocess.model_dump(mode="json")),
    )


def _facts(
    model: "Engine", reader: ShardReader, settings: EvaluateConfig, rows: Rows, questions: Questions
) -> dict[str, Any]:
    """What results.json does not say: coverage, where labels and sentences come from, identities, notes."""
    manifest = reader.manifest
    counts = manifest.splits.get(settings.split)
    return {
        "vlp": __version__,
        "provenance": questions.provenance.columns(),
        "studies": len(reader.keys(settings.split)),
        "patients": len(manifest.patients(settings.split)),
        "images": counts.images if counts else 0,
        "synthetic": manifest.synthetic,
        "labels_origin": dict(manifest.labels_origin),
        "sentences_origin": dict(manifest.sentences_origin),
        "licenses": dict(manifest.licenses),
        "coverage": {
            task: {"rows": len(found), "refused_studies": predictions.refusals(found)}
            for task, found in rows.items()
            if task not in (PRIOR, PARAPHRASES)
        },
        "notes": [*_notes(reader, settings, questions.descriptors), *_notes_of_trust(settings, questions)],
    }


def _notes(reader: ShardReader, settings: EvaluateConfig, descriptors: DescriptorSet) -> list[str]:
    manifest = reader.manifest
    notes = ["Research use, not a medical device."]
    if manifest.synthetic:
        notes.append(
            "The shards hold synthetic studies drawn by a program: figures on them say nothing about patients."
        )
    made = manifest.sentences_origin.get("labels", 0)
    if made:
        total = sum(manifest.sentences_origin.values())
        notes.append(
            f"{made} of {total} sentences in these shards were made from labels by a template; nobody wrote them."
        )
    origins = {"source": "the source (for synthetic studies: the truth they were drawn from)", "report": "the reports"}
    for origin, count in sorted(manifest.labels_origin.items()):
        notes.append(f"Labels of {count} studies (all splits) come from {origins.get(origin, 'nowhere')}.")
    notes.append(f"Uncertain labels: {settings.uncertain}. Findings a study says nothing about are left out.")
    notes.append(
        "Scores are similarity-based and uncalibrated: they rank studies, they are not probabilities of disease."
    )
    if descriptors.reviewed_by is None:
        notes.append("The descriptor vocabulary was not reviewed by a radiologist.")
    return notes


def _notes_of_trust(settings: EvaluateConfig, questions: Questions) -> list[str]:
    """What published protocols are, and what probabilities rest on."""
    notes = []
    for name in settings.protocols:
        protocol = PROTOCOLS[name]
        differs = f" Ours differs: {'; '.join(protocol.differs)}." if protocol.differs else ""
        notes.append(f"Protocol {name}: {protocol.reference}.{differs}")
    calibration = questions.calibration
    if calibration is not None:
        fitted = calibration.fitted_on
        notes.append(
            f"Probabilities: calibration {calibration.digest}, fitted on {fitted.studies} studies of {fitted.patients} "
            f"patients ({fitted.split} split of {fitted.archive}); they hold for studies like those."
        )
        covered = sorted({1.0 - one.conformal.alpha for one in calibration.findings.values()})
        notes.append(f"Conformal sets: nominal coverage {', '.join(f'{share:.0%}' for share in covered)}.")
        if settings.weighted:
            notes.append(
                f"The main score pools descriptors by the calibration's weights ({calibration.pooling.kind}); example "
                "studies show the geometric mean."
            )
        missing = [name for name in questions.findings if name not in questions.calibrated]
        if missing:
            notes.append(f"Not calibrated, and so without a probability: {', '.join(missing)}.")
        notes.append(
            "No gate lies beside the calibration, so no image was refused."
            if questions.gate is None
            else "A gate judged every image; figures of calibration are those of the studies it lets through."
        )
    return notes


__all__ = ["EvaluateConfig", "check_splits", "evaluate", "evaluate_model"]

"""From the images of one study to a diagnosis: gate, evidence, places, probabilities, words.

    images -> gate -> weigh (or a published protocol) -> fuse views -> calibrate -> `Diagnosis`

What is missing on the way is said in the answer: without a gate or a calibration there is a warning and no percent.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlp.errors import CheckpointError, DataError, VlpError
from vlp.inference import calibration as calibrations
from vlp.inference import gate as gates
from vlp.inference.calibration import Calibration
from vlp.inference.classify import Evidence, package_descriptors, resolved, reviewed, weigh
from vlp.inference.diagnosis import Diagnosis, Digests, FindingEvidence, Fusion, GateResult
from vlp.inference.picture import Picture
from vlp.inference.places import Views, placed
from vlp.inference.pooling import GeometricMean, Pooling
from vlp.inference.scoring import ask
from vlp.prompts.descriptors import DescriptorSet, Prompts
from vlp.tensors import ImageFeatures

if TYPE_CHECKING:
    from vlp.inference.engine import Engine
    from vlp.inference.gate import Gate
    from vlp.prompts.protocols import Protocol

Auto = Literal["auto"]
OWN_PROTOCOL = "vlp"
NOT_CALIBRATED = "not calibrated: similarities rank, they are not probabilities; vlp calibrate makes them"
NO_GATE = "no gate: nothing has checked that this is an upright frontal chest radiograph; vlp calibrate makes one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """How a study is to be diagnosed; everything has a default."""

    findings: tuple[str, ...] | None = None
    """In any known spelling; None: all of the descriptor set."""
    descriptors: DescriptorSet | None = None
    """The vocabulary; None: the package's."""
    prompts: Prompts = "both"
    protocol: "Protocol | None" = None
    """A published way of asking; None: the project's own, by `prompts`."""
    fusion: Fusion = "mean"
    views: tuple[str, ...] = ()
    """Per image its view as a header says it, "lateral" among them; empty: unknown, taken as frontal."""
    pooling: Pooling | Literal["calibrated"] | None = None
    """"calibrated": as the calibration says, which then has to be there; None: the same, else the geometric mean."""
    calibration: Calibration | Auto | None = "auto"
    """"auto": the one beside the checkpoint, if there is one that fits; None: no probabilities."""
    gate: "Gate | Auto | None" = "auto"
    """"auto": the one beside the checkpoint, if there is one; None: every image is answered for."""
    where: bool = False
    """Whether to say where each descriptor is; costs one map per descriptor and image."""

    @property
    def vocabulary(self) -> DescriptorSet:
        """The descriptors that are asked for."""
        return self.descriptors if self.descriptors is not None else package_descriptors()

    @property
    def protocol_name(self) -> str:
        """Of the protocol, or of the project's own."""
        return OWN_PROTOCOL if self.protocol is None else self.protocol.name

    @property
    def asked_prompts(self) -> str | None:
        """What scores follow from, where that is the caller's choice."""
        return self.prompts if self.protocol is None else None


def diagnose(engine: "Engine", images: Sequence[Picture], request: Request | None = None) -> Diagnosis:
    """What is to be seen on the images of one study together, with its evidence.

    Raises:
        DataError: for an image that cannot be used, a finding nobody knows, or a calibration for other questions.
        CheckpointError: for a calibration or a gate that was handed in and belongs to another model.
    """
    wanted = request if request is not None else Request()
    clock = _Clock()
    names = resolved(wanted.vocabulary, wanted.findings)
    calibration, warnings = calibration_for(engine, wanted)
    gate = _gate(engine, wanted)
    looked = engine.looked(images)
    clock.stop("images")
    result = None
    if gate is None:
        warnings.append(NO_GATE)
    else:
        verdicts = gate.judge(looked)
        result = GateResult(
            accepted=any(verdict.accepted for verdict in verdicts),
            images=tuple(_plain_verdict(verdict) for verdict in verdicts),
        )
        clock.stop("gate")
        if not result.accepted:
            return _refusal(engine, wanted, result, names, warnings=warnings, timings=clock.timings())
    kept = [number for number in range(len(images)) if result is None or result.images[number]["accepted"]]
    warnings += _left_out(result)
    features = ImageFeatures.joined([looked.features[number : number + 1] for number in kept])
    evidence = _fused(_weighed(engine, features, names, wanted, calibration), wanted, kept)
    diagnosis = evidence.diagnoses()[0]
    clock.stop("sentences")
    if wanted.where:
        views = Views(
            images=[images[number] for number in kept],
            features=features,
            placements=[looked.placements[number] for number in kept],
            lateral=[bool(wanted.views) and wanted.views[number] == "lateral" for number in kept],
        )
        diagnosis = placed(engine, diagnosis, views, calibration=calibration)
        clock.stop("where")
    if calibration is not None:
        warnings += _doubts(calibration, diagnosis)
        diagnosis = replace(
            diagnosis, findings=tuple(calibrated(evidence, calibration) for evidence in diagnosis.findings)
        )
    return replace(
        diagnosis,
        gate=result,
        digests=_digests(engine, wanted, calibration),
        warnings=tuple(warnings),
        timings_s=clock.timings(),
    )


def calibrated(evidence: FindingEvidence, calibration: Calibration) -> FindingEvidence:
    """The finding with its probability, set, state and contrast; as it is where it was not calibrated."""
    if not calibration.knows(evidence.finding):
        return evidence

    def decide(score: float) -> tuple[str, float]:
        probability = float(calibration.probability(evidence.finding, score))
        return calibration.state(evidence.finding, probability), probability

    probability = float(calibration.probability(evidence.finding, evidence.score))
    return replace(
        evidence,
        probability=probability,
        state=calibration.state(evidence.finding, probability),
        conformal=tuple(sorted(calibration.conformal_set(evidence.finding, probability))),
        decide=decide,
    )


def _weighed(
    engine: "Engine",
    features: ImageFeatures,
    names: tuple[str, ...],
    wanted: Request,
    calibration: Calibration | None,
) -> Evidence:
    if wanted.protocol is not None:
        if wanted.pooling is not None:
            raise DataError(f"the protocol {wanted.protocol.name!r} has its own pooling; leave the other out")
        return ask(engine, features, names, wanted.protocol, descriptors=wanted.vocabulary)
    own = wanted.pooling if isinstance(wanted.pooling, Pooling) else None
    pooling = own if calibration is None else calibration.pooling
    return weigh(engine, features, names, descriptors=wanted.vocabulary, prompts=wanted.prompts, pooling=pooling)


def _fused(evidence: Evidence, wanted: Request, kept: Sequence[int]) -> Evidence:
    lateral = [bool(wanted.views) and wanted.views[number] == "lateral" for number in kept]
    return evidence.fused([0] * len(kept), fusion=wanted.fusion, frontal=[not one for one in lateral])


def calibration_for(engine: "Engine", wanted: Request) -> tuple[Calibration | None, list[str]]:
    """The calibration that holds for a request, and what is to be said where there is none.

    Raises:
        DataError: for a calibration that was handed in and is for other questions, or none where one is needed.
        CheckpointError: for one that was handed in and belongs to another model.
    """
    found, warning = wanted.calibration, ""
    if found == "auto":
        path = None if engine.folder is None else calibrations.find(engine.folder)
        found = None if path is None else Calibration.load(path)
        warning = "" if path is not None else NOT_CALIBRATED
    fault = None if found is None else _misfit(found, engine, wanted)
    if fault is not None:
        if wanted.calibration != "auto":
            raise fault
        found, warning = None, f"not calibrated: {fault}"
    if found is None and wanted.pooling == "calibrated":
        raise DataError(f"no calibration to take the weights of descriptors from; {warning or NOT_CALIBRATED}")
    return found, [warning] if warning else []


def _misfit(found: Calibration, engine: "Engine", wanted: Request) -> VlpError | None:
    fault = found.misfit(engine, wanted.vocabulary, prompts=wanted.asked_prompts, protocol=wanted.protocol_name)
    if fault is None and isinstance(wanted.pooling, Pooling) and wanted.pooling != found.pooling:
        return DataError("the calibration is for another pooling of descriptors than was asked for; leave one out")
    return fault


def _gate(engine: "Engine", wanted: Request) -> "Gate | None":
    found = wanted.gate
    if found == "auto":
        path = None if engine.folder is None else gates.find(engine.folder)
        found = None if path is None else gates.load(path)
    if found is not None:
        found.refuse_other(engine)
    return found


def _plain_verdict(verdict: "gates.Verdict") -> dict[str, object]:
    return {
        "accepted": verdict.accepted,
        "reason": verdict.reason,
        "message": verdict.message,
        "score": verdict.score,
    }


def _left_out(result: GateResult | None) -> list[str]:
    return [
        f"image {number} was left out: {image['message']}"
        for number, image in enumerate(result.images if result is not None else (), start=1)
        if not image["accepted"]
    ]


def _refusal(
    engine: "Engine",
    wanted: Request,
    result: GateResult,
    names: tuple[str, ...],
    *,
    warnings: Sequence[str],
    timings: Mapping[str, float],
) -> Diagnosis:
    pooling = wanted.pooling if isinstance(wanted.pooling, Pooling) else GeometricMean()
    return Diagnosis(
        findings=(),
        num_images=0,
        prompts=wanted.asked_prompts or wanted.protocol_name,
        temperature=None if wanted.protocol is None else wanted.protocol.temperature,
        vocabulary=reviewed(wanted.vocabulary),
        pooling=pooling.to_json(),
        fusion=wanted.fusion,
        gate=result,
        not_assessable=names,
        digests=_digests(engine, wanted, None),
        warnings=tuple(warnings),
        timings_s=timings,
    )


def _doubts(calibration: Calibration, diagnosis: Diagnosis) -> list[str]:
    doubts = []
    if calibration.fitted_on.synthetic:
        doubts.append("calibrated on drawn images: the probabilities say nothing of patients")
    if calibration.views == "frontal" and diagnosis.num_images > 1:
        doubts.append("calibrated on single frontal images; these are several views fused")
    if calibration.views == "mean" and diagnosis.fusion != "mean":
        doubts.append(f"calibrated on the mean over a study's images, not on {diagnosis.fusion}")
    return doubts


def _digests(engine: "Engine", wanted: Request, calibration: Calibration | None) -> Digests:
    try:
        model: str | None = engine.fingerprint
    except CheckpointError:  # a model that came from no checkpoint
        model = None
    return Digests(
        model=model,
        prompts=wanted.vocabulary.digest,
        preprocess=calibrations.preprocess_digest(engine.model.config.preprocess),
        calibration=None if calibration is None else calibration.digest,
    )


class _Clock:
    """Seconds that each step took."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self._steps: dict[str, float] = {}

    def stop(self, step: str) -> None:
        now = time.perf_counter()
        self._steps[step] = now - self._last
        self._last = now

    def timings(self) -> dict[str, float]:
        return {**self._steps, "total": time.perf_counter() - self._started}


def load_calibration(path: Path | None) -> Calibration | Auto:
    """The calibration of a file; where none is named, whichever lies beside the checkpoint.

    Raises:
        DataError: if the file is no calibration.
    """
    return "auto" if path is None else Calibration.load(path)

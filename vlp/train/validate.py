"""The zero-shot check while training: "There is X." against "There is no X." on a few validation patients.

It steers a run and chooses a checkpoint; it is no result.  Results, with intervals, come from `vlp evaluate`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int8, UInt8
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from vlp import log
from vlp.config import Config
from vlp.data.cache import seen_image
from vlp.data.reader import ShardReader
from vlp.data.transforms import Preprocess
from vlp.errors import DataError
from vlp.metrics import auroc
from vlp.metrics.policy import LEFT_OUT, apply_policy
from vlp.model.model import VisionLanguageModel
from vlp.records import FRONTAL, Certainty, Study
from vlp.reports.findings import sentence_text
from vlp.tensors import ImageFeatures, stack_padding

_IMAGES_AT_ONCE = 32
_logger = log.get_logger(__name__)


class ZeroShotConfig(Config):
    """A small zero-shot check on patients of the validation split while training."""

    every: NonNegativeInt = 200
    """Steps between checks; 0 for none."""
    studies: PositiveInt = 256
    """At most so many studies, spread evenly over the split."""
    min_positives: PositiveInt = 3
    """Findings with fewer positive or fewer negative studies are left out of the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShotCheck:
    """The images and the truth, read once and kept, so that a check costs only the model's time."""

    images: UInt8[Tensor, "study 1 rows columns"]
    padding: Bool[Tensor, "study rows columns"] | None
    """As in a batch: True where an image shows only padding; None where none does."""
    truth: Mapping[str, Int8[np.ndarray, " study"]]
    """Per finding: 1 present, 0 absent; `LEFT_OUT` where the labels do not say, or say uncertain."""

    def attempt(self, model: VisionLanguageModel, *, device: torch.device) -> dict[str, float] | None:
        """As `run`; None where that fails, which is logged: a check that cannot be made is no reason to stop a run."""
        try:
            return self.run(model, device=device)
        except Exception as error:  # whatever it is: what the run itself needs will fail there as well
            reason = next(iter(str(error).splitlines()), "")
            _logger.warning("the zero-shot check fails (%s: %s); training goes on", type(error).__name__, reason)
            if device.type == "cuda":
                torch.cuda.empty_cache()  # it may have been a lack of memory, which training must not feel
            return None

    def run(self, model: VisionLanguageModel, *, device: torch.device) -> dict[str, float]:
        """AUROC of each finding; the model is left in the mode it was in."""
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                return self._aurocs(model, device)
        finally:
            model.train(was_training)

    def _aurocs(self, model: VisionLanguageModel, device: torch.device) -> dict[str, float]:
        findings = list(self.truth)
        prompts = [
            sentence_text(finding, certainty)
            for certainty in (Certainty.PRESENT, Certainty.ABSENT)
            for finding in findings
        ]
        texts = model.encode_texts(model.tokenizer(prompts).to(device))
        similarity = torch.cat(
            [model.score(texts, features).similarity.float().cpu() for features in self._features(model, device)],
            dim=1,
        ).numpy()
        margin = similarity[: len(findings)] - similarity[len(findings) :]
        aurocs = {}
        for row, finding in enumerate(findings):
            known = self.truth[finding] != LEFT_OUT
            value = auroc(self.truth[finding][known], margin[row][known], resamples=0).value
            assert value is not None  # `prepare` chose findings with both classes
            aurocs[finding] = value
        return aurocs

    def _features(self, model: VisionLanguageModel, device: torch.device) -> Iterator[ImageFeatures]:
        for start in range(0, len(self.images), _IMAGES_AT_ONCE):
            part = slice(start, start + _IMAGES_AT_ONCE)
            padding = None if self.padding is None else self.padding[part].to(device)
            yield model.encode_images(self.images[part].to(device), padding=padding)


def prepare(reader: ShardReader, config: ZeroShotConfig, *, preprocess: Preprocess) -> ZeroShotCheck | None:
    """Reads the studies of the check; None where the validation split has no finding with enough of both kinds.

    Studies whose image cannot be read are left out, and counted in the log.
    """
    keys = reader.keys("val")
    chosen = [keys[index] for index in np.linspace(0, len(keys) - 1, num=min(config.studies, len(keys))).astype(int)]
    studies, seen = [], []
    for key in chosen:
        study = reader.study(key)
        try:
            pixels, _, padding = seen_image(reader, key, _frontal(study), preprocess=preprocess)
        except DataError:
            continue
        studies.append(study)
        seen.append((pixels, padding))
    if len(seen) < len(chosen):
        _logger.warning(
            "zero-shot check: %d of %d studies are left out, their image cannot be read",
            len(chosen) - len(seen),
            len(chosen),
        )
    truth = {}
    for finding in sorted({finding for study in studies for finding in study.labels}):
        values = apply_policy([study.labels.get(finding) for study in studies], "ignore")
        if min((values == 1).sum(), (values == 0).sum()) >= config.min_positives:
            truth[finding] = values
    if not truth:
        return None
    return ZeroShotCheck(
        images=torch.from_numpy(np.stack([pixels for pixels, _ in seen])).unsqueeze(1),
        padding=stack_padding([padding for _, padding in seen]),
        truth=truth,
    )


def _frontal(study: Study) -> int:
    """Which image stands for the study: its first frontal one, else its first."""
    return next((index for index, image in enumerate(study.images) if image.view in FRONTAL), 0)

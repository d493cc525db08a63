"""The one door to a trained model outside training: images and sentences in, vectors, scores and maps out.

The engine owns the device, the preprocessing the checkpoint was trained with, batching, and a cache of text vectors.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlp.data.cache import seen_image
from vlp.data.reader import ShardReader
from vlp.data.transforms import SeenImage
from vlp.errors import BackendError, CheckpointError, DataError
from vlp.inference import ground as grounding
from vlp.inference.diagnose import Request, diagnose
from vlp.inference.picture import Picture, pixels_of
from vlp.inference.remembered_texts import RememberedTexts
from vlp.log import progress
from vlp.model import VisionLanguageModel, checkpoint
from vlp.tensors import ImageFeatures, Placement, TextFeatures, stack_padding

if TYPE_CHECKING:
    from vlp.inference.calibration import Calibration
    from vlp.inference.diagnosis import Diagnosis, Fusion
    from vlp.inference.gate import Gate
    from vlp.inference.lungs import LungField
    from vlp.inference.pooling import Pooling
    from vlp.prompts.descriptors import DescriptorSet, Prompts

_SCORE_CELLS = 8_000_000
"""Text x image x patch cells scored in one go, so that many prompts on many images stay in memory."""
_MANY_BATCHES = 8


def load(path: Path | str, *, device: str = "auto", batch_images: int = 32) -> "Engine":
    """The engine of a checkpoint.

    Args:
        path: a checkpoint folder, or a run folder with `checkpoints/final` in it.
        device: "auto" takes a GPU where there is one; else as torch names devices.
        batch_images: how many images go through the model at once.

    Raises:
        CheckpointError: for a folder that is missing, damaged or of another design.
        BackendError: for a device that is not there.
    """
    folder = _checkpoint_folder(Path(path))
    chosen = _device(device)
    model = checkpoint.load(folder, device=str(chosen))
    return Engine(model, folder=folder, batch_images=batch_images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What a model makes of some images, and what it was shown."""

    features: ImageFeatures
    """In the joint space."""
    placements: tuple[Placement, ...]
    """Where the images' pixels went."""
    tower: Float[Tensor, "image width"]
    """The image tower's own pooled vectors, before anything that texts had a say in."""
    seen: tuple[SeenImage, ...]
    """The pixels the model was shown."""


class Engine:
    """A model with everything it needs to answer.  Made by `load`, or around a model that is in memory already."""

    def __init__(self, model: VisionLanguageModel, *, folder: Path | None = None, batch_images: int = 32) -> None:
        """Wraps `model` as it is, on its device; `folder` is the checkpoint it came from, if any."""
        assert batch_images > 0
        self.model = model.eval()
        self.folder = folder
        self._batch_images = batch_images
        self._texts = RememberedTexts(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    @cached_property
    def card(self) -> Mapping[str, Any]:
        """What the checkpoint says of itself; empty for a model that came from no checkpoint."""
        return {} if self.folder is None else checkpoint.read_card(self.folder)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the checkpoint's configuration and weights: equal only for models that give equal vectors.

        Raises:
            CheckpointError: for a model that came from no checkpoint.
        """
        if self.folder is None:
            raise CheckpointError("this model came from no checkpoint, so it cannot be identified; save it first")
        design = (self.folder / checkpoint.CONFIG_FILE).read_bytes()
        return hashlib.sha256(design + str(self.card["weights_sha256"]).encode()).hexdigest()

    @property
    def ground_threshold(self) -> float | None:
        """The cosine from which a map counts as a region, if one was calibrated and stored in the card."""
        entry = self.card.get("grounding")
        value = entry.get("threshold") if isinstance(entry, dict) else None
        return float(value) if isinstance(value, int | float) else None

    def see(self, reader: ShardReader, key: str, index: int = 0) -> SeenImage:
        """An image of a study in shards, decoded as it was for training; any call that takes images takes it.

        Raises:
            DataError: if there is no such image, or it cannot be read.
        """
        return seen_image(reader, key, index, preprocess=self.model.config.preprocess)

    def features(self, images: Sequence[Picture]) -> tuple[ImageFeatures, tuple[Placement, ...]]:
        """Features of the images and where their pixels went.

        Raises:
            DataError: for an image that cannot be used.
        """
        looked = self.looked(images)
        return looked.features, looked.placements

    def looked(self, images: Sequence[Picture]) -> Looked:
        """As `features`, with what lies between the pixels and the joint space.

        Raises:
            DataError: for an image that cannot be used.
        """
        if not len(images):
            raise DataError("no image was given")
        parts = list(self._encoded(images))
        seen = tuple(image for part in parts for image in part.seen)
        return Looked(
            features=ImageFeatures.joined([part.features for part in parts]),
            placements=tuple(image.placement for image in seen),
            tower=torch.cat([part.tower for part in parts]),
            seen=seen,
        )

    def embed(self, images: Sequence[Picture]) -> Float[np.ndarray, "image dim"]:
        """Unit vectors of the images in the space that images and sentences share, float32.

        Raises:
            DataError: for an image that cannot be used.
        """
        if not len(images):
            raise DataError("no image was given")
        return np.concatenate([self.vectors(part.features) for part in self._encoded(images)])

    def vectors(self, features: ImageFeatures) -> Float[np.ndarray, "image dim"]:
        """What `embed` gives, for images whose features are there already."""
        with torch.inference_mode():
            return _usable(self.model.embed_images(features), what="images")

    def encode_text(self, sentences: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """Unit vectors of the sentences in the same space, float32; each distinct sentence is encoded once.

        Raises:
            DataError: for a sentence that is empty or longer than the text tower reads.
        """
        text = self._texts.features(sentences)
        with torch.inference_mode():
            return _usable(self.model.embed_texts(text), what="sentences")

    def scores(
        self, texts: Sequence[str], features: ImageFeatures
    ) -> tuple[Float[np.ndarray, "text image"], Float[np.ndarray, "text image"]]:
        """The scorer's similarity in [-1, 1] and its logits (temperature and bias applied), float32."""
        return self.score_vectors(self.text_vectors(texts), features)

    def text_vectors(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        """What the text tower and its head make of each text, on the device; each distinct text is encoded once.

        Raises:
            DataError: for a text that is empty or longer than the text tower reads.
        """
        return self._texts.features(texts).pooled

    def score_vectors(
        self, vectors: Float[Tensor, "text dim"], features: ImageFeatures
    ) -> tuple[Float[np.ndarray, "text image"], Float[np.ndarray, "text image"]]:
        """What `scores` gives for texts whose vectors are there already, or are means over several wordings."""
        text = TextFeatures(pooled=vectors)
        patches = features.patches.shape[1]
        step = max(1, _SCORE_CELLS // max(1, len(vectors) * patches))
        similarity, logits = [], []
        with torch.inference_mode():
            for start in _told(range(0, len(features.pooled), step), "scoring images"):
                scores = self.model.score(text, features[start : start + step])
                similarity.append(scores.similarity.float().cpu().numpy())
                logits.append(scores.logits.float().cpu().numpy())
        return np.concatenate(similarity, axis=1), np.concatenate(logits, axis=1)

    def similarity(self, texts: Sequence[str], images: Sequence[Picture]) -> Float[np.ndarray, "text image"]:
        """How well each text fits each image, in [-1, 1], float32.

        Raises:
            DataError: for a text or an image that cannot be used.
        """
        self._texts.features(texts)  # refuses a bad text before many images are read
        return self.scores(texts, self.features(images)[0])[0]

    def maps(
        self, texts: Sequence[str], image: Picture
    ) -> tuple[Float[np.ndarray, "text grid_rows grid_columns"], Placement]:
        """Cosine of each text with each patch of one image, and the way back to the image's own pixels.

        Patches that show only padding repeat the nearest patch of the image, so that interpolation at its border
        reads nothing that is not there.

        Raises:
            DataError: for a text or an image that cannot be used.
        """
        self._texts.features(texts)
        features, placements = self.features([image])
        return self.maps_of(texts, features)[:, 0], placements[0]

    def maps_of(
        self, texts: Sequence[str], features: ImageFeatures
    ) -> Float[np.ndarray, "text image grid_rows grid_columns"]:
        """What `maps` gives, for images whose features are there already."""
        with torch.inference_mode():
            values = self.model.maps(self._texts.features(texts), features).float().cpu().numpy()
        if not np.isfinite(values).all():
            raise CheckpointError("the model's maps are not finite numbers; its training may have diverged")
        return values if features.padding is None else _without_padding(values, features)

    def classify(
        self,
        image: Picture | Sequence[Picture],
        *,
        findings: Sequence[str] | None = None,
        descriptors: "DescriptorSet | None" = None,
        prompts: "Prompts" = "both",
        fusion: "Fusion" = "mean",
        pooling: "Pooling | Literal['calibrated'] | None" = None,
        calibration: "Calibration | Literal['auto'] | None" = "auto",
        gate: "Gate | Literal['auto'] | None" = "auto",
        where: bool = False,
    ) -> "Diagnosis":
        """What is to be seen on an image, or on the images of one study together, with its evidence.

        The arguments are those of `vlp.inference.diagnose.Request`; a calibration and a gate that lie beside the
        checkpoint are used unless None is given.

        Raises:
            DataError: for an image that cannot be used or a finding nobody knows.
            CheckpointError: for a calibration or a gate of another model.
        """
        images = [image] if isinstance(image, Path | str | np.ndarray | SeenImage) else list(image)
        request = Request(
            findings=tuple(findings) if findings else None,
            descriptors=descriptors,
            prompts=prompts,
            fusion=fusion,
            pooling=pooling,
            calibration=calibration,
            gate=gate,
            where=where,
        )
        return diagnose(self, images, request)

    def ground(
        self,
        image: Picture,
        text: str,
        *,
        threshold: float | None = None,
        calibration: "grounding.MapThresholds | None" = None,
        lungs: "LungField | None" = None,
        resolution: "grounding.Resolution" = "image",
    ) -> "grounding.Grounding":
        """Where a sentence is answered on an image; see `vlp.inference.ground.ground`.

        Raises:
            DataError: for an image or a text that cannot be used, or a threshold outside [-1, 1].
        """
        return grounding.ground(
            self, image, text, threshold=threshold, calibration=calibration, lungs=lungs, resolution=resolution
        )

    def _encoded(self, images: Sequence[Picture]) -> Iterator[Looked]:
        for start in _told(range(0, len(images), self._batch_images), "images through the model"):
            seen = tuple(self._seen(image) for image in images[start : start + self._batch_images])
            pixels = torch.from_numpy(np.stack([image.pixels for image in seen]))[:, None].to(self.device)
            padding = stack_padding([image.padding for image in seen])
            with torch.inference_mode():
                tower = self.model.image_features(pixels, padding=None if padding is None else padding.to(self.device))
                features = self.model.project(tower)
            yield Looked(
                features=features,
                placements=tuple(image.placement for image in seen),
                tower=tower.pooled,
                seen=seen,
            )

    def _seen(self, image: Picture) -> SeenImage:
        return image if isinstance(image, SeenImage) else self.model.config.preprocess.apply(pixels_of(image))


def _told(starts: range, description: str) -> Iterator[int]:
    """The starts of batches, with a bar where there are many: callers that ask in small groups have their own."""
    many = len(starts) >= _MANY_BATCHES
    yield from progress(starts, description=description, unit="batches") if many else starts


def _checkpoint_folder(path: Path) -> Path:
    final = path / "checkpoints" / "final"
    return final if final.is_dir() else path


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):  # torch built without a backend asserts
        raise BackendError(f"the device {name!r} is not there; use --device auto or cpu") from None
    return device


def _usable(values: Tensor, *, what: str) -> np.ndarray:
    vectors: np.ndarray = values.float().cpu().numpy()
    # Neither not-a-number nor a zero vector can be compared with anything.
    if not (np.abs(np.linalg.norm(vectors, axis=1) - 1.0) < 1e-3).all():
        raise CheckpointError(f"the model gives no usable vectors for {what}; its training may have diverged")
    return vectors


def _without_padding(values: np.ndarray, features: ImageFeatures) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    assert features.padding is not None
    filled = values.copy()
    for index, padding in enumerate(features.padding.cpu().numpy().reshape(-1, *features.grid)):
        if padding.any() and not padding.all():
            rows, columns = distance_transform_edt(padding, return_distances=False, return_indices=True)
            filled[:, index] = values[:, index][:, rows, columns]
    return filled

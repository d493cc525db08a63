"""A trained segmentation head as a folder, and what it answers.

    head.json          what it is, which encoder it stands on, its classes, prompts and thresholds
    head.safetensors   its weights, and those of the encoder that learned along

It says nothing without its encoder, and refuses any other.  Nothing in the folder can run code.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlp.config import Config
from vlp.data.transforms import SeenImage
from vlp.errors import CheckpointError, DataError
from vlp.heads.decoders import AnyDecoder
from vlp.heads.encoder import Encoder, Thaw
from vlp.heads.network import Conditioning, SegmentationNetwork
from vlp.inference.engine import Engine
from vlp.inference.picture import Picture, pixels_of
from vlp.model import checkpoint

HEAD_FOLDER = "head"
CARD_FILE = "head.json"
WEIGHTS_FILE = "head.safetensors"
_NETWORK, _ENCODER = "network.", "encoder."
_AT_A_TIME = 16


class HeadCard(Config):
    """`head.json`."""

    format: Literal["vlp-segmentation-head"] = "vlp-segmentation-head"
    version: Literal[1] = 1
    encoder: str
    """Fingerprint of the checkpoint the head stands on."""
    decoder: AnyDecoder
    conditioning: Conditioning
    thaw: int | Literal["all"]
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    """The sentence of each class."""
    thresholds: dict[str, float]
    """Class -> probability from which a pixel counts, chosen on validation studies; a class without a mask there has
    the one of all classes together."""
    threshold: float
    """Of all classes together: for sentences that are no class."""
    trained: dict[str, Any]
    """On what and how."""
    weights_sha256: str
    note: str = "Research use, not a medical device."


class Head:
    """A segmentation head on its encoder; probabilities are the head's own, not calibrated."""

    def __init__(self, engine: Engine, card: HeadCard, *, encoder: Encoder, network: SegmentationNetwork) -> None:
        """Use `load_head`."""
        self.engine = engine
        self.card = card
        self._encoder = encoder.eval()
        self._network = network.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """What it was trained for."""
        return self.card.classes

    @property
    def any_text(self) -> bool:
        """Whether it also answers for sentences that are none of its classes."""
        return self.card.conditioning == "text"

    def threshold(self, name: str) -> float:
        """The probability from which a pixel counts, of a class by its name or its sentence, or of any other text."""
        names = dict(zip(self.card.prompts, self.card.classes, strict=True))
        return self.card.thresholds.get(names.get(name, name), self.card.threshold)

    def segment(
        self,
        images: Sequence[Picture],
        *,
        texts: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> list[dict[str, Float[np.ndarray, "rows columns"]]]:
        """One map of probabilities per image and class (or text), in original pixels, float32.

        NaN where the model did not look.

        Args:
            images: What to look at.
            texts: Sentences, for a head that is conditioned on texts; also names and sentences of classes.
            classes: Some of its classes; with neither, all of them.

        Raises:
            DataError: for an image or text that cannot be used, or a class that the head does not have.
        """
        if not len(images):
            raise DataError("no image was given")
        asked = tuple(dict.fromkeys((*(classes or ()), *(texts or ())))) or self.classes
        answers = []
        for start in range(0, len(images), _AT_A_TIME):
            seen = [self._seen(image) for image in images[start : start + _AT_A_TIME]]
            for one, values in zip(seen, self.on_grid(seen, asked), strict=True):
                maps = [one.placement.map_to_original(grid) for grid in values]
                answers.append(dict(zip(asked, maps, strict=True)))
        return answers

    def maps(
        self, image: Picture, *, texts: Sequence[str] | None = None
    ) -> tuple[dict[str, Float[np.ndarray, "rows columns"]], dict[str, float]]:
        """(probabilities, thresholds) by class or text of one image, as `segment` gives them."""
        found = self.segment([image], texts=texts)[0]
        return found, {name: self.threshold(name) for name in found}

    def on_grid(
        self, seen: Sequence[SeenImage], names: Sequence[str]
    ) -> Float[np.ndarray, "image class fine_rows fine_columns"]:
        """Probabilities in the model's frame; names as `segment` takes them."""
        columns, prompts = self._asked(names)
        with torch.no_grad():
            texts = self._encoder.texts(prompts)
            features = self._encoder.see(seen)
            logits = self._network(features, self._encoder.units(texts), self._encoder.maps(texts, features))
            values: np.ndarray = torch.sigmoid(logits[:, columns].float()).cpu().numpy()
        if not np.isfinite(values).all():
            raise CheckpointError("the head's masks are not finite numbers; its training may have diverged")
        return values

    def _asked(self, names: Sequence[str]) -> tuple[list[int], list[str]]:
        """Columns of the logits, and the sentences they are made for."""
        by_name = {name: place for place, name in enumerate(self.card.classes)}
        by_name |= {prompt: place for place, prompt in enumerate(self.card.prompts)}
        places = [by_name.get(" ".join(name.split()), by_name.get(name.strip().lower())) for name in names]
        if self.any_text:
            prompts = [
                name if place is None else self.card.prompts[place] for name, place in zip(names, places, strict=True)
            ]
            return list(range(len(names))), prompts
        strange = [name for name, place in zip(names, places, strict=True) if place is None]
        if strange:
            raise DataError(
                f"the head has no class {strange[0][:60]!r}; it has {', '.join(self.classes)}; a head that is "
                "conditioned on text takes any sentence"
            )
        return [place for place in places if place is not None], list(self.card.prompts)

    def _seen(self, image: Picture) -> SeenImage:
        return image if isinstance(image, SeenImage) else self.engine.model.config.preprocess.apply(pixels_of(image))


def make_network(
    engine: Engine, decoder: AnyDecoder, *, conditioning: Conditioning, classes: int
) -> SegmentationNetwork:
    """A network of random weights that fits an engine's model, on its device."""
    model = engine.model
    network = SegmentationNetwork(
        decoder, conditioning=conditioning, width=model.image_tower.width, dim=model.config.dim, num_classes=classes
    )
    return network.to(engine.device)


def weights_of(network: SegmentationNetwork, encoder: Encoder) -> dict[str, Tensor]:
    """All that was learned, by name."""
    learned = {f"{_NETWORK}{name}": value for name, value in network.state_dict().items()}
    return learned | {f"{_ENCODER}{name}": value.detach() for name, value in encoder.learned().items()}


def put_weights(weights: Mapping[str, Tensor], network: SegmentationNetwork, encoder: Encoder, *, where: Path) -> None:
    """Puts back what `weights_of` gave.

    Raises:
        CheckpointError: if the weights are of another design.
    """
    own = weights_of(network, encoder)
    different = sorted(own.keys() ^ weights.keys())
    different += sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    if different:
        raise CheckpointError(f"{where}: weights of another design: {len(different)} tensors differ")
    network.load_state_dict(_named(weights, _NETWORK))
    encoder.load_learned(_named(weights, _ENCODER))


def write_weights(file: Path, weights: Mapping[str, Tensor]) -> str:
    """Writes weights; their SHA-256."""
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}, file)
    return _sha256(file)


def read_weights(file: Path) -> dict[str, Tensor]:
    """What `write_weights` wrote, on the CPU.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: missing or damaged: {' '.join(str(error).split())[:120]}") from None


def save_head(folder: Path, card: HeadCard, weights: Mapping[str, Tensor]) -> None:
    """Writes a head to `folder`, replacing what is there; at no moment is the folder half-written."""
    building = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        digest = write_weights(building / WEIGHTS_FILE, weights)
        facts = card.model_copy(update={"weights_sha256": digest}).model_dump(mode="json")
        (building / CARD_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        (building / WEIGHTS_FILE).chmod((building / CARD_FILE).stat().st_mode)  # not for the owner alone
        checkpoint.take_place(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def load_head(path: Path | str, engine: Engine) -> Head:
    """The head in a folder (or in the run folder around it), on its encoder.

    Raises:
        CheckpointError: if it is missing, damaged, or stands on another encoder.
    """
    folder = Path(path)
    folder = folder / HEAD_FOLDER if (folder / HEAD_FOLDER).is_dir() else folder
    card = _read_card(folder)
    if card.encoder != engine.fingerprint:
        raise CheckpointError(f"{folder}: this head stands on another encoder; load the checkpoint it was trained on")
    file = folder / WEIGHTS_FILE
    if not file.is_file() or _sha256(file) != card.weights_sha256:
        raise CheckpointError(f"{file}: damaged: its checksum is not the one in {CARD_FILE}; copy the head again")
    thaw: Thaw = card.thaw
    encoder = Encoder(engine, thaw=thaw)
    network = make_network(engine, card.decoder, conditioning=card.conditioning, classes=len(card.classes))
    put_weights(read_weights(file), network, encoder, where=file)
    return Head(engine, card, encoder=encoder, network=network)


def _read_card(folder: Path) -> HeadCard:
    file = folder / CARD_FILE
    try:
        return HeadCard.model_validate_json(file.read_bytes())
    except OSError:
        raise CheckpointError(f"{folder}: no head here: {CARD_FILE} is missing") from None
    except ValidationError:
        raise CheckpointError(f"{file}: damaged, or written by another version of this program") from None


def _named(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

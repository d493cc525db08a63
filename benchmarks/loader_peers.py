"""One contender of `benchmarks.loader`: an epoch of 224 px batches with sentences, in its own process.

Started by `benchmarks.loader`; see `benchmarks.turns`.  Every contender is a function that makes an epoch: called, it
returns an iterator over batches, each told as the number of its studies and, when asked, what is in it.

Except for open_clip's, which is taken as it is, the loaders of others are given our own decoder, resize and tokenizer
and write the same pixels and tokens, so that what is compared is how they get at a study and hand over a batch.
"""

import json
import mmap
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from torch.utils.data import DataLoader

from benchmarks.processes import Moment
from benchmarks.turns import Turn, serve
from vlp.data import open_shards
from vlp.data.loader import LoaderConfig, make_loader, num_batches
from vlp.data.manifest import read_manifest
from vlp.data.tokens import Tokenizer
from vlp.data.transforms import Augment, Preprocess
from vlp.model.towers import OpenClipTextConfig

SIZE = 224
BATCH = 64
_BUFFER = 1000
"""Studies webdataset holds back to shuffle among, as its own examples do."""
_CHUNK = "64MB"


@dataclass(frozen=True, slots=True)
class Held:
    """What a batch holds; equal work has equal sums, whatever its order."""

    studies: int
    grey: float = 0.0
    """Sum over images of their mean grey level."""
    tokens: int = 0
    """Of all sentences of all studies."""

    def plus(self, other: "Held") -> "Held":
        """Both together."""
        return Held(self.studies + other.studies, self.grey + other.grey, self.tokens + other.tokens)


Epoch = Callable[[bool], Iterator[Held]]
"""Given whether to look into batches: the batches of an epoch."""


def _decode(content: bytes | memoryview) -> np.ndarray:
    """224 px from a JPEG by the shortest way known, pixel for pixel what ours are; nothing is checked.

    Half, a quarter or an eighth of the size is decoded directly, where that is enough, and has averaged already.
    """
    pixels = simplejpeg.decode_jpeg(content, colorspace="GRAY", min_height=SIZE, min_width=SIZE, min_factor=1)
    resized: np.ndarray = cv2.resize(pixels[..., 0], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return resized


def _decode_whole(content: bytes | memoryview) -> np.ndarray:
    """224 px from all pixels of a JPEG: the way of loaders without scaled decoding."""
    pixels = simplejpeg.decode_jpeg(content, colorspace="GRAY")
    resized: np.ndarray = cv2.resize(pixels[..., 0], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return resized


def _tokenizer() -> Tokenizer:
    """CLIP's, which is open_clip's as well."""
    tiny = {"layers": 1, "width": 32, "heads": 1}
    return OpenClipTextConfig(name="ViT-B-32", arguments=tiny).build(saved=None).tokenizer


# --- the floor: what no loader can do without -------------------------------------------------------------------------


def _floor(spec: dict[str, Any], *, decode: Callable[[memoryview], np.ndarray]) -> Epoch:
    """Memory-mapped offsets, decoding and resizing; no text, no batch, nothing handed over."""
    folder = Path(spec["shards"])
    places = [
        (shard.name, *sample.members["jpg"]) for shard in read_manifest(folder).shards for sample in shard.samples
    ]
    context = multiprocessing.get_context("fork")
    pipes = []
    for worker in range(spec["workers"]):
        ours, theirs = context.Pipe()
        share = places[worker :: spec["workers"]]
        context.Process(target=_floor_worker, args=(folder, share, theirs, decode), daemon=True).start()
        pipes.append(ours)

    def epoch(look: bool) -> Iterator[Held]:
        for pipe in pipes:
            pipe.send(look)
        for pipe in pipes:
            yield Held(*pipe.recv())

    return epoch


def _floor_worker(
    folder: Path, places: Sequence[tuple[str, int, int]], pipe: Any, decode: Callable[[memoryview], np.ndarray]
) -> None:
    cv2.setNumThreads(0)
    maps = {}
    for name in sorted({name for name, _, _ in places}):
        with (folder / name).open("rb") as file:
            maps[name] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    while True:
        while not pipe.poll(1.0):
            if os.getppid() == 1:
                return  # whoever asked is gone
        look, grey = pipe.recv(), 0.0
        for name, offset, size in places:
            pixels = decode(maps[name][offset : offset + size])
            if look:
                grey += float(pixels.mean())
        pipe.send((len(places), grey))


# --- ours -------------------------------------------------------------------------------------------------------------


def _vlp(spec: dict[str, Any], *, augment: Augment | None) -> Epoch:
    """`make_loader` on `open_shards`, going on from epoch to epoch as training lets it."""
    reader = open_shards(spec["shards"])
    config = LoaderConfig(batch_studies=BATCH, workers=spec["workers"], augment=augment)
    preprocess, tokenizer, numbers = Preprocess(size=SIZE), _tokenizer(), count()
    length = num_batches(reader, split="train", config=config)

    def epoch(look: bool) -> Iterator[Held]:
        loader = make_loader(
            reader,
            split="train",
            config=config,
            preprocess=preprocess,
            tokenizer=tokenizer,
            train=True,
            epoch=next(numbers),
            endless=True,
        )
        # Closed, so that workers do not go on while others take their turns.
        with closing(iter(loader)) as batches:
            for batch in islice(batches, length):
                yield _held(batch.images, batch.tokens.mask[batch.sentence]) if look else Held(len(batch.keys))

    return epoch


# --- open_clip's, unchanged -------------------------------------------------------------------------------------------


def _open_clip(spec: dict[str, Any]) -> Epoch:
    """`get_wds_dataset` with the transform open_clip trains with: colour, random crop, floats; whole reports."""
    sys.path.insert(0, spec["packages"])  # its webdataset before ours
    from types import SimpleNamespace

    import open_clip
    from open_clip_train.data import get_wds_dataset

    studies, workers = spec["studies"], spec["workers"]
    arguments = SimpleNamespace(
        train_data=spec["pattern"],
        train_num_samples=studies,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=BATCH,
        workers=workers,
        world_size=1,
    )
    transform = open_clip.image_transform(SIZE, is_train=True)
    # Batches are whole and every worker gives as many: the epoch is as long as it must then be.
    data = get_wds_dataset(arguments, transform, is_train=True, tokenizer=open_clip.get_tokenizer("ViT-B-32"))
    numbers = count()

    def epoch(look: bool) -> Iterator[Held]:
        data.set_epoch(next(numbers))
        for images, tokens in data.dataloader:
            assert images.shape[1:] == (3, SIZE, SIZE)
            yield Held(len(images), tokens=int((tokens != 0).sum()) if look else 0)

    return epoch


# --- others, with our decoder and tokenizer ---------------------------------------------------------------------------


def _sentences(document: bytes) -> list[str]:
    """The distinct texts a study is trained on."""
    return list(dict.fromkeys(sentence["text"] for sentence in json.loads(document).get("sentences", ())))


def _collate(studies: Sequence[dict[str, Any]], *, tokenizer: Tokenizer) -> tuple[torch.Tensor, Any, torch.Tensor]:
    """Images, tokens of all sentences, and whose each of them is."""
    images = torch.from_numpy(np.stack([study["image"] for study in studies])[:, None])
    texts = [text for study in studies for text in study["sentences"]]
    owner = torch.tensor([number for number, study in enumerate(studies) for _ in study["sentences"]])
    return images, tokenizer(texts), owner


def _batches(loader: Any) -> Epoch:
    def epoch(look: bool) -> Iterator[Held]:
        for images, tokens, _ in loader:
            yield _held(images, tokens.mask) if look else Held(len(images))

    return epoch


def _webdataset(spec: dict[str, Any]) -> Epoch:
    """WebDataset 1.x as its documentation has it, on the same tars."""
    import webdataset

    def study(sample: dict[str, Any]) -> dict[str, Any]:
        return {"image": _decode(sample["jpg"]), "sentences": _sentences(sample["json"])}

    collate = partial(_collate, tokenizer=_tokenizer())
    data = webdataset.WebDataset(spec["pattern"], shardshuffle=100).shuffle(_BUFFER).map(study)
    data = data.batched(BATCH, collation_fn=collate)
    loader = DataLoader(
        data, batch_size=None, num_workers=spec["workers"], worker_init_fn=_quiet_worker, persistent_workers=True
    )
    return _batches(loader)


def _mds(spec: dict[str, Any]) -> Epoch:
    """MosaicML streaming: a study is its JPEG as bytes and its sentences."""
    sys.path.append(spec["packages"])
    streaming = import_module("streaming")

    folder = Path(spec["folder"]) / "mds"
    if not folder.exists():
        with streaming.MDSWriter(out=str(folder), columns={"image": "bytes", "sentences": "json"}) as writer:
            for content, sentences in _stored(Path(spec["shards"])):
                writer.write({"image": content, "sentences": sentences})
    streaming.base.util.clean_stale_shared_memory()

    class Studies(streaming.StreamingDataset):
        def __getitem__(self, at: Any) -> dict[str, Any]:
            stored = super().__getitem__(at)
            return {"image": _decode(stored["image"]), "sentences": stored["sentences"]}

    data = Studies(local=str(folder), shuffle=True, batch_size=BATCH)
    loader: Any = DataLoader(
        data,
        batch_size=BATCH,
        num_workers=spec["workers"],
        collate_fn=partial(_collate, tokenizer=_tokenizer()),
        worker_init_fn=_quiet_worker,
        persistent_workers=True,
    )
    return _batches(loader)


def _litdata(spec: dict[str, Any]) -> Epoch:
    """litData: the same as bytes; its StreamingDataLoader."""
    os.environ |= {"DISABLE_VERSION_CHECK": "1", "LITDATA_DISABLE_VERSION_CHECK": "1"}
    sys.path.append(spec["packages"])
    litdata = import_module("litdata")

    folder = Path(spec["folder"]) / "litdata"
    if not folder.exists():
        stored = [
            {"image": content, "sentences": json.dumps(sentences)}
            for content, sentences in _stored(Path(spec["shards"]))
        ]
        litdata.optimize(
            fn=lambda item: item,
            inputs=stored,
            output_dir=str(folder),
            chunk_bytes=_CHUNK,
            num_workers=1,
            start_method="fork",
            verbose=False,
        )

    class Studies(litdata.StreamingDataset):
        def __getitem__(self, at: Any) -> dict[str, Any]:
            stored = super().__getitem__(at)
            return {"image": _decode(stored["image"]), "sentences": json.loads(stored["sentences"])}

    loader = litdata.StreamingDataLoader(
        Studies(str(folder), shuffle=True),
        batch_size=BATCH,
        num_workers=spec["workers"],
        collate_fn=partial(_collate, tokenizer=_tokenizer()),
        worker_init_fn=_quiet_worker,
    )
    return _batches(loader)


def _stored(shards: Path) -> Iterator[tuple[bytes, list[str]]]:
    reader = open_shards(shards)
    for key in reader.keys("train"):
        yield reader.encoded(key), _sentences(reader.member(key, "json"))


def _quiet_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _held(images: torch.Tensor, mask: torch.Tensor) -> Held:
    return Held(
        studies=len(images),
        grey=float(images.double().mean(dim=(1, 2, 3)).sum()),
        tokens=int(mask.sum()),
    )


CONTENDERS: dict[str, Callable[[dict[str, Any]], Epoch]] = {
    "floor": partial(_floor, decode=_decode),
    "floor_whole": partial(_floor, decode=_decode_whole),
    "vlp": partial(_vlp, augment=None),
    "vlp_augmented": partial(_vlp, augment=Augment()),
    "open_clip": _open_clip,
    "webdataset": _webdataset,
    "mds": _mds,
    "litdata": _litdata,
}


def _make(spec: dict[str, Any]) -> tuple[dict[str, Any], Turn]:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    epoch = CONTENDERS[spec["contender"]](spec)

    warm = 0 if spec["contender"].startswith("floor") else _warm(spec["studies"], spec["workers"])

    def turn(wanted: str) -> dict[str, Any]:
        """From the first batches on, when all workers are at work, up to the last ones, when not all are any more."""
        start = begin = Moment.now()
        end, first, before, after, all_of_them = None, 0.0, 0, 0, Held(0)
        for held in epoch(wanted == "look"):
            first = first or time.perf_counter() - start.wall
            all_of_them = all_of_them.plus(held)
            if all_of_them.studies <= warm:
                begin, before = Moment.now(), all_of_them.studies
            if all_of_them.studies >= spec["studies"] - warm and end is None:
                end, after = Moment.now(), all_of_them.studies
        assert end is not None
        return end.since(begin) | {
            "studies": after - before,
            "first": first,
            "grey": all_of_them.grey / all_of_them.studies,
            "tokens": all_of_them.tokens / all_of_them.studies,
        }

    return {}, turn


def _warm(studies: int, workers: int) -> int:
    """Studies at either end of an epoch that are not timed: four batches of every worker, if the epoch has so many.

    A worker that starts earlier than the other has some batches ready when the other's first is handed over.
    """
    return min(4 * workers * BATCH, studies // (4 * BATCH) * BATCH)


if __name__ == "__main__":
    serve(_make)

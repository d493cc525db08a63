"""What answers cost beside looking at the image: 14 findings, all their descriptors, their maps, the diagnosis.

    python -m benchmarks.infer [--cases demo vit_b16] [--images 1 8 32] [--rounds 5] [--json] [--append]

Three ways take turns in one process, on the same random images, which are preprocessed already:

    encoder     the image encoder alone, align layers and heads included: `Engine.features`
    answers     the same, then every sentence scored, a map of every positive sentence on the patch grid, and the
                diagnosis of every image with its evidence; sentence vectors are there from the first question on
    re-encoded  the same answers as published inference code makes them: for every batch of images each sentence is
                tokenised, encoded, scored and mapped by itself

Asked for are answers at no more than 1.10 of the encoder's time, and no less than 3 times as fast as re-encoded.
A round calls the ways in turns and takes the median of each; ratios are taken within a round and told as their median
over rounds, with the smallest and the largest.  Towers have random weights, which cost what trained ones do.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from benchmarks.line import Line, append
from benchmarks.turns import ROOT
from vlp import log
from vlp.cli.console import print_json, print_table
from vlp.config import load
from vlp.data.transforms import SeenImage
from vlp.inference.classify import weigh
from vlp.inference.diagnosis import Diagnosis
from vlp.inference.engine import Engine
from vlp.inference.pooling import CLIP
from vlp.model.model import build
from vlp.prompts.descriptors import DescriptorSet, load_descriptors
from vlp.tensors import ImageFeatures
from vlp.train.config import TrainConfig

FINDINGS = (
    "atelectasis", "cardiomegaly", "consolidation", "edema", "emphysema", "fibrosis", "hernia", "infiltration", "mass",
    "nodule", "pleural effusion", "pleural thickening", "pneumonia", "pneumothorax",
)  # fmt: skip
"""The fourteen of ChestX-ray14."""
ENCODER_RATIO_ASKED, LOOP_RATIO_ASKED = 1.10, 3.0
_COST, _GAIN = "answers / encoder", "re-encoded / answers"
_ROUND_SECONDS = 0.5
"""A round calls fast ways as often as it takes to last about this long."""
_MOST_CALLS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class InferCase:
    """A training configuration whose model is asked."""

    config: str
    overrides: tuple[str, ...] = ()


CASES = {
    "demo": InferCase(config="configs/train/demo.yaml"),
    "vit_b16": InferCase(
        config="configs/train/demo.yaml",
        overrides=(
            "model.image.name=vit_base_patch16_224",
            "model.image.stage=null",
            "model.preprocess.size=224",
            "model.preprocess.channels=3",
            "model.text.random_init={model_type: bert, num_hidden_layers: 12, hidden_size: 768, "
            "num_attention_heads: 12, intermediate_size: 3072}",
            "model.dim=768",
        ),
    ),
    "smoke": InferCase(config="configs/train/demo.smoke.yaml", overrides=("model.text.max_tokens=128",)),
}
"""demo: a small CNN at 128 px and a sentence encoder of 6 layers; vit_b16: both towers of the base size, at 224 px;
smoke: whether it runs."""


def main() -> None:
    options = _parser().parse_args()
    log.configure()
    torch.set_num_threads(options.threads)
    lines = []
    for case in options.cases:
        asked = Asked.build(CASES[case], device=options.device)
        for images in log.progress(options.images, description=f"answers of {case}", unit="batch sizes"):
            lines += measure(case, asked, images=images, rounds=options.rounds)
    if options.append:
        append(lines)
    if options.json:
        print_json([asdict(line) for line in lines])
        return
    rows = [
        (line.case, line.metric, f"{line.value:.3g} {line.unit}".strip(), f"{line.low:.3g} - {line.high:.3g}")
        for line in lines
    ]
    print_table(
        f"Answers beside the encoder, {options.threads} threads",
        ("case", "what", "median", "range"),
        rows,
        note="\n".join(verdicts(lines)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A model, and the sentences it is asked."""

    engine: Engine
    descriptors: DescriptorSet
    maps: tuple[str, ...]
    """The positive sentences, a map of each of which belongs to the answers."""

    @classmethod
    def build(cls, case: InferCase, *, device: str = "cpu") -> "Asked":
        """The model of a case, with random weights."""
        torch.manual_seed(0)
        engine = Engine(build(load(TrainConfig, ROOT / case.config, list(case.overrides)).model).to(device))
        descriptors = load_descriptors()
        pairs = [pair for finding in FINDINGS for pair in descriptors.of(finding)]
        return cls(engine=engine, descriptors=descriptors, maps=tuple(dict.fromkeys(pair.positive for pair in pairs)))

    def images(self, count: int) -> list[SeenImage]:
        """Random images of the model's size."""
        size = self.engine.model.config.preprocess
        rng = np.random.default_rng(0)
        return [size.apply(rng.integers(0, 256, size.rows_columns, dtype=np.uint8)) for _ in range(count)]

    def encode(self, images: list[SeenImage]) -> ImageFeatures:
        """The image encoder alone."""
        return self.engine.features(images)[0]

    def answer(
        self, images: list[SeenImage]
    ) -> tuple[list[Diagnosis], Float[np.ndarray, "text image grid_rows grid_columns"]]:
        """Diagnoses and maps."""
        features = self.encode(images)
        return self.diagnose(features), self.map(features)

    def diagnose(self, features: ImageFeatures) -> list[Diagnosis]:
        """The evidence of every image, as objects."""
        return weigh(self.engine, features, FINDINGS, descriptors=self.descriptors).diagnoses()

    def map(self, features: ImageFeatures) -> Float[np.ndarray, "text image grid_rows grid_columns"]:
        """A map of every positive sentence."""
        return self.engine.maps_of(self.maps, features)

    def answer_re_encoded(
        self, images: list[SeenImage]
    ) -> tuple[Float[np.ndarray, "image finding"], dict[str, np.ndarray]]:
        """Scores by finding and maps by sentence, sentence after sentence."""
        features, maps, scores = self.encode(images), {}, []
        for finding in FINDINGS:
            logs = []
            for pair in self.descriptors.of(finding):
                positive, maps[pair.positive] = self._one(pair.positive, features)
                negative, _ = self._one(pair.negative, features)
                probability = 1.0 / (1.0 + np.exp(negative - positive))
                logs.append(np.log(np.clip(probability, CLIP, 1.0 - CLIP)))
            scores.append(np.exp(np.mean(logs, axis=0)))
        return np.stack(scores, axis=1), maps

    @torch.inference_mode()
    def _one(self, sentence: str, features: ImageFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Logits [image] and map [image rows columns] of one sentence; nothing is remembered."""
        model = self.engine.model
        model.text_tower.forget()
        text = model.encode_texts(model.tokenizer([sentence]).to(model.device))
        logits = model.score(text, features).logits[0].double().cpu().numpy()
        return logits, model.maps(text, features)[0].cpu().numpy()


def measure(case: str, asked: Asked, *, images: int, rounds: int) -> list[Line]:
    """Lines of one batch size."""
    pictures = asked.images(images)
    ways: dict[str, Callable[[], object]] = {
        "encoder": partial(asked.encode, pictures),
        "answers": partial(asked.answer, pictures),
        "re-encoded": partial(asked.answer_re_encoded, pictures),
    }
    features = asked.encode(pictures)
    parts = {"of it, diagnoses": partial(asked.diagnose, features), "of it, maps": partial(asked.map, features)}
    ways |= parts
    calls = {name: max(1, min(_MOST_CALLS, int(_ROUND_SECONDS / _seconds(way)))) for name, way in ways.items()}
    calls["encoder"] = calls["answers"] = min(calls["encoder"], calls["answers"])
    turns: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(max(calls.values())):  # call by call, so that a slow moment hits all ways
            for name, way in ways.items():
                if number < calls[name]:
                    spent[name].append(_seconds(way))
        for name in ways:
            turns[name].append(statistics.median(spent[name]))
    return make_lines(turns, case=f"{case} {images} images {asked.engine.device.type}")


def make_lines(turns: dict[str, list[float]], *, case: str) -> list[Line]:
    """Lines of what every way took, a value per round, and of the two ratios that are asked for."""
    line = partial(Line, benchmark="infer", case=case, threads=torch.get_num_threads())
    encoder = statistics.median(turns["encoder"])
    lines = [
        line(
            metric=name,
            value=1e3 * statistics.median(values),
            low=1e3 * min(values),
            high=1e3 * max(values),
            unit="ms",
            baseline="encoder",
            ratio=statistics.median(values) / encoder,
        )
        for name, values in turns.items()
    ]
    for metric, above, below in ((_COST, "answers", "encoder"), (_GAIN, "re-encoded", "answers")):
        ratios = [a / b for a, b in zip(turns[above], turns[below], strict=True)]
        lines.append(line(metric=metric, value=statistics.median(ratios), low=min(ratios), high=max(ratios)))
    return lines


def verdicts(lines: list[Line]) -> list[str]:
    """Whether every case costs as little, and gains as much, as is asked."""
    words = []
    for line in lines:
        if line.metric == _COST:
            met = line.value <= ENCODER_RATIO_ASKED
            words.append(f"{line.case}: {line.value:.2f} of the encoder, <= {ENCODER_RATIO_ASKED:.2f}: {_told(met)}")
        if line.metric == _GAIN:
            met = line.value >= LOOP_RATIO_ASKED
            words.append(f"{line.case}: {line.value:.1f} times re-encoded, >= {LOOP_RATIO_ASKED:g}: {_told(met)}")
    return words


def _told(met: bool) -> str:
    return "met" if met else "NOT MET"


def _seconds(way: Callable[[], object]) -> float:
    """Of one call to its end on the device."""
    started = time.perf_counter()
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["demo", "vit_b16"])
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8, 32], help="images in a batch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print for programs")
    parser.add_argument("--append", action="store_true", help="add the lines to benchmarks/results/")
    return parser


if __name__ == "__main__":
    main()

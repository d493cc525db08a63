"""Whether a region that is taken away changes an answer exactly as it must: the model against a recomputation.

The patient's left half of the patch grid is excluded, the model is asked again, and the same is computed here from the
unit vectors alone, by the formulae of similarity attention and of pooling, in float64 and in another order.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from vlp.evaluate.explain.arithmetic import recomputed
from vlp.evaluate.explain.sample import Sample
from vlp.evaluate.explain.table import Row, checked, missing
from vlp.inference.classify import weigh
from vlp.model.scorers import SimilarityAttention
from vlp.tensors import ImageFeatures

TEST = "region edit"
WHAT = "largest difference of a score"
TOLERANCE = 1e-5
"""Of float32 similarities, divided by a small temperature on their way to a score."""
RULE = f"<= {TOLERANCE:g}"
_MOST_STUDIES = 16


def measure(sample: Sample) -> Row:
    """The largest difference between the edited model's scores and the recomputed ones."""
    scorer = sample.engine.model.scorer
    if not isinstance(scorer, SimilarityAttention):
        why = "this model scores the image as a whole: it has no patches that a score is made of"
        return missing(TEST, WHAT, why, rule=RULE)
    features = sample.features[: min(_MOST_STUDIES, len(sample.studies))]
    edited = without(features, left_half(features))
    if edited.padding is None or bool(edited.padding.all(dim=1).any()):
        return missing(TEST, WHAT, "the grid is too small to take half of it away", rule=RULE)
    evidence = weigh(sample.engine, edited, sample.findings, descriptors=sample.descriptors, pooling=sample.pooling)
    sentences = tuple(dict.fromkeys(text for pair in evidence.descriptors for text in (pair.positive, pair.negative)))
    expected = dict(zip(sentences, similarities(sample, scorer, sentences, edited), strict=True))
    temperature = float(scorer.temperature().detach())
    scores = evidence.scores
    differences, changes = [], []
    for image in range(len(scores)):
        for column, finding in enumerate(evidence.findings):
            pairs = evidence.descriptors[evidence.groups.columns(column)]
            exponents = [(expected[one.positive][image] - expected[one.negative][image]) / temperature for one in pairs]
            content = {
                "finding": finding,
                "descriptors": [
                    {"id": one.id, "pair_softmax": 1.0 / (1.0 + np.exp(-value))}
                    for one, value in zip(pairs, exponents, strict=True)
                ],
            }
            differences.append(abs(recomputed(content, evidence.pooling.to_json()) - scores[image, column]))
            changes.append(abs(scores[image, column] - sample.evidence.scores[image, column]))
    largest = float(max(differences))
    return checked(
        TEST,
        WHAT,
        largest,
        kept=largest <= TOLERANCE and max(changes) > TOLERANCE,
        rule=RULE,
        n=len(differences),
        method="the patient's left half excluded from the attention; recomputed in float64 from the unit vectors "
        f"(scores changed by {np.mean(changes):.3g} on average, {max(changes):.3g} at most)",
    )


def left_half(features: ImageFeatures) -> Bool[np.ndarray, " patch"]:
    """True at the patches of the patient's left, which is the right of a frontal image."""
    rows, columns = features.grid
    half: np.ndarray = np.tile(np.arange(columns) >= (columns + 1) // 2, (rows, 1)).ravel()
    return half


def without(features: ImageFeatures, excluded: Bool[np.ndarray, " patch"]) -> ImageFeatures:
    """The features with some patches taking no part."""
    gone = torch.from_numpy(excluded).to(features.patches.device).expand(len(features.patches), -1)
    return replace(features, padding=gone if features.padding is None else features.padding | gone)


def similarities(
    sample: Sample, scorer: SimilarityAttention, sentences: tuple[str, ...], features: ImageFeatures
) -> Float[np.ndarray, "text image"]:
    """Similarity attention by its formula, image by image and text by text: <t, m>/|m|, m = sum softmax(c/tau) v."""
    texts = sample.engine.encode_text(sentences).astype(np.float64)
    with torch.inference_mode():
        patches = scorer.unit(features.patches).cpu().numpy().astype(np.float64)
        pooled = scorer.unit(features.pooled).cpu().numpy().astype(np.float64)
        tau = float((scorer.attention_temperature or scorer.temperature)())
    sees_whole = sample.engine.model.config.scorer.model_dump().get("global_token", False)
    assert features.padding is not None
    shown = ~features.padding.cpu().numpy()
    found = np.zeros((len(texts), len(patches)))
    for image, vectors in enumerate(patches):
        kept = vectors[shown[image]]
        attended = np.vstack([pooled[image : image + 1], kept]) if sees_whole else kept
        for row, text in enumerate(texts):
            cosines = attended @ text
            weights = np.exp((cosines - cosines.max()) / tau)
            met = weights @ attended
            found[row, image] = text @ met / np.linalg.norm(met)
    return found

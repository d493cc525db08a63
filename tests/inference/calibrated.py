"""A calibration and a gate of made-up numbers that fit a given model, for tests of what uses them."""

import numpy as np

from vlp.inference import calibration as calibrations
from vlp.inference.calibration import Calibration
from vlp.inference.engine import Engine
from vlp.inference.gate import Gate, inputs
from vlp.prompts.descriptors import load_descriptors


def made_calibration(engine: Engine, **changes: object) -> Calibration:
    """Nodule: p = s (slope 1, bias 0); positive from 0.6 on, negative up to 0.4.  Effusion: a constant 0.2."""
    figures = dict.fromkeys(
        ("ece_before", "ece_cv", "brier_before", "brier_cv", "coverage_present_cv", "coverage_absent_cv",
         "indeterminate_cv")
    )  # fmt: skip
    conformal = {"alpha": 0.1, "q0": 0.6, "q1": 0.6}

    def fitted(slope: float, bias: float) -> dict[str, object]:
        score_map = {"kind": "platt", "slope": slope, "bias": bias}
        return {"map": score_map, "studies": 9, "positives": 4, "conformal": conformal, "figures": figures}

    content: dict[str, object] = {
        "vlp_version": "0",
        "model_fingerprint": engine.fingerprint,
        "prompts_digest": load_descriptors().digest,
        "preprocess_digest": calibrations.preprocess_digest(engine.model.config.preprocess),
        "pooled_by": {},
        "fitted_on": {"archive": "made", "shards_sha256": "0", "split": "val", "studies": 9, "patients": 9},
        "findings": {"nodule": fitted(1.0, 0.0), "pleural effusion": fitted(0.0, float(np.log(0.25)))},
        "maps": {"nodule": {"threshold": 0.1, "texts": ["There is a nodule."], "dice": 0.5, "images": 3}},
    }
    return Calibration.model_validate({**content, **changes}, strict=False)


def made_gate(engine: Engine) -> Gate:
    """Accepts everything but what has no contrast or an impossible shape."""
    width = inputs(engine.looked([np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)])).shape[1]
    return Gate(
        model=engine.fingerprint,
        views="frontal",
        centre=np.zeros(width),
        scale=np.ones(width),
        basis=np.zeros((1, width)),
        reasons=("rotated",),
        weights=np.zeros((1, 1)),
        bias=np.array([-5.0]),
        distances=(),
        middle=np.zeros(1),
        limit=np.ones(1),
        facts={},
    )

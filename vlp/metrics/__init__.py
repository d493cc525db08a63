"""Metrics over plain arrays, each with its interval: numpy, scipy and scikit-learn's definitions, never torch."""

from vlp.metrics.bootstrap import patient_bootstrap
from vlp.metrics.calibration import brier, expected_calibration_error
from vlp.metrics.delong import delong
from vlp.metrics.estimate import Estimate
from vlp.metrics.ranking import auroc, average_precision
from vlp.metrics.retrieval import ndcg, precision_at_k
from vlp.metrics.segmentation import best_threshold, dice, iou, pointing_hit

__all__ = [
    "Estimate",
    "auroc",
    "average_precision",
    "best_threshold",
    "brier",
    "delong",
    "dice",
    "expected_calibration_error",
    "iou",
    "ndcg",
    "patient_bootstrap",
    "pointing_hit",
    "precision_at_k",
]

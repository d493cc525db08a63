"""What a checkpoint says of the run it is from."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlp.data.reader import ShardReader
from vlp.train.config import TrainConfig
from vlp.train.saving.state import Progress


def make_card(
    config: TrainConfig,
    progress: Progress,
    reader: ShardReader,
    *,
    shards: Mapping[str, str],
    sources: Sequence[str],
    batches: int,
) -> dict[str, Any]:
    """The facts of a run at a step, as JSON values: how long, on what, under which licences.

    Args:
        config: Of the run.
        progress: How far it is.
        reader: The archives it sees.
        shards: Archive -> SHA-256 of its manifest.
        sources: Where the training studies come from (`overlap.sources`), so that an evaluation can warn.
        batches: Of one epoch.
    """
    manifest = reader.manifest
    return {
        "step": progress.step,
        "epochs": round(progress.epoch + progress.position / batches, 2),
        "studies_per_batch": config.loader.batch_studies * progress.world,
        "training_minutes": round(progress.seconds / 60.0, 1),
        "objective": config.objective.kind,
        "zero_shot_check_auroc": None if progress.best is None else round(progress.best, 4),
        "steps_left_out": progress.skipped,
        "studies_replaced": progress.replaced,
        "shards_sha256": dict(shards),
        "sources": list(sources),
        "synthetic_data": manifest.synthetic,
        "sentences_from": manifest.sentences_origin,
        "licenses": manifest.licenses,
        "seed": config.seed,
    }

import json
from pathlib import Path
from typing import Any

from vlp.config import validate
from vlp.data import open_shards
from vlp.train.config import TrainConfig
from vlp.train.saving.card import make_card
from vlp.train.saving.state import Progress


def test_a_card_says_how_far_on_what_and_what_went_wrong(values: dict[str, Any], shards: Path) -> None:
    config = validate(TrainConfig, values | {"seed": 7}, where="test")
    progress = Progress(step=7, epoch=2, position=1, world=4, seconds=90.0, best=0.61239, skipped=2, replaced=3)
    card = make_card(config, progress, open_shards(shards), shards={"a": "12"}, sources=("random",), batches=3)
    assert json.loads(json.dumps(card)) == card
    expected = {
        "step": 7,
        "epochs": 2.33,
        "studies_per_batch": 4 * config.loader.batch_studies,
        "training_minutes": 1.5,
        "zero_shot_check_auroc": 0.6124,
        "steps_left_out": 2,
        "studies_replaced": 3,
        "shards_sha256": {"a": "12"},
        "sources": ["random"],
        "synthetic_data": True,
        "seed": 7,
    }
    assert {name: card[name] for name in expected} == expected

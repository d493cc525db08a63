"""Trains open_clip's own program, unchanged, for two steps on our shards, and says whether it did.

    python -m benchmarks.open_clip_trainer [--shards FOLDER] [--webdataset FOLDER] [--steps 2] [--json]

Without `--shards` a small phantom archive is drawn and sharded first.  open_clip's trainer needs webdataset at most
0.2.86 while this project uses 1.x, so the old one is put into a folder of its own (with uv or pip, or given
by `--webdataset`) and stands first on the path of that one process.  Ends with status 1 if the training did not happen.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peer_packages import PACKAGES, NotInstalledError, install
from vlp import log
from vlp.cli.console import print_facts, print_json
from vlp.data.manifest import Manifest, read_manifest
from vlp.ingest.phantom.source import PhantomSource
from vlp.ingest.pipeline import IngestConfig, ingest

BATCH = 8
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
"""As small as open_clip lets a model be: what is tried is the reading, not the learning."""
_START = (
    "import sys, open_clip; open_clip.add_model_config(sys.argv[1]); "
    "from open_clip_train.main import main; main(sys.argv[2:])"
)
_STEP = re.compile(r"Train Epoch: (\d+) \[\s*(\d+)/(\d+) .*?Contrastive_loss: ([-+.\deinfa]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What open_clip's trainer reported."""

    command: str
    """The training command, paths as they were."""
    steps: int
    losses: tuple[float, ...]
    open_clip: str
    webdataset: str


def train(shards: Path, webdataset: Path, work: Path, *, steps: int) -> Outcome:
    """Runs the trainer for `steps` steps over the train split in `shards`; `work` takes its logs.

    Raises:
        RuntimeError: with the end of the trainer's own log, if it failed or logged fewer steps.
    """
    models = work / "models"
    models.mkdir(parents=True)
    (models / "vlp-check.json").write_text(json.dumps(MODEL), encoding="utf-8")
    arguments = [
        *("--train-data", train_pattern(shards, read_manifest(shards))),
        *("--train-num-samples", str(steps * BATCH)),
        *("--dataset-type", "webdataset", "--batch-size", str(BATCH), "--workers", "1", "--epochs", "1"),
        *("--precision", "fp32", "--device", "cpu", "--model", "vlp-check", "--log-every-n-steps", "1"),
        *("--save-frequency", "0", "--zeroshot-frequency", "0", "--logs", str(work / "logs")),
    ]
    path = os.pathsep.join(filter(None, (str(webdataset), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", _START, str(models), *arguments],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    output = done.stdout + done.stderr
    losses = tuple(float(match[4]) for match in _STEP.finditer(output))
    if done.returncode or len(losses) < steps or not all(map(math.isfinite, losses)):
        raise RuntimeError(f"open_clip's trainer ended with {done.returncode}:\n{output[-3000:]}")
    return Outcome(
        command="python -m open_clip_train.main " + " ".join(arguments),
        steps=len(losses),
        losses=losses,
        open_clip=_version(webdataset, "open_clip_torch"),
        webdataset=_version(webdataset, "webdataset"),
    )


def train_pattern(shards: Path, manifest: Manifest) -> str:
    """The train tars as the brace pattern webdataset users write."""
    count = sum(shard.split == "train" for shard in manifest.shards)
    return f"{shards}/train-{{000000..{count - 1:06d}}}.tar"


def make_shards(folder: Path) -> Path:
    """A small phantom archive in several shards, since the trainer wants at least one per worker."""
    config = IngestConfig(source=PhantomSource(patients=24, size_px=96), output=folder, samples_per_shard=16, workers=0)
    ingest(config)
    return folder


def _version(path: Path, package: str) -> str:
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    environment = os.environ | {"PYTHONPATH": str(path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="a folder of shards; default: a small phantom archive")
    parser.add_argument("--webdataset", type=Path, help=f"a folder that holds {PACKAGES['open_clip'][0]}")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    log.configure()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        try:
            webdataset = options.webdataset or install("open_clip", work)
            shards = options.shards or make_shards(work / "shards")
            outcome = train(shards, webdataset, work / "run", steps=options.steps)
        except (RuntimeError, NotInstalledError) as error:
            print(error, file=sys.stderr)
            return 1
    if options.json:
        print_json(asdict(outcome))
    else:
        print_facts("open_clip's own trainer on our shards", asdict(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vlp.errors import DataError
from vlp.evaluate.report import report, training_curves


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "run"))


def test_results_come_again_from_the_files_to_the_byte(run: Path, evaluated: Path) -> None:
    for name in ("results.json", "report.md", "report.html"):
        (run / name).unlink()
    report(run)
    for name in ("results.json", "report.md", "report.html"):
        assert (run / name).read_bytes() == (evaluated / name).read_bytes()


def test_reporting_needs_no_torch(run: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom vlp.evaluate.report import report\n"
        f"report(Path({str(run)!r}))\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_damage_is_named_and_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no evaluation"):
        report(tmp_path)
    before = (run / "results.json").read_bytes()
    (run / "predictions" / "retrieval.parquet").unlink()
    with pytest.raises(DataError, match="no predictions for retrieval"):
        report(run)
    assert (run / "results.json").read_bytes() == before
    (run / "results_meta.json").write_text("{")
    with pytest.raises(DataError, match=r"results_meta\.json: missing or not readable"):
        report(run)


def test_training_curves_skip_what_is_no_number(run: Path) -> None:
    assert training_curves(run) == {}
    log = "step,loss,images_per_s,zero_shot_auroc\n1,3.5,10,\n2,nan,10,0.6\n3,2.5,9,0.7\n4,2.0"
    (run.parent / "metrics.csv").write_text(log)
    assert training_curves(run) == {
        "loss": [(1.0, 3.5), (3.0, 2.5), (4.0, 2.0)],
        "zero_shot_auroc": [(2.0, 0.6), (3.0, 0.7)],
    }


def test_everything_about_trust_comes_again_from_the_files(trusted: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(trusted, tmp_path / "again"))
    for name in ("results.json", "report.md", "report.html"):
        (again / name).unlink()
    report(again)
    for name in ("results.json", "report.md", "report.html"):
        assert (again / name).read_bytes() == (trusted / name).read_bytes()
    (again / "predictions" / "prior.parquet").unlink()
    with pytest.raises(DataError, match="no predictions for prior"):
        report(again)

"""The shape of the code is tested: layers, lengths, mirrors, start-up, vocabulary."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / "vlp").rglob("*.py"))
TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py"))
OWN_FOLDERS = {"architecture", "contracts", "integration", "slurm"}
MAX_LINES = 400


@pytest.mark.parametrize("folder", ["vlp", "tests", "benchmarks"])
def test_files_are_short(folder: str) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long


def test_every_module_has_its_test_file() -> None:
    expected = {
        Path("tests", *source.parts[1:-1], f"test_{source.name}") for source in SOURCES if source.name != "__init__.py"
    }
    assert not sorted(str(path) for path in expected - set(TESTS))


def test_every_test_file_has_its_module() -> None:
    orphans = [
        str(test)
        for test in TESTS
        if test.parts[1] not in OWN_FOLDERS
        and not (ROOT / "vlp" / Path(*test.parts[1:-1]) / test.name.removeprefix("test_")).exists()
    ]
    assert not orphans


def test_imports_point_down() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_help_needs_no_torch() -> None:
    program = (
        "import sys; from vlp.cli import main; "
        "sys.argv = ['vlp', '--help']\n"
        "try: main.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'pytorch_lightning', 'transformers', 'timm', 'faiss', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in (
        "ingest",
        "train",
        "evaluate",
        "calibrate",
        "explain",
        "classify",
        "ground",
        "prompts",
        "index",
        "doctor",
    ):
        assert re.search(rf"^\s*{verb}\b", done.stdout, re.MULTILINE), verb


def test_public_names() -> None:
    import vlp

    assert set(vlp.__all__) == {"Engine", "__version__", "load"}


def test_no_pickle_and_no_blind_torch_load() -> None:
    for source in SOURCES:
        text = (ROOT / source).read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) (pickle|joblib|dill)\b", text, re.MULTILINE), source
        for call in re.findall(r"torch\.load\((?:[^()]|\([^()]*\))*\)", text):
            assert "weights_only=True" in call, source
        assert "allow_pickle=True" not in text, source


def test_nothing_is_left_for_later() -> None:
    for source in SOURCES:
        text = (ROOT / source).read_text(encoding="utf-8")
        assert not re.search(r"\b(TODO|FIXME|XXX:|NotImplementedError)\b", text), source

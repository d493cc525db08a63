import os
import shutil
import subprocess
from pathlib import Path

import pytest

from vlp.train.saving.checksums import SUMS_NAME, fault, seal, sync_folder

FILES = {"a.bin": b"first", "inner/b.txt": b"second", "inner/deep/c d.txt": b"", "e": bytes(range(256)) * 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "sealed"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal(folder)
    return folder


def test_a_sealed_folder_is_whole_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    assert fault(folder) is None
    assert fault(shutil.copytree(folder, tmp_path / "copy")) is None


def test_the_usual_program_reads_the_list(folder: Path) -> None:
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("no sha256sum on this machine")
    check = [program, "--check", "--strict", SUMS_NAME]
    done = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(f"{name}: OK" for name in FILES)
    (folder / "e").write_bytes(b"other")
    assert subprocess.run(check, cwd=folder, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("name", [name for name, content in FILES.items() if content])
def test_one_flipped_bit_in_any_file_is_found(folder: Path, name: str) -> None:
    content = FILES[name]
    for place in {0, len(content) // 2, len(content) - 1}:
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        (folder / name).write_bytes(flipped)
        assert fault(folder) == f"{name} does not match its checksum"
    (folder / name).write_bytes(content)
    assert fault(folder) is None


def test_one_flipped_bit_in_the_list_is_found_wherever_it_is(folder: Path) -> None:
    file = folder / SUMS_NAME
    content = file.read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        assert fault(folder) is not None, (place, content[place])


def test_a_list_that_lost_its_end_is_damaged(folder: Path) -> None:
    file = folder / SUMS_NAME
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        assert fault(folder) == f"{SUMS_NAME} is damaged", length


@pytest.mark.parametrize("name", [*FILES, SUMS_NAME])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    found = fault(folder)
    assert found is not None
    assert found.startswith(f"{name} is missing")


def test_a_folder_where_a_file_should_be_is_no_file(folder: Path) -> None:
    (folder / "e").unlink()
    (folder / "e").mkdir()
    assert fault(folder) == "e is missing"


def test_the_list_names_nothing_outside(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for name in ("../outside", "inner/../../outside", str(tmp_path / "outside")):
        (folder / SUMS_NAME).write_text(f"# files: 1\n{empty}  {name}\n")
        assert fault(folder) is not None, name


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def failing(self: Path, *arguments, **options):
        if self.name == "a.bin":
            raise OSError(5, "Input/output error")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", failing)
    assert fault(folder) == "a.bin cannot be read: Input/output error"


def test_everything_is_on_the_disk_when_it_is_sealed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    real = os.fsync

    def noting(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", noting)
    seal(folder)
    names = {str(folder / name) for name in [*FILES, SUMS_NAME, "inner", "inner/deep"]}
    assert set(synced) == names | {str(folder)}
    assert synced[-1] == str(folder)


def test_a_file_system_without_folders_on_disk_is_no_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    number = 22
    sync_folder(folder)
    number = 5
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(folder)

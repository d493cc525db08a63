from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from vlp.config import Config, dump, load, validate
from vlp.errors import ConfigError


class Resize(Config):
    kind: Literal["resize"] = "resize"
    size: int = Field(default=224, gt=0)


class Crop(Config):
    kind: Literal["crop"] = "crop"
    margin: float = 0.1


class Pair(Config):
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _in_order(self) -> "Pair":
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Run(Config):
    name: str
    rate: float = 1e-4
    sizes: tuple[int, ...] = ()
    folder: Path | None = None
    step: Annotated[Resize | Crop, Field(discriminator="kind")] = Resize()


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_yaml_1_2_scalars(tmp_path: Path) -> None:
    run = load(Run, write(tmp_path, "name: off\nrate: 1e-4\nsizes: [1, 2]\nfolder: a/b\n"))
    assert run == Run(name="off", rate=1e-4, sizes=(1, 2), folder=Path("a/b"))


def test_overrides_reach_into_mappings_and_lists(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nsizes: [1, 2]\nstep: {kind: resize}\n")
    run = load(Run, path, ["sizes.1=5", "step.size=64", "rate=2e-3"])
    assert (run.sizes, run.step, run.rate) == ((1, 5), Resize(size=64), 2e-3)


def test_a_child_merges_and_a_new_kind_starts_afresh(tmp_path: Path) -> None:
    write(tmp_path, "name: parent\nrate: 0.5\nstep: {kind: resize, size: 3}\n", "parent.yaml")
    child = write(tmp_path, "extends: parent.yaml\nname: child\nstep: {kind: crop}\n")
    assert load(Run, child) == Run(name="child", rate=0.5, step=Crop())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nstep: {kind: resize, siz: 3}", ["step", "siz", "unknown key", "'size'"]),
        ("name: a\nrat: 3", ["rat", "'rate'"]),
        ("rate: 1.0", ["name", "Field required"]),
        ("name: a\nstep: {kind: resize, size: -1}", ["step.resize.size", "greater than 0", "-1"]),
        ("name: a\nrate: '3'", ["rate", "'3'"]),
        ("name: [", ["not valid YAML"]),
        ("- a", ["mapping"]),
        ("name: a\nextends: run.yaml", ["extend itself"]),
        ("name: a\nextends: other.yaml", ["other.yaml", "cannot read"]),
    ],
)
def test_faults_are_one_plain_line_that_names_the_file(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Run, write(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    assert ".yaml" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("override", ["rate", "=3", "sizes.9=1", "name.deep=1"])
def test_a_wrong_override_says_so(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        load(Run, write(tmp_path, "name: a\nsizes: [1]\n"), [override])


@pytest.mark.parametrize("name", ["0E0", "1e-4", "off", "true", "12", "1.", "2026-01-01", "null", "~", "a: b", "#"])
def test_text_that_looks_like_something_else_stays_text(tmp_path: Path, name: str) -> None:
    assert load(Run, write(tmp_path, dump(Run(name=name)))).name == name


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])), st.floats(1e-9, 1e9))
def test_dump_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, name: str, rate: float) -> None:
    run = Run(name=name, rate=rate, folder=Path("x"), step=Crop(margin=rate))
    path = write(tmp_path_factory.mktemp("dump"), dump(run))
    assert load(Run, path) == run


def test_nothing_runs_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(Run, write(tmp_path, "name: !!python/object/apply:os.getcwd []"))


def test_validate_names_the_origin() -> None:
    with pytest.raises(ConfigError, match=r"card\.json: name"):
        validate(Run, {}, where="card.json")


def test_a_fault_between_keys_does_not_repeat_them(tmp_path: Path) -> None:
    path = write(tmp_path, "low: 3\nhigh: 2\n")
    with pytest.raises(ConfigError) as caught:
        load(Pair, path)
    assert str(caught.value) == f"{path}: low is above high"

from pathlib import Path

import pytest

from vlp.config import dump, load, validate
from vlp.errors import ConfigError
from vlp.evaluate.config import DIFFUSE, EvaluateConfig
from vlp.ingest.phantom.truth import FINDINGS, FOCAL

LEAST = {"checkpoint": "a", "shards": "b", "output": "c"}


def test_thresholds_are_never_chosen_on_the_scored_studies() -> None:
    with pytest.raises(ConfigError, match="studies of their own"):
        validate(EvaluateConfig, {**LEAST, "threshold_split": "test"}, where="here")


def test_main_score_comes_first_and_once() -> None:
    config = validate(EvaluateConfig, {**LEAST, "compared_prompts": ["both", "finding"]}, where="here")
    assert config.score_names == ("both", "finding")


def test_diffuse_findings_are_those_the_phantom_calls_so() -> None:
    assert set(FINDINGS) - FOCAL == DIFFUSE


def test_a_list_of_findings_survives_the_file(tmp_path: Path) -> None:
    config = validate(EvaluateConfig, {**LEAST, "findings": ["Mass"], "focal": ["Mass"]}, where="here")
    (tmp_path / "again.yaml").write_text(dump(config))
    assert load(EvaluateConfig, tmp_path / "again.yaml") == config


@pytest.mark.parametrize("bad", [{"findings": []}, {"ks": [0]}, {"resamples": 10}, {"tasks": ["guessing"]}])
def test_values_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        validate(EvaluateConfig, {**LEAST, **bad}, where="here")

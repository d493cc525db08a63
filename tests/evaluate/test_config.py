from pathlib import Path
from typing import get_args

import pytest

from vlp.config import dump, load, validate
from vlp.errors import ConfigError
from vlp.evaluate.config import DIFFUSE, EvaluateConfig, PublishedProtocol, suffix_of, words_of
from vlp.ingest.phantom.truth import FINDINGS, FOCAL
from vlp.prompts.protocols import PROTOCOLS

LEAST = {"checkpoint": "a", "shards": "b", "output": "c"}


def test_thresholds_are_never_chosen_on_the_scored_studies() -> None:
    with pytest.raises(ConfigError, match="studies of their own"):
        validate(EvaluateConfig, {**LEAST, "threshold_split": "test"}, where="here")


@pytest.mark.parametrize("split", ["test", "val"])
def test_neighbours_that_vote_are_never_those_that_are_scored_or_counted_on(split: str) -> None:
    assert validate(EvaluateConfig, {**LEAST, "voters": ["train"]}, where="here").voters == ("train",)
    with pytest.raises(ConfigError, match="studies of their own"):
        validate(EvaluateConfig, {**LEAST, "voters": ["train", split]}, where="here")


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


def test_calibrated_figures_need_a_calibration() -> None:
    for asked in ({"tasks": ["calibration"]}, {"pooling": "calibrated"}):
        with pytest.raises(ConfigError, match="needs `calibration`"):
            validate(EvaluateConfig, {**LEAST, **asked}, where="here")
    given = validate(EvaluateConfig, {**LEAST, "calibration": "here"}, where="here")
    assert given.all_tasks == ("classification", "grounding", "retrieval", "calibration")
    again = validate(EvaluateConfig, {**LEAST, "calibration": "here", "tasks": ["calibration"]}, where="here")
    assert again.all_tasks == ("calibration",)


def test_published_protocols_are_those_of_the_prompts() -> None:
    assert {*get_args(PublishedProtocol), "vlp"} == set(PROTOCOLS)
    config = validate(EvaluateConfig, {**LEAST, "compared_prompts": ["biovil", "finding", "biovil"]}, where="here")
    assert config.score_names == ("both", "biovil", "finding")
    assert config.protocols == ("biovil",)
    weighted = validate(EvaluateConfig, {**LEAST, "calibration": "here", "pooling": "calibrated"}, where="here")
    assert weighted.score_names == ("calibrated", "finding")
    both = weighted.model_copy(update={"compared_prompts": ("finding", "both")})
    assert both.score_names == ("calibrated", "finding", "both")
    assert (words_of("biovil"), suffix_of("finding")) == ("biovil protocol", "_finding_prompts")

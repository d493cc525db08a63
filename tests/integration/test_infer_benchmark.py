"""The program that measures what answers cost: that its ways give the same answers, and do the work they stand for."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmarks.infer import CASES, FINDINGS, Asked, make_lines, measure, verdicts

IMAGES = 3


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Asked.build(CASES["smoke"])
    torch.set_num_threads(threads)


@pytest.fixture
def encoded(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sentences went through the text tower, call by call."""
    counts: list[int] = []
    encode = asked.engine.model.text_tower.encode

    def counted(tokens):
        counts.append(len(tokens.ids))
        return encode(tokens)

    monkeypatch.setattr(asked.engine.model.text_tower, "encode", counted)
    return counts


def test_the_loop_gives_the_same_answers(asked: Asked) -> None:
    images = asked.images(IMAGES)
    diagnoses, maps = asked.answer(images)
    scores, maps_by_sentence = asked.answer_re_encoded(images)
    assert [len(diagnosis.findings) for diagnosis in diagnoses] == [len(FINDINGS)] * IMAGES
    found = np.array([[diagnosis.scores[finding] for finding in FINDINGS] for diagnosis in diagnoses])
    np.testing.assert_allclose(found, scores, rtol=1e-4)
    assert tuple(maps_by_sentence) == asked.maps
    np.testing.assert_allclose(maps, np.stack(list(maps_by_sentence.values())), atol=1e-5)


def test_the_loop_encodes_every_sentence_by_itself_and_ours_none_again(asked: Asked, encoded: list[int]) -> None:
    images = asked.images(1)
    asked.answer(images)  # the first question of this engine may have been asked already
    del encoded[:]
    asked.answer(images)
    assert encoded == []
    asked.answer_re_encoded(images)
    pairs = [pair for finding in FINDINGS for pair in asked.descriptors.of(finding)]
    assert len(pairs) > 3 * len(FINDINGS)
    assert encoded == [1] * (2 * len(pairs))


def test_every_finding_is_asked_with_all_it_has(asked: Asked) -> None:
    assert len(set(FINDINGS)) == 14
    diagnosis = asked.answer(asked.images(1))[0][0]
    for evidence in diagnosis.findings:
        assert [item.positive for item in evidence.descriptors] == [
            pair.positive for pair in asked.descriptors.of(evidence.finding)
        ]


def test_both_ratios_are_measured(asked: Asked) -> None:
    lines = {line.metric: line for line in measure("smoke", asked, images=1, rounds=2)}
    assert lines["encoder"].case == "smoke 1 images cpu"
    assert lines["re-encoded / answers"].value > 1.0
    assert lines["answers"].value > lines["encoder"].value


def test_ratios_are_taken_within_a_round() -> None:
    # A machine that is ten times slower in one round must not change a ratio.
    turns = {"encoder": [1.0, 10.0, 1.0], "answers": [1.05, 10.5, 1.2], "re-encoded": [3.15, 31.5, 2.4]}
    lines = {line.metric: line for line in make_lines(turns, case="x")}
    assert lines["answers"].value == pytest.approx(1200.0)
    assert lines["answers / encoder"].value == pytest.approx(1.05)
    assert lines["answers / encoder"].high == pytest.approx(1.2)
    assert lines["re-encoded / answers"].low == pytest.approx(2.0)


def test_verdicts_compare_with_what_is_asked() -> None:
    fast = {"encoder": [1.0], "answers": [1.1], "re-encoded": [3.32]}
    slow = {"encoder": [1.0], "answers": [1.11], "re-encoded": [3.32]}
    assert [words.endswith("NOT MET") for words in verdicts(make_lines(fast, case="x"))] == [False, False]
    assert [words.endswith("NOT MET") for words in verdicts(make_lines(slow, case="x"))] == [True, True]

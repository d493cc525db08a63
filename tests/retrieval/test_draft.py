import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from vlp.errors import DataError
from vlp.records import Certainty, Sentence
from vlp.retrieval.draft import NOTE, Draft, DraftFinding, Source, draft


@dataclass(frozen=True)
class Neighbour:
    key: str
    score: float
    report: str | None = None
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def saying(key: str, score: float, report: str | None, *, effusion: bool = True) -> Neighbour:
    where = {"present" if effusion else "absent": ("pleural effusion",)}
    return Neighbour(key, score, report, **where)


def only(made: Draft) -> DraftFinding:
    (found,) = made.findings
    return found


LEFT = "FINDINGS: Small left pleural effusion. The heart is normal."
RIGHT = "FINDINGS: Moderate right pleural effusion."
NONE = "FINDINGS: No pleural effusion."


def test_every_quote_is_the_words_of_its_source() -> None:
    reports = {"a": LEFT, "b": "FINDINGS: There is a\nsmall pleural effusion on the left.", "c": NONE}
    hits = [saying(key, 0.9, report, effusion=report is not NONE) for key, report in reports.items()]
    made = draft(hits)
    quotes = [variant.quote for variant in only(made).variants]
    assert {quote.key for quote in quotes} == {"a", "c"}
    for quote in quotes:
        assert reports[quote.key][quote.start : quote.end] == quote.text
        assert f'"{quote.text}" [{quote.key}, characters {quote.start}-{quote.end}' in made.text or quote.key == "c"


def test_what_neighbours_say_alike_is_one_variant_with_the_nearest_ones_words() -> None:
    hits = [saying("a", 0.9, LEFT), saying("b", 0.8, "FINDINGS: A left effusion is seen."), saying("c", 0.7, None)]
    found = only(draft(hits))
    (variant,) = found.chosen
    assert (variant.side, variant.keys, variant.quote.key) == ("left", ("a", "b"), "a")
    assert variant.weight == pytest.approx(1.7)
    assert (found.state, found.share, found.known, found.contradictions) == ("present", 1.0, 3, ())


def test_sides_that_contradict_each_other_are_listed_and_not_merged() -> None:
    made = draft([saying("a", 0.9, LEFT), saying("b", 0.8, RIGHT)])
    found = only(made)
    assert found.contradictions == ("side",)
    assert [variant.side for variant in found.chosen] == ["left", "right"]
    assert "neighbours disagree on the side" in made.text
    assert "bilateral" not in made.text


def test_a_lone_dissenter_is_listed_without_being_a_contradiction() -> None:
    found = only(draft([saying(str(number), 0.9, LEFT) for number in range(9)] + [saying("x", 0.9, RIGHT)]))
    assert found.contradictions == ()
    assert [variant.side for variant in found.chosen] == ["left"]
    assert [variant.side for variant in found.variants] == ["left", "right"]


def test_reports_that_contradict_each_other_on_the_finding_give_a_list_and_no_choice() -> None:
    made = draft([saying("a", 0.9, LEFT), saying("b", 0.8, LEFT), saying("c", 0.8, NONE, effusion=False)])
    found = only(made)
    assert (found.state, found.contradictions, found.chosen) == ("present", ("polarity",), ())
    assert {variant.certainty for variant in found.variants} == {Certainty.PRESENT, Certainty.ABSENT}
    assert "Small left pleural effusion." in made.text
    assert "No pleural effusion." in made.text


@pytest.mark.parametrize(
    ("present", "state"), [(5, "present"), (4, "present"), (3, "undecided"), (2, "undecided"), (1, "absent")]
)
def test_the_vote_decides_what_is_drafted(present: int, state: str) -> None:
    hits = [saying(str(n), 1.0, LEFT if n < present else NONE, effusion=n < present) for n in range(8)]
    found = only(draft(hits, ["pleural effusion"]))
    assert (found.state, found.share) == (state, present / 8)
    if state == "absent":
        assert [variant.quote.text for variant in found.chosen] == ["No pleural effusion."]


def test_the_side_of_what_is_absent_is_no_contradiction() -> None:
    hits = [saying("a", 1.0, LEFT), saying("b", 1.0, RIGHT)]
    hits += [saying(str(number), 1.0, NONE, effusion=False) for number in range(8)]
    found = only(draft(hits))
    assert (found.state, found.contradictions) == ("absent", ("polarity",))
    assert only(draft(hits, absent_threshold=0.1)).contradictions == ("side", "polarity")


def test_thresholds_move_what_is_drafted() -> None:
    hits = [saying("a", 1.0, LEFT), saying("b", 1.0, NONE, effusion=False), saying("c", 1.0, NONE, effusion=False)]
    assert only(draft(hits)).state == "undecided"
    assert only(draft(hits, threshold=0.3)).state == "present"
    assert only(draft(hits, absent_threshold=0.4)).state == "absent"
    with pytest.raises(DataError, match="thresholds"):
        draft(hits, threshold=0.2, absent_threshold=0.3)


def test_sentences_about_an_earlier_study_give_way_and_are_marked() -> None:
    unchanged = "FINDINGS: Small left pleural effusion, unchanged since the prior study."
    found = only(draft([saying("a", 0.9, unchanged), saying("b", 0.8, LEFT)]))
    assert found.chosen[0].quote.key == "b"
    alone = draft([saying("a", 0.9, unchanged)])
    assert only(alone).chosen[0].quote.compares
    assert "compares with that patient's earlier study" in alone.text


def test_sentences_made_from_labels_are_never_quoted() -> None:
    def made_up(_: Source) -> Sequence[Sentence]:
        return [
            Sentence(
                start=0, end=4, section="labels", finding="pleural effusion", certainty=Certainty.PRESENT,
                text="There is pleural effusion.", origin="labels",
            )
        ]  # fmt: skip

    found = draft([saying("a", 0.9, LEFT)], statements=made_up)
    assert only(found).variants == ()
    assert "no neighbour's report speaks of it" in found.text


def test_a_neighbour_counts_once_however_often_it_says_so() -> None:
    twice = "FINDINGS: Small left pleural effusion.\nIMPRESSION: Left pleural effusion."
    (variant,) = only(draft([saying("a", 0.5, twice)])).variants
    assert (variant.keys, variant.weight) == (("a",), 0.5)


def test_what_no_label_speaks_of_is_not_drafted_and_reports_that_are_missing_are_counted() -> None:
    made = draft([saying("a", 0.9, LEFT), saying("b", 0.8, None)], ["pleural effusion", "mass"])
    assert [one.finding for one in made.findings] == ["pleural effusion"]
    assert (made.neighbours, made.without_report) == (2, 1)


def test_the_json_says_what_it_is_and_points_at_what_was_chosen() -> None:
    made = draft([saying("a", 0.9, LEFT), saying("b", 0.2, NONE, effusion=False)])
    values = json.loads(json.dumps(made.to_json()))
    assert values["note"] == NOTE
    assert NOTE in made.text
    (found,) = values["findings"]
    assert [found["variants"][index]["side"] for index in found["chosen"]] == ["left"]
    assert found["variants"][1]["certainty"] == "absent"

import pytest

from tests.ingest.dicom_writing import code, header
from vlp.ingest.dicom_file import Header
from vlp.ingest.dicom_view import view_facts


def _facts(**elements):
    return view_facts(Header(header(**elements)))


@pytest.mark.parametrize(
    ("position", "view"),
    [("PA", "PA"), ("AP", "AP"), ("AP SUPINE", "AP"), ("LL", "lateral"), ("RL", "lateral"), ("LATERAL", "lateral"),
     ("LLD", "other"), ("RAO", "other"), ("", "other"), ("NONSENSE", "other")],
)  # fmt: skip
def test_view_position_is_believed(position, view):
    assert _facts(ViewPosition=position).view == view


@pytest.mark.parametrize(
    ("number", "meaning", "projection"),
    [("399348003", "antero-posterior", "AP"), ("R-10206", "", "AP"), ("272479007", "x", "PA"),
     ("399173006", "left lateral", "lateral"), ("R-102CD", "", "lateral"), ("399033003", "frontal", "frontal"),
     ("site-7", "postero-anterior", "PA"), ("399182000", "oblique", "other"), ("site-8", "unheard of", None)],
)  # fmt: skip
def test_view_codes_and_their_meanings(number, meaning, projection):
    assert _facts(ViewCodeSequence=code(number, meaning)).projection == projection


@pytest.mark.parametrize(
    ("text", "projection"),
    [("CHEST PA", "PA"), ("Chest p.a.", "PA"), ("Thorax ap liegend", "AP"), ("W033 Chest Lat.", "lateral"),
     ("CHEST_LATERAL", "lateral"), ("CHEST PA AND LATERAL", None), ("CHEST AP/PA", None), ("Chest decub LAT", "other"),
     ("PAPER", None), ("FRONTAL PA", "PA"), ("CHEST 2 VIEWS", None), ("lapse", None)],
)  # fmt: skip
def test_descriptions_count_if_they_name_one_projection(text, projection):
    assert _facts(SeriesDescription=text).projection == projection


def test_the_order_of_belief():
    everything = {
        "ViewPosition": "PA",
        "ViewCodeSequence": code("399348003", "antero-posterior"),
        "PatientOrientation": ["A", "F"],
        "SeriesDescription": "CHEST LAT",
    }
    facts = _facts(**everything)
    assert (facts.projection, facts.projection_from) == ("PA", "ViewPosition")
    assert facts.conflicts == (
        "ViewPosition against ViewCodeSequence",
        "ViewPosition against PatientOrientation",
        "ViewPosition against SeriesDescription",
    )
    del everything["ViewPosition"]
    assert _facts(**everything).projection_from == "ViewCodeSequence"
    del everything["ViewCodeSequence"]
    assert _facts(**everything).projection_from == "PatientOrientation"


def test_frontal_is_made_precise_by_a_later_witness_without_conflict():
    facts = _facts(PatientOrientation=["L", "F"], SeriesDescription="CHEST AP")
    assert (facts.projection, facts.projection_from, facts.conflicts) == ("AP", "SeriesDescription", ())
    assert _facts(ViewPosition="AP", PatientOrientation=["L", "F"]).conflicts == ()
    only = _facts(PatientOrientation=["L", "F"])
    assert (only.projection, only.view) == ("frontal", "other")


def test_img_27_a_lateral_view_is_known_from_any_witness():
    for elements in (
        {"ViewPosition": "LL"},
        {"ViewCodeSequence": code("399067008", "lateral")},
        {"PatientOrientation": ["P", "F"]},
        {"ProtocolName": "Thorax lateral"},
    ):
        assert _facts(**elements).view == "lateral"


@pytest.mark.parametrize(
    ("directions", "orientation"),
    [(["L", "F"], "standard"), (["R", "F"], "mirrored"), (["R", "H"], "rotated"), (["F", "R"], "rotated"),
     (["H", "L"], "rotated"), (["L", "H"], "rotated"), (["L"], "unstated"), (["LF", "FP"], "standard")],
)  # fmt: skip
def test_img_28_mirrored_and_rotated_images_are_known_from_the_header(directions, orientation):
    assert _facts(ViewPosition="PA", PatientOrientation=directions).orientation == orientation


def test_orientation_says_nothing_of_a_lateral_view():
    assert _facts(PatientOrientation=["A", "F"]).orientation == "unstated"


@pytest.mark.parametrize(
    ("elements", "side"),
    [({"ImageLaterality": "L"}, "L"), ({"Laterality": "R"}, "R"), ({"ImageLaterality": "B"}, "B"),
     ({"ImageLaterality": "U"}, None), ({"ViewPosition": "RL"}, "R"),
     ({"SeriesDescription": "CHEST LEFT LATERAL"}, "L"),
     ({"ViewCodeSequence": code("399198007", "right lateral")}, "R"), ({"SeriesDescription": "LEFT CHEST"}, None)],
)  # fmt: skip
def test_sides(elements, side):
    assert _facts(**elements).side == side


def test_sides_that_disagree_are_conflicts_by_element_names_only():
    facts = _facts(ImageLaterality="L", ViewPosition="RL", StudyDescription="L LAT Doe^Jane")
    assert facts.side == "L"
    assert facts.conflicts == ("ImageLaterality against ViewPosition",)

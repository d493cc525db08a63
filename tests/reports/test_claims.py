import pytest

from vlp.reports.claims import find_claims
from vlp.reports.phrases import find_words


def claims(text, *names, signs=()):
    """The places and the degree of the mentions of single words, in order."""
    words = find_words(text, 0, len(text))
    forms = [word.form for word in words]
    spans = {(forms.index(name), forms.index(name) + 1): False for name in names}
    marked = {span for span, name in zip(spans, names, strict=True) if name in signs}
    found = find_claims(words, spans, signs=marked, written=text)
    return [([place.location for place in claim.places], claim.severity) for claim in found.values()]


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        ("small left effusion and large right mass", ("effusion", "mass"), [(["left"], None), (["right"], None)]),
        ("opacity in the left base may represent pneumonia", ("opacity", "pneumonia"), [(["left base"], None)] * 2),
        ("opacity in the left base and pneumonia", ("opacity", "pneumonia"), [(["left base"], None), ([], None)]),
        ("atelectasis or pneumonia at the left base", ("atelectasis", "pneumonia"), [(["left base"], None)] * 2),
        ("edema and pneumonia at the left base", ("edema", "pneumonia"), [([], None), (["left base"], None)]),
        ("atelectasis or right pneumonia", ("atelectasis", "pneumonia"), [([], None), (["right"], None)]),
        ("left base opacity, XXXX pneumonia", ("opacity", "pneumonia"), [(["left base"], None)] * 2),
        ("left base opacity, pneumonia", ("opacity", "pneumonia"), [(["left base"], None), ([], None)]),
        ("apical pneumothorax on the left", ("pneumothorax",), [(["left apex"], None)]),
        ("left lower opacity in the left base", ("opacity",), [(["left lower"], None)]),
        ("right-sided opacity in the upper and lower lobes", ("opacity",), [(["right upper", "right lower"], None)]),
        ("opacity at the bases", ("opacity",), [(["bilateral base"], None)]),
        ("moderate edema", ("edema",), [([], "moderate")]),
        ("mild volume loss with edema", ("edema",), [([], None)]),
        ("edema, which was large, is now small", ("edema",), [([], "small")]),
        ("left drainage without effusion", ("effusion",), [([], None)]),
        ("left effusion after removal of the right tube", ("effusion", "tube"), [(["left"], None), (["right"], None)]),
        ("left lung: small effusion", ("effusion",), [([], "small")]),
    ],
)  # fmt: skip
def test_which_words_belong_to_a_mention(text, names, said):
    assert claims(text, *names) == said


def test_several_places_have_their_own_degrees():
    words = find_words("effusions, moderate on the right and small on the left", 0, 60)
    (claim,) = find_claims(words, {(0, 1): False}, signs=set(), written="effusions, moderate on the right").values()
    assert [(place.side, place.severity) for place in claim.places] == [("right", "moderate"), ("left", "small")]
    assert claim.severity is None


def test_a_denial_takes_no_side_from_a_plural():
    text = "no effusion at the bases"
    words = find_words(text, 0, len(text))
    (claim,) = find_claims(words, {(1, 2): True}, signs=set(), written=text).values()
    assert [place.location for place in claim.places] == ["base"]


def test_a_sign_goes_with_what_it_is_a_sign_of():
    text = "opacity at the left base with a meniscus"
    assert claims(text, "opacity", "meniscus") == [(["left base"], None), ([], None)]
    assert claims(text, "opacity", "meniscus", signs=("meniscus",))[1] == (["left base"], None)


def test_no_mention_no_claim():
    assert find_claims([], {}, signs=set(), written="") == {}

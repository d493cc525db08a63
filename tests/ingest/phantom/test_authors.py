import random
from collections import Counter

from vlp.ingest.phantom.authors import AUTHORS, author


def test_every_author_writes_at_every_site():
    for site in ("north", "harbour", "university"):
        generator = random.Random(0)
        assert {author(site, generator) for _ in range(2000)} == set(AUTHORS)


def test_sites_prefer_different_authors():
    favourites = set()
    for site in ("north", "harbour", "university"):
        generator = random.Random(0)
        counts = Counter(AUTHORS.index(author(site, generator)) for _ in range(500))
        favourites.add(counts.most_common(1)[0][0])
    assert len(favourites) >= 2


def test_dialects_differ_where_it_matters():
    assert {writer.headings for writer in AUTHORS} == {"upper", "title", "lower", "none"}
    assert ("impression",) in {writer.sections for writer in AUTHORS}
    assert ("findings",) in {writer.sections for writer in AUTHORS}
    assert {writer.denials for writer in AUTHORS} == {"together", "by organ", "one by one"}
    assert any(writer.capitals for writer in AUTHORS)
    assert any(writer.wrapped for writer in AUTHORS)

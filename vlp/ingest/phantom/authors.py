"""The radiologists of the phantom: each has a dialect, and each site prefers some of them."""

import random
import zlib
from dataclasses import dataclass
from typing import Literal

Section = Literal["exam", "indication", "comparison", "technique", "findings", "impression"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """How one radiologist writes."""

    sections: tuple[Section, ...]
    headings: Literal["upper", "title", "lower", "none"] = "upper"
    lines: bool = True
    """Whether text starts on a new line after its heading."""
    organs: bool = False
    """Findings under labels such as "LUNGS:"."""
    devices_first: bool = False
    denials: Literal["together", "by organ", "one by one"] = "by organ"
    denying: float = 1.0
    """Scales how often absent findings are denied."""
    comparing: float = 0.8
    """Chance of comparing with the prior study where there is one."""
    signs: float = 0.3
    """Chance of describing a sign beside naming a finding."""
    abbreviating: float = 0.1
    numbered: bool = False
    capitals: bool = False
    wrapped: bool = False
    """Lines are broken at a fixed width."""


_ALL: tuple[Section, ...] = ("exam", "indication", "comparison", "technique", "findings", "impression")

AUTHORS: tuple[Author, ...] = (
    Author(sections=_ALL, numbered=True, devices_first=True),
    Author(sections=("indication", "comparison", "findings", "impression"), headings="title", lines=False, denying=1.2),
    Author(sections=_ALL, wrapped=True, denials="one by one", signs=0.5),
    Author(sections=("exam", "findings", "impression"), organs=True, denying=1.3, comparing=0.6),
    Author(sections=("findings",), headings="none", denials="together", comparing=0.5),
    Author(sections=("impression",), abbreviating=0.5, denying=0.8, signs=0.1),
    Author(sections=("findings", "impression"), headings="lower", lines=False, abbreviating=0.7, denials="together"),
    Author(sections=("exam", "comparison", "findings", "impression"), capitals=True, devices_first=True, comparing=0.9),
    Author(sections=("comparison", "indication", "findings", "impression"), headings="title", signs=0.6, numbered=True),
)

_PREFERENCES = (0.30, 0.20, 0.14, 0.10, 0.08, 0.06, 0.05, 0.04, 0.03)
"""Share of a site's reports by each author, from the site's favourite on."""


def author(site: str, generator: random.Random) -> Author:
    """Who writes a report of `site`."""
    favourite = zlib.crc32(site.encode()) % len(AUTHORS)
    rank = generator.choices(range(len(AUTHORS)), weights=_PREFERENCES)[0]
    return AUTHORS[(favourite + rank) % len(AUTHORS)]

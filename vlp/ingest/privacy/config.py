"""What a build does about whatever could identify a person."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vlp.config import Config
from vlp.ingest.privacy.dates import DateOrder

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,39}")
"""Names of environment variables that cannot be a key by mistake: no small letters, and shorter than a hash."""


class PrivacyConfig(Config):
    """The privacy policy of one build.  It names where the key is and never holds it."""

    pseudonyms: Literal["off", "keyed"] = "off"
    """`keyed`: ids of persons, studies and images become keyed hashes (HMAC-SHA256); `off`: the archive's own stay."""
    key_file: Path | None = None
    """File with the key; nobody but its owner (and group) may be able to read it."""
    key_env: str | None = None
    """Name of the environment variable that holds the key, instead of a file; capitals, digits and _."""
    namespace: str = ""
    """Archives with the same key and namespace give a person the same pseudonym; set another to keep them apart."""
    dates: Literal["keep", "shift", "drop"] = "drop"
    """What becomes of dates in texts: they stay, move by the person's own number of days, or are masked."""
    max_shift_days: Annotated[int, Field(ge=1, le=3650)] = 365
    """Persons' dates move by at most this many days, either way, never by none."""
    date_order: DateOrder = "month_first"
    """How 3/4/2019 is read."""
    phi_scan: Annotated[str, Field(pattern=r"^(off|rules|presidio(:.+)?|transformer:.+)$")] = "rules"
    """`off`, and texts stay as they are, dates included; `rules`; or a model on top of the rules: `presidio`,
    `presidio:<spaCy model>`, `transformer:<folder of a token classifier>`."""
    on_phi: Literal["mask", "refuse", "count"] = "mask"
    """What becomes of a study in whose text something identifying is found; dates have `dates` instead."""
    phi_budget: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Largest share of studies with hits; above it the archive is not what it was believed to be: the build stops."""
    burned_in: Literal["off", "refuse", "count"] = "off"
    """Whether images are looked at for lines of text, and whether a study with such an image is refused."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        # Faults between keys are explained without their values, which might be the key itself.
        if self.key_env is not None and not _VARIABLE.fullmatch(self.key_env):
            raise ValueError(
                "key_env is the name of an environment variable (capitals, digits, _), never the key itself"
            )
        places = (self.key_file is not None) + (self.key_env is not None)
        if self.pseudonyms == "keyed" and places != 1:
            raise ValueError("pseudonyms: keyed needs a key: give either key_file or key_env")
        if self.pseudonyms == "off" and places:
            raise ValueError("a key is given and nothing uses it; set pseudonyms: keyed or leave the key out")
        if self.pseudonyms == "off" and self.dates == "shift":
            raise ValueError("dates: shift moves dates by a keyed number of days; it needs pseudonyms: keyed")
        if self.dates == "shift" and self.phi_scan == "off":
            raise ValueError("dates: shift needs dates to be found; set phi_scan to rules")
        if "\0" in self.namespace:
            raise ValueError("namespace holds a null character")
        return self

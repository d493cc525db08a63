"""Neighbours as evidence: which share of the cases that look like an image have a finding.

A vote says what archived cases were labelled with, weighted by how much they look like the query.  It inherits the
archive's labels, its mix of patients and its mistakes, and is no probability of disease.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from vlp.errors import DataError
from vlp.metrics.retrieval import vote_shares
from vlp.reports.findings import canonical

Weight = Literal["similarity", "uniform"]
"""What a neighbour's voice counts: its cosine with the query (below 0: nothing), or one."""


class Voter(Protocol):
    """What a vote needs to know of a neighbour; a `Hit` is one."""

    @property
    def key(self) -> str:
        """Which study it is."""

    @property
    def score(self) -> float:
        """Cosine with the query."""

    @property
    def present(self) -> tuple[str, ...]:
        """Findings its labels say are there."""

    @property
    def absent(self) -> tuple[str, ...]:
        """Findings its labels say are not there; of all others they say nothing that can be counted."""


AnyVoter = TypeVar("AnyVoter", bound=Voter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """How the neighbours voted on one finding."""

    finding: str
    share: float | None
    """Weight of those who have it among those who say anything; None where none of them does."""
    present: tuple[str, ...]
    """Keys of the neighbours who have it, nearest first."""
    absent: tuple[str, ...]
    """Keys of the neighbours who do not."""

    @property
    def known(self) -> int:
        """How many neighbours say anything: a share of 1.0 from one case of fifty is little."""
        return len(self.present) + len(self.absent)

    def to_json(self) -> dict[str, Any]:
        """The ballot as plain values."""
        return {
            "finding": self.finding,
            "share": self.share,
            "known": self.known,
            "present": list(self.present),
            "absent": list(self.absent),
        }


def vote(
    hits: Iterable[Voter], findings: Sequence[str] | None = None, *, k: int = 50, weight: Weight = "similarity"
) -> dict[str, float | None]:
    """Finding -> weighted share of the nearest neighbours that have it; None where no neighbour says anything.

    A neighbour whose labels do not speak of a finding, or call it uncertain, takes no part in that finding's share.

    Args:
        hits: what a search gave, best first.
        findings: what is asked, in any known spelling; None: all that a neighbour has, sorted.
        k: how many neighbours have a voice.
        weight: what a voice counts.

    Raises:
        DataError: for k below 1, or a finding that neither the vocabulary nor a neighbour knows.
    """
    return {ballot.finding: ballot.share for ballot in ballots(hits, findings, k=k, weight=weight)}


def ballots(
    hits: Iterable[Voter], findings: Sequence[str] | None = None, *, k: int = 50, weight: Weight = "similarity"
) -> tuple[Ballot, ...]:
    """As `vote`, with who said what, in the order of the findings."""
    voters = nearest(hits, k)
    names = asked(voters, findings)
    votes = np.array([[_opinion(voter, name) for name in names] for voter in voters], dtype=np.float64)
    votes = votes.reshape(len(voters), len(names))
    shares = vote_shares(votes, weights(voters, weight))
    return tuple(
        Ballot(
            finding=name,
            share=None if np.isnan(share) else float(share),
            present=tuple(voter.key for voter in voters if name in voter.present),
            absent=tuple(voter.key for voter in voters if _opinion(voter, name) == 0.0),
        )
        for name, share in zip(names, shares, strict=True)
    )


def nearest(hits: Iterable[AnyVoter], k: int) -> list[AnyVoter]:
    """The first k hits.

    Raises:
        DataError: for k below 1.
    """
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    return list(islice(hits, k))


def weights(voters: Sequence[Voter], weight: Weight) -> np.ndarray:
    """What each voice counts, before negative ones are silenced."""
    if weight == "uniform":
        return np.ones(len(voters))
    return np.array([voter.score for voter in voters], dtype=np.float64)


def asked(voters: Sequence[Voter], findings: Sequence[str] | None) -> tuple[str, ...]:
    """The findings by their one name each, in the order asked; None: all that a voter has, sorted.

    Raises:
        DataError: for a finding that neither the vocabulary nor a voter knows.
    """
    if findings is None:
        return tuple(sorted({name for voter in voters for name in voter.present}))
    carried = {name for voter in voters for name in (*voter.present, *voter.absent)}
    names = [name if name in carried else canonical(name) for name in findings]
    unknown = [finding for finding, name in zip(findings, names, strict=True) if name is None]
    if unknown:
        raise DataError(f"no finding is called {unknown[0][:60]!r}; `vlp prompts list` shows those that are known")
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _opinion(voter: Voter, finding: str) -> float:
    if finding in voter.present:
        return 1.0
    return 0.0 if finding in voter.absent else float("nan")

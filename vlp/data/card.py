"""A data card for people: the figures of `stats` as a page of markdown or as one picture."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp.data.manifest import write_whole
from vlp.data.stats import UNKNOWN, DataCard, Duplicates, Lengths
from vlp.errors import DataError

_NOTE = "Research use, not a medical device."
_CERTAINTIES = ("present", "uncertain", "absent")
_COLOURS = {"present": "#c2410c", "uncertain": "#f0b27a", "absent": "#d7dde5"}
_SPLIT_COLOURS = {"train": "#1f5f8b", "val": "#6aa9d0", "test": "#f0a13a"}
_SEX_COLOURS = {"F": "#8e4a9e", "M": "#3f8f6b", UNKNOWN: "#c4c9cf"}
_ROWS = 15
_ENDINGS = (".png", ".md")


def save(card: DataCard, path: Path) -> None:
    """Writes the card whole or not at all, as a picture (.png) or as text (.md).

    Raises:
        DataError: for another ending, or where it cannot be written.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise DataError(f"{path}: a data card is a .png or a .md file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".md":
            write_whole(path, markdown(card).encode())
        else:
            _save_picture(card, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def markdown(card: DataCard) -> str:
    """The card as markdown tables."""
    return "\n\n".join(_chapters(card)) + "\n"


def _chapters(card: DataCard) -> Iterator[str]:
    kind = "Synthetic studies, drawn by a program." if card.synthetic else "Studies of persons, under pseudonyms."
    yield f"# Data card: {card.name}\n\n{kind} {_NOTE}"
    columns = ("studies", "persons", "images", "reports", "sentences", "without_sentences")
    rows = [(split, *(counts.get(name, 0) for name in columns)) for split, counts in card.splits.items()]
    yield _table("Splits", ("split", *(name.replace("_", " ") for name in columns)), rows)
    yield _table("Views (images)", ("view", *card.views), _across(card.views))
    yield _table("Sex (studies)", ("sex", *card.sexes), _across(card.sexes))
    yield _table("Age in years (studies)", ("age", *card.ages), _ages(card.ages))
    for split, findings in card.findings.items():
        rows = [(finding, *(counts.get(said, 0) for said in _CERTAINTIES)) for finding, counts in _by_present(findings)]
        yield _table(f"Labels in {split} (studies)", ("finding", *_CERTAINTIES), rows)
    said = [(finding, *(counts.get(name, 0) for name in _CERTAINTIES)) for finding, counts in card.said.items()]
    yield _table("Sentences by finding", ("finding", *_CERTAINTIES), said)
    yield _table("Places (sentences)", ("place", "sentences"), list(card.locations.items())[:_ROWS])
    regions = [
        (name, *(kinds.get(kind, 0) for kind in ("box", "mask", "point"))) for name, kinds in card.regions.items()
    ]
    yield _table("Regions", ("finding", "boxes", "masks", "points"), regions)
    pairs = [(" and ".join(pair.findings), pair.studies, f"{pair.lift:g}") for pair in card.pairs]
    yield _table("Present together (studies)", ("findings", "studies", "times what chance gives"), pairs)
    yield _table("Lengths", ("of", "texts", "median", "95 %", "largest"), _length_rows(card))
    yield _table("Duplicates", ("of", "distinct", "repeated", "in several splits", "commonest"), _duplicate_rows(card))
    for title, counts in _origins(card):
        yield _table(title, ("what", "count"), list(counts.items()))


def _origins(card: DataCard) -> Iterator[tuple[str, Mapping[str, int]]]:
    yield "Sources (studies)", card.sources
    yield "Licences (studies)", card.licenses
    yield "Languages (reports)", card.languages
    yield "Texts come from (studies)", card.texts
    yield "Labels come from (studies)", card.labels_origin
    yield "Sentences come from", card.sentences_origin
    yield "Refused when made (studies)", card.faults
    yield "Left out by a rule (studies)", card.left_out
    for name, counts in card.groups.items():
        yield f"Group: {name} (studies)", counts


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return f"## {title}\n\nNone."
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(cell: Any) -> str:
    text = f"{cell:,}" if isinstance(cell, int) else str(cell)
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _across(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[Any, ...]]:
    """Rows of what is counted, one column for each split."""
    total = _summed(counts)
    return [(name, *(split.get(name, 0) for split in counts.values())) for name, _ in total.most_common()]


def _ages(ages: Mapping[str, Mapping[str, int]]) -> list[tuple[Any, ...]]:
    names = sorted(_summed(ages), key=lambda name: (name == UNKNOWN, name.zfill(6)))
    return [(name, *(counts.get(name, 0) for counts in ages.values())) for name in names]


def _summed(counts: Mapping[str, Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in counts.values():
        total.update(one)
    return total


def _by_present(findings: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Mapping[str, int]]]:
    return sorted(findings.items(), key=lambda item: (-item[1].get("present", 0), item[0]))


def _length_rows(card: DataCard) -> list[tuple[Any, ...]]:
    kinds: list[tuple[str, Lengths | None]] = [
        ("sentences, in words", card.words),
        ("sentences, in tokens", card.tokens),
        ("reports, in words", card.report_words),
    ]
    return [(name, found.count, found.median, found.p95, found.largest) for name, found in kinds if found is not None]


def _duplicate_rows(card: DataCard) -> list[tuple[Any, ...]]:
    kinds: list[tuple[str, Duplicates | None]] = [
        ("reports, but for case, blanks and punctuation", card.same_reports),
        ("image files", card.same_images),
    ]
    return [
        (name, same.distinct, same.repeated, same.across_splits, same.most) for name, same in kinds if same is not None
    ]


def _save_picture(card: DataCard, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 13.5), dpi=100, layout="constrained")
    figure.patch.set_facecolor("white")
    axes = figure.subplots(3, 3)
    _draw_counts(axes[0, 0], card)
    _draw_views(axes[0, 1], card)
    _draw_ages(axes[0, 2], card)
    _draw_findings(axes[1, 0], card)
    _draw_said(axes[1, 1], card)
    _draw_bars(axes[1, 2], "Places (sentences)", list(card.locations.items())[:_ROWS])
    _draw_lengths(axes[2, 0], card)
    together = [
        (f"{one} + {two}  ({pair.lift:g} x chance)", pair.studies)
        for pair in card.pairs
        for one, two in [pair.findings]
    ]
    _draw_bars(axes[2, 1], "Present together (studies)", together[:_ROWS])
    _draw_facts(axes[2, 2], card)
    kind = "synthetic" if card.synthetic else "of persons"
    figure.suptitle(f"{card.name}  ·  {kind}  ·  {_NOTE}", x=0.01, ha="left", fontsize=15, fontweight="bold")
    temporary = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(temporary, format="png")
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _titled(axis: Any, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.tick_params(labelsize=9)


def _draw_counts(axis: Any, card: DataCard) -> None:
    axis.axis("off")
    axis.set_title("Splits", loc="left", fontsize=11, fontweight="bold")
    names = ("studies", "persons", "images", "reports", "sentences", "without_sentences")
    total = _summed(card.splits)
    rows = [[f"{counts.get(name, 0):,}" for counts in (*card.splits.values(), total)] for name in names]
    table = axis.table(
        cellText=rows,
        rowLabels=[name.replace("_", " ") for name in names],
        colLabels=[*card.splits, "all"],
        bbox=(0.26, 0.05, 0.74, 0.9),
    )
    table.auto_set_font_size(value=False)
    table.set_fontsize(9)
    for cell in table.get_celld().values():
        cell.set_edgecolor("#d7dde5")


def _draw_views(axis: Any, card: DataCard) -> None:
    names = [name for name, _ in _summed(card.views).most_common()]
    _stack(axis, "Views (images)", names, card.views, _SPLIT_COLOURS)


def _draw_ages(axis: Any, card: DataCard) -> None:
    _titled(axis, "Age in years, by sex (studies)")
    names = [name for name, *_ in _ages(card.ages)]
    bottom = [0] * len(names)
    for sex, counts in card.ages.items():
        heights = [counts.get(name, 0) for name in names]
        axis.bar(names, heights, bottom=bottom, label=sex, color=_SEX_COLOURS[sex], width=0.85)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axis.tick_params(axis="x", rotation=45)
    if names:
        axis.legend(frameon=False, fontsize=9)
    else:
        _say_none(axis)


def _draw_findings(axis: Any, card: DataCard) -> None:
    total: dict[str, Counter[str]] = {}
    for findings in card.findings.values():
        for finding, counts in findings.items():
            total.setdefault(finding, Counter()).update(counts)
    chosen = _by_present(total)[:_ROWS]
    _stack_said(axis, f"Labels, all splits (studies){_of_all(len(total))}", chosen)


def _draw_said(axis: Any, card: DataCard) -> None:
    chosen = list(card.said.items())[:_ROWS]
    _stack_said(axis, f"Sentences by finding{_of_all(len(card.said))}", chosen)


def _of_all(count: int) -> str:
    return f", {_ROWS} of {count}" if count > _ROWS else ""


def _stack_said(axis: Any, title: str, findings: Sequence[tuple[str, Mapping[str, int]]]) -> None:
    layers = {said: {name: counts.get(said, 0) for name, counts in findings} for said in _CERTAINTIES}
    _stack(axis, title, [name for name, _ in findings], layers, _COLOURS)


def _stack(
    axis: Any, title: str, names: Sequence[str], layers: Mapping[str, Mapping[str, int]], colours: Mapping[str, str]
) -> None:
    _titled(axis, title)
    left = [0] * len(names)
    for layer, counts in layers.items():
        widths = [counts.get(name, 0) for name in names]
        axis.barh(names, widths, left=left, label=layer, color=colours[layer], height=0.8)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    if names:
        axis.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=len(layers))
    else:
        _say_none(axis)


def _draw_bars(axis: Any, title: str, bars: Sequence[tuple[str, int]]) -> None:
    """Bars with their names on them, however long these are."""
    _titled(axis, title)
    axis.barh(range(len(bars)), [count for _, count in bars], color="#bcd3e6", height=0.85)
    for place, (name, count) in enumerate(bars):
        axis.text(0.01, place, _fitted(name), va="center", fontsize=9, transform=axis.get_yaxis_transform())
        axis.text(0.99, place, f"{count:,}", va="center", ha="right", fontsize=9, transform=axis.get_yaxis_transform())
    axis.set_yticks([])
    axis.invert_yaxis()
    if not bars:
        _say_none(axis)


def _draw_lengths(axis: Any, card: DataCard) -> None:
    shown = card.tokens or card.words
    _titled(axis, f"Sentence length in {'tokens' if card.tokens else 'words'}")
    if shown is None:
        _say_none(axis)
        return
    edge = max(shown.p95 * 2, 10)
    inside = {length: count for length, count in shown.histogram.items() if length <= edge}
    axis.bar(list(inside), list(inside.values()), width=0.9, color="#1f5f8b")
    axis.axvline(shown.median, color="#c2410c", linewidth=1.5)
    axis.axvline(shown.p95, color="#c2410c", linewidth=1.5, linestyle=":")
    axis.set_xlabel(f"median {shown.median}, 95 % up to {shown.p95}, largest {shown.largest}", fontsize=9)


def _draw_facts(axis: Any, card: DataCard) -> None:
    axis.axis("off")
    axis.set_title("Origin, and what is there twice", loc="left", fontsize=11, fontweight="bold")
    lines: list[str] = []
    for title, counts in list(_origins(card))[:8]:
        if counts:
            shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:3])
            more = f", and {len(counts) - 3} more" if len(counts) > 3 else ""
            lines.append(f"{title}: {shown}{more}")
    lines += [
        f"{name.split(',')[0]}: {distinct:,} distinct, {repeated:,} repeated, {across:,} in several splits"
        for name, distinct, repeated, across, _ in _duplicate_rows(card)
    ]
    wrapped = "\n".join(_wrapped(line) for line in lines)
    axis.text(0, 0.98, wrapped, va="top", fontsize=9, linespacing=1.5, transform=axis.transAxes)


def _wrapped(line: str) -> str:
    import textwrap

    return textwrap.fill(line.replace("$", r"\$"), width=56, subsequent_indent="    ")


def _fitted(name: str) -> str:
    plain = name.replace("$", r"\$")
    return plain if len(plain) <= 55 else plain[:54] + "…"


def _say_none(axis: Any) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.text(0.5, 0.5, "none", ha="center", color="#9aa0a8", transform=axis.transAxes)

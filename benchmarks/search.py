"""Searching vectors: every kind of searcher beside faiss called directly with the same index, in one run.

python -m benchmarks.search [--million] [--append]

For each size: the profile of the data, then for each kind seconds to build, bytes, and for recall@10 of 0.95 and 0.99
(chosen on held-out queries, measured on others against every float32 vector) queries per second in a batch of 1,000
and milliseconds of one query, ours and faiss's in turns within a round, so that a slow moment hits both.  Then the
automatic choice beside every kind, searches with filters, single queries beside what memory can give, and vectors
added and removed per second.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import faiss
import numpy as np

from benchmarks.line import Line, append
from benchmarks.search_data import Drawn, draw, profile
from vlp.log import configure, get_logger
from vlp.retrieval.kinds import (
    FlatConfig,
    HnswConfig,
    IvfFastScanConfig,
    IvfSq8Config,
    KindConfig,
    choose,
    create,
    recall_of,
    tune,
)
from vlp.retrieval.kinds.base import RowSearcher
from vlp.retrieval.kinds.hnsw import HnswSearcher
from vlp.retrieval.kinds.ivf import IvfSearcher
from vlp.retrieval.kinds.registry import over_rows

K = 10
RECALLS = (0.95, 0.99)
SHARES = (0.001, 0.01, 0.1, 0.5)
CONFIGS: dict[str, KindConfig] = {
    config.kind: config for config in (FlatConfig(), IvfFastScanConfig(), IvfSq8Config(), HnswConfig())
}
OF_FAISS_ASKED = 0.9
OF_BEST_ASKED = 0.85
FILTERED_RECALL_ASKED = 0.95
_ADDED_AT_ONCE = 1000
_ADDED = 10_000

logger = get_logger("vlp.benchmarks.search")


@dataclass(slots=True, kw_only=True)
class Setting:
    """What is searched, with what, and the lines so far."""

    drawn: Drawn
    truth: np.ndarray
    """Rows [q, k] of the true nearest, by float32 vectors."""
    case: str
    rounds: int
    singles: int
    """Queries that are asked one by one."""
    direct: Any
    """faiss's flat index of the float32 vectors."""
    lines: list[Line] = field(default_factory=list)

    def say(self, part: str, metric: str, value: float, **more: Any) -> Line:
        """Adds a line."""
        threads = faiss.omp_get_max_threads()
        line = Line(
            benchmark="search", case=f"{self.case}, {part}", metric=metric, value=value, threads=threads, **more
        )
        self.lines.append(line)
        spread = f" [{line.low:.4g} - {line.high:.4g}]" if line.low is not None else ""
        ratio = f", {line.ratio:.2f} of {line.baseline}" if line.ratio is not None else ""
        logger.info("%s: %s %.4g %s%s%s", line.case, metric, value, line.unit, spread, ratio)
        return line


def measure(
    count: int,
    *,
    dim: int = 512,
    kinds: Sequence[str] = tuple(CONFIGS),
    rounds: int = 5,
    queries: int = 1000,
    held_out: int = 2000,
) -> list[Line]:
    """All lines of one size."""
    drawn = draw(count, dim=dim, queries=queries, held_out=held_out)
    direct = faiss.IndexFlatIP(dim)
    direct.add(drawn.vectors)
    scores, truth = direct.search(drawn.queries, K)
    setting = Setting(
        drawn=drawn, truth=truth, case=f"{count:,} x {dim}", rounds=rounds, singles=min(100, queries), direct=direct
    )
    for name, value in profile(drawn, scores).items():
        setting.say("data", name, value)
    searchers = _built(setting, kinds)
    rates = _compared(setting, searchers)
    _automatic(setting, rates)
    _filtered(setting, searchers)
    if "flat" in searchers:
        _bandwidth(setting, searchers["flat"])
    # They share their rows: what one has added and removed again, the next has only as removed rows.
    for kind in ("ivf_fastscan", "flat"):
        if kind in searchers:
            _changed(setting, searchers[kind])
    return setting.lines


def _built(setting: Setting, kinds: Sequence[str]) -> dict[str, RowSearcher]:
    """A searcher of each kind; all of them over the same rows, so that memory holds these once."""
    first = create(FlatConfig(), setting.drawn.vectors.shape[1])
    started = perf_counter()
    first.add(np.arange(len(setting.drawn.vectors)), setting.drawn.vectors)
    setting.say("rows", "taken in", len(first) / (perf_counter() - started), unit="vectors/s")
    searchers = {}
    for kind in kinds:
        searcher = over_rows(CONFIGS[kind], first.rows)
        searcher.rebuild()
        searchers[kind] = searcher
        facts = searcher.facts
        setting.say(kind, "build", facts.build_s, unit="s")
        setting.say(kind, "memory", facts.bytes / 2**20, unit="MB")
        setting.say(kind, "memory beside the vectors", (facts.bytes - searcher.rows.bytes) / 2**20, unit="MB")
    return searchers


def _compared(setting: Setting, searchers: dict[str, RowSearcher]) -> dict[tuple[str, float], tuple[float, float]]:
    """Recall and queries per second by kind and wanted recall, ours beside faiss's."""
    found = {}
    for wanted in RECALLS:
        ways: dict[str, Callable[[np.ndarray], Any]] = {}
        for kind, searcher in searchers.items():
            started = perf_counter()
            if kind != "flat":
                tune(searcher, setting.drawn.held_out, wanted, k=K)
                setting.say(f"{kind} {wanted}", "tuning", perf_counter() - started, unit="s")
            ways[f"{kind}/ours"] = partial(_ours, searcher)
            ways[f"{kind}/faiss"] = _direct(searcher, setting)
        turns = _in_turns({name: partial(way, setting.drawn.queries) for name, way in ways.items()}, setting.rounds)
        ones = setting.drawn.queries[: setting.singles]
        single = _in_turns({name: partial(_one_by_one, way, ones) for name, way in ways.items()}, setting.rounds)
        for kind, searcher in searchers.items():
            recall = recall_of(_ours(searcher, setting.drawn.queries)[1], setting.truth)
            part = f"{kind} recall {wanted}"
            setting.say(part, "recall@10", recall)
            times = turns[f"{kind}/ours"], turns[f"{kind}/faiss"]
            rate = _rates(setting, part, "batch", times, len(setting.drawn.queries))
            _rates(setting, part, "one by one", (single[f"{kind}/ours"], single[f"{kind}/faiss"]), len(ones))
            found[kind, wanted] = recall, rate
    return found


def _ours(searcher: RowSearcher, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return searcher.search(queries, K)


def _one_by_one(way: Callable[[np.ndarray], Any], queries: np.ndarray) -> None:
    for number in range(len(queries)):
        way(queries[number : number + 1])


def _direct(searcher: RowSearcher, setting: Setting) -> Callable[[np.ndarray], Any]:
    """The way of faiss, called with the same index and parameters, and nothing around it."""
    if isinstance(searcher, IvfSearcher):
        lists = faiss.SearchParametersIVF(nprobe=searcher.config.probes)
        parameters = faiss.IndexRefineSearchParameters(k_factor=searcher.config.rerank, base_index_params=lists)
        return partial(searcher.chained().search, k=K, params=parameters)
    if isinstance(searcher, HnswSearcher):
        return partial(searcher.graph.search, k=K, params=faiss.SearchParametersHNSW(efSearch=searcher.config.effort))
    return partial(setting.direct.search, k=K)


def _in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round."""
    for way in ways.values():
        way()  # what is made once is not counted
    turns: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = perf_counter()
            way()
            turns[name].append(perf_counter() - started)
    return turns


def _rates(setting: Setting, part: str, what: str, turns: tuple[list[float], list[float]], queries: int) -> float:
    """Lines of ours and faiss's; the ratio is the median of the ratios within a round."""
    ours, direct = turns
    ratio = statistics.median(theirs / mine for mine, theirs in zip(ours, direct, strict=True))
    for name, times, of in (("faiss", direct, 1.0), ("ours", ours, ratio)):
        rates = [queries / seconds for seconds in times]
        value, low, high = statistics.median(rates), min(rates), max(rates)
        line = partial(setting.say, part, baseline="faiss, same index", ratio=of)
        if what == "batch":
            line(f"{name}, {what}", value, low=low, high=high, unit="queries/s")
        else:
            line(f"{name}, {what}", 1e3 / value, low=1e3 / high, high=1e3 / low, unit="ms")
    return statistics.median(queries / seconds for seconds in ours)


def _automatic(setting: Setting, rates: dict[tuple[str, float], tuple[float, float]]) -> None:
    """The choice's rate over the best rate of a kind that finds as much: the recall asked, or all if it finds all."""
    count, dim = setting.drawn.vectors.shape
    for wanted in RECALLS:
        chosen = choose(count, dim, recall=wanted).kind
        if (chosen, wanted) not in rates:
            continue
        rate = rates[chosen, wanted][1]
        least = 1.0 if chosen == "flat" else wanted
        rivals = {kind: rate for (kind, of), (recall, rate) in rates.items() if of == wanted and recall >= least}
        rivals[chosen] = rate
        best = max(rivals, key=rivals.__getitem__)
        setting.say(
            f"automatic {wanted}", f"{chosen}, batch", rate, unit="queries/s",
            baseline=f"best kind at its recall, {best}", ratio=rate / rivals[best],
        )  # fmt: skip


def _filtered(setting: Setting, searchers: dict[str, RowSearcher]) -> None:
    """Recall, speed and ids that should have been left out, by share of allowed vectors."""
    vectors, queries = setting.drawn.vectors, setting.drawn.queries
    for share in SHARES:
        allowed = np.random.default_rng(1).permutation(len(vectors)) < round(share * len(vectors))
        picked = np.flatnonzero(allowed)
        truth = picked[faiss.knn(queries, vectors[picked], min(K, len(picked)), metric=faiss.METRIC_INNER_PRODUCT)[1]]
        for kind, searcher in searchers.items():
            started = perf_counter()
            _, ids = searcher.search(queries, K, allowed=allowed)
            seconds = perf_counter() - started
            part = f"{kind}, {100 * share:g} % allowed"
            setting.say(part, "filtered recall@10", recall_of(ids, truth))
            setting.say(part, "filtered batch", len(queries) / seconds, unit="queries/s")
            setting.say(part, "excluded ids returned", int((~allowed[ids]).sum()))


def _bandwidth(setting: Setting, flat: RowSearcher) -> None:
    """Bytes of vectors per second that single queries read, beside reading memory and doing little else."""
    one = setting.drawn.queries[:1]
    vectors = setting.drawn.vectors
    turns = _in_turns(
        {
            "memory": partial(_read, vectors),
            "faiss": partial(setting.direct.search, one, K),
            "ours": partial(_ours, flat, one),
        },
        max(7, setting.rounds),
    )
    read = {"memory": vectors.nbytes, "faiss": vectors.nbytes, "ours": flat.rows.vectors.nbytes}
    best = read["memory"] / min(turns["memory"]) / 1e9
    for name, seconds in turns.items():
        rates = [read[name] / one_turn / 1e9 for one_turn in seconds]
        setting.say(
            "flat, one query", f"{name} reads", statistics.median(rates), low=min(rates), high=max(rates), unit="GB/s",
            baseline="memory at its best", ratio=statistics.median(rates) / best,
        )  # fmt: skip


def _read(vectors: np.ndarray) -> None:
    """Reads every number once, a part on each thread."""
    threads = faiss.omp_get_max_threads()
    parts = np.array_split(vectors.reshape(-1), threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(np.maximum.reduce, parts))


def _changed(setting: Setting, searcher: RowSearcher) -> None:
    """Vectors added and removed per second, a thousand at a time, and that neither is forgotten."""
    count = len(setting.drawn.vectors)
    fresh = setting.drawn.vectors[np.random.default_rng(2).permutation(count)[: min(_ADDED, count)]][:, ::-1]
    ids = np.arange(count, count + len(fresh))
    pieces = [slice(start, start + _ADDED_AT_ONCE) for start in range(0, len(fresh), _ADDED_AT_ONCE)]
    for what in ("added", "removed"):
        started = perf_counter()
        for piece in pieces:
            if what == "added":
                searcher.add(ids[piece], fresh[piece])
            else:
                searcher.remove(ids[piece])
        setting.say(searcher.kind, what, len(fresh) / (perf_counter() - started), unit="vectors/s")
        itself = searcher.search(fresh[:100], 1)[1][:, 0] == ids[:100]
        setting.say(searcher.kind, f"{what} are found", float(itself.mean()))


def verdicts(lines: list[Line]) -> list[str]:
    """Whether what is asked for was reached, in words."""
    words = []
    for line in lines:
        if line.metric == "ours, batch" and line.ratio is not None:
            words.append(_told(line, line.ratio, OF_FAISS_ASKED, "of faiss with the same index"))
        elif line.metric == "recall@10":
            words.append(_told(line, line.value, float(line.case.rsplit(" ", 1)[1]), "recall@10"))
        elif ", automatic" in line.case and line.ratio is not None:
            words.append(_told(line, line.ratio, OF_BEST_ASKED, f"of the {line.baseline}"))
        elif line.metric == "filtered recall@10":
            words.append(_told(line, line.value, FILTERED_RECALL_ASKED, "recall@10"))
        elif line.metric == "excluded ids returned":
            words.append(_told(line, -line.value, 0.0, "excluded ids (negated)"))
    reads = {(line.case, line.metric): line for line in lines if line.metric.endswith(" reads")}
    for (case, metric), line in reads.items():
        if metric == "ours reads":
            words.append(_told(line, line.value, reads[case, "faiss reads"].value, "GB/s, more than faiss's"))
    return words


def _told(line: Line, value: float, asked: float, what: str) -> str:
    return f"{line.case}: {value:.3f} {what}, >= {asked:.3g}: {'met' if value >= asked else 'NOT MET'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="+", default=[100_000])
    parser.add_argument("--million", action="store_true", help="a million vectors too: 25 minutes, 10 GB")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kinds", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print for programs")
    parser.add_argument("--append", action="store_true", help="add the lines to benchmarks/results/")
    arguments = parser.parse_args()
    configure()
    faiss.omp_set_num_threads(arguments.threads)
    lines = []
    for count in arguments.count + [1_000_000] * arguments.million:
        found = measure(count, dim=arguments.dim, kinds=arguments.kinds, rounds=arguments.rounds)
        lines += found
        if arguments.append:
            append(found)
    if arguments.json:
        print(json.dumps([asdict(line) for line in lines], indent=2))
    else:
        print("\n".join(verdicts(lines)))


if __name__ == "__main__":
    main()

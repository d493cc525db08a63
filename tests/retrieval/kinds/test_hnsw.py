import faiss
import numpy as np

from vlp.retrieval.kinds import HnswConfig, build, recall_of, true_neighbours

COUNT = 4000


def test_faiss_returns_excluded_rows_and_we_do_not(drawn) -> None:
    """With `bounded_queue=False` faiss 1.15 returns rows its selector excludes; a person's own images must not be."""
    vectors, asked = drawn(COUNT), drawn(60, seed=4)
    searcher = build(HnswConfig(links=16), 32, [(np.arange(COUNT), vectors)])
    allowed = np.random.default_rng(0).random(COUNT) < 0.3
    selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    trap = faiss.SearchParametersHNSW(efSearch=64, sel=selector, bounded_queue=False)
    _, by_faiss = searcher.graph.search(asked, 10, params=trap)
    assert (~allowed[by_faiss[by_faiss >= 0]]).any(), "faiss has mended this: the note in hnsw.py can go"
    _, ids = searcher.search(asked, 10, allowed=allowed)
    assert allowed[ids].all()
    assert recall_of(ids, np.flatnonzero(allowed)[true_neighbours_of(vectors[allowed], asked)]) > 0.95


def true_neighbours_of(vectors: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return np.argsort(-(asked @ vectors.T), axis=1)[:, :10]


def test_the_graph_reads_our_rows_and_keeps_none(drawn) -> None:
    searcher = build(HnswConfig(links=8), 32, [(np.arange(500), drawn(500))])
    storage = faiss.downcast_index(searcher.graph.storage)
    assert not storage.codes.is_owned
    searcher.add(np.arange(500, 700), drawn(200, seed=1))
    assert storage.ntotal == 700
    np.testing.assert_array_equal(storage.reconstruct(650), searcher.rows.vectors[650].astype(np.float32))


def test_growing_piece_by_piece_finds_as_much(drawn) -> None:
    vectors, asked = drawn(1500), drawn(80, seed=2)
    searcher = build(HnswConfig(), 32, [(np.arange(100), vectors[:100])])
    for start in range(100, 1500, 350):
        piece = np.arange(start, min(start + 350, 1500))
        searcher.add(piece, vectors[piece])
    assert recall_of(searcher.search(asked, 10)[1], true_neighbours(searcher, asked, 10)) > 0.97

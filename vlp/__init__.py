"""vlp: chest X-rays and their reports in; zero-shot diagnosis with evidence, maps and case retrieval out.

Research use, not a medical device.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlp.inference.engine import Engine, load

__version__ = "0.1.0"
__all__ = ["Engine", "__version__", "load"]


def __getattr__(name: str) -> object:
    # Loaded on first use, so that `import vlp` and `vlp --help` need no torch.
    if name in ("Engine", "load"):
        from vlp.inference import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'vlp' has no attribute {name!r}")

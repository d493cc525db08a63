"""What learns on top of a trained encoder: masks and labels from few examples."""

from vlp.heads.head import Head, load_head

__all__ = ["Head", "load_head"]

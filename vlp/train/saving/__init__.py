"""Checkpoints that a run can be continued from: written behind its back, checked, kept or let go, found again."""

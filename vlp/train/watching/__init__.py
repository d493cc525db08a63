"""What a run shows of itself: files, curves, a watchdog, and what it will need."""

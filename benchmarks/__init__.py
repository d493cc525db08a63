"""Programs that measure; each appends JSON lines to `results/`, and the table in README.md is made from them."""

"""One file per set of annotations: what it adds to studies of another archive."""

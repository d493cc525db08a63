"""One file per archive: how its folders, tables and quirks become studies."""

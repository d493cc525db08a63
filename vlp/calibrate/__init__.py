"""From similarity to probability, and to "cannot assess": fitted on patients of their own."""

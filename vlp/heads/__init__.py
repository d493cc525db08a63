"""What learns on top of a trained encoder: masks and labels from few examples."""

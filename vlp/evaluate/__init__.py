"""From a checkpoint and shards to predictions, from predictions to estimates, and to a report people can read."""

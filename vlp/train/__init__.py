"""Training: one configuration in, one run folder out; interrupted runs continue."""

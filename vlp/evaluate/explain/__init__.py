"""Tests of explanations: whether evidence adds up, whether maps depend on the model, the image and the words."""

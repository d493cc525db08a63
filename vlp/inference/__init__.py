"""A checkpoint becomes answers: is it there, where, and why."""

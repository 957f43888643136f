"""Checkpoints, and the proof that they suffice."""

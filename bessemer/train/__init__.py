"""Losses, objectives and the one loop."""

"""Configuration, artifacts, recipes, progress and devices. Knows nothing of language."""

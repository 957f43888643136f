"""Text to batches: token files, packed chat rows, preference pairs. A source is a pure function of the step."""

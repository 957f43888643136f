"""File formats of tokenizers, read field by field."""

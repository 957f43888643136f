"""Rows to learn a language from: some tokens hidden, the next text to tell from another, spans left out, a prefix seen both ways."""

"""Bessemer builds language models end to end: from web pages to a model that answers."""

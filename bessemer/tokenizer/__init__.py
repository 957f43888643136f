"""Text to ids and back, and chat messages to text. No torch."""

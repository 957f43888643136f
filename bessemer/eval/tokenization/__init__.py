"""What a tokenizer makes of text: how much it needs, where it is unfair, what it does to numbers and typing errors, how fast it is."""

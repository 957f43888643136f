"""Ids to hidden states to logits. Knows no tokenizer, no loss, no GPU count."""

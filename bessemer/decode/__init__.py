"""Model to text: sampling, batched generation with a cache, the terminal chat."""

"""RWKV, trained like attention and decoded like a recurrent network: version 7, its recurrence, and version 4."""

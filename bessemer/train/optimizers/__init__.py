"""Who moves the weights, how far, and their average."""

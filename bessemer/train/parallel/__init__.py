"""One training step over many processes: the model, its rows and its optimizer's state shared out, from outside the model."""

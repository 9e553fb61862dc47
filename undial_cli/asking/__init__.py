"""`undial ask` and `undial serve`: target, retain model and unlearned model answer questions."""

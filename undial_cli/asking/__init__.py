"""`undial ask`: target, retain model and unlearned model answer one question side by side."""

"""Many runs from one command: composed first, then carried out side by side, one table of all."""

"""Attacks that try to get forgotten data back, and what their results say."""

"""Evaluation: pure metrics, two engines (scoring and generation), and the suite that joins them."""

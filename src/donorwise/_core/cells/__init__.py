"""Cells x features to exact sufficient statistics per design pattern, in one pass."""

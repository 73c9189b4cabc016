"""Gaussian linear mixed models."""

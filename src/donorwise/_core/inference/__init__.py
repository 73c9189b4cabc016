"""Tests of fixed effects and of models."""

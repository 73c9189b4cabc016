"""Generalised linear mixed models of counts and of yes/no data."""

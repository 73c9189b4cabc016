"""Analyses: tasks in, tables out."""

"""Models: what the statistics of the cells say about variances and effects."""

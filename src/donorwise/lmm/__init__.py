"""Linear mixed models: cross-products, optimisers, fitted models."""

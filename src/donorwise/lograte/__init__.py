"""Log-rate models of counts: units' sums, sampling variances, likelihood on a grid."""

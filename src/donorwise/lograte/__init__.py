"""Log rates of counts: sums of the cells of a unit, their sampling variances, likelihoods on a grid."""

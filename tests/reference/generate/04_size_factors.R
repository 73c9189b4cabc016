# Normalisation factors of edgeR (TMM, RLE) for counts of some units, with and without zeros.
# Rscript 04_size_factors.R, in this folder; writes ../size_factors.
suppressPackageStartupMessages({ library(edgeR); library(jsonlite) })
set.seed(25)
dir <- "../size_factors"
dir.create(dir, showWarnings = FALSE)

n_genes <- 400
share <- exp(rnorm(n_genes, 0, 1.6)); share <- share / sum(share)
response <- ifelse(runif(n_genes) < .1, exp(rnorm(n_genes, 2, .5)), 1)

# six units, one arm of which responds, at a mean depth; totals differ by up to eightfold
draw <- function(depth) {
  x <- sapply(1:6, function(k) {
    p <- share * exp(rnorm(n_genes, 0, .3)) * (if (k > 3) response else 1)
    rpois(n_genes, depth * c(1, .5, 2, 1.5, .25, 1)[k] * p / sum(p))
  })
  colnames(x) <- paste0("unit", 1:6); x
}
cases <- list(deep = draw(2e6), shallow = draw(6e3))
cases$ties <- matrix(rep(c(3, 7), each = 1200), 400, 6) + draw(2e3)      # equal ratios are many
cases$scarce <- draw(200)                                                 # upper quartiles are zero

# RLE: genes with counts in all units, an odd number of them: of an even number edgeR takes the mean of the two ratios in
# the middle, and DESeq2 their geometric mean
odd <- function(x) { x <- x[rowSums(x == 0) == 0, , drop = FALSE]; x[seq_len(nrow(x) - (nrow(x) %% 2 == 0)), , drop = FALSE] }
expected <- lapply(cases, function(x) list(
  tmm = calcNormFactors(x, method = "TMM"),
  rle_odd = if (nrow(odd(x)) >= 100) calcNormFactors(odd(x), method = "RLE") else NULL,
  lib_size = colSums(x)
))
for (name in names(cases)) write.csv(cases[[name]], file.path(dir, paste0(name, ".csv")), row.names = FALSE, quote = FALSE)
writeLines(toJSON(list(expected = expected, edgeR = as.character(packageVersion("edgeR"))), digits = NA, auto_unbox = TRUE,
                  null = "null", pretty = TRUE), file.path(dir, "expected.json"))

# Tests against a minimum effect by limma's treat (McCarthy and Smyth 2009), gene by gene: with one gene limma has no prior to
# lean on, so that these are ordinary t tests. One value per donor, 7 against 6 donors, with their age.
# Rscript 11_treat.R, in this folder (limma 3.54); writes ../gene_level/treat.json.
suppressPackageStartupMessages({library(limma); library(jsonlite)})
set.seed(11)
arm <- rep(c(0, 1), c(7, 6))
age <- round(runif(13, 20, 80))
G <- 12
effect <- c(0, 0, 0.3, -0.3, 0.6, -0.6, 1, -1, 2, -2, 4, -8)
y <- t(sapply(effect, function(b) round(b * arm + 0.02 * age + rnorm(13, sd = 0.5), 4)))
X <- model.matrix(~ arm + age)
one <- function(g, delta) {
  fit <- lmFit(y[g, , drop = FALSE], X)
  own <- treat(fit, lfc = delta)
  se <- own$stdev.unscaled[1, "arm"] * sqrt(own$s2.post)
  c(own$coefficients[1, "arm"], se, own$df.total, own$t[1, "arm"], own$p.value[1, "arm"])
}
table_of <- function(delta) {
  made <- sapply(seq_len(G), one, delta = delta)
  rownames(made) <- c("estimate", "se", "df", "statistic", "p_value")
  split(made, factor(rownames(made)[row(made)], rownames(made)))
}
deltas <- c("0.1", "0.5", "2")
out <- list(arm = arm, age = age, y = y, tests = sapply(deltas, function(d) table_of(as.numeric(d)), simplify = FALSE))
writeLines(toJSON(out, digits = NA), "../gene_level/treat.json")

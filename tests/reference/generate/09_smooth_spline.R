# Smoothing splines of pi0(lambda) with R's smooth.spline, df = 3, for the value at .95 that qvalue 2.x takes; its search for df
# ends early (to 1e-4 of a penalty on a logarithmic scale), so that the tolerance is tightened as well.
# Rscript 09_smooth_spline.R, in this folder; writes ../gene_level/pi0.json.
lambda <- seq(0.05, 0.95, 0.05)
set.seed(7)
sets <- list(
  null = runif(5000),
  some = c(runif(3500), rbeta(1500, 0.3, 8)),
  many = c(runif(600), rbeta(1400, 0.2, 20)),
  upward = rbeta(2000, 1.5, 0.8),
  few = round(c(runif(120), rbeta(60, 0.3, 5)), 4)
)
one <- function(p) {
  shares <- sapply(lambda, function(l) mean(p >= l) / (1 - l))
  at <- function(...) predict(smooth.spline(lambda, shares, df = 3, ...), x = 0.95)$y
  tight <- list(tol = 1e-13, eps = 1e-13, maxit = 5000)
  list(shares = shares, as_it_is = at(), tight = at(control.spar = tight))
}
numbers <- function(x) paste0("[", paste(sprintf("%.17g", x), collapse = ", "), "]")
rows <- sapply(names(sets), function(name) {
  o <- one(sets[[name]])
  sprintf(' "%s": {"shares": %s,\n  "as_it_is": %.17g, "tight": %.17g}', name, numbers(o$shares), o$as_it_is, o$tight)
})
writeLines(c("{", paste(rows, collapse = ",\n"), "}"), "../gene_level/pi0.json")

# Adaptive shrinkage (Stephens 2017) by numerical integration of t times normal, and shares by mixsqp 0.3 (Kim et al. 2020), on the
# grid and with the penalty of ashr's defaults (which is not needed): mixcompdist = "normal", prior = "nullbiased".
# Rscript 12_shrinkage.R, in this folder; writes ../gene_level/shrinkage.json.
suppressPackageStartupMessages({library(mixsqp); library(jsonlite)})
one <- function(seed, G, pi0, size, df) {
  set.seed(seed)
  theta <- ifelse(runif(G) < pi0, 0, rnorm(G, sd = size))
  se <- round(0.3 * exp(0.4 * rnorm(G)), 4)
  b <- round(theta + se * rt(G, df), 4)
  least <- min(se) / 10
  most <- if (all(b^2 <= se^2)) 8 * least else 2 * sqrt(max(b^2 - se^2))
  sd <- c(0, sqrt(2)^((-ceiling(log2(most / least) / log2(sqrt(2)))):0) * most)
  density <- function(x, g) if (is.finite(df[g])) dt(x / se[g], df[g]) / se[g] else dnorm(x, sd = se[g])
  # integral over theta of h(theta) t(b - theta) N(theta; 0, s), in pieces about what is sharp
  over <- function(g, s, h, from = -Inf, to = Inf) {
    at <- sort(unique(c(-10 * s, -s, 0, s, 10 * s, b[g] + c(-30, -6, -1, 0, 1, 6, 30) * se[g], -300 * s, 300 * s)))
    at <- c(max(from, min(at)), at[at > from & at < to], min(to, max(at)))
    f <- function(x) h(x) * density(b[g] - x, g) * dnorm(x, sd = s)
    sum(sapply(seq_len(length(at) - 1), function(i)
      if (at[i + 1] > at[i]) integrate(f, at[i], at[i + 1], rel.tol = 1e-11, abs.tol = 0, subdivisions = 2000L, stop.on.error = FALSE)$value else 0))
  }
  table <- function(h, null, ...) t(sapply(seq_len(G), function(g)
    c(null * density(b[g], g), sapply(sd[-1], function(s) over(g, s, h, ...)))))
  L <- table(function(x) 1, 1)
  A <- rbind(c(1, rep(0, length(sd) - 1)), L)
  w <- c(9, rep(1, G))
  fit <- mixsqp(A, w / sum(w), control = list(verbose = FALSE, convtol.sqp = 1e-12, tol.svd = 0, maxiter.sqp = 5000, eps = 1e-14))
  share <- fit$x / sum(fit$x)
  total <- drop(L %*% share)
  positive <- drop(table(function(x) 1, 0, from = 0) %*% share) / total
  zero <- L[, 1] * share[1] / total
  list(estimate = b, se = se, df = df, sd = sd, share = share, objective = sum(w * log(drop(A %*% share))),
       mean = drop(table(function(x) x, 0) %*% share) / total, lfsr = zero + pmin(positive, 1 - zero - positive))
}
G <- 60
out <- list(
  t = one(1, G, 0.6, 1, rep(c(3, 7.5, 20, 120), length.out = G)), normal = one(2, G, 0.4, 0.6, rep(Inf, G)),
  null = one(3, G, 1, 1, rep(6, G))
)
out <- lapply(out, function(o) { o$df[is.infinite(o$df)] <- -1; o })  # -1 is infinite
writeLines(toJSON(out, digits = NA, auto_unbox = TRUE), "../gene_level/shrinkage.json")

# Generalised models with several random terms, slopes and restricted likelihood, by glmmTMB.
# Run in this folder: Rscript 06_glmm_terms.R
suppressPackageStartupMessages({ library(glmmTMB); library(jsonlite) })
set.seed(1313)
dir <- "../glmm_terms"
d <- expand.grid(cell = 1:6, time = c(0, 1, 2), sample = 1:2, donor = sprintf("D%02d", 1:10), stringsAsFactors = FALSE)
d$sample <- paste0("s", d$sample); d$batch <- paste0("b", (seq_len(nrow(d)) * 7) %% 5)
d$arm <- ifelse(as.integer(substr(d$donor, 2, 3)) %% 2 == 0, "case", "ctrl"); d$cell <- NULL
d$depth <- round(exp(rnorm(nrow(d), log(2000), 0.4))); d$m <- sample(1:6, nrow(d), TRUE)
re <- function(f, sd) { f <- factor(f); rnorm(nlevels(f), 0, sd)[as.integer(f)] }
slope <- re(d$donor, 0.35)
eta <- 0.4 * (d$arm == "case") + 0.2 * d$time + re(d$donor, 0.5) + re(paste(d$donor, d$sample), 0.35) + re(d$batch, 0.3) + slope * d$time
d$pois <- rpois(nrow(d), d$depth * exp(eta - 6.8)); d$nb <- rnbinom(nrow(d), mu = d$depth * exp(eta - 6.5), size = 1.7)
d$yes <- rbinom(nrow(d), d$m, plogis(eta - 0.6)); d$seen <- as.integer(d$nb > 0)
d$arm <- factor(d$arm, levels = c("ctrl", "case"))
ctrl <- glmmTMBControl(optCtrl = list(rel.tol = 1e-14, x.tol = 1e-12, iter.max = 5000, eval.max = 9000))
fit <- function(response, terms, family, reml) {
  lhs <- if (response == "yes") "cbind(yes, m - yes)" else response
  f <- as.formula(paste(lhs, "~ arm + time +", terms))
  off <- if (response == "yes") rep(0, nrow(d)) else log(d$depth)
  m <- glmmTMB(f, data = cbind(d, off = off), offset = off, family = family, REML = reml, control = ctrl)
  # glmmTMB's optimiser stops early: Newton steps on its own objective
  obj <- m$obj; par <- m$fit$par
  for (k in 1:4) par <- par - solve(optimHess(par, obj$fn, obj$gr, control = list(ndeps = rep(1e-4, length(par)))), drop(obj$gr(par)))
  value <- obj$fn(par); last <- obj$env$last.par; s <- TMB::sdreport(obj, par.fixed = par, getJointPrecision = reml)
  V <- if (reml) solve(as.matrix(s$jointPrecision)) else s$cov.fixed
  is_beta <- rownames(V) == "beta"; theta <- unname(last[names(last) == "theta"])
  sd <- exp(theta); corr <- NULL
  if (grepl("^\\(time", terms)) { corr <- theta[3] / sqrt(1 + theta[3]^2); sd <- sd[1:2] }
  list(response = response, terms = terms, reml = reml, coef = unname(last[names(last) == "beta"]), se = unname(sqrt(diag(V)[is_beta])), sd = I(sd), corr = corr,
    groups = I(names(VarCorr(m)$cond)), size = if (response == "nb") unname(exp(last[grepl("^betad", names(last))])) else NULL, logLik = -as.numeric(value), gradient = max(abs(obj$gr(par))))
}
cases <- list()
for (reml in c(FALSE, TRUE)) {
  cases <- c(cases, list(
    fit("pois", "(1 | donor/sample)", poisson(), reml), fit("pois", "(time | donor)", poisson(), reml),
    fit("nb", "(1 | donor) + (1 | batch)", nbinom2(), reml), fit("nb", "(1 | donor)", nbinom2(), reml),
    fit("nb", "(1 | donor/sample) + (1 | batch)", nbinom2(), reml),
    fit("yes", "(1 | donor) + (0 + time | donor)", binomial(), reml), fit("yes", "(1 | donor)", binomial(), reml),
    fit("seen", "(1 | donor)", binomial(link = "cloglog"), reml), fit("seen", "(1 | donor) + (1 | batch)", binomial(link = "cloglog"), reml)))
}
write.csv(d, file.path(dir, "data.csv"), row.names = FALSE, quote = FALSE)
write_json(list(source = paste("glmmTMB", packageVersion("glmmTMB"), "R", getRversion()), cases = cases), file.path(dir, "expected.json"), digits = I(15), auto_unbox = TRUE, null = "null")
for (x in cases) cat(x$response, x$terms, x$reml, "gradient", format(x$gradient, digits = 2), "\n")

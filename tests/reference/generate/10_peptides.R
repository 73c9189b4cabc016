# a16: proteins measured by several peptides; every protein is a design of its own (its peptides, its missing values),
# with a weight for every measurement (simulated). Run from this folder:  Rscript 10_peptides.R
source("common.R")
root <- Sys.getenv("REF_ROOT", ".."); name <- Sys.getenv("REF_NAME", "a16_peptides"); seed <- as.integer(Sys.getenv("REF_SEED", "1616"))
runs_per_donor <- as.integer(Sys.getenv("REF_RUNS", "1"))
rhs <- if (runs_per_donor == 1) "~ condition + (1 | peptide) + (1 | donor)" else "~ condition + (1 | peptide) + (1 | donor) + (1 | run)"
set.seed(seed)
n_d <- if (runs_per_donor == 1) 12 else 8
runs <- rbindlist(lapply(seq_len(n_d), function(d) data.table(donor = sprintf("D%02d", d), condition = if (d <= n_d / 2) "ctrl" else "case", rep = seq_len(runs_per_donor))))
runs[, run := sprintf("R%02d", .I)]
n_pep <- c(2, 3, 3, 4, 5, 6, 8, 9, 4, 12)
pep <- rbindlist(lapply(seq_along(n_pep), function(k) data.table(protein = sprintf("P%02d", k), peptide = sprintf("P%02d_pep%d", k, seq_len(n_pep[k])))))
Y <- matrix(NA_real_, nrow(runs), nrow(pep)); W <- matrix(NA_real_, nrow(runs), nrow(pep))
for (k in seq_along(n_pep)) {
  sd_d <- c(.4, .2, 0, .3, .5)[k %% 5 + 1]; sd_r <- if (runs_per_donor == 1) 0 else c(.2, 0, .3)[k %% 3 + 1]
  u <- setNames(rnorm(n_d, 0, sd_d), unique(runs$donor)); v <- rnorm(nrow(runs), 0, sd_r); eff <- sample(c(0, .8, -.5), 1)
  for (j in which(pep$protein == sprintf("P%02d", k))) {
    w <- exp(rnorm(nrow(runs), 0, .5)); base <- rnorm(1, 22, 2)
    y <- base + u[runs$donor] + v + eff * (runs$condition == "case") + rnorm(nrow(runs), 0, .35) / sqrt(w)
    miss <- runif(nrow(runs)) < plogis(-(base - 21) * .6 - .6)
    Y[!miss, j] <- round(y[!miss], 4); W[!miss, j] <- round(w[!miss], 4)
  }
}
dir <- file.path(root, name); dir.create(dir, showWarnings = FALSE, recursive = TRUE)
cols <- pep$peptide; Yd <- as.data.table(Y); Wd <- as.data.table(W); setnames(Yd, cols); setnames(Wd, cols)
fwrite(runs[, .(run, donor, condition)], file.path(dir, "obs.csv")); fwrite(pep, file.path(dir, "peptides.csv"))
fwrite(Yd, file.path(dir, "Y.csv"), na = ""); fwrite(Wd, file.path(dir, "W.csv"), na = "")
resp <- list()
for (p in unique(pep$protein)) {
  own <- pep[protein == p]$peptide
  long <- rbindlist(lapply(own, function(q) data.table(run = runs$run, donor = runs$donor, condition = runs$condition, peptide = q, .y = Yd[[q]], w = Wd[[q]])))
  long <- long[!is.na(.y)]
  long[, `:=`(condition = factor(condition, levels = c("ctrl", "case")), donor = factor(donor), run = factor(run), peptide = factor(peptide))]
  assign(".refdat", long, globalenv())
  f <- as.formula(paste(".y", rhs), env = globalenv())
  r <- tryCatch(report_lmm(f, ".y", list(), "w", "direct", TRUE, FALSE, FALSE, TRUE, check_api = FALSE, ml = FALSE), error = function(e) list(status = paste("error:", conditionMessage(e))))
  r$n_peptides <- length(own); r$n_obs <- nrow(long); resp[[p]] <- r
  cat(p, r$status, if (r$status == "ok") sprintf("%d obs, singular %s, case %.4f df %.2f", nrow(long), r$singular, r$coef$conditioncase, r$kenward_roger$conditioncase$df), "\n")
}
w <- worst(resp)
write_json_file(list(name = name, why = "Every protein is a design of its own: its peptides (random intercepts), the donors, missing measurements, and a weight for every measurement",
  formula = rhs, family = "gaussian", reml = TRUE, categories = list(condition = c("ctrl", "case")), features = "protein", weights = "W.csv (runs x peptides; residual variance is sigma2 / w)",
  source = paste("simulated, seed", seed), kenward_roger = "direct formulae (generate/common.R): pbkrtest ignores weights", responses = I(names(resp)),
  singular_responses = I(as.character(names(resp)[vapply(resp, function(r) isTRUE(r$singular), TRUE)])), tolerance = tolerance_from(w), agreement = w), file.path(dir, "spec.json"))
write_json_file(list(name = name, responses = lapply(resp, function(r) { r$agreement <- NULL; r })), file.path(dir, "expected.json"))

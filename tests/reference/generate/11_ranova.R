# Likelihood ratio tests of random terms by lmerTest's ranova, of the data of other cases.
# Run in this folder: Rscript 11_ranova.R
suppressPackageStartupMessages({ library(lmerTest); library(jsonlite) })
ctrl <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhobeg = 0.02, rhoend = 1e-9, maxfun = 1e5),
                    check.conv.singular = "ignore", check.conv.grad = "ignore", check.conv.hess = "ignore")
rows <- list()
for (case in c("a01_sleepstudy_ri", "a02_sleepstudy_rs", "a03_sleepstudy_uncorr", "a04_penicillin_crossed", "a05_pastes_nested",
               "a06_single_cell", "a07_paired_donor_sample", "a08_longitudinal", "a09_stepped_wedge_nested")) {
  dir <- file.path("..", case); spec <- fromJSON(file.path(dir, "spec.json"))
  obs <- read.csv(file.path(dir, "obs.csv")); Y <- read.csv(file.path(dir, "Y.csv"))
  for (k in names(spec$categories)) obs[[k]] <- factor(as.character(obs[[k]]), levels = spec$categories[[k]])
  for (response in head(names(Y), 5)) {
    if (sd(Y[[response]]) < 1e-9) next
    d <- cbind(obs, y = Y[[response]])
    model <- lmer(as.formula(paste("y", spec$formula)), data = d, REML = TRUE, control = ctrl)
    for (reduce in c(TRUE, FALSE)) {
      found <- as.data.frame(ranova(model, reduce.terms = reduce))[-1, ]
      for (term in rownames(found)) rows[[length(rows) + 1]] <- data.frame(case = case, response = response, reduce = reduce,
        term = term, statistic = found[term, "LRT"], df = found[term, "Df"], p_chi2 = found[term, "Pr(>Chisq)"])
    }
  }
}
dir.create("../ranova", showWarnings = FALSE)
write.csv(unique(do.call(rbind, rows)), "../ranova/ranova.csv", row.names = FALSE)

# Restricted log-likelihoods of Poisson models by glmmTMB, of the data of glmm_terms.
library(glmmTMB)
d <- read.csv("../glmm_terms/data.csv"); d$arm <- factor(d$arm, levels = c("ctrl", "case")); d$off <- log(d$depth)
tight <- glmmTMBControl(optCtrl = list(rel.tol = 1e-14, x.tol = 1e-12, iter.max = 5000, eval.max = 9000))
terms <- c("(1 | donor/sample)", "(1 | donor)", "(1 | donor:sample)", "(time | donor)")
loglik <- sapply(terms, function(own) as.numeric(logLik(glmmTMB(as.formula(paste("pois ~ arm + time +", own)), data = d,
  offset = off, family = poisson(), REML = TRUE, control = tight))))
write.csv(data.frame(terms = terms, logLik = loglik), "../ranova/poisson.csv", row.names = FALSE)

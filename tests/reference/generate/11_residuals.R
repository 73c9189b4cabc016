# Fitted values and residuals of cells: lme4 (fitted, residuals, predict with re.form), glmmTMB (fitted, Pearson residuals) on the
# data of a02, a04, a11 and a12; and limma's removeBatchEffect, where the levels of the batch have the same numbers of rows and
# where they do not.
# Run in this folder: Rscript 11_residuals.R
suppressPackageStartupMessages({ library(lme4); library(glmmTMB); library(limma); library(jsonlite) })
dir <- "../residuals"; dir.create(dir, showWarnings = FALSE)
case <- function(name) {
  d <- read.csv(file.path("..", name, "obs.csv"), stringsAsFactors = FALSE)
  spec <- fromJSON(file.path("..", name, "spec.json"))
  for (v in names(spec$categories)) d[[v]] <- factor(d[[v]], levels = spec$categories[[v]])
  cbind(d, read.csv(file.path("..", name, "Y.csv")))
}
out <- function(name, table) write.csv(signif(table, 15), file.path(dir, paste0(name, ".csv")), row.names = FALSE)
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5), calc.derivs = FALSE)

d <- case("a02_sleepstudy_rs"); m <- lmer(Reaction ~ Days + (Days | Subject), d, control = tight)
out("sleepstudy", data.frame(fitted = fitted(m), residual = residuals(m), fixed = predict(m, re.form = NA)))

d <- case("a04_penicillin_crossed"); m <- lmer(diameter ~ 1 + (1 | plate) + (1 | sample), d, control = tight)
out("penicillin", data.frame(fitted = fitted(m), residual = residuals(m), plate = predict(m, re.form = ~ (1 | plate)),
  sample = predict(m, re.form = ~ (1 | sample))))

of_counts <- list()
glmm <- function(name, data, formula, family, offset, weights = NULL) {
  data$off <- offset
  m <- glmmTMB(formula, data = data, family = family, offset = off, REML = TRUE)
  group <- names(ranef(m)$cond)
  of_counts[[name]] <<- list(coef = unname(fixef(m)$cond), names = names(fixef(m)$cond), size = if (family$family == "nbinom2") sigma(m) else NULL,
    levels = rownames(ranef(m)$cond[[1]]), ranef = unname(ranef(m)$cond[[1]][, 1]))
  out(name, data.frame(fitted = fitted(m), pearson = residuals(m, type = "pearson")))
}
d <- case("a12_poisson")
glmm("poisson", d, g1 ~ condition * celltype + (1 | donor), poisson(), d$log_lib)
d <- case("a12_nbinom2")
glmm("nb", d, g5 ~ condition + celltype + (1 | donor), nbinom2(), d$log_lib)
d <- case("a11_cbpp")
glmm("binomial", d, cbind(incidence, size - incidence) ~ period + (1 | herd), binomial(), 0)
write_json(of_counts, file.path(dir, "counts.json"), digits = NA, auto_unbox = TRUE, null = "null", pretty = TRUE)

set.seed(1601)
n <- 72; e <- data.frame(donor = rep(sprintf("d%d", 1:12), each = 6), condition = rep(c("ctrl", "case"), each = 36))
e$condition <- factor(e$condition, levels = c("ctrl", "case")); e$equal <- rep(c("a", "b", "c"), 24)
e$unequal <- sample(c("a", "a", "a", "b", "c", "c"), n, TRUE); e$dose <- round(rnorm(n), 3)
Y <- sapply(1:4, function(g) {
  r <- rnorm(n); r <- r - ave(r, e$donor)  # no more alike within donors than chance: their variance is zero
  5 + g + (e$condition == "case") * 0.7 + c(a = 0, b = 0.8, c = -0.5)[e$equal] + c(a = 0, b = -0.6, c = 0.9)[e$unequal] + 0.4 * e$dose + r
})
colnames(Y) <- paste0("y", 1:4); Y <- round(Y, 4)
design <- model.matrix(~ condition, e)
all <- t(removeBatchEffect(t(Y), batch = e$equal, batch2 = e$unequal, covariates = e$dose, design = design))
equal <- t(removeBatchEffect(t(Y), batch = e$equal, design = design))
colnames(all) <- paste0("all", 1:4); colnames(equal) <- paste0("equal", 1:4)
write.csv(cbind(e, Y, signif(all, 15), signif(equal, 15)), file.path(dir, "limma.csv"), row.names = FALSE)

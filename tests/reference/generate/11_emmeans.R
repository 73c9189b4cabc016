# Marginal means, pairs, differences of pairs and slopes by emmeans, of mixed models of lme4 (Kenward-Roger by pbkrtest)
# and of generalised ones of glmmTMB (emtrends takes a difference to one side, so its step is small). Run in this folder: Rscript 11_emmeans.R
suppressPackageStartupMessages({ library(lme4); library(pbkrtest); library(emmeans); library(glmmTMB); library(splines); library(jsonlite); library(numDeriv) })
emm_options(lmer.df = "kenward-roger", pbkrtest.limit = 1e5)
set.seed(77)
dir <- "../emmeans"
donors <- data.frame(donor = sprintf("D%02d", 1:15), disease = rep(c("control", "MS", "other"), c(6, 5, 4)),
  sex = c("f", "m")[1 + (1:15 * 7) %% 5 %% 2], age = c(31, 64, 47, 58, 39, 70, 44, 61, 35, 52, 66, 41, 57, 49, 73))
d <- donors[sample(15, 210, TRUE, prob = 1 + 1:15), ]
d$ct <- sample(c("B", "NK", "T"), nrow(d), TRUE, prob = c(.5, .2, .3))
d$depth <- round(exp(rnorm(nrow(d), log(2000), 0.4))); d$m <- sample(2:6, nrow(d), TRUE)
u <- setNames(rnorm(15, 0, 0.5), donors$donor)[d$donor]; a <- (d$age - 52) / 10
eta <- 0.4 * (d$disease == "MS") - 0.3 * (d$ct == "T") + 0.5 * (d$disease == "MS" & d$ct == "T") + 0.2 * a + 0.1 * a^2 - 0.05 * a^3 + u
d$y <- round(eta + 0.2 * a * (d$disease == "other") + rnorm(nrow(d), 0, 0.7), 6)
d$nb <- rnbinom(nrow(d), mu = d$depth * exp(eta - 6.5), size = 2); d$pois <- rpois(nrow(d), d$depth * exp(eta - 6.5))
d$yes <- rbinom(nrow(d), d$m, plogis(eta - 0.4)); d$seen <- as.integer(d$nb > 1)
d <- d[order(d$donor, d$ct), ]
write.csv(d, file.path(dir, "data.csv"), row.names = FALSE, quote = FALSE)
d$disease <- factor(d$disease, levels = c("control", "MS", "other")); .refdat <- d

table_of <- function(e, ...) { s <- as.data.frame(summary(e, infer = c(TRUE, TRUE), adjust = "none", ...)); rownames(s) <- NULL; s }
tight <- lmerControl(optimizer = "bobyqa", calc.derivs = FALSE, optCtrl = list(rhobeg = 0.2, rhoend = 1e-9, maxfun = 1e5))
linear <- function(formula) {  # lmer, then Newton steps on its deviance
  f <- as.formula(formula, env = globalenv()); m <- lmer(f, .refdat, control = tight); dev <- lmer(f, .refdat, devFunOnly = TRUE)
  theta <- getME(m, "theta"); for (k in 1:4) theta <- theta - grad(dev, theta) / drop(hessian(dev, theta))
  eval(bquote(lmer(.(f), .refdat, start = .(unname(theta)), control = lmerControl(optimizer = NULL, calc.derivs = FALSE))))
}
cases <- list()
add <- function(name, formula, family, e, ...) {
  cases[[length(cases) + 1]] <<- list(name = name, formula = formula, family = family, rows = table_of(e, ...))
}
# ------------------------------------------------------------------ lme4
both <- "~ disease * ct + age + sex + (1 | donor)"; m <- linear(paste("y", both))
add("means", both, "gaussian", emmeans(m, ~ disease))
add("means by", both, "gaussian", emmeans(m, ~ disease | ct, at = list(age = 50)))
add("means proportional", both, "gaussian", emmeans(m, ~ disease, weights = "proportional"))
add("pairs by", both, "gaussian", contrast(emmeans(m, ~ disease | ct), "revpairwise"))
add("pairs", both, "gaussian", contrast(emmeans(m, ~ disease), "revpairwise"))
add("versus control", both, "gaussian", contrast(emmeans(m, ~ disease | ct), "trt.vs.ctrl"))
add("differences", both, "gaussian", contrast(emmeans(m, ~ disease | ct), interaction = "revpairwise", by = NULL))
slopes <- "~ disease * age + ct * age + sex + (1 | donor)"; m <- linear(paste("y", slopes))
add("slopes", slopes, "gaussian", emtrends(m, ~ disease, var = "age"))
add("slopes by", slopes, "gaussian", emtrends(m, ~ disease | ct, var = "age"))
add("slope pairs", slopes, "gaussian", contrast(emtrends(m, ~ disease, var = "age"), "revpairwise"))
add("pairs at", slopes, "gaussian", contrast(emmeans(m, ~ disease | age, at = list(age = c(40, 60))), "revpairwise"))
add("means at", slopes, "gaussian", emmeans(m, ~ disease | age, at = list(age = c(40, 60))))
cubic <- "~ disease * poly(age, 3) + ct + (1 | donor)"; m <- linear(paste("y", cubic))
add("slopes at", cubic, "gaussian", emtrends(m, ~ disease | age, var = "age", at = list(age = c(40, 60)), delta.var = 1e-7))
add("slope", cubic, "gaussian", emtrends(m, ~ 1, var = "age", delta.var = 1e-7))
add("means", cubic, "gaussian", emmeans(m, ~ disease))
spline <- "~ disease + ct + bs(age, df = 4) + (1 | donor)"; m <- linear(paste("y", spline))
add("slopes at", spline, "gaussian", emtrends(m, ~ age, var = "age", at = list(age = c(40, 60)), delta.var = 1e-7))
add("means at", spline, "gaussian", emmeans(m, ~ age, at = list(age = c(40, 60))))
# --------------------------------------------------------------- glmmTMB
ctrl <- glmmTMBControl(optCtrl = list(rel.tol = 1e-14, x.tol = 1e-12, iter.max = 5000, eval.max = 9000))
generalised <- function(response, family, link) {
  lhs <- if (response == "yes") "cbind(yes, m - yes)" else response
  terms <- "disease * ct + age + (1 | donor)"
  off <- if (response == "yes") "" else " + offset(log(depth))"
  kind <- switch(family, nb = nbinom2(), poisson = poisson(), binomial = binomial(link = link))
  m <- eval(bquote(glmmTMB(.(as.formula(paste0(lhs, " ~ ", terms, off))), data = .refdat, family = .(kind), control = ctrl)))
  named <- paste("~", terms)
  for (type in c("link", "response")) {
    e <- if (response == "yes") emmeans(m, ~ disease | ct) else emmeans(m, ~ disease | ct, offset = 0)
    add(paste("means by", type), named, paste(family, link, response), e, type = type)
  }
  add("pairs by", named, paste(family, link, response), contrast(emmeans(m, ~ disease | ct), "revpairwise"), type = "link")
}
generalised("nb", "nb", "log"); generalised("pois", "poisson", "log")
generalised("yes", "binomial", "logit"); generalised("seen", "binomial", "cloglog")
write_json(list(source = paste("emmeans", packageVersion("emmeans"), "lme4", packageVersion("lme4"), "glmmTMB", packageVersion("glmmTMB"), "R", getRversion()),
  cases = cases), file.path(dir, "expected.json"), digits = I(14), auto_unbox = TRUE, na = "string")
for (x in cases) { cat("==", x$name, x$formula, x$family, "\n"); print(head(x$rows, 3)) }

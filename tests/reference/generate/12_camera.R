# What limma's camera and cameraPR give: Wu and Smyth (2012), Nucleic Acids Res 40:e133.
# Rscript tests/reference/generate/12_camera.R writes tests/reference/camera/camera.json (R 4.2, limma 3.54.1).
suppressMessages({library(limma); library(jsonlite)})
set.seed(1)
G <- 150; n <- 10
common <- rnorm(n)
loading <- c(rep(0.8, 20), rep(0, G - 20))
y <- 5 + outer(loading, common) + matrix(rnorm(G * n), G, n) * sqrt(4 / rchisq(G, 4))
arm <- rep(0:1, each = n / 2)
age <- round(rnorm(n), 2)
y[1:12, arm == 1] <- y[1:12, arm == 1] + 0.8
y[61:70, arm == 1] <- y[61:70, arm == 1] - 1
design <- cbind(Intercept = 1, age = age, arm = arm)
rownames(y) <- sprintf("g%03d", seq_len(G))
sets <- list(correlated = 1:20, shifted = c(1:12, 100:105), down = 55:72, one = 7, nothing = seq(75, 149, 3), rest = 2:150)

# the statistics and standardised residual effects of camera, as its code makes them
p <- ncol(design)
QR <- qr(design)
effects <- qr.qty(QR, t(y))
unscaledt <- effects[p, ] * sign(QR$qr[p, p])
U <- effects[-(1:p), ]
sigma2 <- colMeans(U^2)
sv <- squeezeVar(sigma2, df = n - p)
modt <- unscaledt / sqrt(sv$var.post)
df <- min(n - p + sv$df.prior, G * (n - p))
z <- zscoreT(modt, df = df, approx = TRUE, method = "hill")

table_of <- function(tab) {
  out <- list(set = rownames(tab), n_genes = tab$NGenes, direction = tab$Direction, p_value = tab$PValue, fdr = tab$FDR)
  if (!is.null(tab$Correlation)) out$correlation <- tab$Correlation
  out
}
cases <- list()
ties <- round(z, 1)
for (ranks in c(FALSE, TRUE)) {
  name <- if (ranks) "ranks" else "means"
  cases[[paste0("camera_estimated_", name)]] <- table_of(camera(y, sets, design, inter.gene.cor = NA, use.ranks = ranks, sort = FALSE))
  cases[[paste0("camera_fixed_", name)]] <- table_of(camera(y, sets, design, inter.gene.cor = 0.01, use.ranks = ranks, sort = FALSE))
  cases[[paste0("pr_fixed_", name)]] <- table_of(cameraPR(z, sets, use.ranks = ranks, inter.gene.cor = 0.05, sort = FALSE))
  cases[[paste0("pr_each_", name)]] <- table_of(cameraPR(z, sets, use.ranks = ranks, inter.gene.cor = c(0.1, 0, 0.02, 0, 0.3, 0.01), sort = FALSE))
  cases[[paste0("pr_ties_", name)]] <- table_of(cameraPR(ties, sets, use.ranks = ranks, inter.gene.cor = 0.05, sort = FALSE))
}
out <- list(
  limma = as.character(packageVersion("limma")), df = n - p, y = y, design = design, statistic = z, moderated_t = modt,
  df_total = df, ties = ties, sets = lapply(sets, function(s) s - 1), cases = cases
)
write_json(out, "tests/reference/camera/camera.json", digits = NA, auto_unbox = FALSE)

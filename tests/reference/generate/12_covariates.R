# Canonical correlations of pairs of covariates, sqrt(mean(rho^2)) of base R's cancor, as canCorPairs of variancePartition
# defines them: factors as the columns of model.matrix, rows with a missing value left out pair by pair.
# Writes tests/reference/covariates: donors.csv (the covariates), expected.csv (the matrix). Base R alone.
set.seed(11)
n <- 24
donors <- data.frame(donor = sprintf("D%02d", 1:n))
donors$disease <- rep(c("control", "MS"), length.out = n)
donors$site <- sample(c("north", "south", "west", "east"), n, replace = TRUE)
donors$batch <- paste0("b", ifelse(donors$site %in% c("north", "south"), 1, sample(2:3, n, replace = TRUE)))
donors$age <- round(50 + 8 * (donors$disease == "MS") + rnorm(n, 0, 7), 1)
donors$bmi <- round(25 + rnorm(n, 0, 3), 1)
donors$bmi[c(3, 17)] <- NA
donors$sex <- sample(c("f", "m"), n, replace = TRUE)
donors$sex[5] <- NA

names <- c("disease", "site", "batch", "age", "bmi", "sex")
columns <- function(x) if (is.numeric(x)) matrix(x) else model.matrix(~x, model.frame(~x, na.action = na.pass))[, -1, drop = FALSE]
pair <- function(a, b) {
  keep <- !is.na(donors[[a]]) & !is.na(donors[[b]])
  rho <- cancor(columns(donors[[a]])[keep, , drop = FALSE], columns(donors[[b]])[keep, , drop = FALSE])$cor
  sqrt(mean(rho^2))
}
expected <- outer(names, names, Vectorize(pair))
dimnames(expected) <- list(names, names)
write.csv(donors, "../covariates/donors.csv", row.names = FALSE, quote = FALSE)
write.csv(format(expected, digits = 15), "../covariates/expected.csv", quote = FALSE)
cat(R.version.string, "\n")

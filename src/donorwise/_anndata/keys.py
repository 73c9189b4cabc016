"""Every name under which the package keeps something in an AnnData."""

from __future__ import annotations

from donorwise._typing import ALL as ALL

SETTINGS = "donorwise"
"""``uns`` key of the column names that ``adata.donorwise.setup`` stores."""

ROLES = ("donor", "cell_type", "sample", "condition", "batch")
"""What a column of obs can be declared as."""

LMM = "lmm"
"""Default ``uns`` key of the results of ``dw.tl.lmm``."""

GLMM = "glmm"
"""Default ``uns`` key of the results of ``dw.tl.glmm``."""

COMPOSITION = "composition"
"""Default ``uns`` key of the results of ``dw.tl.composition``, and what its params call the method."""

PSEUDOBULK = "pseudobulk"
"""Default ``uns`` key of the results of ``dw.tl.pseudobulk``, and what its params call the method."""

CALIBRATION = "calibration"
"""Default ``uns`` key of the results of ``dw.tl.calibrate``."""

SCAN = "scan"
"""Default ``uns`` key of the results of ``dw.tl.scan``."""

FORMAT = "format"
"""Where every entry says the version of its form, an integer; entries of 0.1 have none, which is version 0."""

FORMAT_VERSION = 1

PARAMS = "params"
RESULTS = "results"
VARCOMP = "varcomp"
ICC = "icc"
VARIANCE_PARTITION = "variance_partition"
PRIOR = "prior"
"""The prior on the variance ratios; only beside moderated tests."""

SIZE_FACTORS = "size_factors"
"""What the depths of units were multiplied by: beside tests of counts, and where ``dw.pp.size_factors`` leaves it."""

HERITABILITY = "heritability"
"""Shares of variance of the terms with a kernel."""

KERNELS = "kernels"
"""The kernels of a formula, for the levels that there are."""

CONTRASTS = "contrasts"
"""Weights of the contrasts that were tested; there are none beside results of 0.1."""

JOINT_TESTS = "joint_tests"
"""F tests of several coefficients at once, asked for after the fit."""

VARIANCE_TESTS = "variance_tests"
"""Likelihood ratio tests of random terms, asked for after the fit."""

SHRINKAGE = "shrinkage"
"""Distributions of effects that ``dw.tl.shrink`` found."""

VARIANCE_INTERVALS = "variance_intervals"
"""Intervals of the shares of variance, asked for after the fit."""

ADDED_TABLES = (JOINT_TESTS, VARIANCE_TESTS, VARIANCE_INTERVALS, SHRINKAGE)
"""Tables that are asked for after the fit."""

TABLES = (RESULTS, VARCOMP, ICC, VARIANCE_PARTITION)
"""The long tables of one result."""

CALIBRATION_TABLES = ("groups", "levels", "permutations", "curves", "histogram", "variables")
"""The tables of one calibration."""

COUNTS = "counts"
"""How many tests of a scan there were by size of the statistic."""

TESTS = "tests"
"""The tests of a scan that were kept, where they are not in a folder."""

OUT = "out"
"""In params, the folder that holds the tests of a scan."""

FEATURES = "features"
"""In params of peptides, the column of var with the protein of each."""

RESPONSE = "response"
"""In params, what the features are, see `RESPONSE_X`."""

SCAN_TABLES = (RESULTS, COUNTS)
"""The tables of every scan."""

TABLES_OF_ENTRIES = (TABLES, CALIBRATION_TABLES, (SIZE_FACTORS,), SCAN_TABLES)
"""The tables by which an entry is known to be of this package."""

RESULT_COLUMNS = (
    "variable",
    "group",
    "contrast",
    "estimate",
    "se",
    "ci_low",
    "ci_high",
    "statistic",
    "df",
    "p_value",
    "adj_p_value",
    "log_fc",
    "status",
    "n_donors",
    "n_obs",
)
PEPTIDE_COLUMNS = ("n_peptides", "n_missing", "formula")
"""Further columns of results whose features are proteins, measured by their peptides."""
SCAN_COLUMNS = (
    "gene",
    "group",
    "variant",
    "chrom",
    "pos",
    "a0",
    "a1",
    "af",
    "n",
    "beta",
    "se",
    "statistic",
    "df",
    "p_value",
    "neg_log10_p",
    "n_variants",
    "p_gene",
    "adj_p_gene",
    "q_value",
    "status",
    "n_donors",
)
"""Columns of the lead variants of a scan, others may follow."""

_OF_GENES = ("n_variants", "p_gene", "adj_p_gene", "q_value", "n_donors")
TEST_COLUMNS = tuple(name for name in SCAN_COLUMNS if name not in _OF_GENES)
"""Columns of the tests of a scan, others may follow."""

COUNT_COLUMNS = ("group", "statistic", "p_value", "count")

NO_WEIGHTS = ""
ARRAY_WEIGHTS = "<array>"
"""``params["weights"]`` when there were none, or when they came as an array and not as a column of obs."""

RESPONSE_X = "X"
RESPONSE_OBS = "obs"
LAYER_PREFIX = "layers/"
OBSM_PREFIX = "obsm/"
LABELS_PREFIX = "obs/"
"""Before a column of obs whose labels are the variables, 1 in the cells that have them and 0 in the others."""

COLORS_SUFFIX = "_colors"
LOG1P = "log1p"
"""Where scanpy notes that X was log-transformed, and to which base."""

PIVOT = "pivot"
"""Where ``dw.pp.pivot`` notes what it made X from."""

LOG_BASE = "log_base"
"""In the params of `PIVOT`, the base of the logarithms that X holds; 0 for none."""

RANK_GENES_GROUPS = "rank_genes_groups"

INFLUENCE_SUFFIX = "_influence"
"""Behind the key of a result: what its tests say without each donor."""

POWER_SUFFIX = "_power"
"""Behind the key of a result: the power of studies like it."""

GENE_SETS_SUFFIX = "_gene_sets"
"""Behind the key of a result: tests of sets of genes."""

DERIVED_SUFFIXES = (INFLUENCE_SUFFIX, POWER_SUFFIX, GENE_SETS_SUFFIX)
"""Behind the key of a result: entries of what was worked out from it."""

RESIDUALS = "residuals"
"""Default name of the layer that ``dw.tl.residuals`` makes."""

RESIDUALS_SUFFIX = "_residuals"
"""Behind the key of a result: which layers, or tables of obsm, were made of it, and without which terms."""

MAX_P_LOO = "max_p_loo"
"""Column that ``dw.tl.influence`` adds to the results."""

SHRUNK, LFSR = "shrunk", "lfsr"
"""Columns that ``dw.tl.shrink`` adds to the results: posterior means, and local false sign rates."""

ADDED_COLUMNS = (MAX_P_LOO, SHRUNK, LFSR)
"""Columns of the results that are worked out after the fit; NaN where they are not known."""

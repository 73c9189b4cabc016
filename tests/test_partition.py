"""Shares of the variance by term of the fixed part, against dense computations."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._peptides import *  # noqa: F403

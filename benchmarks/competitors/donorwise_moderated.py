"""The same mixed models with the tests that are the default."""

from __future__ import annotations

from functools import partial

from competitors import donorwise_lmm

NAME = "donorwise tl.lmm, (1 | donor), moderated"
run = partial(donorwise_lmm.run, ddf="moderated")

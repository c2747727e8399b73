"""Imported once, by the server that processes are forked from: all that a run imports and compiles, and its images."""

import numpy as np

import adco.api
import adco.cli.pretrain  # noqa: F401
import tiny
from adco.data.views import View, views_of

tiny.few("test")
first = np.zeros(1, np.int64)
views_of(tiny.few("train")[0][:1], [View(size=8)], 0, first, first)

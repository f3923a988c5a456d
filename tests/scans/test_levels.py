"""Percentiles of counted values against numpy's, of all values."""

import numpy as np
import pytest

from thrifty_jax.scans import levels


@pytest.mark.parametrize('count', [1, 2, 3, 10, 999])
@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
def test_percentiles_are_those_of_numpy_to_the_last_bit(count, kind):
  rng = np.random.default_rng(count)
  shares = (0, 0.5, 12.5, *rng.uniform(0, 100, 50), 50, 99.5, 100)
  for top in (1, 5, np.iinfo(kind).max):
    values = rng.integers(0, top, count, kind, endpoint=True)
    counts = np.bincount(values, minlength=1 << 16)
    found = levels.make_levels(counts, np.arange(1 << 16))
    np.testing.assert_array_equal(found.counts, counts[counts > 0])
    np.testing.assert_array_equal(
      found.percentiles(shares), np.percentile(values.astype(np.float32), shares)
    )

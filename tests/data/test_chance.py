"""Draws of the augmentation against the distributions that they are to have."""

import jax
import numpy as np
import scipy.stats

from thrifty_jax.data import chance


def test_what_is_nearly_normal_has_its_quantiles_and_draws_that_do_not_tell_of_another():
  found = np.asarray(chance.normal(jax.random.key(3), (200, 40, 25)), np.float64).ravel()
  assert abs(found.mean()) < 0.01 and abs(found.std() - 1) < 0.01
  shares = np.asarray([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
  np.testing.assert_allclose(np.quantile(found, shares), scipy.stats.norm.ppf(shares), atol=0.1)
  assert 3 < np.abs(found).max() < 3.5
  for step in (1, 2, 25, 1000):
    assert abs(np.mean(found[step:] * found[:-step])) < 0.01

"""A model's description: made of a config, and read back field by field."""

import numpy as np

from data_prep import phantom, prepare
from thrifty_jax import config as configs
from thrifty_jax import records
from thrifty_jax.networks.model_spec import ModelSpec, background, make_spec
from thrifty_jax.scans import slices, volumes

STATISTICS = {'mean': np.asarray([0.25], np.float32), 'std': np.asarray([0.5], np.float32)}


def test_a_description_says_how_to_prepare_an_image_again():
  changed = configs.default()
  changed.data.update({'clahe_clip_limit': 0.05, 'resize': 'nearest'})
  changed.data.update({'curvature_flow_iterations': 5, 'curvature_flow_time_step': 0.1})
  spec, recorded = make_spec(changed, STATISTICS), prepare.collect_settings(changed, '')
  described = records.to_json(spec)
  for field in recorded.keys() - {'name', 'raw_files', 'format'}:
    assert described[field] == recorded[field], field
  assert spec.image.clahe_clip_limit == 0.05 and spec.image.resize == 'nearest'
  scan = phantom.make_scan(patient=0, seed=0)
  volume = volumes.Volume(scan.image[..., None], scan.label, scan.affine, 'a', 'a')
  plain = slices.image_to_slices(volume, make_spec(configs.default(), STATISTICS).image)
  found = slices.image_to_slices(volume, spec.image)
  assert np.abs(plain.astype(float) - found).max() > 0.1


def test_a_description_is_read_back_as_it_was_whichever_way_intensities_are_mapped():
  for intensity, limits in (('percentiles', (0.5, 99.5)), ('window', (-150.0, 250.0))):
    config = configs.default()
    config.data.update({'intensity': intensity, 'window': (-150.0, 250.0), 'context': 1})
    spec = make_spec(config, STATISTICS)
    assert spec.image.limits == limits and spec.image_channels == 3
    described = records.to_json(spec)
    assert not {'percentiles', 'window'} - {intensity} & described.keys()
    assert records.parse(described, ModelSpec, 'a file') == spec


def test_classes_of_one_piece_are_found_by_their_names():
  config = configs.default()
  config.data.classes = ('background', 'liver', 'kidney')
  described = records.to_json(make_spec(config, STATISTICS)) | {'largest_component': ['kidney']}
  assert records.parse(described, ModelSpec, 'a file').largest == (2,)


def test_background_is_the_normalised_zero_of_every_modality_and_neighbour():
  statistics = {'mean': np.asarray([0.2, 0.6]), 'std': np.asarray([0.1, 0.2])}
  np.testing.assert_allclose(background(statistics, context=1), [-2, -3] * 3)

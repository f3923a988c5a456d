"""CHAOS' MR: two sequences, two channels, four organs."""

import dataclasses

import numpy as np
import phantom_chaos
import PIL.Image
import pytest
import recorded

from configs import chaos as chaos_config
from data_prep import chaos, chaos_t1, chaos_t2, data_sets, prepare
from thrifty_jax import config as configs
from thrifty_jax.errors import InputError

PATIENTS = 4
CHANNELS = {chaos_t1: ('InPhase', 'OutPhase'), chaos_t2: ('T2SPIR',)}


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  folder = tmp_path_factory.mktemp('chaos_mr') / 'raw'
  phantom_chaos.write(folder, patients=PATIENTS, seed=0)
  return folder


@pytest.mark.parametrize('module', CHANNELS)
def test_every_patient_reads_back_as_made_however_the_files_lie(raw, module):
  for patient, case in enumerate(module.find_cases(raw)):
    volume = module.read_case(case)
    assert volume.image.shape[-1] == len(CHANNELS[module])
    for m, protocol in enumerate(CHANNELS[module]):
      scan = phantom_chaos.make_scan(patient=patient, seed=0, protocol=protocol)
      expected = np.clip(scan.image, 0, None).astype(np.int16)
      np.testing.assert_array_equal(volume.image[..., m], expected)
      np.testing.assert_array_equal(volume.truth, scan.label)
      np.testing.assert_allclose(volume.affine, scan.affine, atol=1e-4)
    assert set(np.unique(volume.truth)) == {0, 1, 2, 3, 4}


def test_liver_and_right_kidney_lie_on_the_right_left_kidney_and_spleen_on_the_left(raw):
  for case in chaos_t2.find_cases(raw):
    volume = chaos_t2.read_case(case)
    middle = [np.argwhere(volume.truth == k).mean(axis=0) for k in range(1, 5)]
    x = [(volume.affine @ [*index, 1])[0] for index in middle]  # RAS: rising to the right
    assert min(x[0], x[1]) > max(x[2], x[3])


@pytest.mark.parametrize('grey', [55, 63, 70])
def test_grey_values_are_ranges(raw, tmp_path, grey):
  case = chaos_t2.find_cases(raw)[0]
  before = chaos_t2.read_case(case).truth
  label = []
  for path in case.label:
    with PIL.Image.open(path) as picture:
      pixels = np.asarray(picture)
    PIL.Image.fromarray(np.where(pixels == 63, np.uint8(grey), pixels)).save(tmp_path / path.name)
    label.append(tmp_path / path.name)
  after = chaos_t2.read_case(dataclasses.replace(case, label=tuple(label))).truth
  np.testing.assert_array_equal(before, after)


def test_people_of_mr_and_ct_are_never_called_the_same(raw):
  names = [{case.patient for case in module.find_cases(raw)} for module in (chaos, chaos_t1)]
  assert not names[0] & names[1]
  assert names[1] == {case.patient for case in chaos_t2.find_cases(raw)}


def test_all_three_data_sets_lie_in_one_folder(tmp_path):
  folders = set()
  for variants in ('', 't1', 't2'):
    config = chaos_config.get_config(variants)
    config.data.data_dir = str(tmp_path)
    folders.add(data_sets.raw_dir(config))
  assert folders == {tmp_path / 'downloads' / 'manual' / 'chaos'}


@pytest.mark.parametrize('variants', ['t1', 't2', 't1,small', 'small,t1', 't2,small,unet'])
def test_variants_compose(variants):
  config = chaos_config.get_config(variants)
  configs.validate(config)
  assert config.data.name == ('chaos_t1' if 't1' in variants else 'chaos_t2')
  assert config.data.modalities == (2 if 't1' in variants else 1)
  assert len(config.data.classes) == 5
  assert config.data.intensity == 'percentiles'
  assert config.data.image_size == (128 if 'small' in variants else 256)
  assert config.model.name == ('unet' if 'unet' in variants else 'thrifty')


@pytest.mark.parametrize('variants', ['t1,t2', 't2,paper', 'paper, t1'])
def test_variants_of_different_data_sets_are_refused(variants):
  with pytest.raises(InputError, match='are of different data sets; name one of them'):
    chaos_config.get_config(variants)


@pytest.mark.parametrize('variant', ['t1', 't2'])
def test_it_checks_and_prepares(raw, tmp_path, variant, capsys):
  config = chaos_config.get_config(f'{variant},unet')
  config.data.update({'image_size': 32, 'folds': 3})
  config.data.update({'raw_dir': str(raw), 'data_dir': str(tmp_path)})
  recorded.check(config, tmp_path)
  assert prepare.prepare(config).is_dir()
  out = capsys.readouterr().out
  assert 'mr01' in out and 'ct01' not in out

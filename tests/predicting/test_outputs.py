"""The files of a prediction are planned so that none replaces another, whatever the file system."""

import unicodedata

import pytest

from thrifty_jax.errors import InputError
from thrifty_jax.predicting import outputs
from thrifty_jax.scans.sources import Source


def plan(folder, *names, output='masks', **wanted):
  sources = [Source(name, (folder / 'scans' / f'{name}.nii.gz',)) for name in names]
  return outputs.plan(sources, folder / 'scans', folder / output, classes=3, **wanted)


ONE_FILE = {  # scans, what else is written: file systems of macOS or Windows have one name for both
  'a capital': (('Case1', 'case1'), {}),
  'a capital in the middle': (('case', 'caSe'), {}),
  'a capital beyond ASCII': (('Über', 'über'), {}),
  'a capital in another form': (('É', unicodedata.normalize('NFD', 'é')), {}),
  'a composed letter': (('é', unicodedata.normalize('NFD', 'é')), {}),
  'shares of a class': (('a', 'A_probability_2'), {'probabilities': True}),
  'the same name': (('a', 'a_probability_1'), {'probabilities': True}),
}


@pytest.mark.parametrize('name', ONE_FILE)
def test_two_scans_never_have_one_file(tmp_path, name):
  names, wanted = ONE_FILE[name]
  with pytest.raises(InputError, match='would be written for two scans, as .* capital letters'):
    plan(tmp_path, *names, **wanted)


@pytest.mark.parametrize(
  ('names', 'wanted'),
  [
    (('Case1', 'Case2'), {}),
    (('a', 'A_probability_2'), {}),
    (('a', 'a_probability_3'), {'probabilities': True}),
    (('a', 'a_overlay'), {}),
    (('i', 'ı'), {}),
  ],
)
def test_other_names_are_told_apart(tmp_path, names, wanted):
  planned = plan(tmp_path, *names, **wanted)
  assert len({*planned.paths}) == len(planned.paths) >= 2


@pytest.mark.parametrize('mask', ['a', 'A', 'ä', 'Ä', unicodedata.normalize('NFD', 'Ä')])
def test_a_mask_never_has_the_file_of_a_scan(tmp_path, mask):
  scan = tmp_path / ('a' if mask in 'aA' else 'ä')
  scan = scan.with_suffix('.nii.gz')
  with pytest.raises(InputError, match='is a scan of the input; name another output'):
    outputs.plan([Source('x', (scan,))], scan, tmp_path / f'{mask}.nii.gz', classes=2)

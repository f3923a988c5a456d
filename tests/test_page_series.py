"""Several files are one series on the page as they are for the program, in Node."""

import base64
import itertools

import handmade_dicom as handmade
import laid_series
import numpy as np
import page_modules
import pytest

from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom, dicom_file


def of_series(*ids):
  """Elements of slices of these series, by slice."""
  return {d: handmade.text(0x20, 0xE, f'1.2.3.{one}', kind='UI') for d, one in enumerate(ids)}


IDS = {'two blocks of ids': of_series(1, 1, 2, 2), 'an id for each slice': of_series(1, 2, 3, 4)}
REFUSED = {
  'two series that alternate': of_series(1, 2, 1, 2),
  'a slice of another series': of_series(1, 2, 1, 1),
  'twice at one place': {1: handmade.text(*handmade.POSITION, -20.5, 11.25, 300)},
  'two series': {
    d: handmade.text(*handmade.POSITION, -20.5, 11.25, 300 + 2.5 * (d // 2)) for d in range(4)
  },
  'one missing': {3: handmade.text(*handmade.POSITION, -20.5, 11.25, 310)},
  'two missing': {3: handmade.text(*handmade.POSITION, -20.5, 11.25, 312.5)},
  'uneven': {3: handmade.text(*handmade.POSITION, -20.5, 11.25, 306)},
  'off the line': {2: handmade.text(*handmade.POSITION, -20.5, 13.25, 305)},
  'a tilted gantry': {
    d: handmade.text(*handmade.POSITION, -20.5, 11.25 + d, 300 + 2.5 * d) for d in range(4)
  },
  'another direction': {2: handmade.text(*handmade.DIRECTIONS, 0, 1, 0, -1, 0, 0)},
  'a leaning column': {2: handmade.text(*handmade.DIRECTIONS, 1, 0, 0, 0, 0.995, 0.0998)},
  'other distances': {2: handmade.text(*handmade.SPACING, 3.5, 3.25)},
  'a scaling less': {2: {handmade.SLOPE: b'', handmade.INTERCEPT: b''}},
  'another size': {
    2: {
      **handmade.number(0x28, 0x10, 7),
      **handmade.number(0x28, 0x11, 6),
    }
  },
}


def changed(folder, elements):
  """Files of a series of four, some of which have other elements, by slice."""
  files = handmade.series_of(folder)
  settings = {'directions': (1, 0, 0, 0, 1, 0), 'spacing': (3.5, 3.0), 'rescale': (-1024, 1)}
  for d, instead in elements.items():
    content = handmade.slice_bytes(
      handmade.STORED[d],
      position=(-20.5, 11.25, 300 + 2.5 * d),
      series=1,
      instead=instead,
      **settings,
    )
    files[d].write_bytes(content)
  return files


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Files of each series, sorted by name as the program has them."""
  folder, found = tmp_path_factory.mktemp('series'), {}
  for lay in laid_series.LAYS:
    found[lay] = sorted(laid_series.write_series(folder / lay, lay=lay).iterdir())
  for name, elements in {**IDS, **REFUSED}.items():
    (folder / name).mkdir()
    found[name] = changed(folder / name, elements)
  return found


@pytest.fixture(scope='module')
def by_page(files):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  contents = [{path.name: path.read_bytes() for path in paths} for paths in files.values()]
  return dict(zip(files, page_modules.series(contents), strict=True))


@pytest.mark.parametrize('lay', [*laid_series.LAYS, *IDS])
def test_a_series_has_the_voxels_and_places_of_the_program(files, by_page, lay):
  wanted, saw = dicom.read_series(files[lay]), by_page[lay]
  assert 'error' not in saw, saw
  np.testing.assert_array_equal(np.reshape(saw['voxels'], saw['shape'][::-1]), wanted.voxels)
  np.testing.assert_allclose(saw['affine'], wanted.affine[:3, [2, 1, 0, 3]], atol=1e-9)


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_no_series_is_refused_in_the_words_of_the_program(files, by_page, name):
  with pytest.raises(InputError) as caught:
    dicom.read_series(files[name])
  saw = by_page[name]
  folder = str(files[name][0].parent)
  assert f'{saw["file"]}: {saw["error"]}' == str(caught.value).removeprefix(f'{folder}/')


def test_any_order_of_the_files_is_one_volume(files):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  paths = files['oblique']
  orders = [*itertools.islice(itertools.permutations(paths), 0, 120, 23)]
  found = page_modules.series([{path.name: path.read_bytes() for path in o} for o in orders])
  assert all(one == found[0] for one in found) and 'error' not in found[0]


# --- what is a slice


def test_objects_without_a_slice_are_left_out_as_by_the_program(tmp_path):
  """Of all classes that pydicom knows, with and without rows."""
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  from pydicom._uid_dict import UID_dictionary

  classes = [
    uid
    for uid in UID_dictionary
    if uid.startswith(('1.2.840.10008.5.1.4.1.1.', '1.2.840.10008.1.3'))
  ]
  contents, wanted = [], []
  for uid, rows in itertools.product([*classes, ''], (True, False)):
    instead = {(8, 0x16): handmade.element(8, 0x16, 'UI', uid)}
    instead |= {} if rows else {(0x28, 0x10): b'', (0x7FE0, 0x10): b''}
    (path, *_) = handmade.series_of(tmp_path, instead=instead, all=True)
    content = path.read_bytes()
    usual = handmade.element(2, 2, 'UI', '1.2.840.10008.5.1.4.1.1.2')  # of the file's head
    assert content.count(usual) == 1
    path.write_bytes(
      content if uid else content.replace(usual, handmade.element(2, 2, 'UI', '0' * 26))
    )
    contents.append(base64.b64encode(path.read_bytes()).decode())
    wanted.append(dicom_file.holds_image(path))
  call = "functions.holdsSlice('a', new Uint8Array(Buffer.from(input, 'base64')))"
  found = page_modules.call('dicom_file.js', call, contents)
  odd = [
    (case, one)
    for case, one, expected in zip(
      itertools.product([*classes, ''], (True, False)), found, wanted, strict=True
    )
    if one != expected
  ]
  assert not odd
  assert 10 < sum(wanted) < len(wanted)


OPEN = """functions.openScan(input.files.map(([path, content]) => ({
  file: new File([Buffer.from(content, 'base64')], path.split('/').at(-1)),
  folder: path.split('/').slice(0, -1).join('/'),
})), { slice_axis: 'axial' })
.then(({ shape, leftOut, write }) => ({ shape, leftOut, mask: !!write }))
.catch((error) => ({ error: (error.file ? error.file + ': ' : '') + error.message }))"""


def opened(cases):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  inputs = [
    {'files': [[name, base64.b64encode(content).decode()] for name, content in files.items()]}
    for files in cases
  ]
  return page_modules.call('open.js', OPEN, inputs)


def test_a_folder_is_its_slices_and_the_rest_is_named(tmp_path):
  slices = {f'a/{path.name}': path.read_bytes() for path in handmade.series_of(tmp_path)}
  report = {(8, 0x16): handmade.element(8, 0x16, 'UI', '1.2.840.10008.5.1.4.1.1.88.11')}
  report |= {(0x28, 0x10): b'', (0x7FE0, 0x10): b''}
  (tmp_path / 'other').mkdir()
  (other, *_) = handmade.series_of(tmp_path / 'other', instead=report, all=True)
  bare = slices['a/2.dcm'][132:]
  single = {'a/0.dcm': slices['a/0.dcm']}
  cases = {
    'whole': slices,
    'others': {
      **{'a/.hidden': b'', 'DICOMDIR': b'DICOMDIR', 'a/notes.txt': b'notes'},
      **{'a/report.dcm': other.read_bytes()},
      **slices,
    },
    'alone': single | {'a/.DS_Store': b''},
    'bare': {**slices, 'a/2.dcm': bare},
    'bare without an ending': {**slices, 'a/2': bare},
    'two folders': {
      name.replace('a/', f'{"ab"[number % 2]}/'): content
      for number, (name, content) in enumerate(slices.items())
    },
    'a volume beside': slices | {'a/scan.nii.gz': b''},
    'no slice': {'a/notes.txt': b'notes', 'a/more.txt': b'more'},
    'two volumes': {'a.nii': b'', 'b.nii': b''},
    'nothing seen': {'.a': b'', '.b': b''},
  }
  found = dict(zip(cases, opened(cases.values()), strict=True))
  shape = [4, 6, 7]
  assert found['whole'] == {'shape': shape, 'leftOut': [], 'mask': True}
  left = ['DICOMDIR', 'notes.txt', 'report.dcm']
  assert found['others'] == {'shape': shape, 'leftOut': left, 'mask': True}
  assert found['alone'] == {'shape': [1, 6, 7], 'leftOut': [], 'mask': False}
  wanted = {
    'bare': '2.dcm: it has no head of a DICOM file',
    'bare without an ending': '2: it has no head of a DICOM file',
    'two folders': 'DICOM slices in 2 folders, a and b among them; expected those of one series',
    'a volume beside': '4 DICOM slices and scan.nii.gz in 5 files; expected the slices of one',
    'no slice': 'no DICOM slice in 2 files; expected the slices of one series, or one file',
    'two volumes': 'no DICOM slice in 2 files; expected',
    'nothing seen': 'no DICOM slice in 0 files; expected',
  }
  for name, text in wanted.items():
    assert found[name].get('error', '').startswith(text), (name, found[name])

"""A sample lies beside the page only if the page's own reader opens it, in Node."""

import json

import handmade_dicom
import handmade_nifti
import numpy as np
import page_modules
import pytest
from PIL import Image

from demo import build, sample
from thrifty_jax.errors import InputError

OF_VOLUMES = {
  **{'slice_axis': 'axial', 'modalities': 1, 'padding': None, 'note': 'Research use only.'},
  **{'intensity': 'percentiles', 'percentiles': (0.5, 99.5)},
}
OF_PICTURES = OF_VOLUMES | {'unit': 'pixels', 'modalities': 3}


def write_all(folder):
  """Samples by name, and the settings of their networks."""
  colours = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  (folder / 'scan.nii').write_bytes(handmade_nifti.content())
  (folder / 'notes.txt').write_text('notes')
  content = handmade_nifti.content()
  (folder / 'constant.nii').write_bytes(content[:352] + bytes(len(content) - 352))
  (folder / 'cut.nii').write_bytes(content[:-3])
  for name in ('series', 'gap', 'mixed'):
    (folder / name).mkdir()
    handmade_dicom.series_of(folder / name)
    (folder / name / '.hidden').write_bytes(b'hidden')
  (folder / 'gap' / '1.dcm').unlink()
  (folder / 'mixed' / 'scan.nii').write_bytes(content)
  (folder / 'mixed' / 'below').mkdir()
  for name, mode in (('colours', 'RGB'), ('grey', 'L'), ('cmyk', 'CMYK')):
    Image.fromarray(colours).convert(mode).save(folder / f'{name}.jpg')
  Image.fromarray(colours).save(folder / 'colours.png')
  Image.fromarray(colours).convert('L').save(folder / 'grey.png')
  (folder / 'cut.jpg').write_bytes((folder / 'colours.jpg').read_bytes()[:-9])
  (folder / 'pictures').mkdir()
  for name in ('a', 'b'):
    Image.fromarray(colours).save(folder / 'pictures' / f'{name}.png')


READ = {
  'scan.nii': OF_VOLUMES,
  'series': OF_VOLUMES,
  'colours.jpg': OF_PICTURES,
  'colours.png': OF_PICTURES,
  'grey.jpg': OF_PICTURES | {'modalities': 1},
}
REFUSED = {
  'notes.txt': (OF_VOLUMES, 'neither a NIfTI file (.nii, .nii.gz) nor a DICOM slice'),
  'constant.nii': (OF_VOLUMES, 'all values of a channel are the same'),
  'cut.nii': (OF_VOLUMES, 'the file is cut off'),
  'colours.png': (OF_VOLUMES, 'a picture, but this network sees volumes'),
  'gap': (OF_VOLUMES, '0.dcm: lies 5.00 mm from 2.dcm'),
  'mixed': (OF_VOLUMES, '4 DICOM slices and scan.nii in 5 files'),
  'pictures': (OF_PICTURES, '2 files; expected one picture'),
  'grey.png': (OF_PICTURES, 'the picture has 1 channel(s), but the network was trained on 3'),
  'grey.jpg': (OF_PICTURES, 'the picture has 1 channel(s), but the network was trained on 3'),
  'cmyk.jpg': (OF_PICTURES, 'it is a JPEG of 4 colours'),
  'cut.jpg': (OF_PICTURES, 'it is cut off or too large'),
  'scan.nii': (OF_PICTURES, 'no PNG, TIFF, JPEG, BMP or GIF'),
}


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
  folder = tmp_path_factory.mktemp('samples')
  write_all(folder)
  return folder


def require_readable(place, settings):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  page = {name: (page_modules.DEMO / name).read_bytes() for name in build.SCRIPTS}
  sample.require_readable(place, page | {'preprocessing.json': json.dumps(settings).encode()})


@pytest.mark.parametrize('name', READ)
def test_what_the_page_reads_is_a_sample(scans, name):
  require_readable(scans / name, READ[name])


@pytest.mark.parametrize('name', REFUSED)
def test_what_the_page_cannot_read_is_refused_in_its_words(scans, name):
  settings, text = REFUSED[name]
  with pytest.raises(InputError) as caught:
    require_readable(scans / name, settings)
  line = str(caught.value)
  assert line.startswith(f'--sample={scans / name}: the page cannot read it: ')
  assert text in line and '\n' not in line


def test_the_files_of_a_folder_are_those_that_are_seen(scans):
  assert [path.name for path in sample.find(scans / 'series')] == [f'{d}.dcm' for d in range(4)]
  assert [path.name for path in sample.find(scans / 'mixed')][-1] == 'scan.nii'
  assert sample.find(scans / 'scan.nii') == [scans / 'scan.nii']


@pytest.mark.parametrize('name', ['nowhere', 'empty'])
def test_a_sample_that_is_not_there_is_refused_before_any_work(tmp_path, capsys, name):
  (tmp_path / 'empty').mkdir()
  place, output = tmp_path / name, tmp_path / 'site'
  assert build.main([f'--sample={place}', '--export=exported', f'--output={output}']) == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert f'--sample={place}: no such file, and no folder with files' in line
  assert not output.exists()


def test_without_node_a_sample_is_refused(scans, monkeypatch):
  monkeypatch.setattr(sample.shutil, 'which', lambda name: None)
  with pytest.raises(InputError, match=r'Node\.js, .* is not installed'):
    sample.require_readable(scans / 'scan.nii', {})

"""The check on the console and as a page."""

import base64
import dataclasses
import io
import re

import numpy as np
import PIL.Image
import pytest

from data_prep import check_page, phantom
from data_prep.check_page import Checked
from data_prep.findings import Finding
from data_prep.survey import Scan
from thrifty_jax import config as configs
from thrifty_jax.scans import overlays
from thrifty_jax.scans.volumes import Case

HOSTILE = '<script>alert(1)</script>'


def picture(random):
  """A slice of noise, the worst that a PNG can be given."""
  label = np.zeros((200, 160), np.uint8)
  label[60:140, 50:100] = 1
  return overlays.outline_slice(
    random.normal(0, 1, (200, 160)), label, limits=(-2, 2), spacing_mm=(1.0, 1.0)
  )


def checked(count, *, found=(), name='case{:03d}', channels=1, classes=('background', 'organ')):
  config = configs.default()
  config.data.update({'name': 'phantom', 'modalities': channels, 'classes': classes})
  random = np.random.default_rng(0)
  shown = picture(random)
  scan = Scan(
    case='',
    patient='',
    shape=(120, 512, 512),
    spacing_mm=(10.25, 10.5, 10.5),
    orientation='LPS',
    intensity=np.tile([[-1024.0, 0, 12345.6]], (channels, 1)),
    class_size=np.full(len(classes) - 1, 12345.6),
    image_digest='',
    label_digest='',
    study_digest='',
    disordered=(),
    blank=(),
    picture=shown,
    pictured=60,
  )
  cases = [Case(name.format(i), f'patient{i // 2}', ()) for i in range(count)]
  scans = [dataclasses.replace(scan, case=case.case, patient=case.patient) for case in cases[1:]]
  names = sorted({case.patient for case in cases})
  split = {'train': names[2:], 'validation': names[:1], 'test': names[1:2]}
  return Checked(config, cases, split, scans, list(found))


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', ['{:03d}', 'a_very_long_name_of_a_scan_of_the_set_{:03d}'])
def test_the_table_fits_100_columns_and_has_every_scan(channels, name):
  classes = ('background', 'left kidney', 'right kidney')
  long = Finding('a warning of many words ' * 12, name.format(3))
  wrong = Finding('a mask is missing', is_error=True)
  lines = check_page.format_table(
    checked(6, found=[long, wrong], name=name, channels=channels, classes=classes)
  ).splitlines()
  assert max(map(len, lines)) <= 100
  for number in range(6):
    assert any(f'{number:03d}' in line for line in lines[1:7])
  assert lines[1].endswith('-') and lines[4].startswith('w ')
  assert any(line.startswith('error    a mask is missing') for line in lines)
  assert lines[-1] == '1 error, 1 warning.'
  told = ' '.join(lines)
  assert ('ml: left kidney, right kidney' in told) != ('check.html: axes, intensity, ml' in told)


def test_the_page_needs_nothing_from_elsewhere_and_trusts_no_name(tmp_path):
  found = [Finding(HOSTILE, is_error=True), Finding('case002: odd', 'case002')]
  path = check_page.write(checked(4, found=found, classes=('background', HOSTILE)), tmp_path)
  page = path.read_text(encoding='utf-8')
  assert path == tmp_path / 'check.html' and HOSTILE not in page and '&lt;script&gt;' in page
  assert not re.search(r'(src|href)="(?!data:)', page) and '<link' not in page
  assert 'url(' not in page and '@import' not in page
  assert page.count('<figure>') == 3 and page.count('<tr>') == 5
  assert 'prefers-color-scheme: dark' in page and 'name="viewport"' in page
  assert 'not a medical device' in page and phantom.ABOUT.note in page
  assert 'case002: odd' in page


def test_a_page_of_200_scans_stays_a_few_megabytes(tmp_path):
  path = check_page.write(checked(201), tmp_path)
  assert path.stat().st_size < 6e6  # noise: real scans take half


def test_a_thumbnail_shows_the_slice_and_the_border_of_its_mask():
  image = np.tile(np.linspace(0, 100, 40), (20, 1))
  label = np.zeros((20, 40), np.uint8)
  label[5:15, 10:30] = 2
  uri = overlays.outline_slice(image, label, limits=(0, 100), spacing_mm=(2.0, 1.0))
  shown = PIL.Image.open(io.BytesIO(base64.b64decode(uri.split(',')[1])))
  assert shown.size == (160, 160)  # 40 by 40 mm
  pixels = np.asarray(shown.convert('RGB'), int)
  colour = [int(overlays.CLASS_COLOURS[1][i : i + 2], 16) for i in (1, 3, 5)]
  border = (pixels == colour).all(axis=-1)
  rows, columns = np.flatnonzero(border.any(axis=1)), np.flatnonzero(border.any(axis=0))
  assert (rows[0], rows[-1], columns[0], columns[-1]) == (40, 119, 40, 119)
  assert not border[42:118, 42:118].any()
  grey = pixels[20, :, 0]
  assert (np.diff(grey) >= 0).all() and grey[0] == 0 and grey[-1] == 255
  assert (pixels[20] == grey[:, None]).all()


def test_a_table_of_pictures_has_no_millimetres_and_no_slices(tmp_path):
  found = checked(3)
  found.config.data.unit = 'pixels'
  text = check_page.format_table(found)
  assert 'H x W' in text and '512x512' in text and 'pixels: organ' in text
  page = check_page.write(found, tmp_path).read_text(encoding='utf-8')
  assert '<th>organ, pixels</th>' in page and '<th>H × W</th>' in page
  for content in (text, page):
    assert 'H x W' not in content.replace('  H x W', '') and ' ml' not in content
    assert 'spacing mm' not in content and 'spacing, mm' not in content
  assert 'middle one of the' not in page and '<br>slice' not in page
  assert '<h2>Pictures</h2>' in page and 'All 3 pictures can be' in page


def test_warnings_of_one_kind_are_one_line_on_the_console_and_all_on_the_page(tmp_path):
  found = [Finding(f'case{i:03d}: width {i} pixels', f'case{i:03d}') for i in range(1, 7)]
  of_all = checked(8, found=[*found, Finding('the whole set is odd')])
  text = ' '.join(check_page.format_table(of_all).split())
  assert 'warning 6 scans, all in check.html; the first, case001: width 1 pixels' in text
  assert 'case002: width' not in text and 'warning the whole set is odd' in text
  assert '0 errors, 7 warnings.' in text
  page = check_page.write(of_all, tmp_path).read_text(encoding='utf-8')
  assert all(one.text in page for one in found)


def test_pictures_of_scans_have_the_sides_of_the_patient_and_others_none(tmp_path):
  of_scans = checked(3)
  page = check_page.write(of_scans, tmp_path).read_text(encoding='utf-8')
  marked = ('top">A', 'right">L', 'bottom">P', 'left">R')
  assert all(page.count(f'class="side {side}</b>') == 2 for side in marked)
  of_scans.config.data.unit = 'pixels'
  assert 'class="side' not in check_page.write(of_scans, tmp_path).read_text(encoding='utf-8')

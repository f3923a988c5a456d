"""Every way a raw folder can be broken: one line, status 2, the folder as it was, nothing left."""

import gzip
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import phantom_chaos
import PIL.Image
import pytest
import SimpleITK

from data_prep import phantom, phantom_folders
from thrifty_jax import main

PROJECT = Path(__file__).resolve().parents[1]
CT, MR = Path('Train_Sets', 'CT', '2'), Path('Train_Sets', 'MR', '2')
T1, T2 = MR / 'T1DUAL', MR / 'T2SPIR'
CASES = Path('TrainingData')
# The raw folder and the config of each kind.
KINDS = {
  'ct': ('chaos', 'configs/chaos.py:unet'),
  't1': ('chaos', 'configs/chaos.py:t1,unet'),
  't2': ('chaos', 'configs/chaos.py:t2,unet'),
  'promise12': ('promise12', 'configs/promise12.py:unet'),
  'decathlon': ('decathlon', 'configs/folder.py:unet'),
  'nnunet': ('nnunet', 'configs/folder.py:unet'),
  'plain': ('plain', 'configs/folder.py:unet'),
}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Raw folders with nothing wrong, three patients or six; in plain, files are not compressed."""
  folder = tmp_path_factory.mktemp('whole')
  phantom_chaos.write(folder / 'chaos', patients=3, seed=0)
  phantom.write_promise12(folder / 'promise12', patients=6, seed=0)
  phantom_folders.write_decathlon(folder / 'decathlon', patients=6, seed=0)
  phantom_folders.write_nnunet(folder / 'nnunet', patients=6, seed=0)
  phantom_folders.write_nnunet(folder / 'plain', patients=6, seed=0, ending='.nii')
  return folder


def contents(folder):
  return {
    path: (path.read_bytes() if path.is_file() else None, path.lstat().st_mtime_ns)
    for path in folder.rglob('*')
  }


def run(tmp_path, kind, stages=('check', 'prepare')):
  """Statuses of stages; preparing begins with the check."""
  settings = [f'--config={KINDS[kind][1]}', f'--config.data.raw_dir={tmp_path / "raw"}']
  settings += [f'--config.data.data_dir={tmp_path / "tfds"}', '--config.data.folds=3']
  settings += ['--config.data.image_size=32', f'--config.compilation_cache={tmp_path / "cache"}']
  run_dir = f'--workdir={tmp_path / "run"}'
  return tuple(main.main([*settings, run_dir, f'--stage={stage}']) for stage in stages)


@pytest.mark.parametrize('kind', KINDS)
def test_what_the_table_breaks_is_whole_before(whole, tmp_path, monkeypatch, kind):
  monkeypatch.chdir(PROJECT)
  shutil.copytree(whole / KINDS[kind][0], tmp_path / 'raw')
  assert run(tmp_path, kind) == (0, 0)


# How to break the files of a folder -------------------------------------------------------------

Break = Callable[[Path], object]


def slices(folder: Path) -> list[Path]:
  return sorted(folder.glob('DICOM_anon/**/[!.]*.dcm'))


def masks(folder: Path) -> list[Path]:
  return sorted(folder.glob('Ground/*.png'))


def remove(*names: str | Path) -> Break:
  def broken(raw: Path) -> None:
    for name in names:
      path = raw / name
      shutil.rmtree(path) if path.is_dir() else path.unlink()

  return broken


def rewrite(name: str | Path, data: bytes | Callable[[bytes], bytes]) -> Break:
  def broken(raw: Path) -> None:
    path = raw / name
    path.write_bytes(data(path.read_bytes()) if callable(data) else data)

  return broken


def change_slices(
  place: Path, change: Callable[[int, np.ndarray, dict[str, str]], np.ndarray | None], *only: int
) -> Break:
  """Every slice, or some, by number, pixels and tags; tags are changed in place."""

  def broken(raw: Path) -> None:
    for number, path in enumerate(sorted((raw / place).glob('[!.]*.dcm'))):
      if not only or number in only:
        pixels, tags = phantom_chaos.read_slice(path)
        changed = change(number, pixels, tags)
        phantom_chaos.write_slice(path, pixels if changed is None else changed, tags)

  return broken


def moved(tags: dict[str, str], *by_mm: float) -> None:
  position = [float(x) for x in tags['0020|0032'].split('\\')]
  tags['0020|0032'] = '\\'.join(f'{x + y:.6f}' for x, y in zip(position, by_mm, strict=True))


def change_masks(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> Break:
  def broken(raw: Path) -> None:
    for path in masks(raw / folder):
      with PIL.Image.open(path) as picture:
        pixels = np.asarray(picture.convert('L'))
      PIL.Image.fromarray(change(pixels)).save(path)

  return broken


def reverse_masks(folder: Path) -> Break:
  def broken(raw: Path) -> None:
    files = masks(raw / folder)
    for path, data in zip(files, [path.read_bytes() for path in files][::-1], strict=True):
      path.write_bytes(data)

  return broken


def doubled(count: int) -> Break:
  """The first slices of CT and their masks a second time, at the end."""

  def broken(raw: Path) -> None:
    files, pictures = slices(raw / CT), masks(raw / CT)
    for number in range(count):
      end = len(files) + number
      shutil.copy(files[number], files[0].with_name(f'IMG-0004-{end + 1:05d}.dcm'))
      shutil.copy(pictures[number], pictures[0].with_name(f'liver_GT_{end:03d}.png'))

  return broken


def without_tag(group: int, element: int) -> Break:
  """Cuts a tag out of one slice; the files have no names of types (implicit VR)."""

  def cut(data: bytes) -> bytes:
    start = data.index(struct.pack('<HH', group, element))
    (length,) = struct.unpack_from('<I', data, start + 4)
    return data[:start] + data[start + 8 + length :]

  return rewrite(CT / 'DICOM_anon' / 'IMG-0004-00005.dcm', cut)


def change_header(name: str, **lines: str) -> Break:
  def change(data: bytes) -> bytes:
    text = data.decode()
    for key, value in lines.items():
      assert re.search(rf'(?m)^{key} = .*$', text)
      text = re.sub(rf'(?m)^{key} = .*$', f'{key} = {value}', text)
    return text.encode()

  return rewrite(CASES / name, change)


def change_volume(name: str, change: Callable[[SimpleITK.Image], SimpleITK.Image | None]) -> Break:
  def broken(raw: Path) -> None:
    path = str(raw / CASES / name)
    image = SimpleITK.ReadImage(path)
    SimpleITK.WriteImage(change(image) or image, path, useCompression=True)

  return broken


def change_voxels(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Break:
  def with_voxels(image: SimpleITK.Image) -> SimpleITK.Image:
    result = SimpleITK.GetImageFromArray(change(SimpleITK.GetArrayFromImage(image)))
    result.CopyInformation(image)
    return result

  return change_volume(name, with_voxels)


def describe(**entries: Any) -> Break:
  """Changes entries of dataset.json."""

  def change(data: bytes) -> bytes:
    return json.dumps(json.loads(data) | entries).encode()

  return rewrite('dataset.json', change)


def change_nifti(
  name: str,
  voxels: Callable[[np.ndarray], np.ndarray] = lambda voxels: voxels,
  affine: Callable[[np.ndarray], np.ndarray] = lambda affine: affine,
) -> Break:
  def broken(raw: Path) -> None:
    file: Any = nibabel.load(raw / name)
    changed = voxels(np.asarray(file.dataobj)), affine(file.affine.copy())
    nibabel.save(nibabel.Nifti1Image(*changed), raw / name)

  return broken


def without_directions(name: str) -> Break:
  """Takes spacing and directions out of a NIfTI header."""

  def broken(raw: Path) -> None:
    file: Any = nibabel.load(raw / name)
    file.header['sform_code'], file.header['srow_x'] = 1, (0, 0, 0, 0)
    headless = nibabel.Nifti1Image(np.asarray(file.dataobj), None, file.header)
    nibabel.save(headless, raw / name)

  return broken


def shifted(affine: np.ndarray) -> np.ndarray:
  return affine + np.outer((5, 0, 0, 0), (0, 0, 0, 1))


def stretched(affine: np.ndarray) -> np.ndarray:
  return affine @ np.diag((1.1, 1, 1, 1))


def mirrored(affine: np.ndarray) -> np.ndarray:
  return affine @ np.diag((-1.0, 1, 1, 1))


def coloured(letters: str) -> Callable[[np.ndarray], np.ndarray]:
  return lambda voxels: np.zeros(voxels.shape[:3], [(letter, 'u1') for letter in letters])


def gray_of(value: int, other: int) -> Callable[[np.ndarray], np.ndarray]:
  return lambda pixels: np.where(pixels == value, np.uint8(other), pixels)


def half_grey(pixels: np.ndarray) -> np.ndarray:
  grey = pixels.copy()
  grey[0, :3] = 100, 150, 200
  return grey


def with_voxel(value: float) -> Callable[[np.ndarray], np.ndarray]:
  def change(voxels: np.ndarray) -> np.ndarray:
    changed = voxels.astype(np.float32)
    changed[1, 2, 3] = value
    return changed

  return change


SLICE, MASK = CT / 'DICOM_anon/IMG-0004-00005.dcm', CT / 'Ground/liver_GT_004.png'
IN, OUT = T1 / 'DICOM_anon/InPhase', T1 / 'DICOM_anon/OutPhase'
IMAGE, LABEL = 'imagesTr/scan_003.nii.gz', 'labelsTr/scan_003.nii.gz'
CHANNEL = 'imagesTr/scan_003_0001.nii.gz'

# What is broken, of which config; how; the file that is named and what is said of it, in order.
BROKEN: dict[str, tuple[str, Break, tuple[str, ...]]] = {
  # CT: folders and counts
  'no archive': ('ct', remove('Train_Sets'), ('Train_Sets/CT: no CHAOS CT there', 'download')),
  'no CT': ('ct', remove('Train_Sets/CT'), ('Train_Sets/CT: no CHAOS CT there', 'unpack')),
  'an empty patient': (
    'ct',
    remove(CT / 'DICOM_anon', CT / 'Ground'),
    ('CT/2: 0 slices in DICOM_anon and 0 masks', 'Unpack'),
  ),
  'no slices': ('ct', remove(CT / 'DICOM_anon'), ('CT/2: 0 slices in DICOM_anon', 'Unpack')),
  'no masks': ('ct', remove(CT / 'Ground'), ('CT/2: 12 slices', '0 masks', 'Unpack')),
  'a slice is missing': ('ct', remove(SLICE), ('CT/2: 11 slices', '12 masks', 'Unpack')),
  'a mask is missing': ('ct', remove(MASK), ('CT/2: 12 slices', '11 masks', 'Unpack')),
  'a slice and its mask are missing': (
    'ct',
    remove(SLICE, MASK),
    ('IMG-0004-00006.dcm: lies 5.', 'from IMG-0004-00004.dcm', '1 missing', 'Restore'),
  ),
  'three slices and their masks are missing': (
    'ct',
    remove(
      *(CT / f'DICOM_anon/IMG-0004-{d + 1:05d}.dcm' for d in (4, 5, 6)),
      *(CT / f'Ground/liver_GT_{d:03d}.png' for d in (4, 5, 6)),
    ),
    ('IMG-0004-00008.dcm: lies', 'from IMG-0004-00004.dcm', '3 missing', 'Restore'),
  ),
  'a slice and the mask of another are missing': (
    'ct',
    remove(SLICE, CT / 'Ground/liver_GT_008.png'),
    ('IMG-0004-00006.dcm: the mask in its place is liver_GT_004.png', 'Unpack'),
  ),
  'a mask and a later slice are missing': (
    'ct',
    remove(CT / 'DICOM_anon/IMG-0004-00009.dcm', CT / 'Ground/liver_GT_003.png'),
    ('IMG-0004-00004.dcm: the mask in its place is liver_GT_004.png', 'Unpack'),
  ),
  'the first slice and the last mask are missing': (
    'ct',
    remove('Train_Sets/CT/1/DICOM_anon/i0000,0000b.dcm', 'Train_Sets/CT/1/Ground/liver_GT_009.png'),
    ('i0001,0000b.dcm: the mask in its place is liver_GT_000.png', 'Unpack'),
  ),
  'a name without a number': (
    'ct',
    lambda raw: (raw / SLICE).rename((raw / SLICE).with_name('IMG-five.dcm')),
    ('IMG-five.dcm: has no number in its name', 'Unpack'),
  ),
  'only one slice': (
    'ct',
    lambda raw: [path.unlink() for path in slices(raw / CT)[1:] + masks(raw / CT)[1:]],
    ('IMG-0004-00001.dcm: 1 slices in its folder', 'Restore'),
  ),
  'a patient twice': (
    'ct',
    lambda raw: shutil.copytree(raw / CT, raw / 'Train_Sets/CT/02'),
    ('more than one scan is called ct02', 'remove'),
  ),
  # CT: slices
  'a double slice': ('ct', doubled(1), ('IMG-0004-00001.dcm: lies where', 'Remove the one')),
  'two series in a folder': (
    'ct',
    doubled(12),
    ('IMG-0004-00', 'lies where', '12 of 24 slices', 'Keep only one series'),
  ),
  'a slice of another patient': (
    'ct',
    lambda raw: shutil.copy(raw / 'Train_Sets/CT/1/DICOM_anon/i0003,0000b.dcm', raw / SLICE),
    ('IMG-0004-00005.dcm: the slice has 36 x 32 pixels', 'Keep only one series'),
  ),
  'a slice with other pixels': (
    'ct',
    change_slices(CT / 'DICOM_anon', lambda n, p, tags: tags.update({'0028|0030': '2\\2'}), 4),
    ('IMG-0004-00005.dcm: the slice has 2 x 2 mm between pixels', 'Keep only one series'),
  ),
  'a slice with other directions': (
    'ct',
    change_slices(
      CT / 'DICOM_anon', lambda n, p, tags: tags.update({'0020|0037': '1\\0\\0\\0\\0\\-1'}), 4
    ),
    ('IMG-0004-00005.dcm: the slice has 1 x 0 x 0 as direction of rows', 'Keep only one series'),
  ),
  'a slice out of step': (
    'ct',
    change_slices(CT / 'DICOM_anon', lambda n, p, tags: moved(tags, 0, 0, 1.2), 4),
    ('IMG-0004-0000', 'mm from', 'expected even steps', 'Restore'),
  ),
  'steps that grow': (
    'ct',
    change_slices(CT / 'DICOM_anon', lambda n, p, tags: moved(tags, 0, 0, -0.03 * n**2)),
    ('IMG-0004-000', 'mm away from even steps', 'Restore'),
  ),
  'a slice beside the others': (
    'ct',
    change_slices(CT / 'DICOM_anon', lambda n, p, tags: moved(tags, 3, 0, 0), 4),
    ('IMG-0004-00005.dcm: lies', 'mm away from even steps', 'Restore'),
  ),
  'a tilted gantry': (
    'ct',
    change_slices(CT / 'DICOM_anon', lambda n, p, tags: moved(tags, 0, 0.5 * n, 0)),
    ('IMG-0004-00012.dcm: each next slice', '0.50 mm sideways', 'Resample'),
  ),
  'all slices at one place': (
    'ct',
    change_slices(CT / 'DICOM_anon', lambda n, p, tags: tags.update({'0020|0032': '0\\0\\0'})),
    ('IMG-0004-00', 'lies where', '11 of 12', 'Keep only'),
  ),
  'a slice without a position': (
    'ct',
    without_tag(0x0020, 0x0032),
    ('IMG-0004-00005.dcm: has no ImagePositionPatient', 'Replace'),
  ),
  'a slice without directions': (
    'ct',
    without_tag(0x0020, 0x0037),
    ('IMG-0004-00005.dcm: has no ImageOrientationPatient', 'Replace'),
  ),
  'a slice without spacing': (
    'ct',
    without_tag(0x0028, 0x0030),
    ('IMG-0004-00005.dcm: has no PixelSpacing', 'Replace'),
  ),
  'a slice that is no DICOM': (
    'ct',
    rewrite(SLICE, b'nothing'),
    ('IMG-0004-00005.dcm: cannot be read', 'Copy or download'),
  ),
  'an empty slice': (
    'ct',
    rewrite(SLICE, b''),
    ('IMG-0004-00005.dcm: cannot be read', 'Copy or download'),
  ),
  'a slice cut off': (
    'ct',
    rewrite(SLICE, lambda data: data[:-400]),
    ('IMG-0004-00005.dcm: its pixels are 1904 bytes; expected 2304', 'Replace'),
  ),
  'a slice in colours': (
    'ct',
    lambda raw: SimpleITK.WriteImage(
      SimpleITK.Image([32, 36], SimpleITK.sitkVectorUInt8, 3), str(raw / SLICE)
    ),
    ('IMG-0004-00005.dcm: is no slice but a colour image', 'Move'),
  ),
  'a folder in place of a slice': (
    'ct',
    lambda raw: [(raw / SLICE).unlink(), (raw / SLICE).mkdir()],
    ('IMG-0004-00005.dcm: is no regular file', 'Restore'),
  ),
  'slices without their rescaling': (
    'ct',
    change_slices(CT / 'DICOM_anon', lambda n, p, tags: p + 1024),
    ('CT/2/Ground: the masks lie on 11', 'lost their rescaling', 'Unpack'),
  ),
  # CT: masks
  'a mask that is no picture': (
    'ct',
    rewrite(MASK, b'nothing'),
    ('liver_GT_004.png: the mask cannot be read', 'Unpack'),
  ),
  'an empty mask': ('ct', rewrite(MASK, b''), ('liver_GT_004.png: the mask cannot', 'Unpack')),
  'a mask cut off': (
    'ct',
    rewrite(MASK, lambda data: data[:45]),
    ('liver_GT_004.png: the mask cannot be read', 'Unpack'),
  ),
  'a mask of another size': (
    'ct',
    lambda raw: PIL.Image.new('L', (3, 5)).save(raw / MASK),
    ('liver_GT_004.png: the mask has (5, 3) pixels', 'Replace'),
  ),
  'a mask of many shades': (
    'ct',
    change_masks(CT, half_grey),
    ('liver_GT_000.png: the mask has the grey values 100, 150, 200', 'Replace'),
  ),
  'masks of the background': (
    'ct',
    change_masks(CT, lambda pixels: 255 - pixels),
    ('CT/2/Ground: the masks lie on -', 'do not belong together', 'Unpack'),
  ),
  'masks in the reverse order': (
    'ct',
    reverse_masks(CT),
    ('CT/2/Ground: the masks lie on', 'in the reverse order on a liver', 'Unpack'),
  ),
  # MR
  'no MR': ('t1', remove('Train_Sets/MR'), ('Train_Sets/MR: no CHAOS MR there', 'download')),
  'a patient without T1': (
    't1',
    remove(T1),
    ('T1DUAL/DICOM_anon: 0 slices in InPhase', '0 masks', 'Unpack'),
  ),
  'a patient without T2': ('t2', remove(T2), ('MR/2/T2SPIR: 0 slices', '0 masks', 'Unpack')),
  'an older release': (
    't1',
    lambda raw: [
      [path.rename(raw / T1 / 'DICOM_anon' / path.name) for path in slices(raw / T1)],
      shutil.rmtree(raw / IN),
      shutil.rmtree(raw / OUT),
    ],
    ('T1DUAL/DICOM_anon: holds slices of both phases', 'older release', 'download'),
  ),
  'no slices out of phase': ('t1', remove(OUT), ('OutPhase: 0 slices, but', 'has 12', 'Unpack')),
  'a slice in phase is missing': (
    't1',
    remove(IN / 'IMG-0003-00006.dcm'),
    ('T1DUAL/DICOM_anon: 11 slices in InPhase and 12 masks', 'Unpack'),
  ),
  'a slice out of phase is missing': (
    't1',
    remove(OUT / 'IMG-0003-00005.dcm'),
    ('OutPhase: 11 slices, but InPhase has 12', 'Unpack'),
  ),
  'phases that lie apart': (
    't1',
    change_slices(OUT, lambda n, p, tags: moved(tags, 0, 4, 0)),
    ('OutPhase/IMG-0003-00001.dcm: lies up to 4 mm away from', 'resample'),
  ),
  'a phase of another size': (
    't1',
    change_slices(OUT, lambda n, p, tags: p[:, :-2].copy()),
    ('OutPhase/IMG-0003-00001.dcm: has (12, 36, 30) voxels', 'Resample'),
  ),
  'a mask of another slice': (
    't2',
    lambda raw: masks(raw / T2)[-1].rename(raw / T2 / 'Ground/IMG-0003-00099.png'),
    ('IMG-0003-00012.dcm: the mask in its place is IMG-0003-00099.png', 'Unpack'),
  ),
  'grey values of an older release': (
    't2',
    change_masks(T2, gray_of(63, 80)),
    ('T2SPIR/Ground/IMG-0003-0', 'has the grey values 80', 'Zenodo record 3431873'),
  ),
  'class numbers for grey values': (
    't1',
    change_masks(T1, lambda pixels: pixels // 63),
    ('T1DUAL/Ground/IMG-0003-0', 'grey values', 'Replace'),
  ),
  'masks of MR in the reverse order': (
    't2',
    reverse_masks(T2),
    ('T2SPIR/Ground: in the masks the liver lies below the kidneys', 'Unpack'),
  ),
  'a slice of MR that is no DICOM': (
    't2',
    rewrite(T2 / 'DICOM_anon/IMG-0003-00003.dcm', b'DICM'),
    ('IMG-0003-00003.dcm: cannot be read', 'Copy or download'),
  ),
  # PROMISE12
  'only test scans': (
    'promise12',
    remove('TrainingData'),
    ('TrainingData: no PROMISE12 scan', 'download'),
  ),
  'no segmentation': (
    'promise12',
    remove(CASES / 'Case01_segmentation.mhd'),
    ('Case01.mhd: its mask Case01_segmentation.mhd is missing', 'add it'),
  ),
  'no scan': (
    'promise12',
    remove(CASES / 'Case01.mhd'),
    ('Case01_segmentation.mhd: its scan Case01.mhd is missing', 'add it'),
  ),
  'no voxels': (
    'promise12',
    remove(CASES / 'Case01.zraw'),
    ('Case01.mhd: its voxels, Case01.zraw, are not beside it', 'Copy or download'),
  ),
  'no voxels of a segmentation': (
    'promise12',
    remove(CASES / 'Case05_segmentation.raw'),
    ('Case05_segmentation.mhd: its voxels, Case05_segmentation.raw,', 'Copy or download'),
  ),
  'compressed voxels cut off': (
    'promise12',
    rewrite(CASES / 'Case01.zraw', lambda data: data[:-2]),
    ('Case01.mhd: its voxels, Case01.zraw, are damaged (cut off)', 'Copy or download'),
  ),
  'compressed voxels with a wrong byte': (
    'promise12',
    rewrite(CASES / 'Case01.zraw', lambda data: data[:9000] + b'!' + data[9001:]),
    ('Case01.mhd: its voxels, Case01.zraw, are damaged', 'Copy or download'),
  ),
  'plain voxels cut off': (
    'promise12',
    rewrite(CASES / 'Case05.raw', lambda data: data[:-2]),
    ('Case05.mhd: its voxels, Case05.raw, are 46078 bytes; expected 46080', 'Copy or download'),
  ),
  'a header with a slice too many': (
    'promise12',
    change_header('Case01.mhd', DimSize='48 48 11'),
    ('Case01.mhd: its voxels, Case01.zraw, are 46080 bytes', '48 x 48 x 11', 'Copy or download'),
  ),
  'headers with a slice too few': (
    'promise12',
    lambda raw: [
      change_header(name, DimSize='48 48 9')(raw)
      for name in ('Case05.mhd', 'Case05_segmentation.mhd')
    ],
    ('Case05.mhd: its voxels, Case05.raw, are 46080 bytes', '48 x 48 x 9', 'Copy or download'),
  ),
  'an empty header': (
    'promise12',
    rewrite(CASES / 'Case01.mhd', b''),
    ('Case01.mhd: cannot be read', 'Copy or download'),
  ),
  'a header of something else': (
    'promise12',
    rewrite(CASES / 'Case01_segmentation.mhd', b'ObjectType = Tube\n'),
    ('Case01_segmentation.mhd: cannot be read', 'Copy or download'),
  ),
  'a size of nothing': (
    'promise12',
    change_header('Case01.mhd', DimSize='48 48 0'),
    ("Case01.mhd: its header has DimSize '48 48 0'", 'export'),
  ),
  'a segmentation of another spacing': (
    'promise12',
    change_header('Case01_segmentation.mhd', ElementSpacing='0.5 0.5 3'),
    ('Case01_segmentation.mhd: lies up to', 'copy the header'),
  ),
  'a segmentation at another place': (
    'promise12',
    change_header('Case01_segmentation.mhd', Offset='0 0 0'),
    ('Case01_segmentation.mhd: lies up to', 'copy the header'),
  ),
  'a segmentation tilted': (
    'promise12',
    change_header('Case01_segmentation.mhd', TransformMatrix='1 0 0 0 -0.96 0.28 0 0.28 0.96'),
    ('Case01_segmentation.mhd: ', 'Case01.mhd'),
  ),
  'a segmentation the other way round': (
    'promise12',
    change_header('Case01_segmentation.mhd', TransformMatrix='-1 0 0 0 1 0 0 0 1'),
    ('Case01_segmentation.mhd: lies up to 82.8 mm away', 'copy the header'),
  ),
  'a segmentation of another size': (
    'promise12',
    change_volume('Case01_segmentation.mhd', lambda image: image[:, :, 1:]),
    ('Case01_segmentation.mhd: has (9, 48, 48) voxels', 'Resample'),
  ),
  'a segmentation of another case': (
    'promise12',
    lambda raw: shutil.copy(
      raw / CASES / 'Case02_segmentation.mhd', raw / CASES / 'Case01_segmentation.mhd'
    ),
    ('Case01_segmentation.mhd: has', 'replace'),
  ),
  'a class too many': (
    'promise12',
    change_voxels('Case01_segmentation.mhd', lambda voxels: voxels * 7),
    ('Case01_segmentation.mhd: ', 'class 7, but', '2 classes (background, prostate)', 'correct'),
  ),
  'a negative class': (
    'promise12',
    change_voxels('Case01_segmentation.mhd', lambda voxels: -voxels),
    ('Case01_segmentation.mhd: the mask holds values from -1', 'Replace'),
  ),
  'half a class': (
    'promise12',
    change_voxels('Case01_segmentation.mhd', with_voxel(0.5)),
    ('Case01_segmentation.mhd: the mask holds values', 'Replace'),
  ),
  'a scan that is not finite': (
    'promise12',
    change_voxels('Case01.mhd', with_voxel(np.nan)),
    ('Case01.mhd: 1 voxels of the scan are NaN', 'Export'),
  ),
  'a scan of one shade': (
    'promise12',
    change_voxels('Case01.mhd', np.zeros_like),
    ('Case01.mhd: every voxel of the scan is 0', 'Export'),
  ),
  'a scan of two dimensions': (
    'promise12',
    change_volume('Case01.mhd', lambda image: image[:, :, 2]),
    ('Case01.mhd: has 2 dimensions', 'Convert'),
  ),
  'a scan of several values a voxel': (
    'promise12',
    change_volume('Case01.mhd', lambda image: SimpleITK.Compose(image, image)),
    ('Case01.mhd: has 3 dimensions with 2 values', 'Convert'),
  ),
  # Folders: what describes them
  'no folder': ('decathlon', shutil.rmtree, ('no dataset.json there', 'Name it')),
  'no dataset.json': ('decathlon', remove('dataset.json'), ('no dataset.json there', 'Name it')),
  'no JSON': ('nnunet', rewrite('dataset.json', b'{'), ('dataset.json is not valid', 'restore')),
  'no text': ('nnunet', rewrite('dataset.json', b'\xff'), ('dataset.json is not valid', 'restore')),
  'a dataset.json of something else': (
    'nnunet',
    rewrite('dataset.json', b'[]'),
    ('dataset.json: expected a JSON object', 'Correct'),
  ),
  'regions': (
    'nnunet',
    describe(labels={'background': 0, 'a': [1, 2]}),
    ('dataset.json: regions_class_order is None', 'expected a label for each'),
  ),
  'gaps': (
    'nnunet',
    describe(labels={'background': 0, 'a': 2}),
    ('dataset.json: labels has the numbers 0, 2', 'Renumber'),
  ),
  'another ending': (
    'nnunet',
    describe(file_ending='.nrrd'),
    ('imagesTr: no volume or picture there (.nrrd)', 'correct'),
  ),
  'patients without a title': (
    'decathlon',
    rewrite('patients.csv', b'a,b\n'),
    ('patients.csv: expected a first line "case,patient"',),
  ),
  'patients with semicolons': (
    'decathlon',
    rewrite('patients.csv', b'case;patient\n'),
    ('patients.csv: expected a first line "case,patient"',),
  ),
  'a scan of nobody': (
    'decathlon',
    rewrite('patients.csv', b'case,patient\nscan_000,p\n'),
    ('patients.csv: does not say whose scan scan_001 is', 'Add a line'),
  ),
  'a scan of two patients': (
    'decathlon',
    rewrite('patients.csv', b'case,patient\nscan_000,p\nscan_000,q\n'),
    ('patients.csv: gives scan_000 to two patients', 'Correct'),
  ),
  'a patient in two spellings': (
    'decathlon',
    rewrite('patients.csv', b'case,patient\nscan_000,Doe\nscan_001,DOE\n'),
    ('patients.csv: has the patients Doe and DOE, who differ in capital letters alone', 'Correct'),
  ),
  'a patient without a name': (
    'decathlon',
    rewrite('patients.csv', b'case,patient\nscan_000,\n'),
    ("patients.csv: has the line 'scan_000,'", 'expected a case and a patient'),
  ),
  'patients in no text': (
    'decathlon',
    rewrite('patients.csv', b'\xff\xff'),
    ('patients.csv: cannot be read', 'expected text'),
  ),
  # Folders: files and pairs
  'no scans': ('decathlon', remove('imagesTr'), ('imagesTr: no volume or picture there', 'Copy')),
  'no masks in a folder': ('decathlon', remove('labelsTr'), ('labelsTr: no volume', 'Copy')),
  'a missing mask': ('decathlon', remove(LABEL), (f'{IMAGE}: its mask scan_003 is', 'add it')),
  'a missing scan': ('decathlon', remove(IMAGE), (f'{LABEL}: its scan scan_003 is', 'add it')),
  'a missing pair': (
    'decathlon',
    remove(IMAGE, LABEL),
    ('dataset.json: numTraining is 7, but imagesTr has 6 scans', 'add'),
  ),
  'a missing channel': (
    'nnunet',
    remove(CHANNEL),
    ('scan_003_0000.nii.gz: scan_003 has the channels 0000; expected 0000, 0001', 'Add'),
  ),
  'a channel too many': (
    'nnunet',
    lambda raw: shutil.copy(raw / CHANNEL, raw / CHANNEL.replace('0001', '0002')),
    ('scan_003 has the channels 0000, 0001, 0002; expected 0000, 0001 (T1, T2)', 'remove'),
  ),
  'a name without a channel': (
    'nnunet',
    lambda raw: (raw / CHANNEL).rename(raw / 'imagesTr/scan_003_T2.nii.gz'),
    ('scan_003_T2.nii.gz: no mask in labelsTr has this name', 'Rename'),
  ),
  'a scan in two formats': (
    'decathlon',
    lambda raw: (raw / 'imagesTr/scan_003.nrrd').write_bytes(b''),
    ('scan_003.nrrd: scan_003.nii.gz has the same name', 'Move one'),
  ),
  # Folders: scans
  'NIfTI cut off': (
    'plain',
    rewrite('imagesTr/scan_003_0000.nii', lambda data: data[:-2]),
    ('scan_003_0000.nii: its voxels', '25342 bytes; expected 25344', 'Copy or download'),
  ),
  'a NIfTI header cut off': (
    'plain',
    rewrite('labelsTr/scan_003.nii', lambda data: data[:200]),
    ('labelsTr/scan_003.nii: has no header of a NIfTI file', 'Copy or download'),
  ),
  'gzip cut off': (
    'decathlon',
    rewrite(IMAGE, lambda data: data[:-9]),
    (f'{IMAGE}: cannot be read', 'Copy or download'),
  ),
  'gzip with a wrong byte': (
    'decathlon',
    rewrite(IMAGE, lambda data: data[:9000] + b'!' + data[9001:]),
    (f'{IMAGE}: cannot be read', 'Copy or download'),
  ),
  'NIfTI cut off before it was compressed': (
    'decathlon',
    rewrite(IMAGE, lambda data: gzip.compress(gzip.decompress(data)[:-2])),
    (f'{IMAGE}: its voxels', '50686 bytes; expected 50688', 'Copy or download'),
  ),
  'something else by the name of NIfTI': (
    'decathlon',
    rewrite(IMAGE, b'\x1f\x8b no'),
    (f'{IMAGE}: cannot be read', 'Copy or download'),
  ),
  'a mask of no bytes': (
    'decathlon',
    rewrite(LABEL, b''),
    (f'{LABEL}: has no header of a NIfTI file', 'Copy or download'),
  ),
  'a scan without directions': (
    'decathlon',
    without_directions(IMAGE),
    (f'{IMAGE}: its header gives no valid spacing and direction', 'Export'),
  ),
  'a flat scan': (
    'decathlon',
    change_nifti(IMAGE, lambda voxels: voxels[:, :, 0, 0]),
    (f'{IMAGE}: has 2 dimensions', 'expected a volume', 'Convert'),
  ),
  'a scan without a slice': (
    'decathlon',
    change_nifti(IMAGE, lambda voxels: voxels[:, :, :0]),
    (f'{IMAGE}: its header has dim', 'expected the number of axes', 'export'),
  ),
  'a scan in colours': (
    'decathlon',
    change_nifti(IMAGE, coloured('RGB')),
    (f'{IMAGE}: has voxels of the type 128 (RGB)', 'expected one number for each', 'Convert'),
  ),
  'a mask in colours': (
    'decathlon',
    change_nifti(LABEL, coloured('RGBA')),
    (f'{LABEL}: has voxels of the type 2304 (RGBA)', 'expected one number for each', 'Convert'),
  ),
  'a complex scan': (
    'decathlon',
    change_nifti(IMAGE, lambda voxels: voxels.astype(np.complex64)),
    (f'{IMAGE}: has voxels of the type 32 (complex64)', 'expected one number for each', 'Convert'),
  ),
  'a complex mask': (
    'nnunet',
    change_nifti(LABEL, lambda voxels: voxels + 1j),
    (f'{LABEL}: has voxels of the type 1792', 'expected one number for each', 'Convert'),
  ),
  'NaN in a scan': (
    'decathlon',
    change_nifti(IMAGE, with_voxel(np.nan)),
    (f'{IMAGE}: 2 voxels of the scan are NaN', 'Export'),
  ),
  'a constant channel': (
    'decathlon',
    change_nifti(IMAGE, lambda voxels: voxels * np.array([1, 0], np.int16)),
    (f'{IMAGE}: every voxel of ', 'is 0', 'Export'),
  ),
  'fewer channels than named': (
    'decathlon',
    change_nifti(IMAGE, lambda voxels: voxels[..., :1]),
    (f'{IMAGE}: the scan has 1 channels, but data.modalities is 2', 'correct'),
  ),
  'a channel of another shape': (
    'nnunet',
    change_nifti(CHANNEL, lambda voxels: voxels[:, :, 1:]),
    (f'{CHANNEL}: has (', 'Resample'),
  ),
  'a channel of several': (
    'nnunet',
    change_nifti(CHANNEL, lambda voxels: np.stack([voxels, voxels], axis=-1)),
    (f'{CHANNEL}: has 4 axes', 'Convert'),
  ),
  'a channel elsewhere': (
    'nnunet',
    change_nifti(CHANNEL, affine=shifted),
    (f'{CHANNEL}: lies up to 5 mm away from scan_003_0000.nii.gz', 'resample'),
  ),
  # Folders: masks
  'a mask of another shape': (
    'decathlon',
    change_nifti(LABEL, lambda voxels: voxels[1:]),
    (f'{LABEL}: has', 'Resample'),
  ),
  'a mask elsewhere': (
    'decathlon',
    change_nifti(LABEL, affine=shifted),
    (f'{LABEL}: lies up to 5 mm away', 'resample'),
  ),
  'a mask of another spacing': (
    'decathlon',
    change_nifti(LABEL, affine=stretched),
    (f'{LABEL}: lies up to', 'mm away', 'resample'),
  ),
  'a mask the other way round': (
    'decathlon',
    change_nifti(LABEL, affine=mirrored),
    (f'{LABEL}: lies up to 46.1 mm away', 'expected one origin', 'copy the header'),
  ),
  'classes without a name': (
    'decathlon',
    change_nifti(LABEL, lambda voxels: np.where(voxels == 2, 7, voxels * 5).astype(np.uint8)),
    (f'{LABEL}: the truth holds class 5, 7, but data.classes names 3 classes', 'correct'),
  ),
}


@pytest.mark.parametrize('what', BROKEN)
def test_what_is_broken_is_named_in_one_line_and_nothing_is_left(
  whole, tmp_path, monkeypatch, capfd, what
):
  kind, broken, said = BROKEN[what]
  monkeypatch.chdir(PROJECT)
  raw = tmp_path / 'raw'
  shutil.copytree(whole / KINDS[kind][0], raw)
  broken(raw)
  before = contents(raw)
  assert run(tmp_path, kind, ['prepare']) == (2,)
  lines = [line.split('\r')[-1] for line in capfd.readouterr().err.splitlines()]
  (message,) = (line for line in lines if not line.startswith(('check ', 'prepare ')))  # progress
  assert message.startswith('error: ') and str(raw) in message and len(message) < 800
  rest = message
  for part in said:  # in this order
    assert part in rest, f'{said} in {message}'
    rest = rest.split(part, 1)[1]
  assert contents(raw) == before
  left = (path for path in tmp_path.rglob('*') if path.is_file())
  left = [path for path in left if not path.is_relative_to(raw) and 'cache' not in path.parts]
  assert {path.name for path in left} <= {'check.html'}


# Several things at once: of which kind; how; what is said; how many scans are still shown.
LISTED: dict[str, tuple[str, tuple[Break, ...], tuple[str, ...], int]] = {
  'CT': (
    'ct',
    (remove(SLICE), remove('Train_Sets/CT/3/Ground')),
    ('CT/2: 11 slices in DICOM_anon and 12 masks', 'CT/3: 9 slices in DICOM_anon and 0 masks'),
    1,
  ),
  'MR': (
    't1',
    (remove(OUT), remove('Train_Sets/MR/1/T1DUAL'), reverse_masks(Path('Train_Sets/MR/3/T1DUAL'))),
    ('MR/1/T1DUAL/DICOM_anon: 0 slices', 'OutPhase: 0 slices, but', 'MR/3/T1DUAL/Ground: in the'),
    0,
  ),
  'PROMISE12': (
    'promise12',
    (
      remove(CASES / 'Case01.mhd', CASES / 'Case02_segmentation.mhd', CASES / 'Case05.raw'),
      change_voxels('Case04.mhd', with_voxel(np.nan)),
    ),
    (
      'Case01_segmentation.mhd: its scan Case01.mhd is missing',
      'Case02.mhd: its mask Case02_segmentation.mhd is missing',
      'Case04.mhd: 1 voxels of the scan are NaN',
      'Case05.mhd: its voxels, Case05.raw, are not beside it',
    ),
    2,
  ),
  'no mask at all': (
    'promise12',
    (lambda raw: [path.unlink() for path in raw.glob('TrainingData/*_segmentation.mhd')],),
    tuple(f'Case0{n}.mhd: its mask Case0{n}_segmentation.mhd is missing' for n in range(6)),
    0,
  ),
  'Decathlon': (
    'decathlon',
    (
      remove('labelsTr/scan_001.nii.gz', 'imagesTr/scan_005.nii.gz', 'patients.csv'),
      rewrite('imagesTr/scan_002.nii.gz', b'no scan'),
      change_nifti('labelsTr/scan_004.nii.gz', affine=shifted),
      change_nifti('imagesTr/scan_006.nii.gz', with_voxel(np.nan)),
    ),
    (
      'scan_001.nii.gz: its mask scan_001 is missing',
      'scan_005.nii.gz: its scan scan_005 is missing',
      'scan_002.nii.gz: has no header of a NIfTI file',
      'scan_004.nii.gz: lies up to 5',
      'scan_006.nii.gz: 2 voxels of the scan are NaN',
    ),
    2,
  ),
  'nnU-Net': (
    'nnunet',
    (
      remove(CHANNEL, 'labelsTr/scan_001.nii.gz'),
      lambda raw: (raw / 'imagesTr/notes.nii.gz').write_bytes(b''),
    ),
    (
      'notes.nii.gz: no mask in labelsTr has this name',
      'scan_003_0000.nii.gz: scan_003 has the channels 0000; expected 0000, 0001',
      'scan_001_0000.nii.gz: its mask scan_001 is missing',
    ),
    5,
  ),
}


@pytest.mark.parametrize('what', LISTED)
def test_all_that_is_wrong_is_listed_and_the_other_scans_are_shown(
  whole, tmp_path, monkeypatch, capfd, what
):
  kind, breaks, said, shown = LISTED[what]
  monkeypatch.chdir(PROJECT)
  raw = shutil.copytree(whole / KINDS[kind][0], tmp_path / 'raw')
  for broken in breaks:
    broken(raw)
  before = contents(raw)
  assert run(tmp_path, kind) == (2, 2)
  out, err = capfd.readouterr()
  listed, page = ' '.join(out.split()), (tmp_path / 'run' / 'check.html').read_text('utf-8')
  for text in said:
    assert text in listed and text in page
  assert listed.count(' error ') == 2 * len(said)  # preparing checks them again
  assert page.count('<figure>') == shown
  assert f'error: {len(said)} errors in' in err and said[0] in err.splitlines()[-1]
  assert contents(raw) == before

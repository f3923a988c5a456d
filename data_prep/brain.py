"""Grey and white matter of the ICBM152 brain, which the nilearn package contains: MR, no download.

It is one brain, the average of 152: blocks of axial slices stand in for patients, with gaps between
them because neighbouring slices are nearly the same. Blocks are cut to 192 x 192 voxels of 1 mm
around the brain (143 x 180): with image_size 192 nothing is resampled, and 192 can be halved six
times. Grey matter is 2 to 4 voxels thick, so the truth itself, resized to S pixels and back, scores
a DSC of 0.938 at S = 96, 0.957 at 128, 0.978 at 160 and 1 at 192, for grey as for white.

In the template intensity alone tells tissue. In a scanner it does not: the coil receives more from
near, contrast depends on the protocol, and there is noise. These three are simulated anew for each
block, see `simulate`.

The percentiles of a block depend on how much skull-free air it shows: use `intensity = 'window'`
with (0, 255), so that all blocks have one scale.
"""

import dataclasses
import functools
import importlib.util
from pathlib import Path

import numpy as np
from nibabel.affines import from_matvec
from scipy import ndimage

from data_prep.data_sets import About
from thrifty_jax import extras
from thrifty_jax.errors import InputError
from thrifty_jax.scans import volumes
from thrifty_jax.scans.volumes import Case, Volume

_DEMONSTRATION = (
  'Demonstration only: blocks of slices of one averaged brain take the place of patients; coil, '
  'contrast and noise of a scanner are simulated. It shows that the program works and proves '
  'nothing about a network.'
)

_BLOCK = 8  # slices
_GAP = 2  # slices left out between blocks
_SIDE = 192  # voxels of 1 mm
_COIL = 1.5  # how many times as bright the brightest place of a slice is as the darkest
_GAMMA = 1.3  # the contrast's exponent lies between 1 / _GAMMA and _GAMMA
_NOISE = 0.03  # deviation of each of the two parts of the signal; 1 is the white of the template
_T1, _GREY, _WHITE = (
  f'mni_icbm152_{map_}_tal_nlin_sym_09a_converted.nii.gz' for map_ in ('t1', 'gm', 'wm')
)

ABOUT = About(
  f'Axial slices of the ICBM152 2009a T1 template. {_DEMONSTRATION}',
  homepage='https://nilearn.github.io',
  citation='Fonov et al. 2011, NeuroImage 54(1), doi:10.1016/j.neuroimage.2010.07.033',
  note=_DEMONSTRATION,
)


def find_cases(raw_dir: Path) -> list[Case]:
  """Returns the blocks of the brain, from the three maps in `raw_dir` or else in nilearn."""
  folder = raw_dir if (raw_dir / _T1).is_file() else _package_folder()
  image, label = (folder / _T1,), (folder / _GREY, folder / _WHITE)
  count = len(_starts(_brain(*image, *label)))
  names = [f'block{index:02d}' for index in range(count)]
  return [Case(case=name, patient=name, image=image, label=label) for name in names]


def read_case(case: Case) -> Volume:
  """Cuts a block out of the brain, [8, 192, 192], as a scanner of its own would show it."""
  brain = _brain(*case.image, *case.label)
  index = int(case.case.removeprefix('block'))
  first = _starts(brain)[index]
  _, *shown = ndimage.find_objects((brain.truth > 0).astype(int))[0]
  corner = (first, *((side.start + side.stop) // 2 - _SIDE // 2 for side in shown))
  box = tuple(slice(at, at + size) for at, size in zip(corner, (_BLOCK, _SIDE, _SIDE), strict=True))
  affine = brain.affine @ from_matvec(np.eye(3), corner)
  return dataclasses.replace(
    brain,
    image=simulate(brain.image[box], np.random.default_rng(index)),
    label=brain.truth[box],
    affine=affine,
    case=case.case,
    patient=case.patient,
  )


def simulate(block: np.ndarray, generator: np.random.Generator) -> np.ndarray:
  """Shows a block of the template, [D, H, W, 1] in [0, 255], by a coil, a contrast and with noise.

  The coil's field is the exponential of a polynomial of the second degree along H and W, the same
  in all slices, and varies by the factor _COIL. The contrast is a power of the intensity. The noise
  is that of a magnitude: of two normal parts (Gudbjartsson and Patz 1995, doi
  10.1002/mrm.1910340618). The field is at most 1, so that only noise exceeds the template's white.
  """
  h, w = np.meshgrid(*(np.linspace(-1, 1, side) for side in block.shape[1:3]), indexing='ij')
  field = np.tensordot(generator.normal(size=5), [h, w, h * h, w * w, h * w], axes=1)
  field = np.log(_COIL) * ((field - field.min()) / np.ptp(field) - 1)  # at most 0
  exponent = np.exp(generator.uniform(-1, 1) * np.log(_GAMMA))
  signal = (block / 255) ** exponent * np.exp(field)[..., None]
  real, imaginary = generator.normal(scale=_NOISE, size=(2, *block.shape))
  return (255 * np.hypot(signal + real, imaginary)).clip(0, 255).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _brain(t1: Path, grey: Path, white: Path) -> Volume:
  """Reads the whole brain once; all blocks are cut from it."""
  image, affine = volumes.read_nifti(t1)
  maps = np.stack([volumes.read_nifti(path)[0] for path in (grey, white)])
  maps = maps.astype(np.float32) / 255  # 8-bit probabilities
  # Foreground is where grey and white add up to one half or more; its class is the likelier one.
  label = np.where(maps.sum(axis=0) >= 0.5, 1 + maps.argmax(axis=0), 0)
  whole = Case(case='brain', patient='brain', image=(t1,), label=(grey, white))
  return volumes.make_volume(whole, image=image, affine=affine, label=label)


def _starts(brain: Volume) -> range:
  """Returns the first slice of each block, within the slices that show enough of both classes.

  A slice must have, of each class, a twentieth of the voxels of the fullest slice: scores of the
  ends, with a dozen voxels of white matter, would be chance.
  """
  areas = np.stack([(brain.truth == k).sum(axis=(1, 2)) for k in (1, 2)])  # [2, D]
  shown = np.flatnonzero((areas >= areas.max(axis=1, keepdims=True) / 20).all(axis=0))
  return range(shown[0], shown[-1] + 2 - _BLOCK, _BLOCK + _GAP)


def _package_folder() -> Path:
  """Returns nilearn's folder of maps without importing it: its dependencies are not installed."""
  found = importlib.util.find_spec('nilearn')
  places = (found.submodule_search_locations if found else None) or []
  for folder in (Path(place) / 'datasets' / 'data' for place in places):
    if all((folder / name).is_file() for name in (_T1, _GREY, _WHITE)):
      return folder
  raise InputError(
    'nilearn: the package with the ICBM152 brain is not installed; expected its three maps. Run '
    f'{extras.how_to_install("demo")}; --config=phantom runs without it.'
  )

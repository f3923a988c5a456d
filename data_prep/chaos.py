"""CHAOS, CT: the liver in the portal venous phase, 20 labelled patients.

Layout of the raw folder: Train_Sets/CT/<id>/DICOM_anon/*.dcm and Ground/liver_GT_NNN.png. The masks
follow the order of the slices' file names, not of their positions. Patients are known by their
folder numbers alone: no DICOM tags but those of geometry and rescaling are read.

The MR scans of the archive (chaos_t1, chaos_t2) show other people, even where numbers agree.
"""

from pathlib import Path

import numpy as np

from data_prep import data_sets, download, slice_masks
from thrifty_jax import words
from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom, volumes
from thrifty_jax.scans.volumes import Case, Volume

# Some scans store values from 4000 HU on, which no tissue reaches, outside the round field of view;
# they become the value of air.
PADDING = (4000.0, -1000.0)
# Range of a liver's mean. The lowest known is -3 HU, with 40 % fat and without contrast medium
# (Starekova et al. 2021, Radiology 301(2):250, figure 2). With it, as here, 110 HU separate fatty
# from normal livers (Chulalongkorn Medical Journal 65(4):467, 2021). Both limits leave a margin.
_LIVER = (-50.0, 250.0)
# See require_liver. An even tissue scatters by 0.8 of the noise's deviation, which is below 30 HU.
_FAR = 200.0  # HU: larger distances count as this one
_MIXED = 30.0  # HU
_MORE = 1.5  # times

ABOUT = data_sets.About(
  'Axial slices of contrast-enhanced abdominal CT with the liver outlined.',
  homepage='https://chaos.grand-challenge.org',
  citation='Kavur et al. 2021, Medical Image Analysis 69, doi:10.1016/j.media.2020.101950',
  padding=PADDING,
)


def find_cases(raw_dir: Path) -> list[Case]:
  """Returns the labelled scans below Train_Sets; each is a patient of its own."""
  patients = [(f'ct{int(path.name):02d}', path) for path in find_patients(raw_dir, 'CT')]
  return data_sets.find_cases(patients, _find_case)


def find_patients(raw_dir: Path, kind: str) -> list[Path]:
  """Returns the patients' folders in Train_Sets/CT or Train_Sets/MR, sorted by number."""
  folder = raw_dir / 'Train_Sets' / kind
  patients = [path for path in folder.glob('*') if path.is_dir() and path.name.isdigit()]
  if not patients:
    raise InputError(
      f'{folder}: no CHAOS {kind} there. {download.remedy("chaos", f"{folder}/1 exists")}'
    )
  return sorted(patients, key=lambda path: int(path.name))


def read_case(case: Case) -> Volume:
  """Reads the slices in Hounsfield units and their masks, which must belong together."""
  series = dicom.read_series(case.image)
  hounsfield = series.voxels.astype(np.float32)
  hounsfield[hounsfield >= PADDING[0]] = PADDING[1]
  masks = slice_masks.read_masks(case.label, hounsfield.shape[1:])
  for path, mask in zip(case.label, masks, strict=True):
    values = np.unique(mask[mask > 0]).tolist()
    if len(values) > 1:
      raise InputError(
        f'{path}: the mask has the grey values {words.list_some(values)}; expected the liver '
        'in one, on 0. Replace it by the original file.'
      )
  require_liver(case, hounsfield, masks, series.order)
  return volumes.make_volume(
    case, image=hounsfield, affine=series.affine, label=masks[series.order] > 0
  )


def require_liver(case: Case, hounsfield: np.ndarray, masks: np.ndarray, order: np.ndarray) -> None:
  """Refuses masks that do not lie on a liver, above all masks in the reverse order.

  A liver is one even tissue, whatever its brightness. Reversed masks also lie on fat, bowel, lung
  and kidney, while their mean is often still that of a liver. So the scatter of intensities under
  the masks is compared with that under the reversed masks; where both are similar, the masks are
  accepted. The median must be plausible for a liver, which also finds masks of the background and
  slices without rescaling.

  In 8 real scans of another data set (LiTS, a window of 400 HU assumed) livers scatter by 17 to 29
  HU, voxels under the reversed masks by 53 to 70, 1.9 to 3.8 times as much, while the median
  changes by 5 to 25 HU.

  Args:
    case: The scan that an error names.
    hounsfield: Intensities in HU, [D, H, W], in the order of positions.
    masks: Values above 0 in the liver, [D, H, W], in the order of the files.
    order: Index of each slice's file, [D].
  """
  if not masks.any():
    return
  median, scatter = _median_and_scatter(hounsfield[masks[order] > 0])
  median_reversed, scatter_reversed = _median_and_scatter(hounsfield[masks[::-1][order] > 0])
  mixed = scatter > _MIXED and scatter > _MORE * scatter_reversed
  if mixed and _LIVER[0] <= median_reversed <= _LIVER[1]:
    raise InputError(
      f'{case.label[0].parent}: the masks lie on a mixture, {median:.0f} HU and {scatter:.0f} '
      f'around it, in the reverse order on a liver, {median_reversed:.0f} HU and '
      f'{scatter_reversed:.0f}; expected masks in the order of the file names. Unpack them again.'
    )
  if not _LIVER[0] <= median <= _LIVER[1]:
    raise InputError(
      f'{case.label[0].parent}: the masks lie on {median:.0f} HU; expected a liver, {_LIVER[0]:g} '
      f'to {_LIVER[1]:g} HU: masks and slices do not belong together, or the slices lost their '
      'rescaling. Unpack both again.'
    )


def _find_case(name: str, folder: Path) -> Case:
  slices = folder / 'DICOM_anon'
  # Names like i0000,0000b count from 0, as masks do; names like IMG-0004-00001 count from 1.
  from_zero = any(path.name.startswith('i') for path in slice_masks.find_files(slices, '.dcm'))
  ahead = (0,) if from_zero else (0, 1)
  image, label = slice_masks.find_pairs(slices, folder / 'Ground', ahead=ahead)
  return Case(case=name, patient=name, image=image, label=label)


def _median_and_scatter(values: np.ndarray) -> tuple[float, float]:
  """Returns the median and the mean clipped distance from it, robust to outliers such as metal."""
  median = float(np.median(values))
  return median, float(np.minimum(np.abs(values - median), _FAR).mean())

"""PROMISE12: the prostate in T2-weighted MR, 50 labelled patients of four hospitals.

Layout of the raw folder: TrainingData/CaseNN.mhd with its .raw or .zraw, and
CaseNN_segmentation.mhd in the same way. Cases are ordered by hospital, so folds interleave.
"""

from pathlib import Path

from data_prep import data_sets, download, folder
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import Case

read_case, read_classes = folder.read_case, folder.read_classes
MASK = '_segmentation'

ABOUT = data_sets.About(
  'Axial slices of prostate T2-weighted MR with the whole prostate outlined.',
  homepage='https://promise12.grand-challenge.org',
  citation='Litjens et al. 2014, Medical Image Analysis 18(2), doi:10.1016/j.media.2013.12.002',
)


def find_cases(raw_dir: Path) -> list[Case]:
  """Returns the labelled scans of TrainingData; each is a patient of its own."""
  place = raw_dir / 'TrainingData'
  scans = {path.stem: path for path in place.glob('Case*.mhd') if not path.stem.endswith(MASK)}
  masks = {path.stem.removesuffix(MASK): path for path in place.glob(f'Case*{MASK}.mhd')}
  if not scans and not masks:
    where = 'this folder holds the cases'
    raise InputError(
      f'{place}: no PROMISE12 scan (CaseNN.mhd) there. {download.remedy("promise12", where)}'
    )
  alone = [
    data_sets.Problem(
      name,
      f'{scans[name]}: its mask {name}{MASK}.mhd is missing; add it or move the scan away.'
      if name in scans
      else f'{masks[name]}: its scan {name}.mhd is missing; add it or move the mask away.',
    )
    for name in sorted(scans.keys() ^ masks.keys())
  ]
  pairs = sorted(scans.keys() & masks.keys())
  cases = [Case(case=n, patient=n, image=(scans[n],), label=(masks[n],)) for n in pairs]
  if alone:
    raise data_sets.Unpaired(alone, cases)
  return cases

"""What the files of a run hold: a type for each that more than its writer reads (records.py)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from thrifty_jax.allowed import Allowed, one_of, within
from thrifty_jax.records import WRITTEN, Inline


def _is_inside(value: str) -> bool:
  path = PurePosixPath(value)
  outside = '\\' in value or path.is_absolute() or '..' in path.parts
  return value.isprintable() and not outside


def _is_name(value: str) -> bool:
  return _is_inside(value) and len(PurePosixPath(value).parts) <= 1


EXTERNAL = 'evaluate/external'  # folder in that of a run, of the external test set
COURSE = 'race.json'  # file beside front.json, a RaceCourse
COSTS = 'costs.json'  # file beside it of the times of a race, if these were taken here
Count = Annotated[int, within(0, 10**12)]
Epoch = Annotated[int, within(1, 10_000_000)]
Side = Annotated[int, within(1, 1 << 20)]
Image = tuple[Side, Side, Side]  # height, width and channels of a slice
Inside = Annotated[str, Allowed('a path that leads to nowhere outside of the run', _is_inside)]
Unit = Annotated[str, one_of('mm', 'pixels')]
Name = Annotated[str, Allowed('a name that a file can have', _is_name)]


@dataclass(frozen=True)
class Spread:
  """One score over the patients."""

  mean: float
  std: float | None  # n - 1 below; None for a single patient
  ci95: tuple[float, float] | None  # bootstrap interval of the mean; None for a single patient


@dataclass(frozen=True)
class Overlap:
  """The overlap of one class, or its mean over the classes, in [0, 1].

  A class that neither truth nor prediction of a patient has gets no score, and a score that nobody
  has is None; the means are over the others.
  """

  dsc: Annotated[Spread | None, Inline('dsc_')]  # of whole patients
  # One over all slices at network resolution; the mean of several folds.
  pooled_2d_dsc: float | None
  scored: Count | None = None  # patients with a DSC; None in files of older versions

  @property
  def dsc_mean(self) -> float | None:
    """The mean DSC, None where no patient has one."""
    return self.dsc.mean if self.dsc else None


@dataclass(frozen=True)
class Figures:
  """All scores of one class, or their means over the classes; metrics.score_volume defines them.

  Who has no score, and what is None, is as of Overlap.
  """

  dsc: Annotated[Spread | None, Inline('dsc_')]  # in [0, 1], of whole patients
  hd95_mm: Annotated[Spread | None, Inline('hd95_mm_')]
  max_distance_mm: Annotated[Spread | None, Inline('max_distance_mm_')]
  assd_mm: Annotated[Spread | None, Inline('assd_mm_')]
  nsd: Annotated[Spread | None, Inline('nsd_')]  # in [0, 1]
  # Without the patients where it is infinite; None where it is for all.
  ravd_percent: Annotated[Spread | None, Inline('ravd_percent_')]
  missed: Count  # scans with a truth and no prediction, summed over the classes
  invented: Count  # scans with a prediction and no truth, likewise
  pooled_2d_dsc: float | None  # in [0, 1], as of Overlap
  rightly_empty: Count = 0  # scans with neither, likewise
  scored: Count | None = None  # as of Overlap

  @property
  def dsc_mean(self) -> float | None:
    """The mean DSC, None where no patient has one."""
    return self.dsc.mean if self.dsc else None


@dataclass(frozen=True)
class Floor:
  """The scores of a floor (floors.py) on the same patients, and how it was fitted."""

  mean: Annotated[Overlap, Inline()]
  classes: Mapping[str, Overlap]  # each foreground class
  fitted_on: str
  training_dsc: float  # in [0, 1], mean over training patients and classes
  threshold: float | None = None  # of the mean mask's frequencies, in [0, 1]
  thresholds: tuple[float, ...] = ()  # between the bands, ascending intensities in [0, 1]
  bands: tuple[str, ...] = ()  # class of each band, darkest first


@dataclass(frozen=True)
class Case:
  """A scored case; its slices are in predictions/ of the fold `run`, if there are several."""

  case: Name
  patient: str
  run: Name = ''


@dataclass(frozen=True)
class Agreement:
  """How well the mask of a case agrees with the network, see scores/agreement.py."""

  case: Name
  patient: str
  split: str  # that the case belongs to
  dsc: float  # in [0, 1]
  way: str  # in which the mask would agree better, such as mirrored left to right; '' if in none
  turned_dsc: float  # that it then has, in [0, 1]


@dataclass(frozen=True)
class OfFold:
  """What differs between the folds of one evaluation."""

  fold: Count
  parameters: Count
  dsc_mean: float | None  # in [0, 1]
  pooled_2d_dsc: float | None  # in [0, 1]
  largest_component: tuple[str, ...]


@dataclass(frozen=True)
class Evaluated:
  """evaluate/summary.json: the scores of a run, or of several folds as one set of patients."""

  protocol: str  # volume or pooled_2d
  split: str  # whose patients were scored: train, validation or test
  nsd_tolerance_mm: float
  held_out: bool  # whether neither training nor selection has seen the patients
  data: str  # name of the data set
  note: str  # what is to be known of it, or empty
  folds: Count  # that the patients are split into
  fold: Count | tuple[Count, ...]
  model: str  # thrifty, unet or unet_plus_plus
  flips: tuple[str, ...]  # that logits were averaged over
  patients: Count  # that were scored
  patient_names: Mapping[str, tuple[str, ...]]  # of each split
  slices: Mapping[str, Count]  # of each split
  cases: tuple[Case, ...]
  parameters: Count  # the mean of several folds
  largest_component: tuple[str, ...]  # classes of which only the largest piece counts
  mean: Annotated[Figures, Inline()]
  classes: Mapping[str, Figures]  # each foreground class
  floor_dsc: float | None  # of the best floor, in [0, 1]
  floors: Mapping[str, Floor]
  of_folds: tuple[OfFold, ...] = ()  # empty for a single fold
  # Patients of each split that have each foreground class; empty in files of older versions.
  having: Mapping[str, Mapping[str, Count]] = dataclasses.field(default_factory=dict)
  # Scored cases; and those to look at, of several folds among the scored ones, which no network of
  # theirs has seen, else among those for training and validation.
  agreements: tuple[Agreement, ...] = ()
  suspects: tuple[Agreement, ...] = ()
  unit: Unit = 'mm'  # of all distances, those whose names end in _mm too
  weights_sha256: tuple[str, ...] = ()  # that were scored, one a fold; () in older versions


def without_names(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the JSON of Evaluated without names of patients: it goes to others with the model."""
  names = ('patient_names', 'cases', 'agreements', 'suspects')
  return {name: value for name, value in content.items() if name not in names}


@dataclass(frozen=True)
class MaskPair:
  """A mask of any program and its truth."""

  case: str  # name of the truth's file without its ending
  patient: str
  mask: str  # names of the files
  truth: str


@dataclass(frozen=True)
class Against:
  """Other masks for the same truths, to which masks are held."""

  masks: str  # as of ScoredMasks
  mean: Annotated[Figures, Inline()]
  classes: Mapping[str, Figures]
  # Of the patients' DSC to theirs, see statistics.compare_paired; None where no patient has one.
  difference: float | None
  p_value: float | None  # of the paired Wilcoxon test; None also for few patients


@dataclass(frozen=True)
class ScoredMasks:
  """summary.json of thrifty_jax.evaluate, and of an external test set: scores of masks."""

  masks: str  # the folders, by their last two names
  truths: str
  paired: str  # the rule by which their files were
  nsd_tolerance_mm: float
  unit: Unit  # as of Evaluated
  patients: Count  # that were scored
  cases: tuple[MaskPair, ...]
  missing: tuple[str, ...]  # truths without a mask, which nothing below counts
  mean: Annotated[Figures, Inline()]
  classes: Mapping[str, Figures]  # each foreground class
  against: Against | None = None
  weights_sha256: tuple[str, ...] = ()  # of the models of a run whose masks they are


@dataclass(frozen=True)
class PatientScore:
  """The mean volume DSC of a patient over the classes, in [0, 1]."""

  patient: str
  dsc: float


@dataclass(frozen=True)
class Started:
  """retrain/start.json: the model that a training started from, and what it took of it."""

  model: str  # its folder, as retrain.start_from named it
  weights_sha256: str
  classes: tuple[str, ...]  # of the model
  whole: Count  # tensors that were taken as they are
  partly: tuple[str, ...]  # names of those of which the channels or classes of both were
  anew: tuple[str, ...]  # names of those that were drawn
  frozen: tuple[str, ...]  # names of the modules that training left as they were
  otherwise: tuple[str, ...]  # what differs from the data that the model learned, in words
  patients_known: bool  # whether it is recorded who trained and validated the model
  shared: tuple[str, ...]  # test patients with the names of those


@dataclass(frozen=True)
class Taught:
  """retrain/teacher.json: the models that a training learned from beside the masks."""

  models: tuple[str, ...]  # their folders
  weights_sha256: tuple[str, ...]  # of each
  share: float  # of their probabilities in what was learned
  patients_known: bool  # whether it is recorded who trained and validated each
  unlabelled: Count = 0  # scans without masks that it learned from too
  shared: tuple[str, ...] = ()  # who validates or tests with the name of one whom a model knows


@dataclass(frozen=True)
class Retrained:
  """retrain/summary.json: what a training came to."""

  model: str  # thrifty, unet or unet_plus_plus
  parameters: Count
  macs: float  # multiplications for one slice
  image: Image
  genotype: str | None  # its file; None for a baseline
  epochs: Count  # that were done
  planned_epochs: tuple[Count, ...]  # that it was to take, from call to call
  precision: str  # type that the steps compute in
  steps: Count
  best_epoch: Count  # whose weights were kept
  validation_dsc: float  # of that epoch, in [0, 1]
  largest_component: tuple[str, ...]  # classes of which only the largest piece counts
  selection: str  # what chose the epoch, in words
  seconds: float  # of all epochs
  patients: tuple[PatientScore, ...] = ()  # of the validation
  started: Started | None = None  # None if all weights were drawn
  taught: Taught | None = None  # None if it learned from the masks alone


@dataclass(frozen=True)
class Raced:
  """A network in front.json, the list of all that raced (racing/raced.py)."""

  name: str  # of its files
  title: str
  source: str  # unet, known, drawn, mutant or genotype
  space: str  # lean or thrifty
  parameters: Count
  macs: Count  # multiplications for a slice of `size`
  ms: float  # for such a slice, in the way that serves the network best
  ms_spread: float  # interquartile range over median
  runtime: str
  precision: str
  threads: Count
  size: Side  # pixels on each side of the timed slice
  file_bytes: Count | None  # of the exported file; None for JAX
  machine: str  # on which it was timed
  rung: Count  # the last one that it reached, from 1
  epochs: Count  # of a training in that rung, see RungOfRace
  validation_dsc: float | None  # mean over the patients of all folds; None if it diverged
  validation_ci95: tuple[float, float] | None  # bootstrap interval over these patients
  chosen: bool  # whether it is the network for a budget
  budgets_ms: tuple[float, ...]  # those that it is the network for
  knee: bool  # whether it is the fastest on the front that is nearly as good as the best
  genotype: Inside  # its file, from the run's folder
  folder: Inside  # of its last trainings, likewise
  full: tuple[Inside, ...] = ()  # folders of its full trainings, one a seed
  full_validation_dsc: float | None = None  # mean of them, on the run's own split
  # Mean of them over the test patients; None where not scored.
  test_dsc: float | None = dataclasses.field(default=None, metadata=WRITTEN)
  test_ci95: tuple[float, float] | None = None  # over patients, of their means over the seeds
  # Mean of its full trainings, without any of its last ones, where it was scored in 8 bits.
  int8_validation_dsc: float | None = None
  int8_test_dsc: float | None = None  # as test_dsc, likewise
  minutes: float = 0.0  # of a training in its last rung; 0 where epochs count


@dataclass(frozen=True)
class Ranked:
  """A network that was trained in a rung of a race."""

  name: str
  dsc: float | None  # mean over the validation patients of all folds; None if it diverged


@dataclass(frozen=True)
class GroupOfRung:
  """The networks that raced against each other in a rung (racing/race.py)."""

  budget_ms: float
  family: str  # lean, unet or genotype
  limits_ms: tuple[float, float]  # the next smaller budget and this one: they take more and at most
  started: tuple[Ranked, ...]  # the best first
  kept: tuple[str, ...]  # those that went on; () after the last rung
  mutants: Mapping[str, str]  # those that joined them, each with the network it is a mutation of


@dataclass(frozen=True)
class RungOfRace:
  """A rung of a race."""

  epochs: Count  # of each training; where minutes count, of a network of middling size
  groups: tuple[GroupOfRung, ...]
  minutes: float = 0.0  # of each training; 0 where epochs count


@dataclass(frozen=True)
class FoldOfRace:
  """The patients of a fold of a race; all others train."""

  validation_patients: tuple[str, ...]
  test_patients: tuple[str, ...]  # who take no part


@dataclass(frozen=True)
class InEightBits:
  """Scores of a network in 8 bits: int8.json of a training; in race.json the means of several."""

  validation_dsc: float | None  # in [0, 1]; None if no validation patient has a score
  test_dsc: float | None  # likewise; None also where test patients were not scored
  weights_sha256: tuple[str, ...] = ()  # of the training; () in files of older versions
  validation_dsc_float: float | None = None  # of the same network in float32; None in these too

  @property
  def loss(self) -> float:
    """The validation DSC that 8 bits cost; 0 if there is no score."""
    before, after = self.validation_dsc_float, self.validation_dsc
    return 0.0 if before is None or after is None else before - after


@dataclass(frozen=True)
class Behind:
  """A network within a budget, held to the best one within it."""

  name: str
  ms: float  # in the fastest way, as in front.json
  # Mean over the patients, less what 8 bits cost if that is above int8_dsc; None if it diverged.
  dsc: float | None
  # Of the best one's DSC to its own: the mean over the patients, and its standard error, which is
  # None for a single patient; None if it diverged.
  difference: float | None
  error: float | None


@dataclass(frozen=True)
class Choice:
  """The choice of a network for a budget."""

  budget_ms: float
  chosen: str | None  # None if no network is within it
  networks: tuple[Behind, ...]  # all within it, the best first


@dataclass(frozen=True)
class RaceCourse:
  """race.json: how a race went, so that its choice can be checked (racing/choice.py)."""

  level_dsc: float  # most that the network for a budget may be behind the best within it
  knee_dsc: float  # likewise that at the knee, behind the best of those chosen
  int8_dsc: float  # most that 8 bits may cost for the DSC in float32 to count
  folds: tuple[FoldOfRace, ...]
  rungs: tuple[RungOfRace, ...]
  in_8_bits: Mapping[str, InEightBits]  # of the networks that were scored so
  full: bool  # whether full trainings chose, else those of the last rung
  choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Resources:
  """resources.json: what a stage took."""

  seconds: float  # of its epochs, over all calls where it was stopped and went on
  peak_process_bytes: Count  # of the last call
  peak_device_bytes: Count | None  # None on a CPU
  device: str


@dataclass(frozen=True)
class OfSeed:
  """What the search with one seed came to."""

  seed: int
  architecture_dsc: float  # of the supernet on the architecture half at the end, in [0, 1]
  parameters: Count
  epochs: Epoch


@dataclass(frozen=True)
class Seeds:
  """search/seeds.json: the searches with several seeds, and the seed whose result was kept."""

  picked: int
  searches: tuple[OfSeed, ...]


@dataclass(frozen=True)
class Trial:
  """A learning rate that was tried."""

  learning_rate: float
  validation_dsc: float | None  # in [0, 1]; None where the loss diverged
  folder: Inside  # of the training, from the run's


@dataclass(frozen=True)
class Timed:
  """The time of a network for one slice, in the way that serves it best."""

  ms: Annotated[float, within(1e-6, 1e9)]
  ms_spread: float  # interquartile range over median
  runtime: str
  precision: str
  threads: Count
  size: Side  # pixels on each side of the timed slice
  machine: str


@dataclass(frozen=True)
class Result:
  """A scored training in compare/results.json, one for each network and seed.

  Most fields are those of Retrained.
  """

  name: str  # of its folder
  label: str  # in tables
  kind: str  # searched, random, given or baseline
  parameters: Count
  macs: float
  image: Image
  epochs: Count
  steps: Count
  best_epoch: Count
  validation_dsc: float
  seconds: float
  learning_rate: float  # that the validation patients chose
  trials: tuple[Trial, ...]  # of the first seed
  folder: Inside  # of the training, from the run's
  seed: int | None = None  # None in files of older versions
  timed: Timed | None = None  # of the network; None in these too, and where no runtime is installed
  weights_sha256: tuple[str, ...] = ()  # that were scored; () in these too


@dataclass(frozen=True)
class Rival:
  """A network of a comparison; numbers of its Results are means over the folds and seeds.

  A patient's score is the mean over the seeds; missed and invented scans are their sums.
  """

  name: str
  label: str
  kind: str
  image: Image
  parameters: float
  macs: float
  validation_dsc: float
  epochs: float
  steps: float
  seconds: float
  learning_rates: tuple[float, ...]  # of each fold
  mean: Annotated[Figures, Inline()]
  classes: Mapping[str, Figures]
  # To the reference, as of Against; None for the reference.
  difference: float | None
  p_value: float | None  # of the paired Wilcoxon test; None also for few patients
  seeds_dsc: tuple[float | None, ...] = ()  # mean DSC of the patients by each of several seeds
  timed: tuple[Timed, ...] = ()  # in each fold; () where it was not timed

  @property
  def ms(self) -> float | None:
    """The mean of its times; None without any."""
    return sum(one.ms for one in self.timed) / len(self.timed) if self.timed else None


@dataclass(frozen=True)
class Compared:
  """compare/summary.json: a comparison on the same patients; the first fields as of Evaluated."""

  data: str
  note: str
  protocol: str
  split: str
  held_out: bool
  nsd_tolerance_mm: float
  folds: tuple[Count, ...]
  patients: Count  # of all folds
  reference: str  # name of the rival that the others are held to
  rivals: tuple[Rival, ...]  # the reference first
  unit: Unit = 'mm'  # as of Evaluated

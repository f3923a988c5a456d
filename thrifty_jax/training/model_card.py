"""Model card: a description of a model folder for its users."""

from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import RESEARCH_USE, words
from thrifty_jax.data import splits
from thrifty_jax.networks import genotype
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.networks.model_spec import ModelSpec
from thrifty_jax.reporting import origins, raced_time
from thrifty_jax.run_files import Retrained
from thrifty_jax.scores import tables


def write(
  config: ConfigDict,
  spec: ModelSpec,
  summary: Retrained,
  *,
  title: str,
  citation: str,
  genotype_file: Path | None,
) -> str:
  """Returns the text of the model card.

  Args:
    config: Settings of the run.
    spec: What the network expects.
    summary: Result of its training.
    title: Name that people have for the data set.
    citation: Text by which the data are cited; '' if that is not known.
    genotype_file: File of its genotype; None for a baseline.
  """
  data = config.data
  source = citation or 'as its owner asks'
  names = f"""
Each channel has a file, in the order of its names by `{data.pattern}`: CASE_0000, CASE_0001, ...
"""
  named = words.choose(data.unit, data.reduction)
  scan = named.scan
  return f"""\
# {summary.model} for {', '.join(data.classes[1:])}

{RESEARCH_USE}

- Data: {title}, {splits.describe(data)}, {words.describe_drawing(data)}
{_tell_cost(summary, genotype_file, named.part)}\
- Chosen: epoch {summary.best_epoch} of {summary.epochs}, by the {summary.selection}: \
{100 * summary.validation_dsc:.2f} %
- Patients: SHA-256 {spec.splits_sha256} of who trained, validated and tests
{_tell_start(summary)}{_tell_teacher(summary)}\
- Scores of patients that it never saw: `scores.json`, once they were scored

Use it: `python -m thrifty_jax.predict --model=THIS_FOLDER --input={scan.upper()}S --output=MASKS`.
{names if data.pattern else ''}
`preprocessing.json` says what the network expects: sizes, intensity limits, mean and deviation,
the classes in the order of its outputs, and between which limits the training {scan}s lay.
{scan.capitalize()}s outside of them it has never seen. `checksums.json` has the SHA-256 of the
other files; a folder in which one differs is refused.

Licence: the program is under the Apache License 2.0. The weights were learned from the data, whose
terms decide what may be done with them: read those before you pass this folder on.

Cite the method: Chen, Zhang, Zheng and Pan, Thrifty Neural Architecture Search for Medical Image
Segmentation (Student Abstract), AAAI 2022. Cite the data: {source}.
"""


def _tell_cost(summary: Retrained, genotype_file: Path | None, part: str) -> str:
  """Returns the lines on the size of the network and, if a race has found it, on its time."""
  height, width, _ = summary.image
  macs = f'{tables.format_macs(summary.macs)} for a {part} of {height} x {width} pixels'
  lines = [f'Parameters: {summary.parameters:,}', f'Multiplications: {macs}']
  if genotype_file:
    found = genotype.load_any(genotype_file)
    if isinstance(found, LeanShape):
      lines.insert(0, f'Shape: {found.title}')
    if timed := raced_time.read(genotype_file):
      lines.append(f'Time: {raced_time.describe(timed, part)}')
  return ''.join(f'- {line}\n' for line in lines)


def _tell_start(summary: Retrained) -> str:
  """Returns the lines on the model that the training started from; '' if it drew all weights.

  A card goes to others with its model: no patient and no place is named.
  """
  if summary.started is None:
    return ''
  lines = [f'Started from the weights with SHA-256 {summary.started.weights_sha256}']
  told = origins.tell_start(summary.started, nameless=True)
  lines += [f'{title}: {text}' for title, text in told]
  return ''.join(f'- {line[0].upper()}{line[1:]}\n' for line in lines)


def _tell_teacher(summary: Retrained) -> str:
  """Returns the line on the models that it learned from beside the masks; '' if on none."""
  if summary.taught is None:
    return ''
  said = origins.tell_teacher(summary.taught, nameless=True)
  weights = ', '.join(summary.taught.weights_sha256)
  return f'- Learned {said}\n- Weights of these: SHA-256 {weights}\n'

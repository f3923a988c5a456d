"""The page of a model on the Hub: its card, with what the Hub's filters and tables read."""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from thrifty_jax import hub, words
from thrifty_jax.errors import InputError
from thrifty_jax.model_folder import DescribedModel

_TERMS = 'terms-of-the-training-data'
# Scores by their names in scores.json: what the Hub calls them, their title, and decimals.
_SCORES = {
  'dsc_mean': ('dice', 'DSC', 4),
  'nsd_mean': ('nsd', 'NSD', 4),
  'hd95_mm_mean': ('hd95', 'HD95', 2),
}
# Cards of before named the model that a training had started from, and patients of both.
_PLACE_OF_START = re.compile(r'^(- Weights: )of .*: (\d+ tensors as they are)$', re.MULTILINE)
_SHARED = re.compile(r'(patients with the names of ).*?(, who (?:validate or )?test here)')
# What splits.describe writes stands behind the title of the data.
_DATA = re.compile(r'^- Data: (.*), (?:fold \d+ of \d+|[a-z ]+ patients by lists)\b', re.MULTILINE)


def read(model: Path, place: hub.Place) -> str:
  """Reads the card of a model folder, and says how to use the model from its repository."""
  path = model / 'card.md'
  if not path.is_file():
    raise InputError(f'{path}: there is no card; copy the whole folder again')
  text = path.read_text(encoding='utf-8')
  text = _PLACE_OF_START.sub(r'\1\2', _SHARED.sub(r'\1some\2', text))
  return text.replace('THIS_FOLDER', str(place))


def write(
  described: DescribedModel,
  scores: Mapping[str, Any] | None,
  card: str,
  *,
  place: hub.Place,
  licence: str,
  names: Collection[str],
) -> str:
  """Returns the text of README.md.

  Args:
    described: The model.
    scores: Content of its scores.json, if it has been scored.
    card: Text of its own card.
    place: Repository that the page is for.
    licence: Name of a licence as the Hub knows it, '' if the data's terms decide.
    names: Names of the other files, those of an export too.
  """
  from huggingface_hub import ModelCardData

  spec = described.spec
  title = _DATA.search(card)
  results = _list_scores(spec.classes, scores, title[1] if title else '') if scores else []
  about = ModelCardData(
    license=licence or 'other',
    license_name=None if licence else _TERMS,
    library_name='thrifty_jax',
    pipeline_tag='image-segmentation',
    tags=['medical-imaging', 'semantic-segmentation', 'jax', 'flax', spec.network.name],
    metrics=[*dict.fromkeys(result.metric_type for result in results)] or None,
    model_name=place.repository.rpartition('/')[2],
    eval_results=results or None,
  )
  scan = words.choose(spec.unit).scan
  files = '\n'.join(f'- `{name}`' for name in names)
  needed = 'JAX' if f'{hub.EXPORT}/model.onnx' in names else 'thrifty_jax'
  exported = f'`{hub.EXPORT}/` runs without {needed}: its README.md says how.\n\n'
  return f"""\
---
{about.to_yaml()}
---

{card.rstrip()}

## From here

    pip install "thrifty_jax[hub]"
    thrifty-jax predict --model={place} --input={scan.upper()}S --output=MASKS

In Python `thrifty_jax.load_model('{place}')`. Write `@` and a commit behind the name to have these
weights and no later ones.

{exported if any(name.startswith(hub.EXPORT) for name in names) else ''}{files}
"""


def _list_scores(classes: Iterable[str], scores: Mapping[str, Any], title: str) -> list[Any]:
  """Returns the scores of the patients that were scored, as the Hub has them."""
  from huggingface_hub import EvalResult

  data = str(scores.get('data', 'unknown'))
  of_class = scores.get('classes')
  tables = [('mean', scores)]
  if isinstance(of_class, dict):
    tables += [(name, of_class[name]) for name in classes if isinstance(of_class.get(name), dict)]
  return [
    EvalResult(
      task_type='image-segmentation',
      dataset_type=data,
      dataset_name=title or data,
      dataset_split=str(scores.get('split', 'test')),
      metric_type=kind,
      metric_name=f'{label}, {name}',
      metric_value=round(value, decimals),
    )
    for name, table in tables
    for key, (kind, label, decimals) in _SCORES.items()
    if isinstance(value := table.get(key), int | float)
  ]

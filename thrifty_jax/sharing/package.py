"""The files of a model's repository, each made of what is known of it, none merely copied."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thrifty_jax import files, hub, model_folder, records
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import export_folder
from thrifty_jax.model_folder import DescribedModel
from thrifty_jax.networks import genotype
from thrifty_jax.reporting import raced_time
from thrifty_jax.run_files import without_names
from thrifty_jax.sharing import hub_card

# What is kept of a genotype file, and of where the genotype came from, besides its time in a race:
# another program, or a person, may have written more into it.
_GENOTYPE = ('format', 'version', 'space', 'shape', *genotype.CELL_KINDS, 'skipped', 'gates')
_PROVENANCE = (
  *('data', 'seed', 'fold', 'epochs', 'planned_epochs', 'depth', 'parameters', 'channels'),
  *('search', 'max_ms', 'name', 'source', 'parent', 'drawn', 'made_for', 'validation_dsc'),
)


def collect(
  model: Path, *, place: hub.Place, export: Path | None, licence: str
) -> dict[str, bytes]:
  """Returns the content of the files of a model's repository by name, README.md first.

  Args:
    model: Folder of the model.
    place: Repository, which the card names.
    export: Folder of an export of the model; None is without.
    licence: Name of a licence as the Hub knows it, '' if the data's terms decide.

  Raises:
    InputError: If the model or the export is damaged, or they are not of the same weights.
  """
  described = model_folder.describe(model)
  scores = _read_scores(model)
  exported = export_folder.read(export) if export else None
  if exported and exported.get('weights_sha256') != described.sha256:
    raise InputError(f'{export}: is the export of another model; export this one')
  card = hub_card.read(model, place)
  contents = _pack(model, described, scores, card)
  if export and exported:
    there = [name for name in export_folder.list_names(exported) if (export / name).is_file()]
    found = {f'{hub.EXPORT}/{name}': (export / name).read_bytes() for name in there}
    contents |= found | {f'{hub.EXPORT}/card.md': card.encode()}
  page = hub_card.write(described, scores, card, place=place, licence=licence, names=contents)
  return {hub.README: page.encode(), **contents}


def _pack(
  model: Path, described: DescribedModel, scores: Mapping[str, Any] | None, card: str
) -> dict[str, bytes]:
  """Returns the files of a model folder with the same weights, which `model_folder.load` takes."""
  with tempfile.TemporaryDirectory() as place:
    folder = Path(place)
    shutil.copyfile(model / 'weights.safetensors', folder / 'weights.safetensors')
    model_folder.write_spec(folder, described.spec)
    files.write_text(folder / 'card.md', card)
    if described.genotype is not None:
      found = files.read_json(model / 'genotype.json')
      kept: dict[str, Any] = {name: found[name] for name in _GENOTYPE if name in found}
      known = genotype.read_provenance(model / 'genotype.json')
      timed = raced_time.find(known)
      kept['provenance'] = {
        **{name: known[name] for name in _PROVENANCE if name in known},
        **(records.to_json(timed) if timed else {}),
      }
      files.write_json(folder / 'genotype.json', kept)
    if scores is not None:
      files.write_json(folder / model_folder.SCORES, scores)
    model_folder.sign(folder)
    if model_folder.describe(folder).sha256 != described.sha256:
      raise InputError(f'{model}: was changed while it was read; run the command again')
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _read_scores(model: Path) -> dict[str, Any] | None:
  """Reads scores.json without names of patients; None if the model has not been scored."""
  path = model / model_folder.SCORES
  if not path.is_file():
    return None
  found = files.read_json(path)
  if not isinstance(found, dict):
    raise InputError(
      f'{path}: expected an object; remove the folder evaluate/ and run --stage=evaluate'
    )
  return without_names(found)

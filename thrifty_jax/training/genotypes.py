"""Check of the genotype that a run trains: it must exist, fit, and stay the same."""

from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import stages
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype
from thrifty_jax.networks.lean_space import LeanShape


def require_trainable(config: ConfigDict, workdir: Path) -> None:
  """Checks that a genotype is there, has the depth, and is that of a training that has begun."""
  if not configs.has_genotype(config):
    return
  path = stages.find_genotype(config, workdir)
  if not path.exists():
    raise InputError(
      f'{path}: there is no genotype; run --stage=search, or name one by --config.genotype=FILE'
    )
  found, begun = genotype.load_any(path), workdir / 'retrain' / 'genotype.json'
  genotype.require_depth(found, config.model.depth, place=str(path))
  parts = config.retrain.microbatches
  if isinstance(found, LeanShape) and found.norm == 'batch' and parts > 1:
    raise InputError(
      f'config.retrain.microbatches is {parts}, but {path} has batch norms, whose statistics are '
      'of a whole batch; expected 1: lower retrain.batch_size, or use a genotype with group norms'
    )
  if begun.exists() and genotype.load_any(begun) != found:
    raise InputError(
      f'{workdir}: retrain began with another genotype than {path} has now; put it back, use '
      f'another --workdir, or remove {stages.name_folders(stages.RETRAIN, workdir)}'
    )

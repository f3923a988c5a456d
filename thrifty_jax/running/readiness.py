"""Checks before a stage starts: the results of earlier stages, and its settings."""

from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import stages
from thrifty_jax.errors import InputError
from thrifty_jax.settings import ALL
from thrifty_jax.stages import Stage

_EXAMPLE = Path(stages.__file__).with_name('genotypes') / 'thrifty_0.61m.json'


def require(stage: Stage, config: ConfigDict, workdir: Path) -> None:
  """Refuses to start a stage without the results of the earlier stages.

  The InputError names the file that is missing or no longer fits, and the remedy.
  """
  if stage is stages.SEARCH and configs.searches_cells(config) and config.search.max_parameters:
    from thrifty_jax.searching import budget  # imports JAX, which takes seconds

    budget.require_possible(config)
  races = stage is stages.SEARCH and config.model.name == 'lean' and configs.searches(config)
  if stage is stages.FRONT or (races and not stage.is_done(workdir)):
    from thrifty_jax.cost import runtimes  # likewise

    if not config.front.costs:
      runtimes.require_installed(runtimes.choose(config.cost.runtime, config.cost.precision))
  if stage is stages.RETRAIN:
    from thrifty_jax.training import genotypes, start_model

    genotypes.require_trainable(config, workdir)
    start_model.require_strangers(config, workdir)
  learns = stage in (stages.SEARCH, stages.RETRAIN) and not stages.RETRAIN.is_done(workdir)
  if config.retrain.teacher and (learns or stage in (stages.FRONT, stages.COMPARE)):
    from thrifty_jax.training import teacher

    teacher.require_sound(config, workdir)
  if stage is stages.EVALUATE and not (workdir / 'model').is_dir():
    raise InputError(f'{workdir / "model"}: there is no model; train one with --stage=retrain')
  if stage is stages.REPORT and not any(
    (workdir / name).exists() for name in (*ALL, stages.FRONT.name)
  ):
    raise InputError(f'{workdir}: there is no run to report on; expected the folder of a run')
  if stage is stages.DESCRIBE and configs.has_genotype(config):
    path = stages.find_genotype(config, workdir)
    if not path.is_file():
      raise InputError(
        f'{path}: there is no genotype to describe; name one, for example '
        f'--config.genotype={_EXAMPLE}'
      )

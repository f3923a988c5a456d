"""Runs of a tiny lean network on the phantoms in a folder, by the command."""

from pathlib import Path

from thrifty_jax import main

# Augmentation does not warp, which takes long to compile.
NO_WARP = (
  *('--config.augment.elastic_probability=0.0', '--config.augment.rotate_degrees=0.0'),
  *('--config.augment.scale=(1.0,1.0)', '--config.augment.translate=(0.0,0.0)'),
)
_TINY = (
  *('--config.data.folds=3', '--config.data.image_size=16'),
  *NO_WARP,
  *('--config.retrain.epochs=2', '--config.retrain.validate_every=1'),
  '--config.retrain.batch_size=4',
)


def command(
  place: Path, workdir: Path, *arguments: str, config: str = 'configs/phantom.py:lean'
) -> int:
  """Runs the command on the scans in <place>/raw, and returns its exit status."""
  return main.main(
    [
      f'--config={config}',
      f'--config.data.raw_dir={place / "raw"}',
      f'--config.data.data_dir={place / "slices"}',
      f'--config.compilation_cache={place / "xla"}',  # the same programs for all
      f'--workdir={workdir}',
      *_TINY,
      *arguments,
    ]
  )

"""The stages check and prepare as a run has them, and runs that begin where these leave them."""

from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

from data_prep import checks, data_sets, prepare
from thrifty_jax import config as configs
from thrifty_jax.data import data_file
from thrifty_jax.running import run_data
from thrifty_jax.training import train_data
from thrifty_jax.training.train_data import TrainData


def _leave_open() -> ConfigDict:
  config = configs.default()
  configs.leave_to_data(config)
  return config.data


OPEN = FrozenConfigDict(_leave_open())  # settings by which folder.find_cases asks the data alone


def check(config: ConfigDict, workdir: Path) -> None:
  """Looks at the scans of a config, and checks them."""
  scans = data_sets.find(config)
  checks.check(config, scans, run_data.split_of(config, scans), workdir)


def prepare_for(config: ConfigDict, *workdirs: Path) -> Path:
  """Prepares the slices of a config for runs in some folders; returns the folder of the slices."""
  folder = prepare.prepare(config)
  for workdir in workdirs:
    data_file.write(workdir, folder, config.data)
  return folder


def open_data(config: ConfigDict) -> TrainData:
  """The slices of a config as a run opens them, which is recorded beside them."""
  workdir = Path(config.data.data_dir).parent
  prepare_for(config, workdir)
  return train_data.open_train_data(config, workdir)

"""TensorBoard, MLflow and Weights & Biases, each behind the same three methods."""

import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from thrifty_jax.tracking.journal import Head, Line, simplify

PROJECT = 'thrifty_jax'  # name of the experiment of MLflow and the project of W&B
_WANDB_SECONDS = 15.0  # that W&B may take to reach its server, and to send what is left


class Store(Protocol):
  """A place that gets the lines of a journal from the first to the last, at every opening.

  One that has some of them already leaves these out, so that none is there twice.
  """

  def send(self, line: Line) -> None:
    """Stores the figures of a line."""

  def show(self, name: str, picture: np.ndarray) -> None:
    """Stores a picture of a patient, [H, W, 3], uint8, if the store is on this machine."""

  def close(self) -> None:
    """Returns once all that was sent is stored."""


class TensorBoard:
  """Event files in trackers/tensorboard, written anew at every opening."""

  def __init__(self, head: Head, folder: Path):
    self._folder = folder / 'tensorboard'
    # An event at step 0 of a new session makes a running TensorBoard forget what it has read.
    self._writer = _write_events(self._folder, purge_step=0)
    rows = [f'| {name} | `{value!r}` |' for name, value in head.settings.items()]
    table = '\n'.join(['| setting | value |', '|---|---|', *rows])
    self._writer.add_text('settings', table, 0)
    self._pictures: Any = None

  def send(self, line: Line) -> None:
    for name, value in line.named.items():
      self._writer.add_scalar(name, value, line.step, walltime=line.time)
    self._writer.flush()

  def show(self, name: str, picture: np.ndarray) -> None:
    if self._pictures is None:
      self._pictures = _write_events(self._folder / 'patients')
    self._pictures.add_image(simplify(name), picture, 0, dataformats='HWC')

  def close(self) -> None:
    for writer in (self._writer, self._pictures):
      if writer is not None:
        writer.close()


def _write_events(folder: Path, **options: Any) -> Any:
  """Returns the writer of a folder's events, in which there are none of earlier writers."""
  from tensorboardX import SummaryWriter

  for path in folder.glob('events.out.*'):
    path.unlink()
  return SummaryWriter(str(folder), **options)


class MLflow:
  """A run of MLflow: in trackers/mlflow.db, or where MLFLOW_TRACKING_URI says."""

  def __init__(self, head: Head, folder: Path):
    for name, value in (('DISABLE_TELEMETRY', 'true'), ('LOGGING_LEVEL', 'WARNING')):
      os.environ.setdefault(f'MLFLOW_{name}', value)
    from mlflow import MlflowClient
    from mlflow.entities import Param

    database = f'sqlite:///{(folder / "mlflow.db").absolute()}'
    remote = os.environ.get('MLFLOW_TRACKING_URI')
    # Unlike mlflow.start_run, the client notes neither the user's name nor the program's path.
    self._client = MlflowClient(remote or database)
    experiment = os.environ.get('MLFLOW_EXPERIMENT_NAME', PROJECT)
    there = self._client.get_experiment_by_name(experiment)
    place = None if remote else (folder / 'mlflow_artifacts').absolute().as_uri()
    number = there.experiment_id if there else self._client.create_experiment(experiment, place)
    runs = self._client.search_runs([number], f"tags.thrifty_jax = '{head.id}'")
    run = runs[0] if runs else None
    tags = {'thrifty_jax': head.id}
    run = run or self._client.create_run(number, run_name=head.name, tags=tags)
    self._run, self._known = run.info.run_id, int(run.data.tags.get('lines', 0))
    self._client.update_run(self._run, 'RUNNING')
    new = {name: value for name, value in head.settings.items() if name not in run.data.params}
    self._client.log_batch(self._run, params=[Param(name, repr(v)) for name, v in new.items()])

  def send(self, line: Line) -> None:
    from mlflow.entities import Metric, RunTag

    if line.number < self._known:
      return
    milliseconds = int(1000 * line.time)
    self._client.log_batch(
      self._run,
      # The store ignores a figure that it has with this time and step: a killed process may have
      # sent it, and not the tag.
      metrics=[Metric(name, v, milliseconds, line.step) for name, v in line.named.items()],
      tags=[RunTag('lines', str(line.number + 1))],
    )

  def show(self, name: str, picture: np.ndarray) -> None:
    pass  # its store may be elsewhere

  def close(self) -> None:
    self._client.set_terminated(self._run)


class WandB:
  """A run of Weights & Biases: offline in trackers/wandb, unless WANDB_MODE says otherwise.

  W&B cannot continue an offline run, so that is written anew at every opening.
  """

  def __init__(self, head: Head, folder: Path):
    os.environ.setdefault('WANDB_ERROR_REPORTING', 'false')
    import wandb

    for earlier in (folder / 'wandb').glob(f'offline-run-*-{head.id}'):
      shutil.rmtree(earlier)
    folder.mkdir(parents=True, exist_ok=True)
    mode: Any = os.environ.get('WANDB_MODE', 'offline')
    settings = wandb.Settings(
      mode=mode,
      silent=True,
      login_timeout=1,  # asks nobody for a key
      init_timeout=_WANDB_SECONDS,
      finish_timeout=_WANDB_SECONDS,
      console='off',
      disable_code=True,
      disable_git=True,
      host=PROJECT,  # not the machine's name
      x_disable_machine_info=True,
      x_disable_meta=True,
      x_disable_stats=True,
      x_save_requirements=False,
    )
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', PROJECT),
      id=head.id,
      name=head.name,
      config=head.settings,
      dir=str(folder),
      resume=None if mode == 'offline' else 'allow',
      reinit='create_new',
      settings=settings,
    )
    self._stages: set[str] = set()

  def send(self, line: Line) -> None:
    if line.number < self._run.starting_step:
      return
    if line.stage not in self._stages:  # W&B counts lines; each stage is drawn over its own steps
      self._stages.add(line.stage)
      self._run.define_metric(f'{line.stage}/*', step_metric=f'{line.stage}/step')
    self._run.log({**line.named, f'{line.stage}/step': line.step}, step=line.number)

  def show(self, name: str, picture: np.ndarray) -> None:
    pass  # an offline run is there to be sent

  def close(self) -> None:
    self._run.finish()


STORES = {'tensorboard': TensorBoard, 'mlflow': MLflow, 'wandb': WandB}

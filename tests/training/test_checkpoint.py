"""A run that was killed finds its state again, whole."""

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from thrifty_jax.errors import InputError
from thrifty_jax.training import checkpoint
from thrifty_jax.training.checkpoint import Checkpoints

PROJECT = Path(__file__).resolve().parents[2]


def _state(step: int) -> dict:
  params = {'kernel': jnp.full((3, 4), step, jnp.float32), 'scale': jnp.ones(2, jnp.bfloat16)}
  optimizer = optax.adam(1e-3).init(params)
  return {'params': params, 'optimizer': optimizer, 'step': step, 'best': 0.5 * step}


def _assert_equal(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    assert type(a) is type(b)
    np.testing.assert_array_equal(a, b)


def _files(folder: Path) -> list[Path]:
  return sorted(path.relative_to(folder) for path in folder.rglob('*') if path.is_file())


def test_an_empty_folder_has_no_step(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  assert checkpoints.latest() is None
  checkpoints.close()


def test_a_new_process_restores_the_newest_state_with_types_and_structure(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  for step in (1, 2, 3):
    checkpoints.save(step, _state(step))
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest() == 3
  _assert_equal(checkpoints.restore(like=_state(0))[0], _state(3))
  checkpoints.close()


def test_notes_of_any_structure_come_back_to_the_last_bit(tmp_path):
  notes = {'sums': {'overlap': [[0.1 + 0.2, 1e300]]}, 'epoch': 3, 'text': 'π', 'none': None}
  for written in ({}, notes):
    checkpoints = Checkpoints(tmp_path / str(len(written)))
    checkpoints.save(1, _state(1), written)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / str(len(written)))
    assert checkpoints.restore(like=_state(0))[1] == written
    checkpoints.close()


def test_a_checkpoint_is_read_without_the_objects_of_its_run(tmp_path):
  state = _state(3)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(7, state, {'epoch': 3})
  checkpoints.close()
  arrays, notes = checkpoint.read(tmp_path / '7')
  assert notes == {'epoch': 3}
  leaves = jax.tree_util.tree_leaves_with_path(state)
  assert list(arrays) == [jax.tree_util.keystr(path) for path, _ in leaves]
  for array, (_, leaf) in zip(arrays.values(), leaves, strict=True):
    expected = np.asarray(leaf)
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(array, expected)
  assert arrays["['params']['scale']"].dtype == jnp.bfloat16 and arrays["['best']"] == 1.5


def test_a_checkpoint_is_laid_out_as_read_says(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(7, _state(3))
  checkpoints.close()
  arrays, _ = checkpoint.read(tmp_path / '7')
  # As anybody would, by Orbax, JSON and numpy alone.
  vectors = ocp.PyTreeCheckpointer().restore(tmp_path / '7' / 'default')
  kept = json.loads((tmp_path / '7' / '_CHECKPOINT_METADATA').read_text())['custom_metadata']
  starts = dict.fromkeys(vectors, 0)
  for line in kept['structure'][1:]:
    path, kind = line.rsplit(' ', 1)
    name, _, shape = kind.rstrip(']').partition('[')
    sides = [int(side) for side in shape.split(',') if side]
    name, size = {'int': 'int64', 'float': 'float64'}.get(name, name), int(np.prod(sides))
    array = vectors[name][starts[name] :][:size].reshape(sides)
    starts[name] += size
    np.testing.assert_array_equal(array, arrays[path])


def test_a_folder_without_a_checkpoint_is_not_read(tmp_path):
  with pytest.raises(InputError, match='_CHECKPOINT_METADATA'):
    checkpoint.read(tmp_path)


def test_only_the_newest_two_stay(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=2)
  for step in (1, 2, 3):
    checkpoints.save(step, _state(step))
  checkpoints.close()
  assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ['2', '3']


def test_killed_while_an_old_one_is_deleted_no_half_of_it_stays(tmp_path, monkeypatch, capsys):
  with monkeypatch.context() as killed:
    killed.setattr(Checkpoints, '_empty', lambda self: None)
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
      checkpoints.save(step, _state(step))
    checkpoints.close()
  assert Path('checksums.json') in _files(tmp_path / 'removed' / '1')  # moved away in one piece
  assert len(_files(tmp_path / 'removed' / '1')) > 5
  checkpoints = Checkpoints(tmp_path)
  assert (checkpoints.latest(), capsys.readouterr().err) == (3, '')
  assert not (tmp_path / 'removed').exists()
  checkpoints.close()


def test_the_state_may_be_donated_while_it_is_being_saved(tmp_path):
  add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
  state = {'x': jnp.zeros((512, 512))}
  checkpoints = Checkpoints(tmp_path, keep=10)
  for step in range(5):
    checkpoints.save(step, state)
    state = add(state)
  checkpoints.close()
  for step in reversed(range(5)):
    checkpoints = Checkpoints(tmp_path, keep=10)
    restored, _ = checkpoints.restore(like={'x': jnp.zeros((512, 512))})
    assert np.asarray(restored['x']).min() == np.asarray(restored['x']).max() == step
    checkpoints.close()
    for path in (tmp_path / str(step)).rglob('*'):
      if path.is_file():
        path.unlink()


def test_whatever_file_is_lost_an_older_whole_one_is_found_or_nothing_changed(tmp_path, capsys):
  saved = Checkpoints(tmp_path / 'whole')
  saved.save(1, _state(1))
  saved.save(2, _state(2))
  saved.close()
  lost = _files(tmp_path / 'whole' / '2')
  assert len(lost) >= 3
  fell_back = 0
  for index, name in enumerate(lost):
    folder = tmp_path / f'torn{index}'
    _copy(tmp_path / 'whole', folder)
    (folder / '2' / name).unlink()
    checkpoints = Checkpoints(folder)
    restored, _ = checkpoints.restore(like=_state(0))
    step = checkpoints.latest()
    assert step in (1, 2)
    _assert_equal(restored, _state(step))
    if step == 1:
      fell_back += 1
      warned = capsys.readouterr().err
      assert 'checkpoint 2' in warned and warned.count('\n') == 1
      checkpoints.save(2, _state(2))  # the step can be done and saved again
    checkpoints.close()
  assert fell_back >= 3


def empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


def without_arrays(folder):
  (folder / 'checksums.json').unlink()  # killed before it was sealed
  shutil.rmtree(folder / 'default')


def seal(content):
  return lambda folder: (folder / 'checksums.json').write_text(content)


def metadata(content):
  def write(folder):
    (folder / 'checksums.json').unlink()
    (folder / '_CHECKPOINT_METADATA').write_text(content)

  return write


@pytest.mark.parametrize(
  'damage',
  [empty, without_arrays, *map(seal, ('[]', 'null', '{}', '{"a": 1}', '{')), *map(metadata, (
    '', '[]', '{"custom_metadata": null}', '{"custom_metadata": {"structure": []}}', '[' * 9999
  ))],
)  # fmt: skip
def test_a_damaged_checkpoint_costs_none_of_the_others(tmp_path, damage, capsys):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, _state(1))
  checkpoints.save(2, _state(2), {'epoch': 2})
  checkpoints.close()
  damage(tmp_path / '2')
  checkpoints = Checkpoints(tmp_path)
  restored, _ = checkpoints.restore(like=_state(0))
  _assert_equal(restored, _state(1))
  warned = capsys.readouterr().err
  assert warned.count('\n') == 1 and 'checkpoint 2 is damaged' in warned
  checkpoints.save(2, _state(2))
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path)
  _assert_equal(checkpoints.restore(like=_state(0))[0], _state(2))
  checkpoints.close()
  assert capsys.readouterr().err == '' and (tmp_path / 'damaged_2').is_dir()


def test_a_checkpoint_that_was_committed_and_not_yet_sealed_is_restored(tmp_path, capsys):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, _state(1))
  checkpoints.save(2, _state(2))
  checkpoints.close()
  (tmp_path / '2' / 'checksums.json').unlink()
  checkpoints = Checkpoints(tmp_path)
  _assert_equal(checkpoints.restore(like=_state(0))[0], _state(2))
  checkpoints.close()
  assert capsys.readouterr().err == ''


def test_a_checkpoint_cut_short_is_left_out(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, _state(1))
  checkpoints.save(2, _state(2))
  checkpoints.close()
  largest = max((tmp_path / '2').rglob('d/*'), key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
  checkpoints = Checkpoints(tmp_path)
  _assert_equal(checkpoints.restore(like=_state(0))[0], _state(1))
  checkpoints.close()


def test_no_whole_checkpoint_is_an_error_that_names_the_folder(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, _state(1))
  checkpoints.close()
  for path in _files(tmp_path / '1'):
    (tmp_path / '1' / path).unlink()
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(InputError, match=str(tmp_path)):
    checkpoints.restore(like=_state(0))
  checkpoints.close()


@pytest.mark.parametrize(
  'like',
  [
    {'params': jnp.zeros((4, 4))},
    {'params': jnp.zeros((3, 4), jnp.bfloat16)},
    {'weights': jnp.zeros((3, 4))},
    {'params': jnp.zeros((3, 4)), 'more': 1},
  ],
)
def test_a_checkpoint_of_another_structure_is_refused_and_stays(tmp_path, like):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, {'params': jnp.zeros((3, 4))})
  with pytest.raises(InputError, match='does not fit'):
    checkpoints.restore(like=like)
  assert checkpoints.latest() == 1
  checkpoints.close()


def _copy(source: Path, target: Path) -> None:
  for path in _files(source):
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    (target / path).write_bytes((source / path).read_bytes())


FULL_DISK = """
import os, subprocess, sys
from pathlib import Path
import numpy as np
from thrifty_jax.running import command_line
from thrifty_jax import files
from thrifty_jax.training.checkpoint import Checkpoints

folder = Path(sys.argv[1])
subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', folder], check=True)
state = {'x': np.random.default_rng(0).normal(size=150_000)}  # 1.2 MB

def fill():
  checkpoints = Checkpoints(folder / 'checkpoints')
  with files.report_unwritable(folder, '--workdir'):
    for step in range(1, 9):
      checkpoints.save(step, state)

status = command_line.exit_status(fill)
checkpoints = Checkpoints(folder / 'checkpoints')
assert np.array_equal(checkpoints.restore(state)[0]['x'], state['x']) and checkpoints.latest() < 8
raise SystemExit(status)
"""


def test_a_full_disk_is_told_in_one_line_and_leaves_the_last_good_state(tmp_path):
  namespace = ['unshare', '--map-root-user', '--mount']  # a small disk of its own
  if (
    not shutil.which('unshare')
    or subprocess.run([*namespace, 'true'], capture_output=True).returncode
  ):
    pytest.skip('no file system of our own can be mounted here')
  command = [*namespace, sys.executable, '-c', FULL_DISK, str(tmp_path)]
  done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=120)
  assert done.returncode == 2
  line = f'error: {tmp_path}: cannot be written (no space left on device); make space there'
  assert done.stderr.startswith(line) and done.stderr.count('\n') == 1


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'run' / 'checkpoints')
  checkpoints.save(1, _state(1))
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path / 'run' / 'checkpoints')
  shutil.rmtree(tmp_path / 'run')
  with pytest.raises(InputError, match='checkpoints: the folder is gone'):
    checkpoints.save(2, _state(2))
  assert not (tmp_path / 'run').exists()


def test_after_a_write_that_failed_the_others_of_tensorstore_say_nothing(tmp_path, monkeypatch):
  told = []
  monkeypatch.setattr(sys, 'unraisablehook', lambda one: told.append(str(one.exc_value)))
  before, checkpoints = sys.unraisablehook, Checkpoints(tmp_path)
  for text in ('Event loop is closed', 'a fault'):
    sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))
  checkpoints.close()
  assert told == ['a fault'] and sys.unraisablehook is before


OTHER_DEVICES = """
import os, sys
os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={sys.argv[2]}'
import jax, jax.numpy as jnp, numpy as np
from thrifty_jax.training.checkpoint import Checkpoints

assert len(jax.devices()) == int(sys.argv[2])
checkpoints = Checkpoints(sys.argv[1])
values = jax.device_put(np.arange(12.0).reshape(3, 4), jax.devices()[-1])
latest = checkpoints.latest() or 0
if latest:
  found = checkpoints.restore({'x': jnp.zeros_like(values)})[0]['x']
  assert np.array_equal(found, latest + values) and found.devices() <= set(jax.devices())
checkpoints.save(latest + 1, {'x': latest + 1 + values})
checkpoints.close()
assert latest == int(sys.argv[3])
"""


def test_a_state_of_another_number_of_devices_is_restored(tmp_path):
  for saved, count in enumerate((4, 1, 4)):
    command = [sys.executable, '-c', OTHER_DEVICES, str(tmp_path), str(count), str(saved)]
    subprocess.run(command, check=True, cwd=PROJECT, timeout=120)

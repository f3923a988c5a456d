"""Comparisons of planes and of sizes: what is advised, on which patients, and whole runs."""

import dataclasses
import json
import math
import types
from pathlib import Path

import pytest
import tiny_lean_runs

from data_prep import phantom_folders
from thrifty_jax import config as configs
from thrifty_jax import main
from thrifty_jax.data import split_file, splits
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype
from thrifty_jax.networks.lean_space import LeanShape, Level
from thrifty_jax.racing import slicings
from thrifty_jax.run_files import Timed
from thrifty_jax.running import command_line, slicing_commands
from thrifty_jax.settings import SLICE_AXES

SHAPE = LeanShape(
  (Level(4, 1, 1, 'plain'), Level(8, 1, 1, 'plain'), Level(8, 1, 0, 'plain')),
  stem=2, up='nearest', skip='add', norm='batch',
)  # fmt: skip
JUDGES = ('p0', 'p1', 'p2', 'p3')


@pytest.fixture
def compare(monkeypatch, tmp_path):
  """The function that compares planes by given scores of JUDGES, whose trainings are stand-ins.

  With `ms`, milliseconds by size, it compares sizes.
  """
  genotype.save(tmp_path / 'tiny.json', SHAPE)
  slices = types.SimpleNamespace(cases=())
  monkeypatch.setattr(slicings.jobs, 'run_all', lambda config, jobs, title: None)
  monkeypatch.setattr(slicings.short_trainings, 'count_epoch_steps', lambda config, place: 300)
  monkeypatch.setattr(slicings, 'open_slices', lambda place, config: slices)

  def compare(scores, usual='axial', judges=JUDGES, network='tiny.json', ms=None):
    def read_scores(places):
      found = scores[places[0].parent.name]
      return found and dict(zip(judges, found, strict=True))

    monkeypatch.setattr(slicings.short_trainings, 'read_scores', read_scores)
    times = {
      name: Timed(value, 0.1, 'jax', 'float32', 1, 32, 'a') for name, value in (ms or {}).items()
    }
    monkeypatch.setattr(slicings.configured, 'time_in_turns', lambda networks: times)
    config = configs.default()
    config.genotype = str(tmp_path / network)
    title, field = ('planes', 'slice_axis') if ms is None else ('sizes', 'image_size')
    runs = {}
    for name in scores:
      settings = config.copy_and_resolve_references()
      settings.data[field] = name if ms is None else int(name)
      runs[name] = settings, tmp_path / title / name
    made = slicings.compare_planes if ms is None else slicings.compare_sizes
    return made(runs, usual, tmp_path / title)

  return compare


def test_the_best_plane_is_first_with_how_far_the_others_are_behind(compare, tmp_path, capsys):
  found = compare(
    {
      'axial': (0.80, 0.82, 0.84, 0.86),
      'coronal': (0.85, 0.86, 0.90, 0.91),  # ahead by 5, 4, 6 and 5 points
      'sagittal': None,
    }
  )
  assert [one.slice_axis for one in found] == ['coronal', 'axial', 'sagittal']
  axial = found[1]
  assert axial.validation_dsc == pytest.approx(0.83)
  assert axial.behind == pytest.approx(0.05)
  assert axial.behind_error == pytest.approx(math.sqrt(2 / 3) / 100 / 2)
  assert found[2].validation_dsc is None
  assert {one.steps for one in found} == {2400}
  assert [
    one['slice_axis'] for one in json.loads((tmp_path / 'planes' / 'planes.json').read_text())
  ] == [one.slice_axis for one in found]
  out = capsys.readouterr().out
  assert 'coronal slices, by --config.data.slice_axis=coronal: 5.00 ± 0.41 points ahead' in out
  assert 'diverged' in out


def test_of_equal_planes_the_usual_one_is_first(compare):
  same = (0.8, 0.8, 0.8, 0.8)
  assert compare(dict.fromkeys(SLICE_AXES, same), 'sagittal')[0].slice_axis == 'sagittal'


@pytest.mark.parametrize(
  ('scores', 'judges', 'told'),
  [
    (
      {'coronal': (0.7, 0.8), 'axial': (0.8, 0.9)},
      2,
      'axial slices, as this command takes them',
    ),
    (
      {'coronal': (0.9, 0.82), 'axial': (0.8, 0.8)},
      2,
      'coronal ones are not clearly ahead, by 6.00',
    ),
    (
      {'coronal': (0.9,), 'axial': (0.8,)},
      1,
      'coronal ones are not clearly ahead, by 10.00 points',
    ),
    ({'coronal': (0.9, 0.8), 'axial': None}, 2, 'the training with axial ones diverged'),
  ],
)
def test_another_plane_is_advised_only_if_it_is_clearly_better(
  compare, capsys, scores, judges, told
):
  compare(scores, judges=JUDGES[:judges])
  assert told in capsys.readouterr().out


def test_where_every_training_diverges_there_is_no_advice(compare, tmp_path):
  with pytest.raises(
    InputError, match=r'every one of the planes diverged; lower retrain\.learning_rate'
  ):
    compare(dict.fromkeys(SLICE_AXES))
  assert not (tmp_path / 'planes' / 'planes.json').exists()


SAME = dict.fromkeys(SLICE_AXES, (0.8, 0.8, 0.8, 0.8))


def test_trainings_of_another_network_are_not_taken_for_those_of_this_one(compare, tmp_path):
  compare(SAME)
  genotype.save(tmp_path / 'other.json', dataclasses.replace(SHAPE, skip='concat'))
  with pytest.raises(InputError, match='another network than .*other.json was trained here'):
    compare(SAME, network='other.json')
  assert compare(SAME)


@pytest.mark.parametrize(
  ('scores', 'ms', 'told'),
  [
    (
      {'32': (0.7, 0.7), '48': (0.8, 0.82), '64': (0.81, 0.8)},
      {'32': 0.5, '48': 1.0, '64': 2.0},
      '48 x 48 pixels, by --config.data.image_size=48: 81.00 % in 0.50 of the milliseconds; 64 x',
    ),
    (  # level: 0.1 behind, with an error of 0.1
      {'32': (0.7, 0.7), '48': (0.8, 0.808), '64': (0.8, 0.81)},
      {'32': 0.5, '48': 1.0, '64': 2.0},
      '=48: 80.40 % in 0.50 of the milliseconds, 0.10 ± 0.10 points behind the best; 64 x 64, as '
      'this command draws them, has 80.50 %',
    ),
    (  # 1.5 points behind are not level, however few the patients are
      {'48': (0.8, 0.77), '64': (0.8, 0.8)},
      {'48': 1.0, '64': 2.0},
      '64 x 64 pixels, as this command draws them: none that is faster is level',
    ),
    (
      {'48': (0.8, 0.8), '64': (0.8, 0.8)},
      {},
      '--config.data.image_size=48: 80.00 %, 0.00 ± 0.00 points behind the best; 64 x',
    ),
    (
      {'48': (0.8, 0.8), '64': None},
      {'48': 1.0, '64': 2.0},
      '=48: 80.00 % in 0.50 of the milliseconds; 64 x 64, as this command draws them, diverged',
    ),
    (
      {'48': None, '64': (0.8, 0.8)},
      {'48': 1.0, '64': 2.0},
      '64 x 64 pixels, as this command draws them: none that is faster is level',
    ),
    (  # of a single patient nothing is level but the best
      {'48': (0.799,), '64': (0.8,)},
      {'48': 1.0, '64': 2.0},
      '64 x 64 pixels, as this command draws them: none that is faster is level',
    ),
  ],
)
def test_the_fastest_size_that_is_level_with_the_best_is_advised(
  compare, tmp_path, capsys, scores, ms, told
):
  judges = JUDGES[: max(len(found or ()) for found in scores.values())]
  found = compare(scores, '64', judges=judges, ms=ms)
  assert told in capsys.readouterr().out
  kept = json.loads((tmp_path / 'sizes' / 'sizes.json').read_text())
  assert [one['image_size'] for one in kept] == [one.image_size for one in found]
  assert {str(one.image_size): one.ms for one in found} == {name: ms.get(name) for name in scores}
  assert [one['timed'] and one['timed']['ms'] for one in kept] == [one.ms for one in found]


def test_what_was_timed_is_not_timed_again(compare):
  scores = {'48': (0.8, 0.8), '64': (0.8, 0.8)}
  before = compare(scores, '64', judges=JUDGES[:2], ms={'48': 1.0, '64': 2.0})
  assert compare(scores, '64', judges=JUDGES[:2], ms={'48': 9.0, '64': 9.0}) == before


# --- by the command


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  folder = tmp_path_factory.mktemp('planes') / 'raw'
  phantom_folders.write_decathlon(folder, patients=6, seed=0, slice_axis='sagittal')
  return folder


def type_in(raw, workdir, *more, config='folder:small'):
  return [f'--config={config}', f'--workdir={workdir}', f'--config.data.raw_dir={raw}', *more]


def parse(raw, workdir, *more, config='folder:small', stage='planes'):
  typed = type_in(raw, workdir, *more, config=config)
  return dataclasses.replace(command_line.parse(typed), stage=stage)


def test_every_plane_has_a_folder_one_lean_network_and_the_split_of_the_run(raw, tmp_path):
  command = parse(raw, tmp_path)
  split = {'train': ('p1', 'p4', 'p6'), 'validation': ('p5',), 'test': ('p2', 'p3')}
  split_file.write(command.config, tmp_path, split, {})
  usual, each = slicing_commands.make_commands(command)
  assert usual.config.data.slice_axis == 'sagittal' and tuple(each) == SLICE_AXES
  for plane, one in each.items():
    assert one.workdir == tmp_path / 'planes' / plane
    data = one.config.data
    assert (data.slice_axis, data.classes) == (plane, phantom_folders.CLASSES)
    assert (data.validation_patients, data.test_patients) == (('p5',), ('p2', 'p3'))
    assert (one.config.model.name, Path(one.config.genotype).name) == ('lean', 'lean_0.42m.json')


def test_a_plane_that_is_set_is_what_the_others_are_compared_with(raw, tmp_path):
  command = parse(raw, tmp_path, '--config.data.slice_axis=coronal')
  usual, each = slicing_commands.make_commands(command)
  assert usual.config.data.slice_axis == 'coronal'
  assert [one.config.data.slice_axis for one in each.values()] == [*SLICE_AXES]


def test_the_settings_of_cells_and_a_teacher_do_not_reach_the_lean_network(raw, tmp_path):
  options = ('--config.model.norm=batch', '--config.retrain.teacher=MODEL', '--config.data.fold=1')
  command = parse(raw, tmp_path, *options, config='folder:small,thrifty')
  for one in slicing_commands.make_commands(command)[1].values():
    assert (one.config.model.name, one.config.model.norm) == ('lean', 'none')
    assert one.config.retrain.learning_rate == 8e-3
    assert (one.config.retrain.teacher, one.config.data.fold) == ('', 1)


@pytest.mark.parametrize(
  ('halvings', 'own', 'sizes'),
  [
    (5, 128, ['64', '96', '128']),
    (5, 96, ['64', '96']),  # of 48 pixels the network makes 64, as of 64
    (4, 96, ['48', '80', '96']),
    (3, 90, ['48', '64', '90']),
  ],
)
def test_sizes_are_a_half_and_three_quarters_of_the_run_s_own_and_itself(
  raw, tmp_path, halvings, own, sizes
):
  levels = (Level(4, 1, 1, 'plain'),) * halvings
  genotype.save(tmp_path / 'a.json', dataclasses.replace(SHAPE, levels=levels))
  options = f'--config.data.image_size={own}', f'--config.genotype={tmp_path / "a.json"}'
  usual, each = slicing_commands.make_commands(parse(raw, tmp_path, *options, stage='sizes'))
  assert [*each] == sizes and usual.config.data.image_size == own
  for size, one in each.items():
    assert one.workdir == tmp_path / 'sizes' / size
    data = one.config.data
    assert (str(data.image_size), data.slice_axis, data.reduction) == (size, 'sagittal', 0)


def test_a_size_below_which_the_network_takes_none_is_refused(raw, tmp_path):
  command = parse(raw, tmp_path, '--config.data.image_size=32', stage='sizes')
  with pytest.raises(
    InputError, match='image_size is 32, and .* multiples of 32 .* no smaller size of at least 32'
  ):
    slicing_commands.make_commands(command)


@pytest.mark.parametrize('stage', ['planes', 'sizes'])
@pytest.mark.parametrize(
  ('arguments', 'config', 'told'),
  [
    (['--folds=0,1'], 'folder:small', 'leave out --folds'),
    ([], 'folder:small,unet', 'leave the variant out'),
    (['--config.retrain.start_from=MODEL'], 'folder:small', 'does not start from a model'),
  ],
)
def test_what_makes_no_sense_is_refused(raw, tmp_path, arguments, config, told, stage):
  with pytest.raises(InputError, match=f'--stage={stage}: .*{told}'):
    slicing_commands.make_commands(parse(raw, tmp_path, *arguments, config=config, stage=stage))


@pytest.mark.parametrize(
  ('stage', 'told'),
  [('planes', 'pictures have no planes'), ('sizes', r'data\.reduction is 1, .* cut into windows')],
)
def test_pictures_are_refused_where_they_have_no_such_kinds(tmp_path, stage, told):
  phantom_folders.write_pictures(tmp_path / 'raw', patients=6, seed=0)
  pictures = (
    f'--config.data.images={tmp_path / "raw" / "images"}',
    f'--config.data.masks={tmp_path / "raw" / "masks"}',
    "--config.data.classes=('background','left','right')",
  )
  typed = ['--config=folder:small', f'--workdir={tmp_path}', '--config.data.reduction=1']
  command = dataclasses.replace(command_line.parse([*typed, *pictures]), stage=stage)
  with pytest.raises(InputError, match=told):
    slicing_commands.make_commands(command)


def run_tiny(raw, workdir, *options):
  """Runs a stage with the network of SHAPE, an epoch each; returns the exit status."""
  path = workdir.parent / 'tiny.json'
  genotype.save(path, SHAPE)
  short = '--config.retrain.epochs=1', '--config.retrain.warmup_epochs=0'
  options = (f'--config.genotype={path}', '--config.front.workers=1', *short, *options)
  return tiny_lean_runs.command(raw.parent, workdir, *options, config='folder:small')


@pytest.mark.usefixtures('quick_compilation')
def test_a_run_trains_on_every_plane_once_and_never_tests(raw, tmp_path, capsys):
  workdir = tmp_path / 'run'
  options = '--stage=planes', '--config.data.image_size=32'
  assert run_tiny(raw, workdir, *options) == 0, capsys.readouterr()
  out = capsys.readouterr().out
  judges = []
  for plane in SLICE_AXES:
    place = workdir / 'planes' / plane
    assert f'{plane} slices: ' in out and (place / 'training' / 'model').is_dir()
    trained = json.loads((place / 'training' / 'retrain' / 'summary.json').read_text())
    judges.append([one['patient'] for one in trained['patients']])
  found = json.loads((workdir / 'planes' / 'planes.json').read_text())
  assert {one['slice_axis'] for one in found} == {*SLICE_AXES}
  assert {path.name for path in workdir.iterdir()} <= {'planes', 'check.html', '.lock'}
  config = configs.from_json(json.loads((workdir / 'planes' / 'config.json').read_text()))
  patients = open_slices(workdir / 'planes' / 'axial', config).classes_of_patients
  assert judges == [[*splits.assign(config, patients)['validation']]] * 3
  logs = [workdir / 'planes' / plane / 'training' / 'log.txt' for plane in SLICE_AXES]
  before = [path.read_text() for path in logs]
  assert run_tiny(raw, workdir, *options) == 0
  assert [path.read_text() for path in logs] == before
  assert (
    out.rpartition('validation DSC')[2].splitlines()[:4]
    == (capsys.readouterr().out.rpartition('validation DSC')[2].splitlines()[:4])
  )


@pytest.mark.usefixtures('quick_compilation')
def test_a_run_trains_on_every_size_and_times_the_network_on_each(raw, tmp_path, capsys):
  pytest.importorskip('onnxruntime')
  workdir = tmp_path / 'run'
  way = '--config.cost.runtime=onnxruntime', '--config.cost.precision=float32'
  options = '--stage=sizes', '--config.data.image_size=48', *way
  assert run_tiny(raw, workdir, *options) == 0, capsys.readouterr()
  out = capsys.readouterr().out
  assert '40 x 40 slices: ' in out and '\n  size ' in out
  found = json.loads((workdir / 'sizes' / 'sizes.json').read_text())
  assert {one['image_size'] for one in found} == {40, 48}
  assert all(one['timed']['ms'] > 0 and one['slice_axis'] == 'sagittal' for one in found)
  for one in found:
    place = workdir / 'sizes' / str(one['image_size']) / 'training'
    trained = json.loads((place / 'retrain' / 'summary.json').read_text())
    assert trained['validation_dsc'] == pytest.approx(one['validation_dsc'])


def test_bad_scans_are_all_named_before_any_slice_is_prepared(tmp_path, capsys):
  folder, workdir = tmp_path / 'raw', tmp_path / 'run'
  phantom_folders.write_decathlon(folder, patients=6, seed=0, slice_axis='sagittal')
  bad = [folder / 'imagesTr' / f'{scan}.nii.gz' for scan in ('scan_002', 'scan_004')]
  for path in bad:
    path.write_bytes(path.read_bytes()[:200])
  assert main.main(type_in(folder, workdir, '--stage=planes')) == 2
  out = capsys.readouterr().out
  assert all(path.name in out for path in bad) and 'along another axis' not in out, out
  assert (workdir / 'check.html').exists() and not (workdir / 'planes').exists()


def test_the_folder_of_several_folds_is_compared_in_one_of_them(raw, tmp_path, capsys):
  (tmp_path / 'fold_0').mkdir()
  assert main.main(type_in(raw, tmp_path, '--stage=planes', '--folds=all')) == 2
  assert 'leave out --folds' in capsys.readouterr().err

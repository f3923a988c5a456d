"""A network in 8 bits: which layers are, by which slices, and of whom the scores beside it are."""

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from thrifty_jax.errors import InputError
from thrifty_jax.exporting import onnx_graph, quantise
from thrifty_jax.exporting.export_slices import RunData
from thrifty_jax.exporting.onnx_network import FLOAT, IMAGE, LOGITS
from thrifty_jax.reporting import raced_time

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
WIDTH = 4  # channels of the network below


# Convolutions of the network below by the labels of their names; only that of the second may be
# quantised unless all is.
LABELS = (FLOAT, onnx_graph.CONVOLUTION, 'another')


@pytest.fixture(scope='module')
def content():
  """Three convolutions, whose output channels have weights of different sizes."""
  graph, generator = onnx_graph.Graph(side=8, depth=1), np.random.default_rng(0)
  x = onnx_graph.Tensor(IMAGE, 1, 0)
  for label in LABELS:
    kernel = generator.normal(size=(3, 3, x.channels, WIDTH)) * 10.0 ** np.arange(WIDTH)
    x = onnx_graph.convolve(graph, [x], kernel.astype(np.float32), label=label)
  graph.add('Identity', x.name, output=LOGITS)
  ends = ({IMAGE: ('slices', 1, 8, 8)}, {LOGITS: ('slices', WIDTH, 8, 8)})
  return graph.model(*ends).SerializeToString()


@pytest.mark.parametrize(('whole', 'expected'), [(False, LABELS[1:2]), (True, LABELS)])
def test_weights_have_7_bits_and_a_scale_a_channel_in_the_layers_that_may_be_quantised(
  content, whole, expected
):
  onnx: Any = importlib.import_module('onnx')
  inputs = np.random.default_rng(1).random((2, 3, 1, 8, 8), np.float32)
  made = onnx.load_from_string(quantise.quantise(content, inputs, whole=whole))
  arrays = {one.name: onnx.numpy_helper.to_array(one) for one in made.graph.initializer}
  restored = {
    node.output[0]: [arrays[name] for name in node.input]
    for node in made.graph.node
    if node.op_type == 'DequantizeLinear' and node.input[0] in arrays
  }
  found = []
  for node in made.graph.node:
    if node.op_type == 'Conv' and node.input[1] in restored:
      weights, scales, zeros = restored[node.input[1]]
      assert weights.dtype == np.int8 and np.abs(weights.astype(int)).max((1, 2, 3)).min() >= 63
      assert np.abs(weights.astype(int)).max() <= 64 and not zeros.any()
      assert scales.shape == (WIDTH,) and (np.diff(scales) > 0).all()
      found.append(node.name.rpartition('_')[0])
  assert tuple(found) == expected


def test_activations_are_scaled_by_all_the_slices_that_are_given(content):
  onnx: Any = importlib.import_module('onnx')
  image = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
  made = quantise.quantise(content, [0.1 * image, image, 0.2 * image], whole=True)
  graph = onnx.load_from_string(made).graph
  arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
  (scale,) = (arrays[node.input[1]] for node in graph.node if node.input[0] == IMAGE)
  assert scale == pytest.approx(1 / 255)


def test_a_full_disk_of_temporary_files_is_one_line_before_any_work(content, tmp_path, monkeypatch):
  """As onnxruntime writes a part of the network there, and goes on with it."""
  monkeypatch.setattr(quantise.tempfile, 'tempdir', str(tmp_path))
  for missing in (1, 0):
    usage = SimpleNamespace(free=3 * len(content) - missing)
    monkeypatch.setattr(quantise.shutil, 'disk_usage', lambda place, usage=usage: usage)
    if missing:
      with pytest.raises(InputError, match=rf'^{tmp_path}: has 0.0 MiB left.* in TMPDIR$'):
        quantise.quantise(content, [], whole=True)
  quantise.quantise(content, [np.zeros((1, 1, 8, 8), np.float32)], whole=True)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('norm', ['batch', 'group'])
def test_scores_are_those_of_each_network_on_the_patients_of_each_split(monkeypatch, norm):
  """Of networks that only say who they are, and scores that say of whom they are."""
  numbers = {b'float': 1, b'eight': 2}
  patients = {'train': ('a',), 'validation': ('b', 'c'), 'test': ('d',)}
  image = np.zeros((100, 4, 4, 1), np.float16)
  cases = {name: SimpleNamespace(patient=name) for names in patients.values() for name in names}
  prepared: Any = SimpleNamespace(
    read=lambda case: {'image': image}, cases_of=lambda names: tuple(map(cases.get, names))
  )
  given = {}

  def fake(content, inputs, *, whole):
    given.update(content=content, slices=sum(map(len, inputs)), whole=whole)
    return b'eight'

  def runner(content):
    return lambda image: np.full((len(image), 2, 4, 4), numbers[content], np.float32)

  def score(prepared, patients, predict, *, largest):
    assert largest == (1,)
    return 0.1 * len(patients) * float(predict(image).max())

  monkeypatch.setattr(quantise, 'quantise', fake)
  monkeypatch.setattr(quantise, 'make_onnx_runner', runner)
  monkeypatch.setattr(quantise.cases, 'validation_dsc', score)
  network = SimpleNamespace(norm=norm)
  member: Any = SimpleNamespace(
    spec=SimpleNamespace(context=0, largest=(1,), network=network), genotype=None
  )
  run = RunData(prepared, patients)
  found = quantise.quantise_model(member, b'float', run)
  assert given == {'content': b'float', 'slices': 64, 'whole': norm == 'batch'}
  assert found.content == b'eight' and found.network(image).max() == 2
  assert found.validation_dsc_float == pytest.approx(0.1 * 2 * 1)
  assert found.validation_dsc == pytest.approx(0.1 * 2 * 2)
  assert found.test_dsc == pytest.approx(0.1 * 1 * 2)
  said = 'validation DSC 40.00 %, in float32 20.00 %: +20.00'
  assert str(found) == f'{said}; test DSC 20.00 %'
  without = quantise.quantise_model(member, b'float', RunData(prepared, {**patients, 'test': ()}))
  assert without.test_dsc is None and str(without) == said


def test_patients_without_a_score_have_none(monkeypatch):
  scores = {'score float32': 0.9, 'score int8': np.nan, 'test int8': 0.8}
  monkeypatch.setattr(quantise, 'measure_dsc', lambda *run, title, split='': scores[title])
  monkeypatch.setattr(quantise, 'quantise', lambda content, training, whole: content)
  monkeypatch.setattr(quantise, 'make_onnx_runner', lambda content: None)
  monkeypatch.setattr(quantise.export_slices, 'read_training', lambda *run, context: ())
  monkeypatch.setattr(quantise.onnx_network, 'folds', lambda member: True)
  member: Any = SimpleNamespace(spec=SimpleNamespace(context=0))
  run: Any = SimpleNamespace(cases=lambda split: ['one'])
  found = quantise.quantise_model(member, b'', run)
  assert (found.validation_dsc_float, found.validation_dsc, found.test_dsc) == (0.9, None, 0.8)
  assert str(found) == 'test DSC 80.00 %'
  scores['test int8'] = np.nan
  found = quantise.quantise_model(member, b'', run)
  assert found.test_dsc is None and str(found) == 'no validation or test patient has a score'


def timed(precision):
  return raced_time.RacedTime(3.704, 'openvino', precision, 256, 'a processor')


@pytest.mark.parametrize(
  ('before', 'after', 'lost'),
  [
    (0.9, 0.8945, '0.55'), (0.9, 0.897999999, '0.20'), (0.9, 0.8981, ''), (0.9, 0.91, ''),
    (None, 0.5, ''), (0.9, None, ''),
  ],
)  # fmt: skip
def test_float32_is_advised_where_8_bits_lose_more_than_a_race_would_take(before, after, lost):
  assert quantise.LOSS == 0.002
  found = quantise.Quantised(b'', lambda image: image, before, after, None)
  line = f'8 bits lose {lost} points of the validation DSC: take model.onnx, the float32 file'
  for raced in (None, timed('float32')):
    assert not lost or found.advise(raced) == line
  in_8_bits = f'{line}; the milliseconds of the race are those in 8 bits'
  assert found.advise(timed('int8')) == (in_8_bits if lost else '')


@pytest.mark.parametrize(('before', 'after'), [(0.9, 0.899), (0.9, 0.91), (None, None)])
def test_8_bits_that_lose_little_are_to_be_timed_where_the_race_counts_float32(before, after):
  found = quantise.Quantised(b'', lambda image: image, before, after, None)
  assert found.advise(timed('float32')) == (
    'the race that timed this network counts it with 3.70 ms in OpenVINO in float32; time '
    'model_int8.onnx by thrifty_jax.cost before you take it'
  )
  assert found.advise(timed('int8')) == found.advise(None) == ''

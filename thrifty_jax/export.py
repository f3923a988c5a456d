"""Exports a model: `python -m thrifty_jax.export --model=DIR --output=FOLDER`."""

import dataclasses
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import thrifty_jax
from thrifty_jax import extras
from thrifty_jax.errors import InputError
from thrifty_jax.logbook import say
from thrifty_jax.running import command_line

if TYPE_CHECKING:
  import numpy as np

  from thrifty_jax.exporting.export_slices import RunData
  from thrifty_jax.model_folder import LoadedModel
  from thrifty_jax.networks.model_spec import ModelSpec

FORMATS = ('onnx', 'stablehlo')
NEEDS = {'onnx': ('onnx', 'onnxruntime'), 'stablehlo': ()}  # packages
USAGE = f"""\
usage: thrifty-jax export --model=FOLDER --output=FOLDER [options]
   or: python -m thrifty_jax.export, the same

Writes the network of a trained model for other programs, as ONNX without JAX, after it gave the
same as the model on real slices: no logit further away than 1e-4, and 99.99 % of the pixels in the
same class. Else nothing is written.

  --model=FOLDER       a model folder, or a run (its model/)
  --output=FOLDER      gets
      model.onnx           (or model.stablehlo) from slices in [0, 1] to logits, any number of them
      preprocessing.json   what the network expects, and the classes in the order of its outputs
      segment.py           (onnx) from NIfTI scans or pictures to masks without JAX
      README.md            what these are, what was checked; and card.md, the model's own card
  --format=FORMAT      {', '.join(FORMATS)} (default: onnx)
  --scans=SCANS        what to check on, as the input of thrifty_jax.predict; without it prepared
                       slices of the run's validation patients
  --int8               also model_int8.onnx, its convolutions in 8 bits: calibrated on slices of the
                       run's training patients, its DSC of the validation patients beside that of
                       the float network, and that of the test patients; a line says where
                       8 bits lose much of it, or a race counts the network in float32
  --dynamic_sides      (onnx) images of any height and width; slower
  --overwrite          replace an export that is there

It needs the packages of thrifty_jax[export]; nothing of a scan but voxels is read into it.

Exit status: 0 done, 2 bad input or usage, or an export that is not what the model is, 1 a fault.
{thrifty_jax.RESEARCH_USE}
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status; None uses the arguments of the process."""
  return command_line.start(argv, USAGE, run)


def run(arguments: Sequence[str]) -> None:
  """Parses the command; exports, checks and writes the model."""
  values = command_line.read(
    arguments,
    USAGE,
    required={'model': 'runs/brain/model', 'output': 'exported'},
    choices={'format': FORMATS},
  )
  for name in ('int8', 'dynamic_sides'):
    if values[name].value and values.format != 'onnx':
      raise InputError(f'--{name} is for --format=onnx; leave out one of them')
  output = Path(values.output)
  _require_packages(values.format)
  # JAX takes a second to import, so mistakes in the command are reported first.
  from thrifty_jax import config as configs
  from thrifty_jax import device, model_folder
  from thrifty_jax.exporting import export_folder, export_slices
  from thrifty_jax.predicting import segment

  export_folder.require_place(output, overwrite=values.overwrite)
  config = configs.default()
  config.device = 'cpu'  # an accelerator rounds more than the check allows
  device.prepare(config)
  folder = segment.find_model(values.model, 'model')
  member = model_folder.load(folder)
  spec = member.spec
  data = _open_run(folder, values, spec) if values.int8 or not values.scans else None
  say(f'thrifty_jax {thrifty_jax.__version__}  research use only, not a medical device')
  say('model', f'{spec.network.name}, {member.parameters:,} parameters')
  if data is None or values.scans:
    images = export_slices.read_scans(Path(values.scans), spec)
  else:
    images = export_slices.read_run(data)
  networks, results = _in_float32(values, member, images)
  if data is not None and values.int8:
    name = 'model_int8.onnx'
    eight = _in_8_bits(member, networks['model.onnx'], images, data, folder / 'genotype.json')
    networks[name], results[name] = eight
  sides = None if values.dynamic_sides else spec.image.image_size
  contents = export_folder.make_contents(
    member, networks, results, card=(folder / 'card.md').read_bytes(), sides=sides
  )
  export_folder.write(output, contents)
  say('written', f'{output}: {", ".join(sorted(contents))}')


def _open_run(folder: Path, values: Any, spec: 'ModelSpec') -> 'RunData':
  """Opens the slices of the run that a model lies in; says what does without them.

  A run with other patients for training, validation or test than the model's is an InputError:
  calibration would see patients who test the model.
  """
  from thrifty_jax.data import split_file
  from thrifty_jax.exporting import export_slices

  try:
    found = export_slices.open_run(folder)
    if spec.splits_sha256 not in (None, split_file.digest(found.patients)):
      raise InputError(
        f'{folder}: was trained, validated or tested with other patients than the run around it; '
        'expected the run that made the model'
      )
    return found
  except InputError as error:
    needed = (
      '--int8 needs the run' if values.int8 else 'or check the export on scans, by --scans=SCANS'
    )
    raise InputError(f'{str(error).rstrip(".")}; {needed}') from error


def _in_float32(
  values: Any, member: 'LoadedModel', images: 'list[np.ndarray]'
) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
  """The file in float32 and its results, by its name; refuses one that differs from the model."""
  from thrifty_jax.exporting import export_check, onnx_network, stablehlo

  if values.format == 'stablehlo':
    name, content = 'model.stablehlo', stablehlo.to_stablehlo(member)
    network = stablehlo.runner(content)
  else:
    made = onnx_network.to_onnx(member, dynamic_sides=values.dynamic_sides)
    name, content = 'model.onnx', made.SerializeToString()
    network = export_check.make_onnx_runner(content)
  found = export_check.compare(member, network, images)
  export_check.require_agreement(found, what=name)
  say('checked', str(found))
  return {name: content}, {name: dataclasses.asdict(found)}


def _in_8_bits(
  member: 'LoadedModel',
  content: bytes,
  images: 'list[np.ndarray]',
  data: 'RunData',
  genotype_file: Path,
) -> tuple[bytes, dict[str, Any]]:
  """The file in 8 bits and its results, with a line of advice if something speaks against it."""
  from thrifty_jax.exporting import export_check, quantise
  from thrifty_jax.reporting import raced_time

  quantised = quantise.quantise_model(member, content, data)
  advice = quantised.advise(raced_time.read(genotype_file))
  for line in filter(None, (str(quantised), advice)):
    say('int8', line)
  found = export_check.compare(member, quantised.network, images)
  scores = ('validation_dsc_float', 'validation_dsc', 'test_dsc')
  results = {
    **dataclasses.asdict(found),
    **{name: getattr(quantised, name) for name in scores},
    **({'advice': advice} if advice else {}),
  }
  return quantised.content, results


def _require_packages(format_: str) -> None:
  missing = [name for name in NEEDS[format_] if importlib.util.find_spec(name) is None]
  if missing:
    raise InputError(
      f'--format={format_} needs {" and ".join(missing)}, not installed here: '
      f'{extras.how_to_install("export")}'
    )


if __name__ == '__main__':
  sys.exit(main())

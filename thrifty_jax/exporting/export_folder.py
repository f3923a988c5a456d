"""The folder of an export: the network, a description of its input, a script and a page."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import thrifty_jax
from thrifty_jax import errors, files, labels, records
from thrifty_jax.data import likeness
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import runners, segment_onnx
from thrifty_jax.exporting.export_check import LOGIT_LIMIT, PIXEL_LIMIT
from thrifty_jax.exporting.onnx_network import IMAGE, LOGITS
from thrifty_jax.model_folder import LoadedModel
from thrifty_jax.networks.model_spec import ModelSpec
from thrifty_jax.scans import (
  nifti,
  overlays,
  picture_file,
  pictures,
  resizing,
  slices,
  tiff_rows,
  unreadable,
  windows,
)
from thrifty_jax.scores import components

FORMAT = 'thrifty_jax.export'
VERSION = 1
# Fields of a model's description that define a slice's preparation and the meaning of the logits.
_FIELDS = (
  *(
    'classes',
    'regions',
    'largest_component',
    'modalities',
    'context',
    'slice_axis',
    'padding',
    'intensity',
  ),
  *('percentiles', 'window', 'clahe_clip_limit', 'image_size', 'reduction', 'resize', 'unit'),
  *('curvature_flow_iterations', 'curvature_flow_time_step', 'training_scans'),
)
# Modules that lie beside the script of an export, further ones for pictures, and how they import
# each other there.
_BESIDE = (
  *(components, errors, labels, likeness, nifti),
  *(resizing, runners, slices, unreadable, windows),
)
_BESIDE_OF_PICTURES = (picture_file, pictures, tiff_rows)
_IMPORTS = (
  (re.compile(r'from thrifty_jax(?:\.(?:data|exporting|scans|scores))? import '), 'import '),
  (re.compile(r'from thrifty_jax(?:\.scans)?\.(?=\w+ import )'), 'from '),
)
_SCRIPT = """\
## Masks of {what}

    pip install {packages}
    python segment.py {example}

The masks are those of `python -m thrifty_jax.predict` without `--flips`. With `--runtime=openvino`,
after `pip install openvino`, they often come faster. `--help` has the rest.
"""
_OF_VOLUMES = {'what': 'NIfTI scans', 'example': 'SCAN.nii.gz MASK.nii.gz'}
_OF_PICTURES = {
  'what': 'pictures in PNG, TIFF, JPEG, BMP and GIF',
  'example': 'PICTURE.png MASK.png',
}
_RESIZED = 'as scikit-image resize does with anti_aliasing where it gets smaller'
_BACK = {  # by whether slices are cut into windows
  False: f'resize each class linearly to the square around the slice, {_RESIZED}, and cut the '
  'slice out of it',
  True: 'average each class where windows overlap, with weights 1, 2, ... from the border of a '
  'window to its middle, along rows times along columns, cut off what was padded, and resize it '
  f'linearly to the slice, {_RESIZED}',
}
_CHOICE = {  # by whether classes are regions
  False: 'take the class with the largest logit, the first of equals',
  True: 'write the first label of each of `regions`, one after the other, where the logit of its '
  'class, from 1, is larger than that of class 0',
}
_AROUND = {  # likewise
  False: '0',
  True: 'the first label of the smallest region around it, 0 where there is none',
}
_OF_SYSTEMS = {'.DS_Store', 'Thumbs.db', 'desktop.ini'}  # what they write into folders they show
_CALL = """\
## In Python

    network = jax.export.deserialize(bytearray(pathlib.Path('model.stablehlo').read_bytes()))
    logits = network.call(image)

It runs on CPU, CUDA and TPU; which later releases of JAX read it, the documentation of `jax.export`
says.
"""


def require_place(output: Path, *, overwrite: bool) -> None:
  """Refuses an output that cannot be written, is something else than an export, or may not go."""
  if output.is_symlink() or output.name in ('', '..'):
    raise InputError(
      f'--output={output} is a link, or has no name of its own; expected the name of a folder'
    )
  empty = output.is_dir() and not any(output.iterdir())
  if output.exists() and not empty:
    settings = output / 'preprocessing.json'
    about: Any = files.read_json(settings) if settings.is_file() else None
    is_export = isinstance(about, dict) and about.get('format') == FORMAT
    if not is_export or not isinstance(about.get('files'), dict):
      raise InputError(f'--output={output} exists and is no export; name a new folder')
    if not overwrite:
      raise InputError(f'--output={output} exists; add --overwrite, or name another')
    own = {*list_names(about), '__pycache__'}
    if others := {path.name for path in output.iterdir()} - own - _OF_SYSTEMS:
      raise InputError(
        f'--output={output} holds {min(others)}, which is no file of an export; move it away, or '
        'name a new folder'
      )
  files.require_writable(f'--output={output}', output.absolute().parent)


def read(folder: Path, *, names: Collection[str] | None = None) -> dict[str, Any]:
  """Returns preprocessing.json of an export whose networks are as they were written.

  Anything else is an InputError. Files of networks that are not among `names` need not be there;
  None are all.
  """
  path = folder / 'preprocessing.json'
  about = files.read_json(path) if path.is_file() else None
  networks = about.get('files') if isinstance(about, dict) else None
  if not isinstance(about, dict) or about.get('format') != FORMAT or not isinstance(networks, dict):
    raise InputError(f'{folder}: is no export; make one by python -m thrifty_jax.export')
  for name, found in networks.items():
    if names is not None and name not in names:
      continue
    network = folder / name
    files.require_file(network)
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    if Path(name).name != name or not isinstance(found, dict) or found.get('sha256') != digest:
      raise InputError(f'{network}: is not the file that was exported; export the model again')
  return about


def list_names(about: Mapping[str, Any]) -> list[str]:
  """Names of the files of an export, by its preprocessing.json."""
  scripts = [module.__name__.rpartition('.')[2] for module in (*_BESIDE, *_BESIDE_OF_PICTURES)]
  scripts = [f'{name}.py' for name in ('segment', *scripts)]
  return [*about['files'], 'preprocessing.json', 'README.md', 'card.md', *scripts]


def make_contents(
  member: LoadedModel,
  networks: Mapping[str, bytes],
  results: Mapping[str, Mapping[str, Any]],
  *,
  card: bytes,
  sides: int | None,
) -> dict[str, bytes]:
  """Content of the files by name: the networks, what describes them, and the card of the model.

  `results` are those of the checks of each file of `networks`; `sides` are height and width of a
  slice in pixels, None for any.
  """
  about = describe(member, networks, results, sides=sides)
  return {
    **networks,
    'preprocessing.json': json.dumps(about, indent=2, ensure_ascii=False).encode() + b'\n',
    'README.md': _page(about).encode(),
    'card.md': card,
    **(_scripts(member.spec) if 'model.onnx' in networks else {}),
  }


def _scripts(spec: ModelSpec) -> dict[str, bytes]:
  """Returns the script that makes masks, and the modules that it needs, on their own."""
  beside = (*_BESIDE, *(_BESIDE_OF_PICTURES if spec.of_pictures else ()))
  modules = {f'{module.__name__.rpartition(".")[2]}.py': module for module in beside}
  return {name: _alone(module) for name, module in {**modules, 'segment.py': segment_onnx}.items()}


def _alone(module: ModuleType) -> bytes:
  """Returns the text of a module that imports others of this program as they lie beside it."""
  text = Path(str(module.__file__)).read_text('utf-8')
  for pattern, replacement in _IMPORTS:
    text = pattern.sub(replacement, text)
  return text.encode()


def describe(
  member: LoadedModel,
  networks: Mapping[str, bytes],
  results: Mapping[str, Mapping[str, Any]],
  *,
  sides: int | None,
) -> dict[str, Any]:
  """Content of preprocessing.json: all that a program needs to run the network."""
  spec, described = member.spec, records.to_json(member.spec)
  sides_ = [sides, sides] if sides else ['height', 'width']
  return {
    'format': FORMAT,
    'version': VERSION,
    'note': thrifty_jax.RESEARCH_USE,
    'input': {
      'name': IMAGE,
      'type': 'float32',
      'shape': ['slices', spec.image_channels, *sides_],
      'channels': [
        f'slice {offset:+d}, channel {m}' if offset else f'the slice itself, channel {m}'
        for offset in range(-spec.context, spec.context + 1)
        for m in range(spec.modalities)
      ],
      'values': 'from 0 to 1, as the steps leave them; mean and deviation of the training slices '
      'are taken inside the network',
      'steps': _steps(spec),
    },
    'output': {
      'name': LOGITS,
      'type': 'float32',
      'shape': ['slices', len(spec.classes), *sides_],
      'values': 'logits, of which the steps make the mask',
      'steps': _mask_steps(spec),
    },
    **{name: described[name] for name in _FIELDS if name in described},
    **({'colours': _colours(spec)} if spec.of_pictures else {}),
    'weights_sha256': member.sha256,
    'thrifty_jax': thrifty_jax.__version__,
    'files': {
      name: {'sha256': hashlib.sha256(content).hexdigest(), **results[name]}
      for name, content in networks.items()
    },
  }


def _colours(spec: ModelSpec) -> list[str]:
  """Returns the colour of each label in masks, as predict has it."""
  numbers = range(1, labels.count(len(spec.classes), spec.regions))
  return list(spec.colours) or ['#000000', *map(overlays.class_colour, numbers)]


def _steps(spec: ModelSpec) -> list[str]:
  """Describes the preparation of a slice step by step."""
  settings, axes = spec.image, segment_onnx.SLICE_AXES[spec.image.slice_axis]
  steps = ['take a picture as one slice, its colours red, green and blue as channels']
  if not spec.of_pictures:
    steps = [
      f'turn the scan so that its axes (slice, row, column) point to {", ".join(axes)}: '
      'S head, I feet, A front, P back, L left, R right',
    ]
  if spec.padding:
    steps.append('replace values of {} and above by {}'.format(*spec.padding))
  limits = '{:g} and {:g}'.format(*settings.limits)
  if settings.intensity == 'percentiles':
    limits = (
      'percentile {:g} and percentile {:g} of each channel of the scan, or where both are equal '
      'its least and largest value,'.format(*settings.limits)
    )
  steps.append(f'map {limits} to 0 and 1, clip')
  if settings.clahe_clip_limit:
    steps.append(f'scikit-image equalize_adapthist, clip_limit {settings.clahe_clip_limit:g}')
  size, reduction = settings.image_size, settings.reduction
  square = f'pad each slice with 0 to a square, itself in the middle, resize it to {size} x {size}'
  smaller = f'resize each slice to its height and width over {reduction:g}, halves rounded up'
  steps.append(f'{smaller if reduction else square}, {settings.resize}, {_RESIZED}')
  if settings.curvature_flow_iterations:
    steps.append(
      f'SimpleITK CurvatureFlow, {settings.curvature_flow_iterations} iterations, time step '
      f'{settings.curvature_flow_time_step:g}'
    )
  if reduction:
    steps.append(
      f'pad each slice with 0, itself in the middle, to at least {size} x {size}, and cut it into '
      f'windows of that size, row by row, which begin every {max(size // 2, 1)} pixels, the last '
      'so that it reaches the end; each counts as a slice'
    )
  steps.append('clip to 0 and 1, round to float16, back to float32')
  if spec.context:
    steps.append('stack each slice with its neighbours; the outermost slices are their own')
  return steps


def _mask_steps(spec: ModelSpec) -> list[str]:
  """Describes step by step how logits become the mask."""
  has_regions = bool(spec.regions)
  steps = [_BACK[bool(spec.image.reduction)], _CHOICE[has_regions]]
  if spec.largest_component:
    steps.append(
      f'of {", then of ".join(spec.largest_component)} keep the largest piece in the whole scan, '
      'connected by faces of voxels, the first of equals; each voxel of its others becomes '
      f'{_AROUND[has_regions]}'
    )
  return steps if spec.of_pictures else [*steps, 'turn the mask back to the axes of the scan']


def _list_packages(about: Mapping[str, Any]) -> list[str]:
  """Lists the packages that the script needs for the network of a preprocessing.json."""
  packages = ['numpy', 'scipy', 'nibabel', 'onnxruntime']
  packages += ['pillow', 'tifffile'] if segment_onnx.of_pictures(about) else []
  packages += ['scikit-image'] if about['clahe_clip_limit'] else []
  return packages + (['SimpleITK'] if about['curvature_flow_iterations'] else [])


def _page(about: Mapping[str, Any]) -> str:
  """Text of README.md."""
  shape = ' x '.join(map(str, about['input']['shape']))
  lines = []
  for name, found in about['files'].items():
    line = (
      f'- `{name}`: {100 * found["equal_pixels"]:.4f} % of the pixels of {found["slices"]} slices '
      'in the same class as by the model, logits differ by at most '
      f'{found["largest_difference"]:.1e}'
    )
    if None not in (found.get('validation_dsc'), found.get('validation_dsc_float')):
      line += '; DSC of the validation patients {:.2f} %, in float32 {:.2f} %'.format(
        100 * found['validation_dsc'], 100 * found['validation_dsc_float']
      )
    lines.append(line)
    if advice := found.get('advice'):
      lines.append(f'  - {advice}')
  steps, mask_steps = (
    '\n'.join(f'{number}. {step}' for number, step in enumerate(about[name]['steps'], 1))
    for name in ('input', 'output')
  )
  kind = _OF_PICTURES if segment_onnx.of_pictures(about) else _OF_VOLUMES
  script = _SCRIPT.format(packages=' '.join(_list_packages(about)), **kind)
  return f"""\
# {', '.join(about['classes'][1:])}: an exported network

{thrifty_jax.RESEARCH_USE}

{chr(10).join(lines)}

In float32 at most {LOGIT_LIMIT:g} and at least {100 * PIXEL_LIMIT:g} % were required. `card.md` has
how the model was trained and who may use it.

{script if 'model.onnx' in about['files'] else _CALL}
## What the network expects

`{about['input']['name']}`, float32, {shape}, {about['input']['values']}:

{steps}

It gives `{about['output']['name']}`, {about['output']['values']}:

{mask_steps}

`preprocessing.json` has the same for programs.
"""


def write(output: Path, contents: Mapping[str, bytes]) -> None:
  """Writes the folder, whole or not at all; an older one is replaced."""
  try:
    with files.whole_folder(output) as unfinished:
      for name, content in contents.items():
        files.write_bytes(unfinished / name, content)
  except OSError as error:
    raise InputError(f'--output={output}: cannot be written: {error.strerror or error}') from error

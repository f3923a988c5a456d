"""Builds a web page for an exported network: `python -m demo.build --export=DIR --output=DIR`."""

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import thrifty_jax
from demo import sample
from demo.packages import ITK_WASM, ONNX_RUNTIME, PACKAGES
from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line
from thrifty_jax.scans import overlays

LICENCES = ('LICENSE', 'ThirdPartyNotices.txt')  # ONNX Runtime's npm package comes without them
PAGE = (
  *('index.html', 'style.css', 'demo.js', 'worker.js', 'files.js', 'open.js'),
  *('view.js', 'shades.js', 'greys.js', 'time.js'),
)
FORMATS = (
  *('nifti.js', 'dicom.js', 'dicom_file.js', 'dicom_tags.js', 'dicom_pixels.js', 'dicom_pieces.js'),
  *('picture.js', 'png.js', 'tiff.js', 'jpeg.js', 'bmp.js', 'gif.js'),
  *('gdcm.js', 'orient.js', 'packed.js', 'tags.js', 'crc.js', 'mask_png.js', 'mask_nifti.js'),
)
ARITHMETIC = ('prepare.js', 'ranks.js', 'windows.js', 'likeness.js')
SCRIPTS = PAGE + FORMATS + ARITHMETIC
# What prepare.js lacks, so a network trained with it would get other images: fields and the values
# that it can do, the first of which holds where an export lacks the field.
UNBUILT = {'modalities': (1,), 'clahe_clip_limit': (0,), 'curvature_flow_iterations': (0,)}
CHANNELS_OF_PICTURES = (1, 3)  # grey, or red, green and blue
USAGE = f"""\
usage: python -m demo.build --export=FOLDER --output=FOLDER [--sample=SCAN] [...]

Writes a folder for any web server, with a page that segments scans or pictures in the browser.

  --export=FOLDER   what `python -m thrifty_jax.export` wrote, with model.onnx
  --output=FOLDER   a new folder
  --sample=SCAN     a file, or the folder of a DICOM series, to try; it is copied as it is, with
                    whatever its headers say of the patient
  --runtime=FILE    {ONNX_RUNTIME.archive} of the npm registry, and
  --decoder=FILE    {ITK_WASM.archive}; without them `npm pack` fetches each once into
                    ~/.cache/thrifty_jax; another content is refused

See it with `python -m http.server --directory=FOLDER --bind=127.0.0.1`. {thrifty_jax.RESEARCH_USE}
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status; None uses the arguments of the process."""
  return command_line.start(argv, USAGE, run)


def run(arguments: Sequence[str]) -> None:
  """Parses the command, collects the files and writes them.

  Raises:
    InputError: If the command, the export, a package or the sample is invalid.
  """
  values = command_line.read(arguments, USAGE, required={'export': 'exported', 'output': 'site'})
  output = Path(values.output)
  if output.exists():
    raise InputError(f'--output={output} exists; name a new folder')
  place = Path(values.sample) if values.sample else None
  tried = sample.find(place) if place else []
  contents = network_files(Path(values.export))
  contents |= {name: Path(__file__).with_name(name).read_bytes() for name in SCRIPTS}
  contents |= licence_files()
  for package in PACKAGES:
    given = values[package.option].value
    contents |= package.read(Path(given) if given else package.fetch())
  if place:
    sample.require_readable(place, contents)
  contents |= {f'sample/{path.name}': path.read_bytes() for path in tried}
  about = json.loads(contents['preprocessing.json'])
  shown = {'name': place.resolve().name, 'files': [path.name for path in tried]} if place else None
  page = {'colours': class_colours(about), 'sample': shown}
  contents['page.json'] = files.format_json(page).encode()
  from thrifty_jax.exporting import export_folder  # imports JAX

  export_folder.write(output, contents)
  print(f'written  {output}: python -m http.server --directory={output} --bind=127.0.0.1')


def class_colours(about: Mapping[str, Any]) -> list[str]:
  """Returns the colour of each class from 1 on, as the report and overlays draw it."""
  count = len(about['classes']) - 1
  own = about.get('colours', ()) if not about.get('regions') else ()  # there they are of labels
  drawn = overlays.line_colours(own)
  if own and len(drawn) == count:
    return list(drawn)
  return [overlays.class_colour(number) for number in range(1, count + 1)]


def network_files(folder: Path) -> dict[str, bytes]:
  """Returns the network and its descriptions, by file name.

  Raises:
    InputError: If the folder is no export with model.onnx as it was written, or the page lacks its
      preprocessing.
  """
  from thrifty_jax.exporting import export_folder  # imports JAX

  about = export_folder.read(folder, names=('model.onnx',))
  if 'model.onnx' not in about['files']:
    raise InputError(f'--export={folder}: has no model.onnx; export with --format=onnx')
  of_pictures = about.get('unit') == 'pixels'
  done = UNBUILT | ({'modalities': CHANNELS_OF_PICTURES} if of_pictures else {})
  for name, values in done.items():
    value = about.get(name, values[0])  # what has its usual value may be left out
    if value not in values:
      can = ' or '.join(map(str, values))
      raise InputError(f'--export={folder}: {name} is {value}; the page can do only {can}')
  found = {}
  for name in ('preprocessing.json', 'model.onnx', 'card.md'):
    files.require_file(folder / name)
    found[name] = (folder / name).read_bytes()
  return found


def licence_files() -> dict[str, bytes]:
  """Returns licences and notices that the packages of npm come without.

  Those of ONNX Runtime are from its Python package; those of what ITK-Wasm contains lie here.
  """
  found = importlib.util.find_spec('onnxruntime')
  if found is None or found.origin is None:
    raise InputError(
      'onnxruntime, whose licence goes beside the page, is not installed: '
      'pip install -r requirements-export.txt'
    )
  folder = Path(found.origin).parent
  contents = {f'onnxruntime/{name}': (folder / name).read_bytes() for name in LICENCES}
  return contents | {'gdcm/NOTICES.txt': Path(__file__).with_name('gdcm_notices.txt').read_bytes()}


if __name__ == '__main__':
  sys.exit(main())

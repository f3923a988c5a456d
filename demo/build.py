"""Builds a web page for an exported network: `python -m demo.build --export=DIR --output=DIR`."""

import base64
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import thrifty_jax
from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line

PACKAGE, VERSION = 'onnxruntime-web', '1.27.0'
ARCHIVE = f'{PACKAGE}-{VERSION}.tgz'
# dist.integrity of that version in the npm registry.
SHA512 = 'ogDLsqIozHZwifPuN37OproAo0byX6t43/bP8GzeZWBWD6MOGExswFAx3up4NS/vvWBOg2u2PXomDt3rMmdQSg=='
RUNTIME = ('ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm')
LICENCES = ('LICENSE', 'ThirdPartyNotices.txt')  # the npm package comes without them
PAGE = ('index.html', 'style.css', 'demo.js', 'worker.js', 'view.js', 'shades.js')
READERS = (
  *('nifti.js', 'dicom.js', 'orient.js'),
  *('picture.js', 'png.js', 'tiff.js', 'jpeg.js', 'bmp.js', 'gif.js'),
  *('packed.js', 'tags.js', 'crc.js', 'mask_png.js'),
)
ARITHMETIC = ('prepare.js', 'windows.js', 'likeness.js')
SCRIPTS = PAGE + READERS + ARITHMETIC
# What prepare.js lacks, so a network trained with it would get other images: fields and the values
# that it can do, the first of which holds where an export lacks the field.
UNBUILT = {'modalities': (1,), 'clahe_clip_limit': (0,), 'curvature_flow_iterations': (0,)}
CHANNELS_OF_PICTURES = (1, 3)  # grey, or red, green and blue
USAGE = f"""\
usage: python -m demo.build --export=FOLDER --output=FOLDER [--runtime=FILE]

Writes a folder for any web server, with a page that segments scans or pictures in the browser.

  --export=FOLDER   what `python -m thrifty_jax.export` wrote, with model.onnx
  --output=FOLDER   a new folder
  --runtime=FILE    {ARCHIVE} of the npm registry; without it `npm pack` fetches it once
                    into ~/.cache/thrifty_jax; another content is refused

See it with `python -m http.server --directory=FOLDER --bind=127.0.0.1`. {thrifty_jax.RESEARCH_USE}
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status; None uses the arguments of the process."""
  return command_line.start(argv, USAGE, run)


def run(arguments: Sequence[str]) -> None:
  """Parses the command, collects the files and writes them.

  Raises:
    InputError: If the command, the export or the runtime is invalid.
  """
  values = command_line.read(arguments, USAGE, required={'export': 'exported', 'output': 'site'})
  output = Path(values.output)
  if output.exists():
    raise InputError(f'--output={output} exists; name a new folder')
  contents = network_files(Path(values.export))
  contents |= {name: Path(__file__).with_name(name).read_bytes() for name in SCRIPTS}
  contents |= licence_files()
  contents |= runtime_files(Path(values.runtime) if values.runtime else fetched())
  from thrifty_jax.exporting import export_folder  # imports JAX

  export_folder.write(output, contents)
  print(f'written  {output}: python -m http.server --directory={output} --bind=127.0.0.1')


def network_files(folder: Path) -> dict[str, bytes]:
  """Returns the network and its descriptions, by file name.

  Raises:
    InputError: If the folder is no export with model.onnx, or the page lacks its preprocessing.
  """
  about: Any = files.read_json(folder / 'preprocessing.json')
  if not isinstance(about, dict) or about.get('format') != 'thrifty_jax.export':
    raise InputError(f'--export={folder}: expected a folder of python -m thrifty_jax.export')
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
  if hashlib.sha256(found['model.onnx']).hexdigest() != about['files']['model.onnx']['sha256']:
    raise InputError(f'--export={folder}: model.onnx is not the one that was checked; export again')
  return found


def licence_files() -> dict[str, bytes]:
  """Returns licence and notices of ONNX Runtime, from its Python package."""
  found = importlib.util.find_spec('onnxruntime')
  if found is None or found.origin is None:
    raise InputError(
      'onnxruntime, whose licence goes beside the page, is not installed: '
      'pip install -r requirements-export.txt'
    )
  folder = Path(found.origin).parent
  return {f'onnxruntime/{name}': (folder / name).read_bytes() for name in LICENCES}


def runtime_files(archive: Path) -> dict[str, bytes]:
  """Returns the three files of ONNX Runtime Web that the page loads, by name.

  Raises:
    InputError: If the archive is not the one whose SHA-512 is known.
  """
  files.require_file(archive)
  content = archive.read_bytes()
  require_known(content, archive)
  with tarfile.open(fileobj=io.BytesIO(content)) as packed:  # no other file is unpacked
    members = {name: packed.extractfile(f'package/dist/{name}') for name in RUNTIME}
    return {f'onnxruntime/{name}': member.read() for name, member in members.items() if member}


def require_known(content: bytes, archive: Path) -> None:
  """Refuses anything but the pinned archive."""
  if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
    raise InputError(f'{archive}: its SHA-512 is not that of {PACKAGE} {VERSION}; fetch it again')


def kept() -> Path:
  """Returns the path of the archive between builds."""
  base = os.environ.get('XDG_CACHE_HOME')
  return (Path(base) if base else files.in_home('.cache')) / 'thrifty_jax' / ARCHIVE


def fetched() -> Path:
  """Returns the archive's path; npm downloads it if it is missing.

  Raises:
    InputError: If npm is missing or fails.
  """
  if kept().exists():
    return kept()
  print(f'fetch    {PACKAGE} {VERSION} (31 MB) by npm')
  with tempfile.TemporaryDirectory() as folder:
    command = ['npm', 'pack', f'{PACKAGE}@{VERSION}', f'--pack-destination={folder}']
    try:
      subprocess.run(command, check=True, capture_output=True, cwd=folder)
      content = (Path(folder) / ARCHIVE).read_bytes()
    except (OSError, subprocess.CalledProcessError) as error:
      raise InputError(f'npm cannot fetch {ARCHIVE} ({error}); give it by --runtime') from error
  require_known(content, kept())
  return files.write_bytes(kept(), content)


if __name__ == '__main__':
  sys.exit(main())

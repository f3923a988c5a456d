"""Packages of npm of which the page loads files: pinned, fetched once, else refused."""

import base64
import dataclasses
import hashlib
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from thrifty_jax import files
from thrifty_jax.errors import InputError

_PACKED = '.zst'  # ending of files that the page has unpacked


@dataclasses.dataclass(frozen=True)
class Package:
  """A version of a package, and what the page has of it."""

  name: str
  version: str
  sha512: str  # dist.integrity of that version in npm's registry
  megabytes: int  # of the archive
  members: tuple[str, ...]  # paths of its files in the archive
  folder: str  # of the page, for these files
  option: str  # which names an archive that is there

  @property
  def archive(self) -> str:
    """Name of the archive, as npm has it."""
    return f'{self.name.removeprefix("@").replace("/", "-")}-{self.version}.tgz'

  @property
  def kept(self) -> Path:
    """Path of the archive between builds."""
    base = os.environ.get('XDG_CACHE_HOME')
    return (Path(base) if base else files.in_home('.cache')) / 'thrifty_jax' / self.archive

  @property
  def paths(self) -> tuple[str, ...]:
    """Paths of the files in the page's folder."""
    names = (PurePosixPath(member).name.removesuffix(_PACKED) for member in self.members)
    return tuple(f'{self.folder}/{name}' for name in names)

  def read(self, archive: Path) -> dict[str, bytes]:
    """Returns the files by their paths in the page's folder.

    Raises:
      InputError: If the archive is not the one whose SHA-512 is known.
    """
    files.require_file(archive)
    content = archive.read_bytes()
    self._require_known(content, archive)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as packed:  # no other file is unpacked
      for path, name in zip(self.paths, self.members, strict=True):
        if member := packed.extractfile(f'package/{name}'):
          found[path] = _unpacked(member.read()) if name.endswith(_PACKED) else member.read()
    return found

  def fetch(self) -> Path:
    """Returns the archive's path; npm downloads it if it is missing.

    Raises:
      InputError: If npm is missing or fails.
    """
    if self.kept.exists():
      return self.kept
    print(f'fetch    {self.name} {self.version} ({self.megabytes} MB) by npm')
    with tempfile.TemporaryDirectory() as folder:
      command = ['npm', 'pack', f'{self.name}@{self.version}', f'--pack-destination={folder}']
      try:
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        content = (Path(folder) / self.archive).read_bytes()
      except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
          f'npm cannot fetch {self.archive} ({error}); give it by --{self.option}'
        ) from error
    self._require_known(content, self.kept)
    return files.write_bytes(self.kept, content)

  def _require_known(self, content: bytes, archive: Path) -> None:
    """Refuses anything but the pinned archive."""
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != self.sha512:
      raise InputError(
        f'{archive}: its SHA-512 is not that of {self.name} {self.version}; fetch it again'
      )


ONNX_RUNTIME = Package(
  name='onnxruntime-web',
  version='1.27.0',
  sha512='ogDLsqIozHZwifPuN37OproAo0byX6t43/bP8GzeZWBWD6MOGExswFAx3up4NS/vvWBOg2u2PXomDt3rMmdQSg==',
  megabytes=31,
  members=(
    'dist/ort.wasm.min.mjs',
    'dist/ort-wasm-simd-threaded.mjs',
    'dist/ort-wasm-simd-threaded.wasm',
  ),
  folder='onnxruntime',
  option='runtime',
)
# GDCM, by which the program decompresses DICOM too (within SimpleITK), so that values are the same.
ITK_WASM = Package(
  name='@itk-wasm/image-io',
  version='1.6.1',
  sha512='WAQSlC018JDJ0YNDnJcIox0F/lN/LkkxovtAulGdwXUiRsW1bBm6NPUNBYMCeU0iT1FpU2CBiZdJysYGTgVQbg==',
  megabytes=18,
  members=(
    'dist/pipelines/gdcm-read-image.js',
    'dist/pipelines/gdcm-read-image.wasm.zst',
    'LICENSE',
  ),
  folder='gdcm',
  option='decoder',
)
PACKAGES = (ONNX_RUNTIME, ITK_WASM)


def _unpacked(content: bytes) -> bytes:
  try:
    import zstandard  # pyrefly: ignore[missing-import]
  except ModuleNotFoundError as error:
    raise InputError(
      'zstandard, which unpacks the decoder of DICOM, is not installed: '
      'pip install -r requirements-export.txt'
    ) from error
  return zstandard.ZstdDecompressor().decompressobj().decompress(content)

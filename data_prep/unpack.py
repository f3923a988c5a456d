"""Unpacks a folder of a ZIP file completely or not at all, and nothing outside it."""

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from thrifty_jax import logbook
from thrifty_jax.errors import InputError

_MOST_TIMES = 50  # limit of the compression ratio; scans shrink to a half or a third
_CHUNK_BYTES = 1 << 18
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


def unpack(archive: Path, target: Path, *, holds: str) -> None:
  """Unpacks the one folder of a ZIP file that contains a path; the file is kept.

  Args:
    archive: The ZIP file.
    target: Path of the folder once everything is unpacked; until then its name begins with a dot.
    holds: Glob of a path inside the folder, which may be the archive's root or one or two levels
      below it, whatever its name.

  Raises:
    InputError: If the archive is broken or too large, has a path that leads out of it, contains
      anything but files and folders, or does not have exactly one such folder.
  """
  unfinished = target.with_name(f'.{target.name}.unpacking')
  shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
  try:
    with zipfile.ZipFile(archive) as source:
      _write_all(source, archive, unfinished)
    below = [unfinished, *unfinished.glob('*'), *unfinished.glob('*/*')]
    found = [path for path in below if path.is_dir() and any(path.glob(holds))]
    if len(found) != 1:
      raise _refused(archive, f'has {len(found)} folders with {holds} in it')
    found[0].replace(target)
  except _BROKEN as error:
    raise _refused(archive, f'cannot be unpacked ({error or type(error).__name__})') from error
  except (FileExistsError, NotADirectoryError) as error:
    raise _refused(archive, 'has a file twice, or a file and a folder of one name') from error
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)


def require_space(folder: Path, needed: int, what: str) -> None:
  """Refuses to write more bytes to a folder than there is space for; errors name `what`."""
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise InputError(
      f'{folder}: {what} takes {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free; make '
      'space there, or name another folder by --config.data.raw_dir'
    )


def _write_all(source: zipfile.ZipFile, archive: Path, folder: Path) -> None:
  """Writes the files of an archive after checking all of them."""
  parts = {entry: _parts(entry, archive) for entry in source.infolist()}
  # macOS writes a file in __MACOSX beside each of its own.
  wanted = [entry for entry in parts if not entry.is_dir() and '__MACOSX' not in parts[entry]]
  total = sum(entry.file_size for entry in wanted)
  if total > _MOST_TIMES * archive.stat().st_size:
    raise _refused(archive, f'would unpack to {total / 1e6:.0f} MB, {_MOST_TIMES} times its size')
  require_space(folder.parent, total, f'what {archive.name} holds')
  folder.mkdir()
  with logbook.progress(total, f'unpack {archive.name}', unit='B') as bar:
    for entry in wanted:
      path = folder.joinpath(*parts[entry])
      path.parent.mkdir(parents=True, exist_ok=True)
      with source.open(entry) as packed, path.open('xb') as file:
        while chunk := packed.read(_CHUNK_BYTES):
          file.write(chunk)
          bar.update(len(chunk))


def _parts(entry: zipfile.ZipInfo, archive: Path) -> tuple[str, ...]:
  """Returns the parts of an entry's path, which must stay inside and be a file or a folder."""
  path = PurePosixPath(entry.filename)
  special = any(character in entry.orig_filename for character in '\\:\0')
  if special or path.is_absolute() or not path.parts or '..' in path.parts:
    raise _refused(archive, f'has the path {entry.orig_filename!r:.80}, which leads out of it')
  kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 if it was packed without a type
  if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or entry.flag_bits & 1:
    raise _refused(archive, f'has {entry.filename!r:.80}, a link, a device or encrypted')
  return path.parts


def _refused(archive: Path, why: str) -> InputError:
  return InputError(
    f'{archive}: {why}; expected a ZIP file with one folder of scans. Download it again, or unpack '
    'it by hand.'
  )

"""Models on the Hugging Face Hub: hf://OWNER/NAME[@REVISION] is a model folder there."""

import contextlib
import fnmatch
import importlib.util
import os
import re
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import thrifty_jax
from thrifty_jax import extras, model_folder
from thrifty_jax.errors import InputError, first_line
from thrifty_jax.logbook import say

EXPORT = 'export'  # folder of an exported network in a repository
README = 'README.md'
# What an earlier release of the same model may have left; other files of a repository stay.
OURS = (README, f'{EXPORT}/*', 'genotype.json', 'scores.json')
_REPOSITORY = re.compile(r'[\w.-]+/[\w.-]+')
_NAME = re.compile(rf'hf:/{{1,2}}({_REPOSITORY.pattern}?)/?(?:@(.+))?')  # a Path has one / of two
_PATIENCE = 10.0  # seconds
_LOG_IN = 'log in by hf auth login, or set HF_TOKEN to a token of https://huggingface.co/settings'


class Place(NamedTuple):
  """A repository of a model, and a branch, tag or commit of it; None is its main branch."""

  repository: str
  revision: str | None = None

  def __str__(self) -> str:
    return f'hf://{self.repository}' + (f'@{self.revision}' if self.revision else '')


def is_repository(name: str) -> bool:
  """Returns whether a name has the form OWNER/NAME."""
  return _REPOSITORY.fullmatch(name) is not None


def is_named(place: Path | str) -> bool:
  """Returns whether a model is named by its place on the Hub, not by a folder."""
  return str(place).startswith('hf:/')


def parse(place: Path | str) -> Place:
  """Reads hf://OWNER/NAME[@REVISION], or raises InputError."""
  if found := _NAME.fullmatch(str(place)):
    return Place(*found.groups())
  raise InputError(f'{place}: expected hf://OWNER/NAME, or hf://OWNER/NAME@REVISION')


def require_package(what: str) -> None:
  """Refuses `what` without huggingface_hub, and says what to install."""
  if importlib.util.find_spec('huggingface_hub') is None:
    raise InputError(
      f'{what} needs huggingface_hub, not installed here: {extras.how_to_install("hub")}'
    )
  os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')  # before the package is imported


def fetch(name: Path | str) -> Path:
  """Returns the folder of a model on the Hub, in the cache of huggingface_hub.

  Without a network it is what was fetched before. A damaged file is fetched once more.

  Raises:
    InputError: If there is no such model, it may not be read, is no model of this program, or is
      neither reachable nor fetched before.
  """
  place = parse(name)
  require_package(str(place))
  with _explain(place):
    try:
      return _download(place)
    except InputError:
      pass
    try:
      return _download(place, again=True)
    except InputError as error:
      raise InputError(f'{place}: cannot be used: {error}') from error


def require_token() -> None:
  """Refuses to go on without a token of the Hub."""
  from huggingface_hub import get_token

  if not get_token():
    raise InputError(f'there is no token of the Hugging Face Hub; {_LOG_IN}')


def send(place: Place, contents: Mapping[str, bytes], *, private: bool, message: str) -> str:
  """Makes these files the model of a repository, in one commit, and returns its address.

  The repository and the branch are made if they are missing. With `private` one that others can
  read is refused before anything is sent.
  """
  from huggingface_hub import CommitOperationAdd, CommitOperationDelete

  repository, branch = place
  with _explain(place):
    api = _api()
    api.create_repo(repository, private=private or None, exist_ok=True)
    if private and not api.model_info(repository).private:
      raise InputError(
        f'{place}: exists, and everybody can read it; make it private in its settings, or name '
        'another'
      )
    if branch:
      api.create_branch(repository, branch=branch, exist_ok=True)
    there = api.list_repo_files(repository, revision=branch)
    stale = [name for name in there if _is_ours(name) and name not in contents]
    operations = [
      *(CommitOperationAdd(name, content) for name, content in contents.items()),
      *(CommitOperationDelete(name) for name in stale),
    ]
    done = api.create_commit(repository, operations, commit_message=message, revision=branch)
  return str(done.commit_url)


def _is_ours(name: str) -> bool:
  return any(fnmatch.fnmatchcase(name, pattern) for pattern in OURS)


def _api() -> Any:
  from huggingface_hub import HfApi
  from huggingface_hub.utils import disable_progress_bars, logging

  disable_progress_bars()  # of files of a few MB
  logging.set_verbosity_error()  # it tells every new attempt
  about = {'library_name': 'thrifty_jax', 'library_version': thrifty_jax.__version__}
  return HfApi(endpoint=os.environ.get('HF_ENDPOINT'), **about)


def _download(place: Place, *, again: bool = False) -> Path:
  """Fetches the files of a model folder, all of the same commit, where they are not there yet.

  InputError is raised if they are damaged.
  """
  api, (repository, revision) = _api(), place
  away = not _answers(api, place)
  options = {'force_download': again and not away, 'local_files_only': away}
  first = api.hf_hub_download(repository, model_folder.CHECKSUMS, revision=revision, **options)
  folder = Path(first).parent
  for name in model_folder.read_checksums(Path(first)):
    api.hf_hub_download(repository, name, revision=folder.name, **options)
  model_folder.describe(folder)
  if away:
    say('hub', f'cannot be reached; {place} is as it was fetched before, commit {folder.name:.12}')
  return folder


def _answers(api: Any, place: Place) -> bool:
  """Returns whether the Hub can be reached; asks once, where a download would for half a minute."""
  from huggingface_hub import errors

  try:
    api.model_info(place.repository, revision=place.revision, timeout=_PATIENCE)
  except errors.OfflineModeIsEnabled:
    return False
  except errors.HfHubHTTPError as error:
    if error.response.status_code < 500:
      raise
    return False
  except Exception as error:
    if not _is_of_network(error):
      raise
    return False
  return True


def _is_of_network(error: BaseException) -> bool:
  """Returns whether a network has failed; which library tells it differs between releases."""
  kinds = {type(one).__module__.split('.')[0] for one in (error, error.__cause__)}
  known = not kinds.isdisjoint(('httpx', 'httpx2', 'requests'))
  return known or isinstance(error, ConnectionError | TimeoutError)


@contextlib.contextmanager
def _explain(place: Place) -> Generator[None]:
  """Turns what the Hub, or the network, refuses into one line."""
  from huggingface_hub import errors

  try:
    yield
  except errors.GatedRepoError as error:
    raise InputError(f'{place}: ask for access on its page, then {_LOG_IN}') from error
  except errors.RepositoryNotFoundError as error:
    raise InputError(
      f'{place}: there is no such model, or only for others; correct the name, or {_LOG_IN}'
    ) from error
  except errors.RevisionNotFoundError as error:
    raise InputError(f'{place}: has no such branch, tag or commit; correct it') from error
  except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
    raise InputError(
      f'{place}: the Hub cannot be reached, and the model was not fetched before; look at the '
      'network, and at HF_HUB_OFFLINE'
    ) from error
  except errors.EntryNotFoundError as error:
    raise InputError(
      f'{place}: is no model of thrifty_jax: a file is missing, {model_folder.CHECKSUMS} or one of '
      'those it lists'
    ) from error
  except errors.HFValidationError as error:
    raise InputError(f'{place}: is no name of a repository: {first_line(error)}') from error
  except errors.HfHubHTTPError as error:
    status = error.response.status_code
    remedy = f'the token may not do this: {_LOG_IN}' if status in (401, 403) else 'try again later'
    raise InputError(f'{place}: the Hub refused ({first_line(error)}); {remedy}') from error
  except Exception as error:
    if not _is_of_network(error):
      raise
    reason = first_line(error)
    raise InputError(
      f'{place}: the connection to the Hub failed ({reason:.200}); look at the network, try again'
    ) from error

"""A Hugging Face Hub on this machine: the part of its API that sends and fetches models."""

import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN, USER = 'hf_made_up', 'someone'


@dataclasses.dataclass
class Repository:
  private: bool
  branches: dict[str, str] = dataclasses.field(default_factory=lambda: {'main': '0' * 40})
  commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=lambda: {'0' * 40: {}})
  messages: list[str] = dataclasses.field(default_factory=list)

  @property
  def files(self):
    """The files of the main branch."""
    return self.commits[self.branches['main']]

  def find(self, revision):
    """The commit of a branch or of itself; None if there is none."""
    commit = self.branches.get(revision, revision)
    return commit if commit in self.commits else None


class Hub:
  """Repositories by their names, what was asked, and a way to damage what is answered."""

  def __init__(self):
    self.repositories: dict[str, Repository] = {}
    self.large: dict[str, bytes] = {}
    self.asked: list[str] = []
    self.damage = lambda name, content: content  # of what GET returns
    self.address = ''


class _Handler(BaseHTTPRequestHandler):
  """Answers one request; each method of the API is an entry of _ROUTES."""

  hub: Hub

  def log_message(self, format, *args):
    pass

  def body(self):
    if self.headers.get('Transfer-Encoding') != 'chunked':
      return self.rfile.read(int(self.headers.get('Content-Length', 0)))
    parts = []
    while size := int(self.rfile.readline(), 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b''.join(parts)

  def answer(self, status=200, content=None, *, code='', **headers):
    data = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
    self.send_response(status)
    headers = {'Content-Length': len(data), **headers}
    for name, value in headers.items():
      self.send_header(name.replace('_', '-'), str(value))
    if code:
      self.send_header('X-Error-Code', code)
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(self.damage_of(data))

  def damage_of(self, data):
    found = re.search(r'/resolve/[^/]+/(.*)', self.path)
    return self.hub.damage(found[1], data) if found else data

  def may(self, *, write=False):
    """Whether the token permits it."""
    return self.headers.get('Authorization') == f'Bearer {TOKEN}' or not (write or self.is_private)

  is_private = False

  def route(self):
    path = unquote(urlsplit(self.path).path)
    self.hub.asked.append(f'{self.command} {path}')
    data = self.body()
    for method, pattern, act in _ROUTES:
      if self.command == method and (found := re.fullmatch(pattern, path)):
        groups = {key: value for key, value in found.groupdict().items() if value is not None}
        if (name := groups.pop('name', None)) is None:
          return act(self, data, **groups)
        repository = self.hub.repositories.get(name)
        self.is_private = bool(repository and repository.private)
        if repository is None or not self.may():
          return self.answer(401, {'error': 'Invalid username'}, code='RepoNotFound')
        return act(self, data, repository, **groups)
    return self.answer(404, {'error': f'no such method: {self.command} {path}'})

  do_GET = do_POST = do_PUT = do_HEAD = route

  def create(self, data):
    asked = json.loads(data)
    name = f'{asked["organization"]}/{asked["name"]}'
    if not self.may(write=True):
      return self.answer(401, {'error': 'Invalid credentials in Authorization header'})
    if asked['organization'] != USER:
      return self.answer(403, {'error': 'You do not have the rights to create a model here'})
    if name in self.hub.repositories:
      there = {'error': 'You already created this model repo'}
      return self.answer(409, {**there, 'url': f'{self.hub.address}/{name}'})
    self.hub.repositories[name] = Repository(asked.get('visibility') == 'private')
    return self.answer(200, {'url': f'{self.hub.address}/{name}'})

  def name_of(self, repository):
    return next(one for one, other in self.hub.repositories.items() if other is repository)

  def info(self, data, repository, revision='main'):
    if repository.find(revision) is None:
      return self.answer(404, {'error': 'Invalid rev id'}, code='RevisionNotFound')
    name = self.name_of(repository)
    return self.answer(200, {'id': name, 'private': repository.private, 'tags': []})

  def branch(self, data, repository, branch):
    if branch in repository.branches:
      return self.answer(409, {'error': 'Reference already exists'})
    repository.branches[branch] = repository.branches['main']
    return self.answer(201)

  def tree(self, data, repository, revision):
    commit = repository.find(revision)
    if commit is None:
      return self.answer(404, {'error': 'Invalid rev id'}, code='RevisionNotFound')
    files = repository.commits[commit]
    listed = [
      {'type': 'file', 'path': name, 'size': len(content), 'oid': _digest(content)}
      for name, content in files.items()
    ]
    return self.answer(200, json.dumps(listed).encode())

  def validate(self, data):
    _, front, _ = json.loads(data)['content'].split('---\n', 2)
    faults = [] if isinstance(yaml.safe_load(front), dict) else [{'message': 'no metadata'}]
    return self.answer(400 if faults else 200, {'errors': faults, 'warnings': []})

  def preupload(self, data, repository, revision):
    def mode(path):
      return 'lfs' if path.endswith(('.safetensors', '.onnx')) else 'regular'

    paths = [one['path'] for one in json.loads(data)['files']]
    found = [{'path': path, 'uploadMode': mode(path), 'shouldIgnore': False} for path in paths]
    return self.answer(200, {'files': found})

  def batch(self, data, repository):
    objects = [
      {**one, 'actions': {'upload': {'href': f'{self.hub.address}/large/{one["oid"]}'}}}
      for one in json.loads(data)['objects']
    ]
    return self.answer(200, {'transfer': 'basic', 'objects': objects})

  def put(self, data, oid):
    if hashlib.sha256(data).hexdigest() != oid:
      return self.answer(400, {'error': 'other content'})
    self.hub.large[oid] = data
    return self.answer()

  def commit(self, data, repository, revision):
    if not self.may(write=True):
      return self.answer(403, {'error': 'read-only token'})
    entries = [json.loads(line) for line in data.splitlines()]
    files = dict(repository.commits[repository.branches[revision]])
    for entry in entries:
      value = entry['value']
      match entry['key']:
        case 'header':
          repository.messages.append(value['summary'])
        case 'file':
          files[value['path']] = b64decode(value['content'])
        case 'lfsFile':
          files[value['path']] = self.hub.large[value['oid']]
        case 'deletedFile':
          del files[value['path']]
    commit = hashlib.sha1(data).hexdigest()
    repository.commits[commit], repository.branches[revision] = files, commit
    url = f'{self.hub.address}/{self.name_of(repository)}/commit/{commit}'
    return self.answer(200, {'commitUrl': url, 'commitOid': commit})

  def resolve(self, data, repository, revision, path):
    commit = repository.find(revision)
    if commit is None:
      return self.answer(404, {'error': 'Invalid rev id'}, code='RevisionNotFound')
    content = repository.commits[commit].get(path)
    if content is None:
      return self.answer(404, {'error': 'no file'}, code='EntryNotFound', X_Repo_Commit=commit)
    return self.answer(200, content, X_Repo_Commit=commit, ETag=f'"{_digest(content)}"')


def _digest(content):
  return hashlib.sha256(content).hexdigest()


_MODEL = r'/api/models/(?P<name>[^/]+/[^/]+)'
_ROUTES: tuple[tuple[str, str, Any], ...] = (
  ('POST', '/api/repos/create', _Handler.create),
  ('POST', '/api/validate-yaml', _Handler.validate),
  ('GET', f'{_MODEL}(?:/revision/(?P<revision>.+))?', _Handler.info),
  ('POST', f'{_MODEL}/branch/(?P<branch>.+)', _Handler.branch),
  ('GET', f'{_MODEL}/tree/(?P<revision>.+)', _Handler.tree),
  ('POST', f'{_MODEL}/preupload/(?P<revision>.+)', _Handler.preupload),
  ('POST', f'{_MODEL}/commit/(?P<revision>.+)', _Handler.commit),
  ('POST', r'/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch', _Handler.batch),
  ('PUT', '/large/(?P<oid>.+)', _Handler.put),
  ('HEAD', '/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)', _Handler.resolve),
  ('GET', '/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)', _Handler.resolve),
)


@contextlib.contextmanager
def serve():
  """Yields a Hub that answers at its address."""
  hub = Hub()
  handler = type('Handler', (_Handler,), {'hub': hub})
  server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
  server.daemon_threads = True
  hub.address = f'http://127.0.0.1:{server.server_port}'
  thread = threading.Thread(target=server.serve_forever, args=(0.05,))
  thread.start()
  try:
    yield hub
  finally:
    server.shutdown()
    thread.join()
    server.server_close()

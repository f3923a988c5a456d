"""What a run notes of its machine and its software."""

import json
import subprocess
import types
from pathlib import Path

import pytest

from thrifty_jax.running import environment

PROJECT = Path(__file__).resolve().parents[2]


def test_the_environment_says_what_is_needed_to_repeat_the_run():
  found = environment.describe('the command', seed=3)
  json.dumps(found, allow_nan=False)
  assert found['command'] == 'the command'
  assert found['seed'] == 3
  assert found['packages']['jax'] and found['devices'] and found['cores'] >= 1


@pytest.mark.skipif(not (PROJECT / '.git').exists(), reason='the code is in no clone')
def test_the_commit_is_that_of_the_code_itself(monkeypatch):
  def run(command, **options):
    return types.SimpleNamespace(stdout=f'of {command[command.index("-C") + 1]}\n')

  monkeypatch.setattr(subprocess, 'run', run)
  assert environment.describe('the command')['commit'] == f'of {PROJECT}'

"""What is taken of JAX's private modules: it is there in this JAX, and says what it is to say."""

import socket
import subprocess
import sys

import jax

from thrifty_jax import jax_internals

PROCESS = """
import sys
import jax
from thrifty_jax import jax_internals

def told():
  print(jax_internals.has_started(), jax_internals.process_count(), jax_internals.process_index())

told()
address, processes, process = sys.argv[1:]
processes, process = int(processes), int(process)
if processes:
  jax.distributed.initialize(address, processes, process)
  told()
  client = jax_internals.client()
  if process == 0:
    client.key_value_set('place/one', 'word')
  print(client.blocking_key_value_get('place/one', 60_000), client.key_value_dir_get('place/'))
  client.wait_at_barrier('end', 60_000)
  try:
    client.blocking_key_value_get('place/never', 10)
  except jax.errors.JaxRuntimeError as error:
    print('DEADLINE_EXCEEDED' in str(error))
jax.devices()
told()
"""


def started(processes):
  """What so many processes print; 0 is one that has not joined others."""
  with socket.create_server(('127.0.0.1', 0)) as server:
    address = f'127.0.0.1:{server.getsockname()[1]}'
  running = [
    subprocess.Popen(
      [sys.executable, '-c', PROCESS, address, str(processes), str(process)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(processes or 1)
  ]
  try:
    found = [process.communicate(timeout=120) for process in running]
  finally:
    for process in running:
      process.kill()
  assert [process.returncode for process in running] == [0] * len(running), found
  return [out.splitlines() for out, _ in found]


def test_a_process_alone_knows_whether_its_devices_have_started():
  assert started(0) == [['False 1 0', 'True 1 0']]


def test_processes_that_join_know_one_another_before_their_devices_start_and_share_words():
  words = "word [('place/one', 'word')]"
  for process, lines in enumerate(started(2)):
    assert lines == ['False 1 0', f'False 2 {process}', words, 'True', f'True 2 {process}']


def test_jax_says_the_same_once_its_devices_have_started():
  jax.devices()
  assert jax_internals.has_started()
  assert jax_internals.process_count() == jax.process_count()
  assert jax_internals.process_index() == jax.process_index()

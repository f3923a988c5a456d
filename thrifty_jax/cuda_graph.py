"""A training step as one CUDA graph, where cuDNN lets it.

XLA records what lies between two convolutions as a graph, and a small network's step is a hundred
of them: the GPU waits for each to be launched, half of the time. With the convolutions recorded as
well the step is one. XLA leaves them out by itself, as not every kernel of cuDNN can be recorded,
which shows when it is run (github.com/openxla/xla/pull/34572).
"""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp

from thrifty_jax import device, logbook

_FLAG = 'xla_gpu_enable_command_buffer'
_ONE_GRAPH: dict[str, str | bool] = {  # what XLA records by itself, and convolutions
  _FLAG: 'FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONVOLUTION'
}


def compile_step(
  lowered: jax.stages.Lowered, *, check: Callable[[jax.stages.Compiled], None] | None = None
) -> jax.stages.Compiled:
  """A step, compiled; on an NVIDIA GPU as one graph if it runs so, tried once with zeros.

  Args:
    lowered: The step.
    check: Looks at what was compiled before it is run.
  """
  one_graph = _one_graph(lowered) if _is_possible() else None
  compiled = one_graph or lowered.compile()
  if check is not None:
    check(compiled)
  if not one_graph or _runs(one_graph):
    return compiled
  logbook.say('slower', 'cuDNN cannot record a convolution of this step; compiling it without')
  return lowered.compile()


def _is_possible() -> bool:
  """Whether to try it here.

  On one device only: of several, those where a step fails would leave the others waiting. Not with
  deterministic operations: kernels that XLA takes untried, as it then does, ended the step of an
  H200 with a status of cuDNN. And not where XLA_FLAGS says already what is to be recorded.
  """
  if jax.device_count() > 1:
    return False
  flags = os.environ.get('XLA_FLAGS', '')
  on_cuda = 'cuda' in jax.devices()[0].client.platform_version
  return on_cuda and _FLAG not in flags and device.DETERMINISTIC not in flags


def _one_graph(lowered: jax.stages.Lowered) -> jax.stages.Compiled | None:
  """A step compiled with all recorded; None if XLA does not know how, as before JAX 0.10."""
  try:
    return lowered.compile(compiler_options=_ONE_GRAPH)
  except jax.errors.JaxRuntimeError as error:
    if _FLAG not in str(error):
      raise
    return None


def _runs(compiled: jax.stages.Compiled) -> bool:
  """Whether a step can be run; memory that runs out is raised."""
  zeros = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), compiled.args_info)
  arguments, names = zeros
  try:
    jax.block_until_ready(compiled(*arguments, **names))
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' in str(error):
      raise
    return False
  return True

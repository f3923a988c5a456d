"""A training step, compiled with what XLA does not choose for it by itself.

On an NVIDIA GPU as one CUDA graph, where cuDNN lets it. XLA records what lies between two
convolutions as a graph, and a small network's step is a hundred of them: the GPU waits for each to
be launched, half of the time. With the convolutions recorded as well the step is one. XLA leaves
them out by itself, as not every kernel of cuDNN can be recorded, which shows when it is run
(github.com/openxla/xla/pull/34572).

On a CPU with less effort: LLVM's first level of optimisation makes steps that are as fast as those
of its third.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from thrifty_jax import device, logbook

_RECORDED = 'xla_gpu_enable_command_buffer'
Options = dict[str, Any]
_ONE_GRAPH: Options = {  # what XLA records by itself, and convolutions
  _RECORDED: 'FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONVOLUTION'
}
_QUICKLY: Options = {
  'xla_backend_optimization_level': 1,
  # YNNPACK, there since JAX 0.10, for sums alone: its convolutions take up to two thirds longer,
  # and each of them, and of its many small matrix products, is built anew in every process.
  'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
}
# Kernels straight to LLVM and not through MLIR. XLA has no other way any more since JAX 0.11.
_LEAN: Options = {'xla_cpu_use_fusion_emitters': False}


def compile_step(
  lowered: jax.stages.Lowered,
  *,
  lean: bool = False,
  check: Callable[[jax.stages.Compiled], None] | None = None,
) -> jax.stages.Compiled:
  """A step, compiled; on an NVIDIA GPU as one graph if it runs so, tried once with zeros.

  Args:
    lowered: The step.
    lean: On a CPU, compile in much less memory. It takes a sixth to a third less time for a step of
      the search, and two thirds more for a network's training.
    check: Looks at what was compiled before it is run.
  """
  compiled, options = _with_what_is_known(_options(lean), lowered)
  device.give_back_memory()
  if check is not None:
    check(compiled)
  if _RECORDED not in options or _runs(compiled):
    return compiled
  logbook.say('slower', 'cuDNN cannot record a convolution of this step; compiling it without')
  return lowered.compile()


def _options(lean: bool) -> Options:
  """What XLA is told here; nothing that XLA_FLAGS or JAX's own settings say already."""
  if _can_be_one_graph():
    return _ONE_GRAPH
  if jax.default_backend() != 'cpu' or jax.config.values['jax_disable_most_optimizations']:
    return {}
  flags = os.environ.get('XLA_FLAGS', '')
  options = _QUICKLY | _LEAN if lean else _QUICKLY
  return {name: value for name, value in options.items() if name not in flags}


def _can_be_one_graph() -> bool:
  """Whether to try it here.

  On one device only: of several, those where a step fails would leave the others waiting. Not with
  deterministic operations: kernels that XLA takes untried, as it then does, ended the step of an
  H200 with a status of cuDNN. And not where XLA_FLAGS says already what is to be recorded.
  """
  if jax.device_count() > 1:
    return False
  flags = os.environ.get('XLA_FLAGS', '')
  on_cuda = 'cuda' in jax.devices()[0].client.platform_version
  return on_cuda and _RECORDED not in flags and device.DETERMINISTIC not in flags


def _with_what_is_known(
  options: Options, lowered: jax.stages.Lowered
) -> tuple[jax.stages.Compiled, Options]:
  """A step compiled with those options that this XLA knows, and which they are."""
  try:
    return lowered.compile(compiler_options=options or None), options
  except jax.errors.JaxRuntimeError as error:
    known = {name: value for name, value in options.items() if name not in str(error)}
    if known == options:
      raise
  return _with_what_is_known(known, lowered)


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

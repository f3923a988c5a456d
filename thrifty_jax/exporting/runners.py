"""Runs an exported network on the CPU, in ONNX Runtime or in OpenVINO.

An export has a copy of this file, for its segment.py.
"""

import functools
import sys

RUNTIMES = ('onnxruntime', 'openvino')


def start(runtime, content, threads=0):
  """Returns the function of image [N, C, S, S] to logits [N, K, S, S] that an ONNX file has.

  Args:
    runtime: One of RUNTIMES.
    content: Bytes of the file.
    threads: Number of threads; 0 uses all cores.

  Raises:
    ImportError: If the package of the runtime is not installed.
  """
  return (_start_openvino if runtime == 'openvino' else _start_onnxruntime)(content, threads)


def _start_onnxruntime(content, threads):
  import onnxruntime  # pyrefly: ignore[missing-import]

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = options.inter_op_num_threads = threads
  options.log_severity_level = 3  # only errors
  # Else its threads keep the cores busy for a while after a run, and slow who runs next.
  options.add_session_config_entry('session.force_spinning_stop', '1')
  session = onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
  return lambda image: session.run(['logits'], {'image': image})[0]


def _start_openvino(content, threads):
  core = _start_core()
  settings = {
    'INFERENCE_NUM_THREADS': threads,
    'NUM_STREAMS': 1,
    # Else it computes in bfloat16 on processors with avx512_bf16: 7.0 instead of 12.3 ms, but
    # logits 1.5 % off.
    'INFERENCE_PRECISION_HINT': 'f32',
    # Else its thread stays on one core, also where another program works there: 46 instead of 28 ms
    # on two cores with a load of 2.4, while ONNX Runtime took 23.
    'ENABLE_CPU_PINNING': False,
  }

  @functools.cache
  def compile_for(shape):  # a fixed number of slices takes three quarters of the time
    model = core.read_model(content)
    model.reshape(list(shape))
    return core.compile_model(model, 'CPU', settings)

  return lambda image: compile_for(image.shape)(image)[0]


@functools.cache
def _start_core():
  """Returns OpenVINO's core, which lives as long as the process.

  After two cores that lived at the same time were gone, the next signal, as Ctrl-C, was a
  segmentation fault (measured with 2026.4 on Linux).
  """
  # Its import reports to its makers, from a forked process and unasked, if it finds this package;
  # None stands for a package that is not there. Nothing leaves a machine that has scans.
  sys.modules.setdefault('openvino_telemetry', None)  # pyrefly: ignore[no-matching-overload]
  import openvino  # pyrefly: ignore[missing-import]

  return openvino.Core()

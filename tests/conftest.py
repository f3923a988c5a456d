"""Before any test: the CPU, and folders of their own instead of the user's."""

import atexit
import os
import shutil
import tempfile

_PLACE = tempfile.mkdtemp(prefix='thrifty_jax_tests_')
atexit.register(shutil.rmtree, _PLACE, ignore_errors=True)

# JAX and TFDS read these when they are imported.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['TFDS_DATA_DIR'] = os.path.join(_PLACE, 'tensorflow_datasets')
os.environ['XDG_CACHE_HOME'] = os.path.join(_PLACE, 'cache')

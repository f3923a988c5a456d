from thrifty_jax.errors import InputError as InputError
from thrifty_jax.library import load_config as load_config
from thrifty_jax.library import run as run
from thrifty_jax.library import score as score
from thrifty_jax.predicting.segment import load_model as load_model

__version__: str
RESEARCH_USE: str
API: dict[str, str]

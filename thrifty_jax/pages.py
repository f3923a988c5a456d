"""Pages of one file each, from the templates in templates/."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jinja2


def render(template: str, content: Mapping[str, Any], **filters: Callable[..., Any]) -> str:
  """The text of a page.

  Args:
    template: Name of its file in templates/.
    content: Values by name; one that the template reads must be there.
    **filters: Functions by the names that the template knows them by.
  """
  environment = _environment()
  environment.filters |= filters
  return environment.get_template(template).render(content)


@functools.cache
def _environment() -> jinja2.Environment:
  return jinja2.Environment(
    loader=jinja2.PackageLoader('thrifty_jax', 'templates'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )

"""Pages from templates."""

import jinja2
import pytest

from thrifty_jax import pages


def test_a_template_gets_what_it_reads_and_trusts_no_text(monkeypatch):
  template = '{{ name }}: {{ value|percent }}'
  monkeypatch.setattr(pages.ENVIRONMENT, 'loader', jinja2.DictLoader({'a': template}))
  page = pages.render('a', {'name': '<b>', 'value': 0.5}, percent=lambda value: f'{100 * value} %')
  assert page == '&lt;b&gt;: 50.0 %'
  with pytest.raises(jinja2.UndefinedError, match='name'):
    pages.render('a', {'value': 0.5})

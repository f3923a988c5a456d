"""Settings with which a stage does not go are refused before anything is read."""

import pytest

from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line, sequence


@pytest.mark.parametrize('more', [(), ('--config.genotype={genotype}',)])
def test_a_front_refuses_microbatches_whatever_the_model(more, tmp_path):
  genotype = tmp_path / 'genotype.json'
  genotype.write_text('{}')
  arguments = [option.format(genotype=genotype) for option in more]
  arguments += [f'--config={"folder" if more else "brain"}', '--stage=front']
  arguments += [f'--workdir={tmp_path / "run"}', '--config.retrain.microbatches=2']
  command = command_line.parse(arguments, stages=sequence.NAMES)
  with pytest.raises(InputError, match='microbatches is 2; expected 1 with --stage=front, whose'):
    sequence.run(command, '')
  assert not (tmp_path / 'run').exists()

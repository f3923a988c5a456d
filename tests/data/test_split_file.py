"""splits.json: written once, honoured, and never believed unseen."""

import hashlib
import json
import unicodedata

import pytest

from thrifty_jax import config as configs
from thrifty_jax.data import split_file, splits
from thrifty_jax.errors import InputError

PATIENTS = [f'Case{number:02d}' for number in range(6)]
MINE = {'train': PATIENTS[3:], 'validation': PATIENTS[:1], 'test': PATIENTS[2:0:-1]}


@pytest.fixture
def config():
  config = configs.default()
  config.data.update({'folds': 3, 'fold': 1})
  return config.lock()


def write(folder, content):
  (folder / 'splits.json').write_text(json.dumps(content))


def test_what_is_written_says_who_and_how_and_changes_nothing_when_it_is_read(config, tmp_path):
  before, split = config.to_dict(), splits.assign(config, PATIENTS)
  split_file.write(config, tmp_path, split)
  written = json.loads((tmp_path / 'splits.json').read_text())
  assert {part: tuple(written[part]) for part in split} == split
  assert written['made_by'] == {
    'folds': 3,
    'fold': 1,
    'validation_patients': [],
    'test_patients': [],
    'hold_out_test': True,
  }
  assert split_file.honour(config, tmp_path) is False
  assert config.to_dict() == before


def test_names_written_by_hand_win_over_folds_and_lists_and_stay_as_they_are(config, tmp_path):
  write(tmp_path, MINE)
  config.data.folds, config.data.test_patients = 50, ('Case05',)  # 6 patients allow no 50 folds
  assert split_file.honour(config, tmp_path) is True
  split = splits.assign(config, PATIENTS)
  assert {part: sorted(names) for part, names in MINE.items()} == {
    part: list(names) for part, names in split.items()
  }
  split_file.write(config, tmp_path, split)
  assert json.loads((tmp_path / 'splits.json').read_text()) == MINE


def test_without_a_file_the_folds_count(config, tmp_path):
  before = config.to_dict()
  assert split_file.honour(config, tmp_path) is False and config.to_dict() == before


def test_an_accent_that_is_a_character_of_its_own_is_the_same_name(config, tmp_path):
  """As macOS writes it."""
  content = {'train': ['a'], 'validation': ['b'], 'test': [unicodedata.normalize('NFD', 'Jürgen')]}
  assert len(content['test'][0]) == 7
  write(tmp_path, content)
  assert split_file.honour(config, tmp_path) and config.data.test_patients == ('Jürgen',)
  split_file.require_patients(tmp_path, ['a', 'b', 'Jürgen'])


def test_every_fold_leaves_one_patient_out_where_folds_are_patients(config, tmp_path):
  config.data.folds = len(PATIENTS)
  tested = []
  for fold in range(len(PATIENTS)):
    config.data.fold = fold
    split_file.write(config, tmp_path / f'fold_{fold}', splits.assign(config, PATIENTS))
    named = split_file.read(tmp_path / f'fold_{fold}' / 'splits.json')
    assert [len(named[part]) for part in ('train', 'validation', 'test')] == [4, 1, 1]
    assert sorted(sum(named.values(), ())) == PATIENTS
    tested += named['test']
  assert tested == PATIENTS


def test_a_file_of_another_fold_is_refused(config, tmp_path):
  split_file.write(config, tmp_path, splits.assign(config, PATIENTS))
  config.data.fold = 2
  with pytest.raises(InputError, match='made with other settings: data.fold 1 -> 2; go back'):
    split_file.honour(config, tmp_path)


def test_the_names_are_taken_without_any_scan(config, tmp_path):
  write(tmp_path, MINE)
  assert split_file.honour(config, tmp_path) is True
  assert config.data.validation_patients == ('Case00',)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ([], 'expected lists of patients'),
    ({'train': PATIENTS}, 'expected lists of patients'),
    (MINE | {'train': 'Case03'}, 'expected lists of patients'),
    (MINE | {'train': [3, 4, 5]}, 'expected lists of patients'),
    (MINE | {'val': []}, "has the entry 'val'; expected train, validation, test"),
    (
      MINE | {'train': [*PATIENTS[3:], 'Case77']},
      'there is no scan of Case77; expected names among Case00',
    ),
    (MINE | {'train': PATIENTS[4:]}, 'no list has Case03; expected every patient in one'),
    (MINE | {'train': PATIENTS[2:]}, 'names Case02 in train and test; expected each patient once'),
    (MINE | {'train': [*PATIENTS[3:], 'Case04']}, 'names Case04 in train and train'),
    ({'train': [], 'validation': PATIENTS[3:], 'test': PATIENTS[:3]}, 'has no patient in train'),
    ({'train': PATIENTS[3:], 'validation': [], 'test': PATIENTS[:3]}, 'no patient in validation'),
    ({'train': PATIENTS[3:], 'validation': PATIENTS[:3], 'test': []}, 'has no patient in test'),
  ],
)
def test_a_file_that_does_not_say_it_all_once_is_refused_in_one_line(
  config, tmp_path, content, message
):
  write(tmp_path, content)
  with pytest.raises(InputError, match=message) as caught:
    split_file.honour(config, tmp_path)
    split_file.require_patients(tmp_path, PATIENTS)
  assert str(caught.value).startswith(str(tmp_path / 'splits.json')) and '\n' not in str(
    caught.value
  )


def test_whether_somebody_must_test_is_for_the_config_to_say(config, tmp_path):
  config.data.hold_out_test = False
  write(tmp_path, MINE)
  with pytest.raises(
    InputError, match='has Case01, Case02 in test, but data.hold_out_test is False'
  ):
    split_file.honour(config, tmp_path)
  write(tmp_path, {'train': PATIENTS[3:], 'validation': PATIENTS[:3], 'test': []})
  assert split_file.honour(config, tmp_path) is True
  assert splits.assign(config, PATIENTS)['test'] == ()


def test_a_file_that_is_no_json_is_refused(config, tmp_path):
  (tmp_path / 'splits.json').write_text('{')
  with pytest.raises(InputError, match='is not valid JSON'):
    split_file.honour(config, tmp_path)


def test_the_hash_of_a_split_depends_on_who_is_where_and_on_nothing_else():
  text = '{"train":["Case03","Case04","Case05"],"validation":["Case00"],"test":["Case01","Case02"]}'
  assert split_file.digest(MINE) == hashlib.sha256(text.encode()).hexdigest()
  turned = {part: tuple(names[::-1]) for part, names in reversed(MINE.items())}
  assert split_file.digest(turned) == split_file.digest(MINE)
  moved = MINE | {'validation': MINE['test'], 'test': MINE['validation']}
  assert split_file.digest(moved) != split_file.digest(MINE)


def test_a_split_that_depends_on_classes_says_so_and_is_taken_up_again(config, tmp_path):
  config.data.fold = 0
  rare = {name: {1, 2} if rank in (0, 3, 5) else {1} for rank, name in enumerate(PATIENTS)}
  split, before = splits.assign(config, rare), config.to_dict()
  assert split != splits.assign(config, PATIENTS)
  split_file.write(config, tmp_path, split, rare)
  written = json.loads((tmp_path / 'splits.json').read_text())
  assert written['made_by']['classes']['Case03'] == [1, 2]
  assert split_file.honour(config, tmp_path) is False and config.to_dict() == before
  split_file.require_split(tmp_path, split)


def test_classes_that_change_nothing_are_not_written(config, tmp_path):
  whole = dict.fromkeys(PATIENTS, {1})
  split_file.write(config, tmp_path, splits.assign(config, whole), whole)
  assert 'classes' not in json.loads((tmp_path / 'splits.json').read_text())['made_by']


def test_a_file_dealt_by_names_alone_is_refused_where_classes_count(config, tmp_path):
  config.data.fold = 0
  rare = {name: {1, 2} if rank in (0, 3, 5) else {1} for rank, name in enumerate(PATIENTS)}
  split_file.write(config, tmp_path, splits.assign(config, PATIENTS))
  assert split_file.honour(config, tmp_path) is False
  with pytest.raises(InputError, match='by their names alone.*data.validation_patients'):
    split_file.require_split(tmp_path, splits.assign(config, rare))


@pytest.mark.parametrize('classes', [3, [1], {'Case00': 1}, {'Case00': ['a']}, {'Case00': [True]}])
def test_classes_that_are_none_are_refused_in_one_line(config, tmp_path, classes):
  split = {part: list(names) for part, names in splits.assign(config, PATIENTS).items()}
  write(tmp_path, split | {'made_by': {'folds': 3, 'fold': 1, 'classes': classes}})
  with pytest.raises(InputError, match=r'made_by.classes is .*; expected a list of numbers'):
    split_file.honour(config, tmp_path)


@pytest.mark.parametrize('mark', ['', '\ufeff'])
@pytest.mark.parametrize('end', ['', '\n', '\r\n\r\n'])
@pytest.mark.parametrize('indent', [None, 2])
def test_a_byte_order_mark_and_blank_lines_are_no_content(config, tmp_path, mark, end, indent):
  """As editors of Windows leave them."""
  text = mark + json.dumps(MINE, indent=indent).replace('\n', end or '\n') + end
  (tmp_path / 'splits.json').write_bytes(text.encode())
  split_file.honour(config, tmp_path)
  assert splits.assign(config, PATIENTS) == {
    part: tuple(sorted(names)) for part, names in MINE.items()
  }

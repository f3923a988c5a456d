"""What dataset.json says in either layout, and every way in which it cannot be used."""

import json

import pytest

from thrifty_jax.errors import InputError
from thrifty_jax.scans import dataset_json

DECATHLON = {
  'name': 'Liver\n Task03',
  'modality': {'1': 'T2', '0': 'T1'},
  'labels': {'2': 'tumour', '0': 'background', '1': 'liver'},
  'numTraining': 8,
}
NNUNET = {
  'channel_names': {'0': 'CT'},
  'labels': {'tumour': 2, 'background': 0, 'liver': 1},
  'file_ending': '.nrrd',
}


def read(folder, content):
  text = content if isinstance(content, bytes) else json.dumps(content).encode()
  (folder / 'dataset.json').write_bytes(text)
  return dataset_json.read(folder)


def test_the_decathlon_s_file_is_read_with_classes_in_the_order_of_their_numbers(tmp_path):
  found = read(tmp_path, DECATHLON)
  assert (found.name, found.scans) == ('Liver Task03', 8)
  assert found.classes == ('background', 'liver', 'tumour')
  assert found.channels == ('T1', 'T2')
  assert '.nii.gz' in found.endings and '.mhd' in found.endings


def test_nnunet_s_file_is_read_with_classes_in_the_order_of_their_numbers(tmp_path):
  found = read(tmp_path, NNUNET)
  assert found.classes == ('background', 'liver', 'tumour')
  assert (found.name, found.channels, found.endings, found.scans) == ('', ('CT',), ('.nrrd',), None)


def test_ten_and_more_channels_and_classes_are_in_the_order_of_numbers_not_of_text(tmp_path):
  many = {str(number): f'n{number}' for number in range(12)}
  found = read(tmp_path, {'modality': many, 'labels': many})
  assert found.classes == found.channels == tuple(f'n{number}' for number in range(12))


def test_regions_and_the_ignored_label_are_read_as_nnunet_documents_them(tmp_path):
  brats = regions(order=[1, 2, 3], whole=[1, 2, 3], core=[3, 2], enhancing=3, ignore=4)
  found = read(tmp_path, brats)
  assert found.classes == ('background', 'whole', 'core', 'enhancing')
  assert (found.regions, found.ignore) == (((1, 2, 3), (2, 3), (3,)), 4)
  assert dataset_json.read_labels(tmp_path / 'dataset.json') == (*found_labels(found),)
  parts = read(tmp_path, regions(order=[2, 1, 2], whole=[1, 2], inner=[1], outer=[2]))
  assert parts.regions == (
    (2, 1),
    (1,),
    (2,),
  )  # a whole that its parts fill has no label of its own
  alone = read(tmp_path, labels(background=0, liver=[1], ignore=2))
  assert found_labels(alone) == (('background', 'liver'), (), 2)  # as one number in a list is one
  old = read(tmp_path, DECATHLON | {'labels': {'0': 'none', '1': 'liver', '2': 'ignore'}})
  assert found_labels(old) == (('none', 'liver'), (), 2)


def found_labels(found):
  return found.classes, found.regions, found.ignore


def test_the_file_beside_predicted_masks_has_their_regions(tmp_path):
  path = tmp_path / 'classes.json'
  classes = {'0': 'background', '1': 'whole', '2': 'core'}
  path.write_text(json.dumps({'classes': classes, 'regions': [[1, 2], [2]]}))
  assert dataset_json.read_labels(path) == (('background', 'whole', 'core'), ((1, 2), (2,)), 0)
  path.write_text(json.dumps({'classes': classes, 'regions': [[2], [1, 2]]}))
  with pytest.raises(InputError, match='core would be written over whole'):
    dataset_json.read_labels(path)


def test_two_channels_may_have_one_name(tmp_path):
  assert read(tmp_path, DECATHLON | {'modality': {'0': 'MR', '1': 'MR'}}).channels == ('MR', 'MR')


def labels(**entries):
  return NNUNET | {'labels': entries}


def regions(order, **entries):
  found = labels(background=0, **entries)
  return found if order is None else found | {'regions_class_order': order}


BAD = {
  'nothing': (b'', 'is not valid JSON'),
  'no JSON': (b'{"labels": ', 'is not valid JSON'),
  'no text': (b'\xff\xfe\x00', 'is not valid JSON'),
  'a list': ([], 'expected a JSON object'),
  'no labels': ({'channel_names': {'0': 'CT'}}, 'labels is None'),
  'labels in a list': (NNUNET | {'labels': ['liver']}, "labels is ['liver']"),
  'an ignored label in between': (labels(background=0, ignore=1, liver=2), 'the numbers 0, 2'),
  'an ignored label far above': (labels(background=0, liver=1, ignore=3), 'above the others, 2'),
  'an ignored label in capitals': (labels(background=0, liver=1, Ignore=2), "the name 'Ignore'"),
  'an ignored label in a list': (labels(background=0, liver=1, ignore=[2]), 'expected one label'),
  'an ignored label that is text': (labels(background=0, ignore='2'), "'ignore': '2'"),
  'an ignored label in a region': (regions(order=[1, 2], whole=[1, 2], core=2, ignore=2), '3'),
  'no order': (regions(order=None, whole=[1, 2], core=2), 'regions_class_order is None'),
  'a short order': (regions(order=[1], whole=[1, 2], core=2), 'a label for each of the 2 regions'),
  'an order of text': (regions(order=['1', '2'], whole=[1, 2], core=2), 'regions_class_order is'),
  'an order with another label': (
    regions(order=[1, 1], whole=[1, 2], core=2),
    'regions_class_order has 1 for core, whose labels are 2',
  ),
  'an inner region first': (
    regions(order=[2, 1], core=2, whole=[1, 2]),
    'whole would be written over core, which lies in it; name whole first',
  ),
  'an outer region by the label of an inner one': (
    regions(order=[2, 2], whole=[1, 2], core=2),
    'whole would be written as label 2, which is that of a region in it; expected 1',
  ),
  'regions that overlap': (
    regions(order=[1, 3], left=[1, 2], right=[2, 3]),
    'left and right overlap, but neither lies in the other',
  ),
  'a label in no region': (regions(order=[1, 4], a=[1, 2], b=4), 'label 3 is in no region'),
  'two equal regions': (regions(order=[1, 2], a=[1, 2], b=[2, 1]), 'a and b have the same labels'),
  'a region with a label twice': (regions(order=[1], a=[1, 1, 2]), 'a has the labels [1, 1, 2]'),
  'a region with the background': (regions(order=[1], a=[0, 1]), 'a has the labels [1, 0]'),
  'an empty region': (regions(order=[1], a=[], b=[1, 2]), "'a': []"),
  'regions without background': (
    NNUNET | {'labels': {'a': [1, 2]}, 'regions_class_order': [1]},
    'no "background": 0',
  ),
  'a gap': (labels(background=0, liver=1, spleen=3), 'has the numbers 0, 1, 3'),
  'no background': (labels(liver=1, spleen=2), 'has the numbers 1, 2'),
  'a number twice': (labels(background=0, liver=1, spleen=1), 'has the numbers 0, 1, 1'),
  'a negative number': (labels(background=0, liver=-1), 'has the numbers -1, 0'),
  'a fraction': (labels(background=0, liver=1.5), "'liver': 1.5"),
  'a truth value': (labels(background=0, liver=True), "'liver': True"),
  'words on both sides': (labels(background='zero'), "'background': 'zero'"),
  'a name twice': (DECATHLON | {'labels': {'0': 'a', '1': 'a'}}, "labels has the names ['a', 'a']"),
  'a class without a name': (DECATHLON | {'labels': {'0': 'a', '1': ''}}, 'has the names'),
  'no channels': ({'labels': {'background': 0}}, 'channel_names (or modality) is None'),
  'channels in a list': (NNUNET | {'channel_names': ['CT']}, "is ['CT']"),
  'a channel left out': (
    DECATHLON | {'modality': {'0': 'a', '2': 'b'}},
    'has the numbers 0, 2',
  ),
  'no scans': (NNUNET | {'file_ending': '.mp4'}, "file_ending is '.mp4'"),
  'an ending in a list': (NNUNET | {'file_ending': ['.nii']}, 'file_ending is'),
  'a number in words': (NNUNET | {'numTraining': 'many'}, "numTraining is 'many'"),
}


@pytest.mark.parametrize('name', BAD)
def test_a_file_that_cannot_be_used_is_refused_in_one_line_that_names_it(tmp_path, name):
  content, message = BAD[name]
  with pytest.raises(InputError) as caught:
    read(tmp_path, content)
  text = str(caught.value)
  assert 'dataset.json' in text and message in text and '\n' not in text


def test_without_the_file_it_is_said_which_folder_is_meant(tmp_path):
  with pytest.raises(InputError, match=r'no dataset\.json there.*--config\.data\.raw_dir=FOLDER'):
    dataset_json.read(tmp_path / 'nowhere')


@pytest.mark.parametrize(
  'labels',
  [{'liver': 1}, {'1': 'liver'}, {'liver': 1, 'lesion': 2}, {'2': 'b', '1': 'a', '3': 'c'},
   {'a': 3, 'b': 1, 'c': 2}],
)  # fmt: skip
def test_labels_without_a_background_get_the_remedy_that_helps(tmp_path, labels):
  content = {'labels': labels, 'channel_names': {'0': 'CT'}}
  (tmp_path / 'dataset.json').write_text(json.dumps(content))
  with pytest.raises(InputError, match='Add "background": 0; the masks may stay') as caught:
    dataset_json.read(tmp_path)
  assert 'enumber' not in str(caught.value)


@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
@pytest.mark.parametrize('content', [DECATHLON, NNUNET, DECATHLON | {'description': 'Ü\n肝'}])
@pytest.mark.parametrize('end', [b'', b'\r\n'])
def test_a_byte_order_mark_and_blank_lines_are_no_content(tmp_path, mark, content, end):
  found = read(tmp_path, mark + json.dumps(content, ensure_ascii=False).encode() + end)
  assert found.classes == ('background', 'liver', 'tumour')


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-32', 'latin-1'])
def test_another_encoding_is_one_line(tmp_path, encoding):
  text = json.dumps(DECATHLON | {'description': 'Ü'}, ensure_ascii=False)
  with pytest.raises(InputError, match=r'dataset\.json is not valid JSON') as caught:
    read(tmp_path, text.encode(encoding))
  assert '\n' not in str(caught.value)

"""What the page calls the files it is given, and how it says what time it took, in Node."""

import page_modules
import pytest

NAMES = {  # paths, and what they and their mask are called
  ('scan.nii.gz',): ('scan.nii.gz', 'scan'),
  ('Scan.NII',): ('Scan.NII', 'Scan'),
  ('a.b.dcm',): ('a.b.dcm', 'a.b'),
  ('picture.tif',): ('picture.tif', 'picture'),
  ('IM0001',): ('IM0001', 'IM0001'),
  ('series/scan.dcm',): ('scan.dcm', 'scan'),
  ('series/2.dcm', 'series/1.dcm'): ('series', 'series'),
  ('CD/A/2.dcm', 'CD/A/1.dcm'): ('A', 'A'),
  ('CD/A/2.dcm', 'CD/B/1.dcm'): ('CD', 'CD'),
  ('CD/A/2.dcm', 'CD/DICOMDIR'): ('CD', 'CD'),
  ('b.dcm', 'a.dcm'): ('2 files', 'a'),
  ('series/2.dcm', 'a.dcm'): ('2 files', '2'),
}


def called(module, expression, inputs):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  return page_modules.call(module, expression, inputs)


def test_files_are_called_by_their_folder_or_the_first():
  call = """functions.namesOf(input.map((path) => ({
    file: { name: path.split('/').at(-1) }, folder: path.split('/').slice(0, -1).join('/') })))"""
  found = called('files.js', call, list(map(list, NAMES)))
  assert [(one['title'], one['stem']) for one in found] == [*NAMES.values()]


def test_a_drop_is_all_files_of_its_folders():
  """By an entry as browsers have it, which gives what is in a folder two at a time."""
  call = """(async () => {
    const entry = (tree, path) => (Array.isArray(tree) ? {
      isFile: false, fullPath: path,
      createReader() {
        const left = tree.map(([name, below]) => entry(below, `${path}/${name}`));
        return { readEntries: (done) => done(left.splice(0, 2)) };
      },
    } : { isFile: true, fullPath: path, file: (done) => done({ name: tree }) });
    const text = { webkitGetAsEntry: () => null, getAsFile: () => null };
    const plain = { webkitGetAsEntry: () => null, getAsFile: () => ({ name: 'plain' }) };
    const items = input.map(([name, below]) =>
      ({ webkitGetAsEntry: () => entry(below, `/${name}`) }));
    const found = await functions.dropped({ items: [...items, text, plain] });
    return found.map(({ file, folder }) => [folder, file.name]);
  })()"""
  tree = [
    ['top', [['1', '1'], ['2', '2'], ['below', [['3', '3'], ['4', '4'], ['5', '5']]], ['e', []]]],
    ['alone', 'alone'],
  ]
  (found,) = called('files.js', call, [tree])
  below = [['top/below', name] for name in '345']
  assert found == [['top', '1'], ['top', '2'], *below, ['', 'alone'], ['', 'plain']]


TIMES = {
  ((900, 40.6, 41.2), 1, 2, False): '41 ms a slice on this computer, 2 threads',
  ((1234,), 1, 1, False): '1.2 s for this slice on this computer, warming up included, 1 thread',
  ((2500, 2600), 6, 4, False): '2.6 s a slice in 6 windows on this computer, 4 threads',
  (
    (812.4,),
    6,
    1,
    True,
  ): '812 ms for this picture in 6 windows on this computer, warming up included, 1 thread',
}


def test_times_are_plain_words():
  inputs = [
    [times, {'windows': windows, 'threads': threads, 'ofPictures': of_pictures}]
    for times, windows, threads, of_pictures in TIMES
  ]
  assert called('time.js', 'functions.timeOf(...input)', inputs) == [*TIMES.values()]

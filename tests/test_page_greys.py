"""The window of greys begins with what the network sees, and follows sliders and drags, in Node."""

import page_modules
import pytest

# The elements that greys.js has of the page, as far as it uses them; a number is what a slider has.
PAGE = """(async () => {
  const made = () => Object.assign(new EventTarget(), {
    hidden: false, held: null, nextElementSibling: {},
    setPointerCapture(pointer) { this.held = pointer; },
    hasPointerCapture(pointer) { return this.held === pointer; },
  });
  const names = ['greys', 'centre', 'width', 'reset', 'picture'];
  const page = Object.fromEntries(names.map((name) => [name, made()]));
  let changes = 0;
  const grey = functions.greys(page, () => changes++);
  const send = (name, kind, more) =>
    page[name].dispatchEvent(Object.assign(new Event(kind), more));
  const told = () => ({ ...grey.window(), changes,
    texts: [page.centre, page.width].map((one) => one.nextElementSibling.value) });
  grey.start(input.scan);
  const { centre: { min, max, step }, width } = page;
  const saw = [{ ...told(), range: [min, max, step, width.min, width.max] }];
  for (const [name, kind, more] of input.events) {
    if (more.value) page[name].value = more.value;
    if (more.hidden) page.greys.hidden = true;
    send(name, kind, more);
    saw.push(told());
  }
  return saw;
})()"""
DOWN = ['picture', 'pointerdown', {'pointerId': 3, 'pointerType': 'mouse'}]


def moved(right, down, pointer=3):
  return ['picture', 'pointermove', {'pointerId': pointer, 'movementX': right, 'movementY': down}]


def played(events, scan=None):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  scan = scan or {'least': -1000, 'most': 3000, 'limits': [-160, 240]}
  (found,) = page_modules.call('greys.js', PAGE, [{'scan': scan, 'events': events}])
  return found


def windows(found):
  return [(one['centre'], one['width']) for one in found]


def test_it_begins_with_the_limits_of_the_network_and_a_button_goes_back():
  found = played(
    [
      ['centre', 'input', {'value': '-600'}],
      ['width', 'input', {'value': '1500'}],
      ['reset', 'click', {}],
      ['centre', 'input', {'value': '70'}],
      ['picture', 'dblclick', {}],
    ]
  )
  assert windows(found) == [(40, 400), (-600, 400), (-600, 1500), (40, 400), (70, 400), (40, 400)]
  assert found[0]['range'] == [-1000, 3000, 1, 1, 4000]
  assert [one['changes'] for one in found] == [1, 2, 3, 4, 5, 6]
  assert found[2]['texts'] == [-600, 1500]


def test_values_that_are_no_whole_numbers_have_fine_steps():
  (found,) = played([], {'least': 0, 'most': 0.5, 'limits': [0.1, 0.30001]})
  assert found['range'] == [0, 0.5, 0.0005, 0.0005, 0.5]
  assert found['texts'] == [0.2, 0.2]


def test_dragging_with_a_mouse_changes_width_and_centre():
  found = played([DOWN, moved(30, 0), moved(0, -3), moved(9, 9, pointer=4)])
  assert windows(found)[1:] == [(40, 400), (40, 440), (pytest.approx(35.6), 440)] + [
    (pytest.approx(35.6), 440)
  ]


@pytest.mark.parametrize(
  'first', [['picture', 'pointerdown', {'pointerId': 3, 'pointerType': 'touch'}], moved(0, 0)]
)
def test_a_finger_and_a_mere_pointer_change_nothing(first):
  found = played([first, moved(30, 30)])
  assert windows(found) == [(40, 400)] * 3 and found[-1]['changes'] == 1


def test_colours_have_no_window():
  found = played([['picture', 'dblclick', {'hidden': True}], DOWN, moved(30, 30)])
  assert found[-1]['changes'] == 1

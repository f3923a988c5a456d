// Files that the user chose or dropped, {file, folder} each, and what they are called.

const ENDING = /(\.nii\.gz|\.nii|\.[^.]*)$/i;

export function chosen(input) {
  const given = [...input.files].map((file) => ({ file, folder: above(file.webkitRelativePath) }));
  input.value = ''; // so that the same ones can be chosen again
  return given;
}

// Of a drop, with the files of all folders in it. What it holds is asked for at once, as the browser
// forgets it with the event.
export async function dropped({ items }) {
  const held = [...items].map((item) => item.webkitGetAsEntry() ?? item.getAsFile()).filter(Boolean);
  const found = held.map((one) => (one.fullPath ? filesOf(one) : [{ file: one, folder: '' }]));
  return (await Promise.all(found)).flat();
}

async function filesOf(entry) {
  if (entry.isFile) {
    const file = await new Promise((done, fail) => entry.file(done, fail));
    return [{ file, folder: above(entry.fullPath.slice(1)) }];
  }
  const [reader, found] = [entry.createReader(), []];
  for (;;) { // it gives some at a time, and at last none
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return found;
    for (const one of some) found.push(...await filesOf(one));
  }
}

function above(path = '') {
  return path.split('/').slice(0, -1).join('/');
}

// What is said of them, and how their mask is called, without its ending.
export function namesOf(given) {
  const [{ file: { name }, folder }] = given;
  if (given.length === 1) return { title: name, stem: name.replace(ENDING, '') || name };
  const parts = given.map((one) => one.folder.split('/'));
  const last = parts[0].findLast((part, depth) => parts.every((one) => one[depth] === part));
  if (folder && last) return { title: last, stem: last };
  const [first] = given.map((one) => one.file.name).sort();
  return { title: `${given.length} files`, stem: first.replace(ENDING, '') };
}

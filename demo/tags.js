// Tags of a TIFF, and of EXIF, which is one, and how they and XMP say that a picture is turned.

// Of each type of a tag: bytes of a value, and how a DataView reads it.
const TYPES = {
  1: [1, 'getUint8'], 2: [1, 'getUint8'], 7: [1, 'getUint8'],
  3: [2, 'getUint16'], 4: [4, 'getUint32'], 16: [8, 'getBigUint64'],
};
const [BIG, ORIENTATION] = [43, 274];
const TURNED = /tiff:Orientation(?:="|>)([0-9])/;

// Gives {tags: arrays of numbers by their number, little: whether the lowest byte is first, next:
// where further tags are, 0 if there are none}.
export function readTags(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const little = bytes[0] === 0x49;
  const short = (at) => view.getUint16(at, little);
  const isBig = short(2) === BIG;
  const long = (at) => (isBig ? Number(view.getBigUint64(at, little)) : view.getUint32(at, little));
  const width = isBig ? 8 : 4; // of an offset, or of values that stand in its place
  const start = long(width);
  const [count, first] = isBig ? [long(start), start + 8] : [short(start), start + 2];
  const [tags, length] = [{}, 4 + 2 * width];
  for (let at = first; at < first + count * length; at += length) {
    const [size, get] = TYPES[short(at + 2)] ?? [];
    if (!size) continue;
    const number = long(at + 4);
    const place = number * size > width ? long(at + 4 + width) : at + 4 + width;
    if (place + number * size > bytes.length) throw new RangeError();
    const value = (_, i) => Number(view[get](place + i * size, little));
    tags[short(at)] = Array.from({ length: number }, value);
  }
  return { tags, little, next: long(first + count * length) };
}

// The orientation by EXIF, else by XMP, both bytes or undefined; 1 is upright.
export function orientationOf(exif, xmp) {
  const found = exif && readTags(exif).tags[ORIENTATION]?.[0];
  return found ?? Number(TURNED.exec(textOf(xmp ?? []))?.[1] ?? 1);
}

// Of formats that few programs turn.
export function requireUpright(orientation) {
  if (orientation < 2 || orientation > 8) return;
  throw new Error(`a tag says that it is to be turned (Orientation ${orientation}), which few ` +
    'programs do; expected pixels as they are seen. Turn it and save it again');
}

export function textOf(bytes) {
  return new TextDecoder('latin1').decode(Uint8Array.from(bytes));
}

export function codesOf(text) {
  return [...text].map((letter) => letter.charCodeAt(0));
}

// The pieces of compressed pixels in DICOM, checked as by dicom_pieces.py of the program, before GDCM
// takes what they say of themselves as it is.

const ITEM = 0xe000fffe; // tag of a piece
export const DAMAGED = 'its compressed pixels are cut off or damaged; replace it by the original file';
const [JPEG, JPEG_2000] = [0xffd8, 0xff4fff51]; // how streams begin
const NO_FRAMES = [0xc4, 0xc8, 0xcc]; // markers of JPEG that are no size, among those that are

// Refuses pieces, behind a table of where frames begin, that are not whole or hold something else
// than grey: the number of segments of run lengths is known, or 0 for streams of JPEG and its kin.
export function requirePieces(content, [rows, columns], segments) {
  const [, ...pieces] = split(content);
  if (!pieces.length) throw new Error(DAMAGED);
  for (const piece of pieces) {
    if (segments && piece.getUint32(0, true) !== segments) throw new Error(DAMAGED);
    const found = segments ? null : sizeOf(piece); // null too of a stream that goes on
    if (found && String(found) !== String([rows, columns, 1])) {
      throw new Error(`its compressed pixels are ${found[0]} x ${found[1]} of ${found[2]} samples, but `
        + `its tags say ${rows} x ${columns} of 1`);
    }
  }
}

function split(content) {
  const view = new DataView(content.buffer, content.byteOffset, content.length);
  const pieces = [];
  for (let at = 0; at < content.length;) {
    const length = at + 8 > content.length ? Infinity : view.getUint32(at + 4, true);
    const isWhole = at + 8 + length <= content.length && view.getUint32(at, true) === ITEM;
    if (!isWhole) throw new Error(DAMAGED);
    pieces.push(new DataView(view.buffer, view.byteOffset + at + 8, length));
    at += 8 + length;
  }
  return pieces;
}

// Height, width and samples of a stream that begins here, or null.
function sizeOf(stream) {
  const short = (at) => stream.getUint16(at);
  if (stream.byteLength < 10) return null;
  if (stream.getUint32(0) === JPEG_2000) {
    const [width, height, left, top] = [8, 12, 16, 20].map((at) => stream.getUint32(at));
    return [height - top, width - left, short(40)];
  }
  if (short(0) !== JPEG) return null;
  for (let at = 2; at + 10 <= stream.byteLength && stream.getUint8(at) === 0xff;) {
    const marker = stream.getUint8(at + 1);
    const isOf = marker === 0xf7 || (marker >= 0xc0 && marker <= 0xcf); // JPEG-LS, JPEG
    if (isOf && !NO_FRAMES.includes(marker)) {
      return [short(at + 5), short(at + 7), stream.getUint8(at + 9)];
    }
    at += marker === 0xff ? 1 : 2 + short(at + 2); // 0xff fills up
  }
  throw new Error(DAMAGED);
}

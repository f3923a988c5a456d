// The checksum CRC-32, as PNG has it.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

export function checksum(bytes) {
  let found = -1;
  for (const byte of bytes) found = TABLE[(found ^ byte) & 255] ^ (found >>> 8);
  return ~found >>> 0;
}

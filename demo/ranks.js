// The value of each rank among many, which percentiles need.

// Gives a function from a rank to its value, without sorting: by counts of the upper half of the bits
// of all values, then of the lower half of those that share the upper one.
export function ranksOf(voxels) {
  const bits = new Uint32Array(voxels.buffer, voxels.byteOffset, voxels.length);
  // Whole numbers in the order of the values: a sign bit says that the others fall.
  const ordered = (one) => (one >>> 31 ? ~one : one | 0x80000000) >>> 0;
  const counts = new Uint32Array(65536);
  for (let i = 0; i < bits.length; i++) counts[ordered(bits[i]) >>> 16]++;
  return (rank) => {
    const [upper, left] = atRank(counts, rank);
    const lower = new Uint32Array(65536);
    for (let i = 0; i < bits.length; i++) {
      const one = ordered(bits[i]);
      if (one >>> 16 === upper) lower[one & 65535]++;
    }
    const one = upper * 65536 + atRank(lower, left)[0];
    return new Float32Array(Uint32Array.of(one >>> 31 ? one & 0x7fffffff : ~one).buffer)[0];
  };
}

// Where the counts reach a rank, and the rank from there on.
function atRank(counts, rank) {
  let at = 0;
  for (; rank >= counts[at]; at++) rank -= counts[at];
  return [at, rank];
}

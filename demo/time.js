// How long the network took, in words.

// Of the milliseconds of each slice, the first of which warms it up; of a picture there is one.
export function timeOf(times, { windows, threads, ofPictures }) {
  const sorted = [...times].sort((a, b) => a - b);
  const middle = durationOf(sorted[Math.floor(sorted.length / 2)]);
  const what = ofPictures ? 'picture' : 'slice';
  const part = windows > 1 ? `${what} in ${windows} windows` : what;
  const told = sorted.length > 1 ? `${middle} a ${part} on this computer`
    : `${middle} for this ${part} on this computer, warming up included`;
  return `${told}, ${threads} ${threads === 1 ? 'thread' : 'threads'}`;
}

function durationOf(milliseconds) {
  const seconds = milliseconds / 1000;
  return seconds < 1 ? `${Math.round(milliseconds)} ms` : `${seconds.toFixed(1)} s`;
}

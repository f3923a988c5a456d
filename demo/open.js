// What the user gave, files {file, folder} in an order that says nothing, as one scan: {channels, M
// flat [D, H, W], shape, spacing, leftOut, names of files without a slice, unsure, how axes are
// taken where a header does not say it clearly, write}, a function from a mask to the content of
// its file, or null where none can be written.

import { readSeries } from './dicom.js';
import { holdsSlice } from './dicom_file.js';
import { isDicom } from './dicom_tags.js';
import { headerOf, writeNifti } from './mask_nifti.js';
import { writeMask } from './mask_png.js';
import { isNifti, readNifti, unzipped } from './nifti.js';
import { turned } from './orient.js';
import { isPicture, readPicture } from './picture.js';

const VOLUMES = /\.(nii|nii\.gz|mha|mhd|nrrd)$/i;

export async function openScan(given, settings) {
  if (settings.unit === 'pixels') return openPicture(given, settings);
  const seen = given.filter(({ file: { name } }) => !name.startsWith('.'));
  const { leftOut = [], unsure = '', ...scan } = seen.length === 1
    ? await openFile(seen[0].file) : await openFolder(seen);
  const { voxels, restored, ...rest } = turned(scan, settings.slice_axis);
  const { header, shape } = scan;
  const write = header && ((mask) => writeNifti(restored(mask), shape, header, settings.note));
  return { ...rest, channels: [voxels], leftOut, unsure, write };
}

async function openPicture(given, settings) {
  if (given.length !== 1) throw new Error(`${given.length} files; expected one picture`);
  const scan = await readPicture(await bytesOf(given[0].file));
  requireChannels(scan.channels.length, settings);
  const { colours, note } = settings;
  const write = colours ? (mask) => writeMask(mask, scan.shape.slice(1), colours, note) : null;
  return { ...scan, leftOut: [], unsure: '', write };
}

export function requireChannels(found, { modalities }) {
  if (found === modalities) return;
  throw new Error(`the picture has ${found} channel(s), but the network was trained on ` +
    `${modalities}; a picture in grey has 1, one in colours 3: convert it`);
}

async function openFile(file) {
  const bytes = await unzipped(await bytesOf(file));
  if (isNifti(bytes)) return readNifti(bytes);
  if (isDicom(bytes)) return withHeader(await readSeries([{ name: file.name, bytes }]));
  const what = isPicture(bytes) ? 'a picture, but this network sees volumes; ' : '';
  throw new Error(`${what}neither a NIfTI file (.nii, .nii.gz) nor a DICOM slice`);
}

// The slices of one series, all of them in one folder.
async function openFolder(given) {
  const [slices, folders, leftOut] = [[], new Set(), []];
  const byName = (a, b) => (a.file.name < b.file.name ? -1 : 1);
  for (const { file, folder } of given.sort(byName)) {
    const bytes = await bytesOf(file);
    if (VOLUMES.test(file.name) || !holdsSlice(file.name, bytes)) leftOut.push(file.name);
    else {
      slices.push({ name: file.name, bytes });
      folders.add(folder);
    }
  }
  const volume = leftOut.find((name) => VOLUMES.test(name));
  if (volume || !slices.length) {
    const what = slices.length ? `${slices.length} DICOM slices and ${volume}` : 'no DICOM slice';
    throw new Error(`${what} in ${given.length} files; expected the slices of one series, or one `
      + 'file');
  }
  if (folders.size > 1) {
    const some = [...folders].sort().slice(0, 2).join(' and ');
    throw new Error(`DICOM slices in ${folders.size} folders, ${some} among them; expected those of `
      + 'one series. Choose one of these folders');
  }
  return { ...withHeader(await readSeries(slices)), leftOut };
}

// A single slice does not say how thick it is, so that no mask can lie where it does.
function withHeader(scan) {
  return { ...scan, header: scan.shape[2] > 1 ? headerOf(scan.affine) : null };
}

async function bytesOf(file) {
  return new Uint8Array(await file.arrayBuffer());
}

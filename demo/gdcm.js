// Decompresses the pixels of DICOM by GDCM, which the program uses too, from the package ITK-Wasm.

const PLACE = '/pixels.dcm'; // in the memory of GDCM
const IMAGE = 1; // the second of its results; the first says whether it could read the file
const ARRAYS = {
  int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, int32: Int32Array,
  uint32: Uint32Array,
};
let loading = null;

// The pixels of a whole file: {size [columns, rows, frames], components, samples}.
export async function decompressed(file) {
  loading ??= load();
  const gdcm = await loading;
  const stack = gdcm.stackSave();
  try {
    gdcm.fs_writeFile(PLACE, file);
    if (gdcm.callMain([PLACE, '0', String(IMAGE), '--memory-io'])) throw new Error();
    const about = JSON.parse(gdcm.UTF8ToString(gdcm._itk_wasm_output_json_address(0, IMAGE)));
    const [start, length] = ['address', 'size'].map((what) =>
      gdcm[`_itk_wasm_output_array_${what}`](0, IMAGE, 0));
    const content = gdcm.HEAPU8.slice(start, start + length).buffer;
    const { components, componentType } = about.imageType;
    gdcm._itk_wasm_free_all();
    gdcm.stackRestore(stack);
    return { size: about.size, components, samples: new ARRAYS[componentType](content) };
  } catch {
    loading = null; // what failed inside it may have left anything
    throw new Error('its compressed pixels cannot be decoded; replace it by the original file');
  }
}

async function load() {
  try {
    const { default: start } = await import('./gdcm/gdcm-read-image.js');
    return await start();
  } catch {
    throw new Error('the decoder of compressed DICOM is missing beside this page: build it again');
  }
}
